"""Cut held-out cases with several holes; how they are filled, `dgemma-lsp eval` measures.

    python -m dgemma_model.train.several_holes --data .train

This was run once; its result is committed.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import random
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from dgemma_model.evaluation.held_out import SEVERAL_FILE, SeveralHoles
from dgemma_model.train.cut_held_out import PREFIX_CHARS, SUFFIX_CHARS, Cutters, held_out_files, is_found_once
from dgemma_model.train.holes import CutHole, HoleCutter, HoleKind

COUNTS = {2: 80, 3: 40}
"""How many cases have so many holes."""
KINDS: tuple[HoleKind, ...] = ("rest_of_line", "line", "expression")
LONGEST_HOLE, LONGEST_BETWEEN = 60, 160
"""In code points."""
TRIES = 200


def cut_cases(data: Path, seed: int) -> list[SeveralHoles]:
    """Cut `COUNTS` cases from the held-out packages under `data`."""
    return cut_cases_from(*held_out_files(data), seed)


def cut_cases_from(by_package: Cutters, licences: Mapping[str, str], seed: int) -> list[SeveralHoles]:
    """Cut `COUNTS` cases, the packages in equal shares."""
    rng = random.Random(seed)
    cases: list[SeveralHoles] = []
    for count, wanted in COUNTS.items():
        while sum(len(case.middles) == count for case in cases) < wanted:
            package = rng.choice(sorted(by_package))
            path, cutter = rng.choice(by_package[package])
            holes = _near_holes(cutter, count, rng)
            if holes is None or not is_found_once(cutter.text, holes[0].start, holes[-1].end):
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


def _near_holes(cutter: HoleCutter, count: int, rng: random.Random) -> list[CutHole] | None:
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


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(".train"))
    parser.add_argument("--out", type=Path, default=SEVERAL_FILE)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.write_text("".join(json.dumps(asdict(case)) + "\n" for case in cut_cases(args.data, args.seed)))


if __name__ == "__main__":
    main()
