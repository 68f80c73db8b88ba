"""Turn a training run into a checkpoint directory in the published layout.

    python -m dgemma_model.train.export --run .train/joint --data .train --out model/dgemma_model/embedded

Prints, for RECIPE.md, the hash of the weights and what they fill for a fixed prompt.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import torch

from dgemma_model.checkpoint.config import Policy, SamplerConfig
from dgemma_model.checkpoint.published_layout import save
from dgemma_model.checkpoint.selection import embedded_directory
from dgemma_model.infill import Infiller
from dgemma_model.request import Excerpt, FillRequest
from dgemma_model.train.train import CONFIG, fresh_network

PROMPT = Excerpt(
    "class Point:\n    def __init__(self, x, y):\n        self.x = x\n        ", "\n\n    def norm(self):\n"
)


def export(state_file: Path, data: Path, out: Path, sampler: SamplerConfig, policy: Policy) -> None:
    """Write weights, tokenizer and configuration of a training state into `out`."""
    network = fresh_network(CONFIG, seed=0)
    network.load_state_dict(torch.load(state_file, map_location="cpu", weights_only=True)["network"])
    save(network, out)
    shutil.copy(data / "tokenizer.json", out / "tokenizer.json")
    shutil.copy(data / "manifest.json", out / "manifest.json")
    generation = {
        "max_denoising_steps": sampler.max_denoising_steps,
        "sampler_config": {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": sampler.entropy_bound},
        "t_min": sampler.t_min,
        "t_max": sampler.t_max,
        "stability_threshold": sampler.stability_threshold,
        "confidence_threshold": sampler.confidence_threshold,
        "bos_token_id": CONFIG.bos_token_id,
        "eos_token_id": CONFIG.eos_token_ids[0],
        "pad_token_id": CONFIG.pad_token_id,
    }
    (out / "generation_config.json").write_text(json.dumps(generation, indent=1) + "\n")
    (out / "dgemma.json").write_text(json.dumps(asdict(policy), indent=1) + "\n")


def expected(directory: Path) -> dict[str, str]:
    """The hash of a directory's weights, and its greedy fill of `PROMPT`."""
    *_, draft = Infiller.load(str(directory), "cpu").fill(FillRequest(PROMPT, one_line=True))
    digest = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    return {"sha256": digest, "prefix": PROMPT.prefix, "suffix": PROMPT.suffix, "text": draft.text}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path(".train"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--noise", choices=("uniform", "mask"), default="mask")
    parser.add_argument("--threshold", type=float, default=-3.0, help="see Policy.threshold")
    parser.add_argument("--draft-steps", type=int, default=1)
    parser.add_argument("--copy-weight", type=float, default=1.0)
    args = parser.parse_args()
    policy = Policy(
        name="embedded",
        judge=Policy.read(embedded_directory()).judge,
        noise=args.noise,
        verify=True,
        together=False,
        draft_steps=args.draft_steps,
        copy_weight=args.copy_weight,
        canvas_lengths=(16, 32, 64),
        prompt_tokens=512,
        languages=("python",),
        threshold=args.threshold,
    )
    sampler = SamplerConfig(max_denoising_steps=8, t_min=0.1, t_max=0.4)
    export(args.run / "state.pt", args.data, args.out, sampler, policy)
    print(json.dumps(expected(args.out), indent=1))


if __name__ == "__main__":
    main()
