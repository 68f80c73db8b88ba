"""Whether two versions of the program fill the same: 480 committed holes, byte for byte.

    python eval/same_fills.py before.jsonl                  # in a clone of one version
    python eval/same_fills.py after.jsonl --like before.jsonl

Each hole is filled as the server fills it, and offered as the server would offer it, with the embedded checkpoint on
one thread, so that sums are taken in the same order. Run both with PYTHONHASHSEED=0: lines of the project that are
equally alike are considered in the order of a set.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

from dgemma_lsp.command.eval_fill import fill_case
from dgemma_lsp.command.eval_run import read_cases
from dgemma_lsp.command.loading import load_infiller
from dgemma_model.evaluation.held_out import Case
from dgemma_model.evaluation.report import DEFAULT_WAY

COUNTS = {
    "line": 150, "rest_of_line": 80, "expression": 70, "block": 30, "statement": 20, "mid_token": 20, "empty": 10,
    "several": 50, "repair": 50,
}  # fmt: skip


def chosen(cases: list[Case]) -> Iterator[Case]:
    """The cases of each kind that are filled, the same ones every time."""
    rng = random.Random(0)
    for kind, count in COUNTS.items():
        yield from rng.sample([case for case in cases if case.kind == kind], count)


def main() -> None:
    """Fill, write, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument(
        "--like", type=Path, help="fills of another version; differences are printed, and end it with 1"
    )
    arguments = parser.parse_args()
    infiller = load_infiller(None, "cpu", cache_bytes=0)
    fills = []
    for case in chosen(read_cases(None)):
        fill = fill_case(case, DEFAULT_WAY, {}, infiller)
        kept = {"id": fill.case.id, "texts": fill.texts, "proposed": fill.proposed, "is_offered": fill.is_offered}
        fills.append(kept | {"score": round(fill.score, 5), "passes": fill.passes, "failure": fill.failure})
    arguments.output.write_text("".join(json.dumps(fill) + "\n" for fill in fills), "utf-8")
    if arguments.like is None:
        return
    others = {other["id"]: other for other in map(json.loads, arguments.like.read_text("utf-8").splitlines())}
    written = [json.loads(json.dumps(fill)) for fill in fills]
    different = [fill for fill in written if others.get(fill["id"]) != fill]
    for fill in different:
        other = others.get(fill["id"], {})
        print(
            fill["id"], *(f"{key}: {other.get(key)!r} -> {fill[key]!r}" for key in fill if other.get(key) != fill[key])
        )
    print(f"{len(different)} of {len(fills)} fills are different")
    sys.exit(bool(different))


if __name__ == "__main__":
    main()
