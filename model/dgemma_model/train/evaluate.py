"""Held-out holes: cut them, and measure a checkpoint's losses on them. How it fills them, `dgemma-lsp eval` measures.

    python -m dgemma_model.train.evaluate cut --data .train --out eval/holes.jsonl
    python -m dgemma_model.train.evaluate add --kind expression --count 240 --seed 1
    python -m dgemma_model.train.evaluate losses

`cut` was run once, then `add`; the result is committed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812

from dgemma_model.checkpoint.load import Checkpoint, embedded_directory, load
from dgemma_model.decoding.sampler import Noise
from dgemma_model.evaluation.held_out import HOLES_FILE, HeldOutHole, read_holes
from dgemma_model.network.diffusion_gemma import Cache
from dgemma_model.prompt.canvas import encode_fill, encode_prompt
from dgemma_model.request import Excerpt
from dgemma_model.source import syntax
from dgemma_model.source.excerpt import ExcerptBudget, cut
from dgemma_model.train.corpus import NearDuplicates
from dgemma_model.train.holes import HoleCutter, HoleKind

COUNTS: dict[HoleKind, int] = {
    "line": 1600,
    "rest_of_line": 300,
    "expression": 60,
    "statement": 40,
    "block": 40,
    "span": 40,
    "empty": 40,
}
"""Lines of code lead by far: they are what the server asks for, and few of them come out exactly."""

PREFIX_CHARS, SUFFIX_CHARS = 1600, 420
"""How much of a file is kept around a hole: more than an excerpt shows."""


def held_out_files(data: Path) -> tuple[dict[str, list[tuple[str, HoleCutter]]], dict[str, str]]:
    """The (path, cutter) of every held-out file under `data` that training has seen nothing like, by package, and the
    packages' licences."""
    licences = {name: entry["licence"] for name, entry in json.loads((data / "manifest.json").read_text()).items()}
    trained_on = NearDuplicates()
    with (data / "corpus.jsonl").open() as lines:
        for line in lines:
            trained_on.is_new(json.loads(line)["text"])
    by_package: dict[str, list[tuple[str, HoleCutter]]] = {}
    with (data / "held_out.jsonl").open() as lines:
        for file in map(json.loads, lines):
            if trained_on.is_new(file["text"]):
                by_package.setdefault(file["package"], []).append(
                    (file["path"], HoleCutter(file["text"], code_lines=True))
                )
    return by_package, licences


def cut_holes(data: Path, seed: int, counts: Mapping[HoleKind, int] | None = None, first: int = 0) -> list[HeldOutHole]:
    """Cut so many holes of each kind (`COUNTS` by default) from the held-out packages under `data`, the packages in
    equal shares; they are numbered from `first` on."""
    rng = random.Random(seed)
    by_package, licences = held_out_files(data)
    holes: list[HeldOutHole] = []
    for kind, count in (COUNTS if counts is None else counts).items():
        found = 0
        while found < count:
            package = rng.choice(sorted(by_package))
            path, cutter = rng.choice(by_package[package])
            hole = cutter.cut(kind, rng)
            if hole is None:
                continue
            text = cutter.text
            holes.append(
                HeldOutHole(
                    first + len(holes),
                    kind,
                    package,
                    licences[package],
                    path,
                    hashlib.sha256(text.encode()).hexdigest(),
                    text[:hole.start][-PREFIX_CHARS:],
                    text[hole.start : hole.end],
                    text[hole.end :][:SUFFIX_CHARS],
                )
            )  # fmt: skip
            found += 1
    return holes


def write_holes(path: Path, holes: Iterable[HeldOutHole]) -> None:
    """Write `holes` as `read_holes` reads them."""
    path.write_text("".join(json.dumps(asdict(hole)) + "\n" for hole in holes))


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
    network, tokenizer, policy = checkpoint.network, checkpoint.tokenizer, checkpoint.config.policy
    noise = Noise(network.config.vocab_size, tokenizer.mask_id if policy.noise == "mask" else None)
    generator = torch.Generator().manual_seed(0)
    sums: dict[str, list[float]] = {}
    for hole in holes:
        excerpt = excerpt_of(hole)
        prompt = encode_prompt(excerpt, tokenizer, policy.prompt_tokens).ids
        fill = encode_fill(excerpt, hole.middle, tokenizer)
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
    commands = parser.add_subparsers(dest="command", required=True)
    cutting = commands.add_parser("cut")
    cutting.add_argument("--data", type=Path, default=Path(".train"))
    cutting.add_argument("--out", type=Path, default=HOLES_FILE)
    cutting.add_argument("--seed", type=int, default=0)
    adding = commands.add_parser("add")
    adding.add_argument("--data", type=Path, default=Path(".train"))
    adding.add_argument("--out", type=Path, default=HOLES_FILE)
    adding.add_argument("--kind", choices=list(COUNTS), required=True)
    adding.add_argument("--count", type=int, required=True)
    adding.add_argument("--seed", type=int, required=True)
    reading = commands.add_parser("losses")
    reading.add_argument("--holes", type=Path, default=HOLES_FILE)
    reading.add_argument("--checkpoint", default=None)
    reading.add_argument("--sample", type=int, default=500, help="only so many holes, drawn at random; 0 for all")
    args = parser.parse_args()
    if args.command == "cut":
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_holes(args.out, cut_holes(args.data, args.seed))
    elif args.command == "add":
        known = read_holes(args.out)
        write_holes(args.out, [*known, *cut_holes(args.data, args.seed, {args.kind: args.count}, len(known))])
    else:
        print_losses(args)


if __name__ == "__main__":
    main()
