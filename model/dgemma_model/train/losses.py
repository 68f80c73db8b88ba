"""A checkpoint's losses on the held-out holes, in nats per token.

python -m dgemma_model.train.losses --checkpoint DIRECTORY
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812

from dgemma_model.checkpoint.contract import Checkpoint
from dgemma_model.checkpoint.load import load
from dgemma_model.checkpoint.selection import embedded_directory
from dgemma_model.decoding.sampler import Noise
from dgemma_model.evaluation.held_out import HOLES_FILE, HeldOutHole, read_holes
from dgemma_model.network.cache import Cache
from dgemma_model.prompt.suffix_first import SuffixFirst
from dgemma_model.request import Excerpt
from dgemma_model.source import syntax
from dgemma_model.source.excerpt import ExcerptBudget, cut


def excerpt_of(hole: HeldOutHole) -> Excerpt:
    """What the model is shown with the cursor in the (empty) hole."""
    text, at = hole.prefix + hole.suffix, len(hole.prefix)
    tree = syntax.parse("python", text)
    scopes = syntax.scope_starts(tree, at) if tree is not None else ()
    return cut(text, [(at, at)], ExcerptBudget(), scope_starts=scopes)


@torch.inference_mode()
def held_out_losses(holes: Iterable[HeldOutHole], checkpoint: Checkpoint) -> dict[str, float]:
    """Mean cross-entropy of the true fills and their ends, in nats per token: read causally, and denoised at two
    noise levels t.

    The denoising losses are over the noised positions of the smallest canvas that holds the fill.
    """
    network, tokenizer, policy = checkpoint.network, checkpoint.tokenizer, checkpoint.policy
    written = SuffixFirst(tokenizer, policy.noise)
    noise = Noise(network.vocab_size, written.mask_id)
    generator = torch.Generator().manual_seed(0)
    sums: dict[str, list[float]] = {}
    for hole in holes:
        excerpt = excerpt_of(hole)
        prompt = written.encode(excerpt, policy.prompt_tokens).ids
        fill = written.encode_fill(excerpt, hole.middle)
        cache = Cache()
        read = network.logits(network.encode(torch.tensor([prompt + fill[:-1]]), cache)[0, -len(fill) :])
        sums.setdefault("causal", []).extend(F.cross_entropy(read, torch.tensor(fill), reduction="none").tolist())
        cache.crop(len(prompt))
        width = next((length for length in sorted(policy.canvas_lengths) if length >= len(fill)), len(fill))
        target = torch.tensor([fill + [tokenizer.end_id] * (width - len(fill))])
        for t in (0.5, 1.0):
            noised = torch.rand(target.shape, generator=generator) < t
            canvas = torch.where(noised, noise.draw(tuple(target.shape), generator), target)
            logits = network.logits(network.decode(canvas, cache))
            losses = F.cross_entropy(logits[noised], target[noised], reduction="none")
            sums.setdefault(f"denoising, t = {t}", []).extend(losses.tolist())
    return {name: statistics.fmean(losses) for name, losses in sums.items()}


def print_losses(args: argparse.Namespace) -> None:
    """Print the losses on the holes, or on as many of them as were asked for."""
    holes = read_holes(args.holes)
    if args.sample:
        holes = random.Random(1).sample(holes, min(args.sample, len(holes)))
    checkpoint = load(Path(args.checkpoint or embedded_directory()), torch.device("cpu"), torch.float32)
    losses = held_out_losses(holes, checkpoint)
    print("Nats per token: " + "; ".join(f"{name} {loss:.2f}" for name, loss in losses.items()) + ".")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--holes", type=Path, default=HOLES_FILE)
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--sample", type=int, default=500, help="only so many holes, drawn at random; 0 for all")
    print_losses(parser.parse_args())


if __name__ == "__main__":
    main()
