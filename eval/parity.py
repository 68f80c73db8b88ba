"""Whether our float32 network is the one that `transformers` runs, on the real weights: scores, and greedy text.

    python eval/parity.py MODEL.gguf PACKAGE_FOLDER... --prompts 50

Prompts are pieces of the Python files below the folders, as the server would send them. Printed, as JSON: the largest
difference of scores in float32, how many greedy texts are equal, and the same for the form that is served. Takes about
5 GB and a quarter of an hour. Results are in log/pretrained-writer.md.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from dgemma_model.checkpoint import load
from dgemma_model.checkpoint.gguf.file import GgufFile
from dgemma_model.network.cache import Cache
from dgemma_model.network.contract import CodeNetwork
from dgemma_model.network.qwen2 import Qwen2Network
from dgemma_model.request import Excerpt

CHARS, WRITTEN = 900, 16
"""Code points before the hole, and tokens that are written."""


def main() -> None:
    """Compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--prompts", type=int, default=50)
    asked = parser.parse_args()
    opened = GgufFile(asked.model)
    ours = Qwen2Network(opened.config).requires_grad_(False).eval()
    weights = {name: opened.weight(name) for name in ours.state_dict()}
    ours.load_state_dict(weights, assign=True)
    theirs = Qwen2ForCausalLM(Qwen2Config(**opened.config.to_json())).requires_grad_(False).eval()
    theirs.load_state_dict({f"model.{name}": value for name, value in weights.items()}, strict=False, assign=True)
    theirs.tie_weights()
    checkpoint = load.load(asked.model, torch.device("cpu"), torch.float32)
    prompts = [checkpoint.format.encode(excerpt, 1024).ids for excerpt in excerpts(asked.folders, asked.prompts)]
    known, largest, equal, served_equal = checkpoint.network.vocab_size, 0.0, 0, 0
    for ids in prompts:
        prompt = torch.tensor([ids])
        expected = theirs(prompt).logits[..., :known]
        largest = max(largest, float((ours.logits(ours.encode(prompt, Cache()))[..., :known] - expected).abs().max()))
        text = theirs.generate(prompt, max_new_tokens=WRITTEN, min_new_tokens=WRITTEN, do_sample=False)[
            0, -WRITTEN:
        ].tolist()
        equal += written_by(ours, prompt, known) == text
        served_equal += written_by(checkpoint.network, prompt, known) == text
        print(json.dumps({"largest_difference": largest, "equal": equal, "served_equal": served_equal}), flush=True)


def excerpts(folders: list[Path], count: int) -> list[Excerpt]:
    """Places at line ends, the same ones each time."""
    rng, found = random.Random(0), []
    files = sorted(file for folder in folders for file in folder.rglob("*.py") if file.stat().st_size > 4 * CHARS)
    for file in rng.sample(files, count):
        text = file.read_text("utf-8", "replace")
        at = text.index("\n", rng.randrange(CHARS, len(text) - 2 * CHARS)) + 1
        found.append(Excerpt(text[at - CHARS : at], "\n" + text[at:][: CHARS // 3]))
    return found


def written_by(network: CodeNetwork, prompt: Tensor, known: int) -> list[int]:
    """The likeliest tokens after a prompt."""
    cache, new, text = Cache(), prompt, []
    for _ in range(WRITTEN):
        new = network.logits(network.encode(new, cache)[:, -1:])[..., :known].argmax(-1)
        text.append(int(new))
    return text


if __name__ == "__main__":
    with torch.inference_mode():
        main()
