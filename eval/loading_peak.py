"""The memory and time that rounding DiffusionGemma's experts takes, at the published width and with few layers.

    python eval/loading_peak.py [LAYERS]

Two layers have 3 GB of experts in bfloat16. Memory is that of a process of its own, without what it held before; Linux
counts mapped pages of files, which it takes back when others need the room.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dgemma_model.bench.published_shape import published_config
from dgemma_model.checkpoint.published_layout import published_names
from dgemma_model.checkpoint.quantised.budget import budget_of, shape_of
from dgemma_model.checkpoint.weights import write_tensors
from dgemma_model.network.config import NetworkConfig

VOCABULARY = 32_768
LOADING = """
import sys, time
from pathlib import Path
import torch
from loading_peak import config_of, memory
from dgemma_model.checkpoint import diffusion_gemma

torch.zeros(64, 64) @ torch.zeros(64, 64)
before, started = memory("VmRSS"), time.monotonic()
Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
kept, _ = diffusion_gemma.load_network(
    Path(sys.argv[1]), config_of(int(sys.argv[2])), torch.device("cpu"), torch.bfloat16, quantize="4bit"
)
peak, private = memory("VmHWM") - before, memory("RssAnon")
seconds = time.monotonic() - started
print(f"{seconds:6.1f} s, at most {peak / 1e9:.2f} GB; afterwards {private / 1e9:.2f} GB are its own")
"""


def config_of(layers: int) -> NetworkConfig:
    """The published shape with a few layers, the last one a full one, and fewer tokens."""
    published = published_config()
    return replace(published, layers=published.layers[-layers:], vocab_size=VOCABULARY)


def memory(name: str) -> int:
    """Bytes that Linux says of this process under `name`."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def write_checkpoint(directory: Path, layers: int) -> int:
    """Random weights in the published layout, a shard a layer and one for the rest; returns their bytes."""
    network = shape_of(config_of(layers), "none")
    tensors = network.state_dict()
    shards: dict[str, dict[str, Tensor]] = {}
    for published, own in published_names(network).items():
        shards.setdefault(own.split(".")[1] if own.startswith("layers.") else "rest", {})[published] = tensors[own]
    files = {}
    for shard, parts in shards.items():
        layout = {name: (torch.bfloat16, tuple(tensor.shape)) for name, tensor in parts.items()}
        write_tensors(directory / f"{shard}.safetensors", layout, _random(parts))
        files |= dict.fromkeys(parts, f"{shard}.safetensors")
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return sum(2 * tensor.numel() for tensor in tensors.values())


def _random(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors.items():
        yield name, torch.empty(tensor.shape, dtype=torch.bfloat16).normal_(0, 0.02)


def main() -> None:
    layers = int(sys.argv[1]) if len(sys.argv) > 1 else 2
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        source.mkdir()
        size = write_checkpoint(source, layers)
        held = budget_of(config_of(layers), "4bit", torch.device("cuda"))
        print(f"{size / 1e9:.2f} GB of weights in bfloat16, {(held.experts + held.others) / 1e9:.2f} GB in 4 bits")
        paths = [str(Path(__file__).parent), *sys.path]
        environment = os.environ | {"DGEMMA_CHECKPOINTS": folder, "PYTHONPATH": os.pathsep.join(paths)}
        for what in ("converted and loaded", "loaded again"):
            print(f"{what:20}", end=" ", flush=True)
            subprocess.run([sys.executable, "-c", LOADING, str(source), str(layers)], env=environment, check=True)


if __name__ == "__main__":
    main()
