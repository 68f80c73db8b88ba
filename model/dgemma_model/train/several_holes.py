"""Held-out cases with several holes: cut them, and measure filling them together against one by one.

    python -m dgemma_model.train.several_holes cut --data .train
    python -m dgemma_model.train.several_holes score

`cut` was run once; its result is committed.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import random
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from dgemma_model import syntax
from dgemma_model.excerpt import ExcerptBudget, cut
from dgemma_model.infill import Infiller
from dgemma_model.request import Draft, Excerpt, FillRequest
from dgemma_model.train.evaluate import PREFIX_CHARS, SUFFIX_CHARS, Way, held_out_files, paired_share, stripped
from dgemma_model.train.holes import Hole, HoleCutter, HoleKind

CASES_FILE = Path("eval/several_holes.jsonl")
COUNTS = {2: 80, 3: 40}
"""How many cases have so many holes."""
KINDS: tuple[HoleKind, ...] = ("rest_of_line", "line", "expression")
LONGEST_HOLE, LONGEST_BETWEEN = 60, 160
"""In code points."""
TRIES = 200

WAYS = {
    "together": Way(together=True),
    "together, 16 steps": Way(together=True, max_denoising_steps=16),
    "one by one, verified": Way(together=False, verify=True),
}


@dataclass(frozen=True, slots=True)
class SeveralHoles:
    """A piece of a file of a package that training never saw, with several one-line holes in it:
    `prefix middles[0] between[0] middles[1] ... suffix`."""

    id: int
    package: str
    licence: str
    path: str
    sha256: str
    """Of the whole file."""
    prefix: str
    middles: list[str]
    between: list[str]
    suffix: str


def cut_cases(data: Path, seed: int) -> list[SeveralHoles]:
    """Cut `COUNTS` cases from the held-out packages under `data`, the packages in equal shares."""
    rng = random.Random(seed)
    by_package, licences = held_out_files(data)
    cases: list[SeveralHoles] = []
    for count, wanted in COUNTS.items():
        while sum(len(case.middles) == count for case in cases) < wanted:
            package = rng.choice(sorted(by_package))
            path, cutter = rng.choice(by_package[package])
            holes = _near_holes(cutter, count, rng)
            if holes is None:
                continue
            text = cutter.text
            cases.append(
                SeveralHoles(
                    len(cases),
                    package,
                    licences[package],
                    path,
                    hashlib.sha256(text.encode()).hexdigest(),
                    text[: holes[0].start][-PREFIX_CHARS:],
                    [text[hole.start : hole.end] for hole in holes],
                    [text[a.end : b.start] for a, b in itertools.pairwise(holes)],
                    text[holes[-1].end :][:SUFFIX_CHARS],
                )
            )
    return cases


def _near_holes(cutter: HoleCutter, count: int, rng: random.Random) -> list[Hole] | None:
    """`count` holes of one line each, near each other and with text between them, or None where none were found."""
    found = [hole for _ in range(TRIES) if (hole := cutter.cut(rng.choice(KINDS), rng)) is not None]
    found = [h for h in found if h.end - h.start <= LONGEST_HOLE and "\n" not in cutter.text[h.start : h.end]]
    for first in found:
        chosen = [first]
        for hole in sorted(found, key=lambda hole: hole.start):
            if len(chosen) < count and 1 <= hole.start - chosen[-1].end <= LONGEST_BETWEEN:
                chosen.append(hole)
        if len(chosen) == count:
            return chosen
    return None


def read_cases(path: Path = CASES_FILE) -> list[SeveralHoles]:
    """The committed cases."""
    return [SeveralHoles(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]


def excerpt_of(case: SeveralHoles) -> Excerpt:
    """What the server would show the model with these holes open."""
    text, at, holes = case.prefix, len(case.prefix), []
    for between in [*case.between, case.suffix]:
        holes.append((at, at))
        text += between
        at += len(between)
    tree = syntax.parse("python", text)
    scopes = syntax.scope_starts(tree, holes[0][0]) if tree is not None else ()
    return cut(text, holes, ExcerptBudget(), scope_starts=scopes)


@dataclass(frozen=True, slots=True)
class Result:
    """How one case was filled."""

    case: SeveralHoles
    texts: tuple[str, ...]
    ms: float
    passes: int

    @property
    def exact(self) -> list[bool]:
        """Hole by hole, whether it has exactly the text that was there."""
        return [stripped(a) == stripped(b) for a, b in zip(self.texts, self.case.middles, strict=True)]


def fill_cases(cases: list[SeveralHoles], infiller: Infiller, way: Way) -> list[Result]:
    """Fill every case, with a cold prompt each."""
    results = []
    for case in cases:
        request = FillRequest(excerpt_of(case), one_line=True, max_tokens=32, **asdict(way))
        started = time.perf_counter()
        draft = Draft(("",) * len(case.middles), 0)
        for draft in infiller.fill(request):  # noqa: B007
            pass
        results.append(Result(case, draft.texts, 1000 * (time.perf_counter() - started), draft.step))
    return results


def score(args: argparse.Namespace) -> None:
    """Fill the cases in every way, and print a table and the comparison."""
    cases = read_cases(args.cases)[: args.first]
    infiller = Infiller.load(args.checkpoint, args.device)
    runs = {name: fill_cases(cases, infiller, way) for name, way in WAYS.items()}
    print("| filled | jointly exact | holes exact | passes | p50 ms | p95 ms |\n|---|---|---|---|---|---|")
    for name, results in runs.items():
        joint = 100 * statistics.fmean(all(result.exact) for result in results)
        single = 100 * statistics.fmean(exact for result in results for exact in result.exact)
        times = sorted(result.ms for result in results)
        passes = statistics.fmean(result.passes for result in results)
        print(
            f"| {name} | {joint:.1f} | {single:.1f} | {passes:.1f} | {times[len(times) // 2]:.0f} "
            f"| {times[int(0.95 * len(times))]:.0f} |"
        )
    ours, theirs = ([all(r.exact) for r in runs[name]] for name in ("together", "one by one, verified"))
    low, high = paired_share(ours, theirs)
    print(f"\nJointly exact (n = {len(cases)}), together against one by one: {low:+.1f} to {high:+.1f} points (95 %).")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    cutting = commands.add_parser("cut")
    cutting.add_argument("--data", type=Path, default=Path(".train"))
    cutting.add_argument("--out", type=Path, default=CASES_FILE)
    cutting.add_argument("--seed", type=int, default=0)
    scoring = commands.add_parser("score")
    scoring.add_argument("--cases", type=Path, default=CASES_FILE)
    scoring.add_argument("--checkpoint", default=None)
    scoring.add_argument("--device", default=None)
    scoring.add_argument("--first", type=int, default=None, help="only so many cases")
    args = parser.parse_args()
    if args.command == "cut":
        args.out.write_text("".join(json.dumps(asdict(case)) + "\n" for case in cut_cases(args.data, args.seed)))
    else:
        score(args)


if __name__ == "__main__":
    main()
