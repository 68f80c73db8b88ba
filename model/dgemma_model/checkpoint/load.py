"""Load and save checkpoint directories in the published layout; loud about any mismatch.

Safetensors only: nothing in a checkpoint is ever executed.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dgemma_model.checkpoint import hub
from dgemma_model.checkpoint.config import CheckpointConfig
from dgemma_model.checkpoint.published_layout import _names
from dgemma_model.network.config import ConfigError, NetworkConfig
from dgemma_model.network.diffusion_gemma import Network
from dgemma_model.network.served import ServedNetwork
from dgemma_model.prompt.chat import ChatFormat, ChatFrame, ChatTemplateError
from dgemma_model.prompt.tokenizer import Tokenizer, TokenizerError

logger = logging.getLogger(__name__)

VISION = ("model.encoder.vision_tower.", "model.encoder.embed_vision.")


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message is for users and says what to do."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded checkpoint directory."""

    directory: Path
    config: CheckpointConfig
    network: Network | ServedNetwork
    tokenizer: Tokenizer
    skipped: int
    """Number of tensors of the vision tower that were left on disk."""
    chat: ChatFormat | None = None
    """How to ask it, if not in this repository's own prompts."""

    def served(self, products: torch.dtype) -> Checkpoint:
        """The same with its network as it is served, `products` being the dtype of operands (fused.py)."""
        network = self.network
        return replace(self, network=ServedNetwork(network, products) if isinstance(network, Network) else network)


def embedded_directory() -> Path:
    """The checkpoint that ships inside this package."""
    return Path(str(files("dgemma_model") / "embedded"))


def find(checkpoint: str | None) -> Path:
    """The directory of the checkpoint that a user named: by default the embedded one; a directory; or a name on the
    hub, which is downloaded unless it is there already.

    Raises:
        CheckpointError: there is none, or it cannot be downloaded.
    """
    if not checkpoint:
        return embedded_directory()
    directory = Path(checkpoint).expanduser()
    if directory.exists() or not hub.is_name(checkpoint):
        return directory  # `load` says what is wrong with it
    try:
        return hub.fetch(checkpoint)
    except hub.DownloadError as error:
        raise CheckpointError(str(error)) from error


Progress = Callable[[float], None]
"""Is told which share of the weights has been read, from 0 to 1, after each tensor."""


def load(
    directory: Path, device: torch.device, dtype: torch.dtype, progress: Progress = lambda share: None
) -> Checkpoint:
    """Load configuration, tokenizer and weights; the vision tower stays on disk.

    Raises:
        CheckpointError: the directory or a file of it is missing, damaged, of another architecture, or does not fit
            its `config.json` or the memory; the message names the file or tensor.
    """
    if not directory.is_dir():
        raise CheckpointError(
            f"no checkpoint directory at {directory}; pass the path of one, or leave the checkpoint unset"
        )
    try:
        config = CheckpointConfig.read(directory)
        tokenizer = Tokenizer.read(directory / "tokenizer.json")
        chat = _chat_format(directory, tokenizer) if tokenizer.has_byte_fallback else None
    except (ConfigError, TokenizerError, ChatTemplateError) as error:
        raise CheckpointError(str(error)) from error
    if tokenizer.vocab_size > config.network.vocab_size:
        raise CheckpointError(
            f"tokenizer.json has {tokenizer.vocab_size} tokens but the network only {config.network.vocab_size}; "
            "the files in this directory do not belong together"
        )
    network, skipped = load_network(directory, config.network, device, dtype, progress)
    if skipped:
        logger.info("%d tensors of the vision tower were skipped: this program reads and writes text", skipped)
    return Checkpoint(directory, config, network, tokenizer, skipped, chat)


def _chat_format(directory: Path, tokenizer: Tokenizer) -> ChatFormat:
    frame = ChatFrame.read(directory)
    if frame is None:
        raise CheckpointError(
            f"neither chat_template.jinja nor a template in tokenizer_config.json in {directory}: it is not known how "
            "to ask this checkpoint; take an instruction-tuned one, with all its files"
        )
    return ChatFormat(frame, tokenizer)


