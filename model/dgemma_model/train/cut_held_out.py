"""Cuts held-out holes from packages that training never saw.

    python -m dgemma_model.train.cut_held_out cut --data .train --out eval/holes.jsonl
    python -m dgemma_model.train.cut_held_out add --kind expression --count 240 --seed 1

`cut` was run once, then `add`; the result is committed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from dgemma_model.evaluation.held_out import HOLES_FILE, HeldOutHole, read_holes
from dgemma_model.train.corpus import NearDuplicates
from dgemma_model.train.holes import CutHole, HoleCutter, HoleKind

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


Cutters = Mapping[str, Sequence[tuple[str, HoleCutter]]]
"""The path and the cutter of every file, by package."""


def held_out_files(data: Path) -> tuple[Cutters, dict[str, str]]:
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
    """Cut so many holes of each kind (`COUNTS` by default) from the held-out packages under `data`."""
    return cut_from(*held_out_files(data), seed, COUNTS if counts is None else counts, first)


def cut_from(
    by_package: Cutters,
    licences: Mapping[str, str],
    seed: int,
    counts: Mapping[HoleKind, int],
    first: int = 0,
    weights: Mapping[str, float] | None = None,
) -> list[HeldOutHole]:
    """Cut so many holes of each kind, no two of them the same, the packages in equal shares or by their
    `weights`; they are numbered from `first` on.

    Does not come back where the files have fewer holes of a kind.
    """
    rng = random.Random(seed)
    holes: list[HeldOutHole] = []
    seen: set[tuple[str, CutHole]] = set()
    names = sorted(by_package)
    shares = [1.0 if weights is None else weights[name] for name in names]
    for kind, count in counts.items():
        found = 0
        while found < count:
            package = rng.choices(names, shares)[0]
            path, cutter = rng.choice(by_package[package])
            hole = cutter.cut(kind, rng)
            if hole is None or (path, hole) in seen or not is_found_once(cutter.text, hole.start, hole.end):
                continue
            seen.add((path, hole))
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
                    cutter.language,
                )
            )  # fmt: skip
            found += 1
    return holes


def is_found_once(text: str, start: int, end: int) -> bool:
    """Whether the part of `text` that is kept around `[start:end]` occurs in it just once."""
    kept = text[max(start - PREFIX_CHARS, 0) : end + SUFFIX_CHARS]
    return text.find(kept, text.find(kept) + 1) < 0


def write_holes(path: Path, holes: Iterable[HeldOutHole]) -> None:
    """Write `holes` as `read_holes` reads them."""
    path.write_text("".join(json.dumps(asdict(hole)) + "\n" for hole in holes))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    cutting, adding = commands.add_parser("cut"), commands.add_parser("add")
    for command in (cutting, adding):
        command.add_argument("--data", type=Path, default=Path(".train"))
        command.add_argument("--out", type=Path, default=HOLES_FILE)
    cutting.add_argument("--seed", type=int, default=0)
    adding.add_argument("--kind", choices=list(COUNTS), required=True)
    adding.add_argument("--count", type=int, required=True)
    adding.add_argument("--seed", type=int, required=True)
    args = parser.parse_args()
    if args.command == "cut":
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_holes(args.out, cut_holes(args.data, args.seed))
    else:
        known = read_holes(args.out)
        write_holes(args.out, [*known, *cut_holes(args.data, args.seed, {args.kind: args.count}, len(known))])


if __name__ == "__main__":
    main()


PREFIX_CHARS, SUFFIX_CHARS = 1600, 420
"""How much of a file is kept around a hole: more than an excerpt shows."""
