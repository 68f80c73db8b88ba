"""Held-out holes: cut them, and measure how a checkpoint fills them.

    python -m dgemma_model.train.evaluate cut --data .train --out eval/holes.jsonl
    python -m dgemma_model.train.evaluate score

`cut` was run once; its result is committed. `score` prints the tables of model/README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import get_args

import torch
import torch.nn.functional as F  # noqa: N812
from rich.console import Console
from rich.progress import track

from dgemma_model import syntax
from dgemma_model.canvas import encode_fill, encode_prompt
from dgemma_model.checkpoint import Checkpoint, embedded_directory, load
from dgemma_model.copying import most_similar_line
from dgemma_model.excerpt import ExcerptBudget, cut
from dgemma_model.infill import Infiller
from dgemma_model.network import Cache
from dgemma_model.request import Draft, Drafting, Excerpt, FillRequest
from dgemma_model.sampler import Noise
from dgemma_model.train.corpus import NearDuplicates
from dgemma_model.train.holes import HoleCutter, HoleKind

HOLES_FILE = Path("eval/holes.jsonl")
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

ONE_LINE_KINDS = frozenset({"line", "rest_of_line"})
CONSTANTS = ("else:", "pass", "return None", "return True", "return False", "return self", "try:", '"""')


@dataclass(frozen=True, slots=True)
class HeldOutHole:
    """One hole of a package that training never saw."""

    id: int
    kind: HoleKind
    package: str
    licence: str
    path: str
    sha256: str
    """Of the whole file."""
    prefix: str
    middle: str
    suffix: str


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


def cut_holes(data: Path, seed: int) -> list[HeldOutHole]:
    """Cut `COUNTS` holes from the held-out packages under `data`, the packages in equal shares."""
    rng = random.Random(seed)
    by_package, licences = held_out_files(data)
    holes: list[HeldOutHole] = []
    for kind, count in COUNTS.items():
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
                    len(holes),
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


