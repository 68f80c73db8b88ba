"""Whether the greedy text of Gemma 3, as it is served, is that of `transformers` over the same weights.

    python eval/gemma3_parity.py MODEL.gguf

Prompts are 20 places in a module of the standard library, ten lines before each. The weights have terms of their own
(ai.google.dev/gemma/terms); nothing is downloaded here.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import Gemma3ForCausalLM

from dgemma_model.checkpoint.contract import Checkpoint
from dgemma_model.checkpoint.load import load
from dgemma_model.network.cache import Cache

PROMPTS, LINES, TOKENS = 20, 10, 12


def prompts() -> list[str]:
    """Text before places in a source file."""
    lines = Path(argparse.__file__).read_text("utf-8").splitlines(keepends=True)
    step = (len(lines) - LINES) // PROMPTS
    return ["".join(lines[at : at + LINES]) for at in range(0, PROMPTS * step, step)]


def written(checkpoint: Checkpoint, ids: torch.Tensor) -> list[int]:
    """The ids that the network writes after a prompt, the likeliest each time."""
    network, cache, new = checkpoint.network, Cache(), ids
    found: list[int] = []
    while len(found) < TOKENS and (not found or found[-1] != checkpoint.tokenizer.end_id):
        new = network.logits(network.encode(new, cache)[:, -1:]).argmax(-1)
        found.append(int(new))
    return found


def main() -> None:
    ours = load(Path(sys.argv[1]), torch.device("cpu"), torch.float32).served(torch.float32)
    theirs: Any = Gemma3ForCausalLM.from_pretrained(ours.directory, dtype=torch.float32).eval()
    tokenizer, same = ours.tokenizer, 0
    for number, text in enumerate(prompts(), 1):
        ids = torch.tensor([[tokenizer.special_id("<bos>"), *tokenizer.encode(text)]])
        expected = theirs.generate(ids, do_sample=False, max_new_tokens=TOKENS)[0, ids.shape[1] :].tolist()
        same += written(ours, ids) == expected
        print(
            f"{same} of {number} are the same; {ids.shape[1]} tokens before {tokenizer.decode(expected)!r}", flush=True
        )


if __name__ == "__main__":
    with torch.inference_mode():
        main()
