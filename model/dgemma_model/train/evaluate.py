"""Held-out holes: cut them, and measure how a checkpoint fills them.

    python -m dgemma_model.train.evaluate cut --data .train --out eval/holes.jsonl
    python -m dgemma_model.train.evaluate score

`cut` was run once; its result is committed. `score` prints the tables of model/README.md.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.progress import track

from dgemma_model import syntax
from dgemma_model.excerpt import ExcerptBudget, cut
from dgemma_model.infill import Infiller
from dgemma_model.request import Draft, FillRequest
from dgemma_model.train.corpus import NearDuplicates
from dgemma_model.train.holes import HoleCutter, HoleKind

HOLES_FILE = Path("eval/holes.jsonl")
COUNTS: dict[HoleKind, int] = {
    "line": 800,
    "rest_of_line": 300,
    "expression": 150,
    "statement": 100,
    "block": 100,
    "span": 100,
    "empty": 50,
}
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


def cut_holes(data: Path, seed: int) -> list[HeldOutHole]:
    """Cut `COUNTS` holes from the held-out packages under `data`, the packages in equal shares."""
    rng = random.Random(seed)
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

    @property
    def is_exact(self) -> bool:
        """Exactly the text that was there; blanks at the ends of lines do not count."""
        return _stripped(self.text) == _stripped(self.hole.middle)

    @property
    def similarity(self) -> float:
        """Edit similarity to the text that was there, 0 to 1."""
        return SequenceMatcher(None, self.text, self.hole.middle, autojunk=False).ratio()

    @property
    def parses(self) -> bool:
        """The filled excerpt has no more syntax errors than the original."""
        hole = self.hole
        return _errors(hole.prefix + self.text + hole.suffix) <= _errors(hole.prefix + hole.middle + hole.suffix)


def _stripped(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.rstrip().split("\n"))


@cache
def _errors(text: str) -> int:
    tree = syntax.parse("python", text)
    assert tree is not None
    return syntax.error_count(tree)


def fill_with_model(
    holes: Iterable[HeldOutHole],
    infiller: Infiller,
    *,
    verify: bool,
    steps: int | None,
    copy_weight: float | None = None,
) -> list[Result]:
    """Fill every hole as the server would, with a cold prompt each."""
    results = []
    for hole in track(list(holes), description=f"verify={verify} steps={steps}", console=Console(stderr=True)):
        text = hole.prefix + hole.suffix
        at = len(hole.prefix)
        tree = syntax.parse("python", text)
        scopes = syntax.scope_starts(tree, at) if tree is not None else ()
        excerpt = cut(text, [(at, at)], ExcerptBudget(), scope_starts=scopes)
        request = FillRequest(
            excerpt,
            one_line=hole.kind in ONE_LINE_KINDS,
            max_tokens=48 if hole.kind in ONE_LINE_KINDS else 128,
            verify=verify,
            max_denoising_steps=steps,
            copy_weight=copy_weight,
        )
        started = time.perf_counter()
        draft = Draft(("",), 0)
        for draft in infiller.fill(request):  # noqa: B007
            pass
        results.append(Result(hole, draft.text, 1000 * (time.perf_counter() - started), draft.step, draft.score))
    return results


def fill_empty(hole: HeldOutHole) -> str:
    """Baseline: nothing."""
    return ""


def fill_constant(constant: str) -> Callable[[HeldOutHole], str]:
    """Baseline: always the same text."""
    return lambda hole: constant


def fill_with_similar_line(hole: HeldOutHole) -> str:
    """Baseline: the nearby line whose surroundings are most like the hole's.

    Lines that begin as the hole's line does come first; among those, the one whose neighbours are most similar.
    Copied from where the cursor is in the line.
    """
    before, after = hole.prefix.split("\n"), hole.suffix.split("\n")
    begun = before[-1].lstrip()
    above = next((line for line in reversed(before[:-1]) if line.strip()), "").strip()
    below = next((line for line in after[1:] if line.strip()), "").strip()
    best, best_score = "", -1.0
    for lines in (before[:-1], after[1:]):
        for i, line in enumerate(lines):
            content = line.strip()
            if not content.startswith(begun) or len(content) <= len(begun):
                continue
            neighbours = lines[i - 1].strip() if i else "", lines[i + 1].strip() if i + 1 < len(lines) else ""
            score = _similarity(neighbours[0], above) + _similarity(neighbours[1], below) + i / len(lines) * 0.01
            if score > best_score:
                best, best_score = content[len(begun) :], score
    return best


def _similarity(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b, autojunk=False).ratio() if a and b else 0.0


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
    """95 % bootstrap interval of the difference in exact share, in points, holes drawn in pairs."""
    differences = [a.is_exact - b.is_exact for a, b in zip(ours, theirs, strict=True)]
    rng = random.Random(0)
    means = sorted(statistics.fmean(rng.choices(differences, k=len(differences))) for _ in range(draws))
    return 100 * means[int(0.025 * draws)], 100 * means[int(0.975 * draws)]


def print_tables(runs: dict[str, list[Result]]) -> None:
    """Markdown: a row for each way to fill and each kind of hole, then the comparison on whole lines."""
    kinds = [kind for kind in get_args(HoleKind) if any(r.hole.kind == kind for r in next(iter(runs.values())))]
    print("| filled by | " + " | ".join(kinds) + " | all | parses | similarity | passes | p50 ms | p95 ms |")
    print("|---" * (len(kinds) + 7) + "|")
    for name, results in runs.items():
        cells = [f"{exact_share([r for r in results if r.hole.kind == kind]):.1f}" for kind in kinds]
        times = sorted(result.ms for result in results)
        cells += [
            f"**{exact_share(results):.1f}**",
            f"{100 * statistics.fmean(result.parses for result in results):.1f}",
            f"{100 * statistics.fmean(result.similarity for result in results):.1f}",
            f"{statistics.fmean(result.passes for result in results):.1f}",
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


def score(args: argparse.Namespace) -> None:
    """Fill the holes in every way and print the tables."""
    holes = read_holes(args.holes)
    if args.sample:
        holes = random.Random(1).sample(holes, args.sample)
    infiller = Infiller.load(args.checkpoint, args.device)
    runs = {"verified": fill_with_model(holes, infiller, verify=True, steps=None)}
    if not args.quick:
        runs["token by token"] = fill_with_model(holes, infiller, verify=True, steps=0)
        runs["token by token, no copying"] = fill_with_model(holes, infiller, verify=True, steps=0, copy_weight=0.0)
    for steps in args.plain_steps:
        runs[f"plain, {steps} steps"] = fill_with_model(holes, infiller, verify=False, steps=steps)
    for name, baseline in BASELINES.items():
        runs[name] = [Result(hole, baseline(hole)) for hole in holes]
    print_tables(runs)
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
    scoring.add_argument("--quick", action="store_true", help="leave out token by token")
    scoring.add_argument("--plain-steps", type=int, nargs="*", default=[1, 4, 16])
    scoring.add_argument("--results", type=Path, help="write every fill there, one JSON line each")
    args = parser.parse_args()
    if args.command == "cut":
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text("".join(json.dumps(asdict(hole)) + "\n" for hole in cut_holes(args.data, args.seed)))
    else:
        score(args)


if __name__ == "__main__":
    main()