def read_holes(path: Path = HOLES_FILE) -> list[HeldOutHole]:
    """The committed holes."""
    return [HeldOutHole(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]


# ------------------------------------------------------------------- fillers


@dataclass(frozen=True, slots=True)
class Result:
    """How one hole was filled."""

    hole: HeldOutHole
    text: str
    ms: float = 0.0
    passes: int = 0
    score: float = 0.0
    revised: int = 0

    @property
    def is_exact(self) -> bool:
        """Exactly the text that was there; blanks at the ends of lines do not count."""
        return stripped(self.text) == stripped(self.hole.middle)

    @property
    def similarity(self) -> float:
        """Edit similarity to the text that was there, 0 to 1."""
        return SequenceMatcher(None, self.text, self.hole.middle, autojunk=False).ratio()

    @property
    def parses(self) -> bool:
        """The filled excerpt has no more syntax errors than the original."""
        hole = self.hole
        return _errors(hole.prefix + self.text + hole.suffix) <= _errors(hole.prefix + hole.middle + hole.suffix)


def stripped(text: str) -> str:
    """`text` without blanks at the ends of lines, and at its own."""
    return "\n".join(line.rstrip() for line in text.rstrip().split("\n"))


@cache
def _errors(text: str) -> int:
    tree = syntax.parse("python", text)
    assert tree is not None
    return syntax.error_count(tree)


def excerpt_of(hole: HeldOutHole) -> Excerpt:
    """What the server would show the model with the cursor in the (empty) hole."""
    text, at = hole.prefix + hole.suffix, len(hole.prefix)
    tree = syntax.parse("python", text)
    scopes = syntax.scope_starts(tree, at) if tree is not None else ()
    return cut(text, [(at, at)], ExcerptBudget(), scope_starts=scopes)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to fill with a model: what a request overrides; see `FillRequest`."""

    verify: bool | None = None
    max_denoising_steps: int | None = None
    drafting: Drafting | None = None
    renoise: bool | None = None
    together: bool | None = None
    copy_weight: float | None = None
    budget_ms: float | None = None


def fill_with_model(holes: Iterable[HeldOutHole], infiller: Infiller, way: Way) -> list[Result]:
    """Fill every hole as the server would, with a cold prompt each."""
    results = []
    for hole in track(list(holes), description=str(way), console=Console(stderr=True)):
        request = FillRequest(
            excerpt_of(hole),
            one_line=hole.kind in ONE_LINE_KINDS,
            max_tokens=48 if hole.kind in ONE_LINE_KINDS else 96,
            **asdict(way),
        )
        started = time.perf_counter()
        draft = Draft(("",), 0)
        for draft in infiller.fill(request):  # noqa: B007
            pass
        ms = 1000 * (time.perf_counter() - started)
        results.append(Result(hole, draft.text, ms, draft.step, draft.score, draft.revised))
    return results


def fill_empty(hole: HeldOutHole) -> str:
    """Baseline: nothing."""
    return ""


def fill_constant(constant: str) -> Callable[[HeldOutHole], str]:
    """Baseline: always the same text."""
    return lambda hole: constant


def fill_with_similar_line(hole: HeldOutHole) -> str:
    """Baseline: what the most similar nearby line says (copying.py), without a model."""
    return most_similar_line(hole.prefix, hole.suffix)


BASELINES: dict[str, Callable[[HeldOutHole], str]] = {
    "empty": fill_empty,
    **{f"constant {text!r}": fill_constant(text) for text in CONSTANTS},
    "most similar nearby line": fill_with_similar_line,
}


# -------------------------------------------------------------------- scores


def exact_share(results: list[Result]) -> float:
    """Share of exact fills, in per cent."""
    return 100 * statistics.fmean(result.is_exact for result in results)


def paired_interval(ours: list[Result], theirs: list[Result], draws: int = 4000) -> tuple[float, float]:
    """`paired_share` of exact fills."""
    return paired_share([result.is_exact for result in ours], [result.is_exact for result in theirs], draws)


def paired_share(ours: list[bool], theirs: list[bool], draws: int = 4000) -> tuple[float, float]:
    """95 % bootstrap interval of the difference in the share of true ones, in points, drawn in pairs."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    rng = random.Random(0)
    means = sorted(statistics.fmean(rng.choices(differences, k=len(differences))) for _ in range(draws))
    return 100 * means[int(0.025 * draws)], 100 * means[int(0.975 * draws)]


def print_tables(runs: dict[str, list[Result]]) -> None:
    """Markdown: a row for each way to fill and each kind of hole, then the comparison on whole lines."""
    kinds = [kind for kind in get_args(HoleKind) if any(r.hole.kind == kind for r in next(iter(runs.values())))]
    print("| filled by | " + " | ".join(kinds) + " | all | parses | similarity | passes | revised | p50 ms | p95 ms |")
    print("|---" * (len(kinds) + 8) + "|")
    for name, results in runs.items():
        cells = [f"{exact_share([r for r in results if r.hole.kind == kind]):.1f}" for kind in kinds]
        times = sorted(result.ms for result in results)
        cells += [
            f"**{exact_share(results):.1f}**",
            f"{100 * statistics.fmean(result.parses for result in results):.1f}",
            f"{100 * statistics.fmean(result.similarity for result in results):.1f}",
            f"{statistics.fmean(result.passes for result in results):.1f}",
            f"{statistics.fmean(result.revised for result in results):.2f}",
            f"{times[len(times) // 2]:.0f}",
            f"{times[int(0.95 * len(times))]:.0f}",
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")
    lines = {name: [r for r in results if r.hole.kind == "line"] for name, results in runs.items()}
    best = max((name for name in lines if name in BASELINES), key=lambda name: exact_share(lines[name]))
    for name in lines:
        if name not in BASELINES:
            low, high = paired_interval(lines[name], lines[best])
            print(
                f"\nWhole lines (n = {len(lines[name])}), {name} against {best!r}: {exact_share(lines[name]):.1f} % "
                f"against {exact_share(lines[best]):.1f} %; difference {low:+.1f} to {high:+.1f} points (95 %, paired)."
            )


WAYS = {
    "verified": Way(verify=True),
    "plain denoising, 8 steps": Way(verify=False, max_denoising_steps=8),
}
OTHER_WAYS = {
    "plain, re-noised where the causal head disagrees": Way(verify=False, max_denoising_steps=8, renoise=True),
    "verified, drafts copied": Way(verify=True, drafting="copied"),
    "verified, drafts denoised": Way(verify=True, drafting="denoised"),
    "verified, drafts of both": Way(verify=True, drafting="both"),
    "token by token": Way(verify=True, drafting="none"),
}
DIALS = {
    **{f"plain, {n} steps": Way(verify=False, max_denoising_steps=n) for n in (1, 2, 4, 8, 16, 48)},
    **{f"plain, {ms} ms": Way(verify=False, budget_ms=ms) for ms in (10, 25, 50, 100, 200, 400)},
    **{f"verified, {ms} ms": Way(verify=True, budget_ms=ms) for ms in (10, 25, 50, 100, 200, 400)},
}
"""Quality against steps and time."""


def _fill_share(
    holes: list[HeldOutHole], checkpoint: str | None, device: str | None, ways: Mapping[str, Way]
) -> dict[str, list[Result]]:
    """Every way to fill, over some holes, on one thread: a process of its own for each share."""
    torch.set_num_threads(1)
    infiller = Infiller.load(checkpoint, device)
    return {name: fill_with_model(holes, infiller, way) for name, way in ways.items()}


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


def score(args: argparse.Namespace) -> None:
    """Fill the holes in every way, shared out over processes, and print the tables."""
    holes = read_holes(args.holes)
    if args.sample:
        holes = random.Random(1).sample(holes, args.sample)
    ways = WAYS | (OTHER_WAYS if args.all_ways else {}) | (DIALS if args.dials else {})
    jobs = min(args.jobs, len(holes))
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        shares = [pool.submit(_fill_share, holes[job::jobs], args.checkpoint, args.device, ways) for job in range(jobs)]
        done = [share.result() for share in shares]
    runs = {
        name: sorted((result for share in done for result in share[name]), key=lambda result: result.hole.id)
        for name in ways
    }
    in_order = sorted(holes, key=lambda hole: hole.id)
    for name, baseline in BASELINES.items():
        runs[name] = [Result(hole, baseline(hole)) for hole in in_order]
    print_tables(runs)
    checkpoint = load(Path(args.checkpoint or embedded_directory()), torch.device("cpu"), torch.float32)
    losses = held_out_losses(in_order[::4], checkpoint)
    print("\nLosses, nats per token: " + "; ".join(f"{name} {loss:.2f}" for name, loss in losses.items()) + ".")
    if args.results:
        rows = [{"by": name, "id": r.hole.id, **_result_row(r)} for name, results in runs.items() for r in results]
        args.results.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _result_row(result: Result) -> dict[str, object]:
    return {
        "kind": result.hole.kind,
        "exact": result.is_exact,
        "parses": result.parses,
        "score": round(result.score, 4),
        "text": result.text,
        "middle": result.hole.middle,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    cutting = commands.add_parser("cut")
    cutting.add_argument("--data", type=Path, default=Path(".train"))
    cutting.add_argument("--out", type=Path, default=HOLES_FILE)
    cutting.add_argument("--seed", type=int, default=0)
    scoring = commands.add_parser("score")
    scoring.add_argument("--holes", type=Path, default=HOLES_FILE)
    scoring.add_argument("--checkpoint", default=None)
    scoring.add_argument("--device", default=None)
    scoring.add_argument("--sample", type=int, default=0, help="only so many holes, drawn at random")
    scoring.add_argument("--all-ways", action="store_true", help="also re-noised, by sort of draft, and token by token")
    scoring.add_argument("--dials", action="store_true", help="also with so many steps, and so much time")
    scoring.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes of one thread each")
    scoring.add_argument("--results", type=Path, help="write every fill there, one JSON line each")
    args = parser.parse_args()
    if args.command == "cut":
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text("".join(json.dumps(asdict(hole)) + "\n" for hole in cut_holes(args.data, args.seed)))
    else:
        score(args)


if __name__ == "__main__":
    main()