def load_network(
    directory: Path,
    config: NetworkConfig,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress = lambda share: None,
) -> tuple[Network, int]:
    """Load the weights alone, tensor by tensor; returns the network and how many vision tensors were skipped.

    Names, shapes and memory are checked before the first weight is read: all shards say them in their first bytes.

    Raises:
        CheckpointError: as `load`.
    """
    with torch.device("meta"):
        network = Network(config)
    own_names = _names(network)
    stored = _stored_tensors(directory)
    wanted = {name: tensor for name, tensor in stored.items() if not name.startswith(VISION)}
    expected = network.state_dict()
    for name, tensor in wanted.items():
        _check(name, tensor, expected[own_names[name]].shape if name in own_names else None)
    missing = [name for name in own_names if name not in wanted]
    if missing:
        raise CheckpointError(
            f"{len(missing)} tensors are missing, the first is {missing[0]!r}; the checkpoint is incomplete"
        )
    weights, read = sum(tensor.numel() for tensor in expected.values()), 0
    check_memory(weights * dtype.itemsize, free_memory(device), device)
    found: dict[str, Tensor] = {}
    try:
        for name, value in _values(wanted):
            found[own_names[name]] = _placed(name, value, device, dtype)
            read += value.numel()
            progress(read / weights)
    except torch.OutOfMemoryError as error:
        raise CheckpointError(
            f"the memory of {device} ran out while loading ({str(error).splitlines()[0]}); end other programs that "
            "use it, or leave the checkpoint unset: the embedded one runs anywhere"
        ) from error
    network.load_state_dict(found, assign=True)
    network.build_rotary(device)
    network.requires_grad_(False)
    network.find_dense_layers()
    return network.eval(), len(stored) - len(wanted)


def _check(name: str, tensor: _StoredTensor, expected: torch.Size | None) -> None:
    if expected is None:
        raise CheckpointError(f"unexpected tensor {name!r}: the weights are not of the architecture in config.json")
    if list(expected) != tensor.shape:
        raise CheckpointError(f"tensor {name!r} has shape {tensor.shape}, config.json asks for {list(expected)}")
    if tensor.dtype not in FLOATS:
        kind = _DTYPES.get(tensor.dtype, tensor.dtype)
        raise CheckpointError(
            f"tensor {name!r} is stored as {kind}; quantised checkpoints do not run here, take one in bfloat16"
        )


def _placed(name: str, value: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A copy of `value` where it is to be; never memory that is mapped from the file, which may change."""
    placed = value.to(device=device, dtype=dtype, copy=True)
    lowest, highest = placed.aminmax()  # NaN if one is; unlike isfinite(), needs no memory
    if not math.isfinite(lowest.item()) or not math.isfinite(highest.item()):
        raise CheckpointError(
            f"tensor {name!r} holds NaN or infinite values; the file is damaged, download or copy it again"
        )
    return placed


WORKING_SHARE = 0.05
"""Of the weights' size, for activations and the cache, beside them."""


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated on `device`; None where that cannot be known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "cpu":
        try:
            lines = Path("/proc/meminfo").read_text("ascii").splitlines()
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
        except (OSError, ValueError, StopIteration, IndexError):
            return None
    return None


def check_memory(weights: int, free: int | None, device: torch.device) -> None:
    """Refuse what will not fit: `weights` and `free` in bytes.

    Raises:
        CheckpointError: it says both numbers and what to do.
    """
    needed = weights * (1 + WORKING_SHARE)
    if free is not None and needed > free:
        raise CheckpointError(
            f"not enough memory on {device}: the weights and room to work need {needed / 2**30:.1f} GiB, "
            f"{free / 2**30:.1f} GiB are free; end other programs that use it, pass a device with more, or leave the "
            "checkpoint unset: the embedded one runs anywhere"
        )


FLOATS = ("BF16", "F16", "F32", "F64")
_DTYPES = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "I8": "int8", "U8": "uint8", "I32": "int32"}


@dataclass(frozen=True, slots=True)
class _StoredTensor:
    """What the header of a safetensors file says of a tensor."""

    path: Path
    shape: list[int]
    dtype: str


def _stored_tensors(directory: Path) -> dict[str, _StoredTensor]:
    """Every tensor of a checkpoint, in one file or in the shards that an index names; reads their headers only."""
    index = directory / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        try:
            names = sorted(set(map(str, json.loads(index.read_text("utf-8"))["weight_map"].values())))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{index.name} cannot be read: {error}") from error
    stored: dict[str, _StoredTensor] = {}
    for name in names:
        path = directory / name
        if not path.is_file():
            raise CheckpointError(f"{name} is missing in {directory}; download or copy the checkpoint again")
        with _opened(path) as file:
            for key in file.keys():  # noqa: SIM118 (not a mapping)
                header = file.get_slice(key)
                stored[key] = _StoredTensor(path, header.get_shape(), str(header.get_dtype()))
    return stored


def _values(tensors: dict[str, _StoredTensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors themselves, file by file, one at a time."""
    for path in dict.fromkeys(tensor.path for tensor in tensors.values()):
        with _opened(path) as file:
            for name, tensor in tensors.items():
                if tensor.path == path:
                    yield name, file.get_tensor(name)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path.name} in {path.parent} is damaged ({error}); download or copy it again"
        ) from error
