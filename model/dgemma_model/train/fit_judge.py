"""Fit the judge of lines to packages that neither training nor the evaluation has seen.

    python -m dgemma_model.train.fit_judge --site FOLDER
    python -m dgemma_model.train.fit_judge --packages FOLDER --checkpoint qwen2.5-coder-0.5b

The second form is for pretrained checkpoints: `FOLDER` holds unpacked packages that were first published after their
training (`python eval/fetch_fresh.py get eval/fresh/fitting_packages.json FOLDER`). In the first form, `FOLDER` is a
`site-packages` of another environment; of what is installed there, permissively licensed packages are taken that are
not in the checkpoint's manifest. Holes are cut as an editor meets them, filled with the rest of the file and of the
package at hand, and each text that is considered is either right or not. Prints the weights for the checkpoint's
`dgemma.json`, and what they are worth on packages that they were not fitted to.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distributions
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dgemma_model.checkpoint.config import Policy
from dgemma_model.checkpoint.selection import embedded_directory
from dgemma_model.evaluation.surroundings import nearby
from dgemma_model.infill import Infiller
from dgemma_model.project.judge import MEAN, WRITTEN
from dgemma_model.request import FillRequest
from dgemma_model.source.excerpt import ExcerptBudget
from dgemma_model.train.corpus import (
    SKIPPED_FOLDERS,
    NearDuplicates,
    SourceFile,
    files_of,
    is_permissive,
    is_usable,
    package_name,
)
from dgemma_model.train.holes import CutHole, HoleCutter, HoleKind

COUNTS: dict[HoleKind, int] = {"line": 900, "rest_of_line": 900, "expression": 900}
FEWEST_FILES = 3
"""A package with fewer is left out: nothing could be copied there."""
SHARES = (0.1, 0.2, 0.35, 0.5)
"""Of the holes, the surest first: how many of them are right is printed."""
RIDGE = 1.0
_TESTS = re.compile(r"(^|/)(examples?|docs?)/|(^|/)(test_[^/]*|conftest\.py)$")
_MOST_CHARS = 60_000


@dataclass(frozen=True, slots=True)
class Judgement:
    """A hole, and what the judge is told of each text for it, with whether that is right."""

    kind: str
    package: str
    texts: Sequence[tuple[tuple[float, ...], bool]]


def unseen_packages(site: Path, data: Path, manifest: Path) -> dict[str, list[SourceFile]]:
    """The files of the packages in `site` that are neither in the `manifest` nor repeat a file of the corpus in
    `data`."""
    duplicates, known = NearDuplicates(), set(json.loads(manifest.read_text("utf-8")))
    for name in ("corpus", "held_out"):
        with (data / f"{name}.jsonl").open() as lines:
            for line in lines:
                duplicates.is_new(json.loads(line)["text"])
    found: dict[str, list[SourceFile]] = {}
    for dist in sorted(distributions(path=[str(site)]), key=package_name):
        if package_name(dist) not in known and is_permissive(dist):
            files = [file for file in files_of(dist) if duplicates.is_new(file.text)]
            if len(files) >= FEWEST_FILES:
                found[package_name(dist)] = files
    return found


def unpacked_packages(folder: Path) -> dict[str, list[SourceFile]]:
    """The usable Python files of each package in `folder`, without tests."""
    found: dict[str, list[SourceFile]] = {}
    for package in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = []
        for path in sorted(package.rglob("*.py")):
            shown = path.relative_to(folder).as_posix()
            if not path.is_file() or path.is_symlink() or _TESTS.search(shown) or SKIPPED_FOLDERS.search(shown):
                continue
            text = path.read_bytes().decode("utf-8", "ignore").replace("\r\n", "\n")
            if is_usable(text) and len(text) < _MOST_CHARS:
                files.append(SourceFile(package.name, "", "", shown, text))
        if len(files) >= FEWEST_FILES:
            found[package.name] = files
    return found


def cut_holes(
    packages: dict[str, list[SourceFile]], counts: dict[HoleKind, int], seed: int
) -> list[tuple[str, CutHole]]:
    """So many holes of each kind, with the path of their file, the packages in equal shares."""
    rng = random.Random(seed)
    cutters = {
        name: [(file.path, HoleCutter(file.text, code_lines=True)) for file in files]
        for name, files in packages.items()
    }
    holes: list[tuple[str, CutHole]] = []
    for kind, count in counts.items():
        wanted = len(holes) + count
        while len(holes) < wanted:
            path, cutter = rng.choice(cutters[rng.choice(sorted(cutters))])
            if hole := cutter.cut(kind, rng):
                holes.append((path, hole))
    return holes


def judgement(infiller: Infiller, texts: dict[str, str], path: str, hole: CutHole) -> Judgement:
    """What is considered for a hole in one of the files of its package (`texts` by path)."""
    cutter = HoleCutter(texts[path])
    excerpt = cutter.excerpt(hole, ExcerptBudget())
    start, end = hole.start - len(excerpt.prefix), hole.end + len(excerpt.suffix)
    project_text = (*nearby(path, texts), cutter.text[end:], cutter.text[:start])
    infiller.index_ahead(project_text)
    considered = infiller.considered(FillRequest(excerpt, project_text, one_line=True))
    right = cutter.text[hole.start : hole.end].rstrip()
    return Judgement(
        hole.kind,
        path.split("/")[0],
        [(reading.figures, reading.text.rstrip() == right) for reading in considered],
    )


def fitted(judgements: Sequence[Judgement], rounds: int = 40) -> torch.Tensor:
    """Weights of a logistic model, by Newton's method, with a ridge on figures of unit variance."""
    figures = torch.tensor([figures for each in judgements for figures, _ in each.texts], dtype=torch.float64)
    right = torch.tensor([is_right for each in judgements for _, is_right in each.texts], dtype=torch.float64)
    mean, spread = figures.mean(0), figures.std(0).clamp_min(1e-9)
    mean[0], spread[0] = 0.0, 1.0
    scaled = (figures - mean) / spread
    ridge = torch.full_like(mean, RIDGE)
    ridge[0] = 0.0
    weights = torch.zeros_like(mean)
    for _ in range(rounds):
        chance = torch.sigmoid(scaled @ weights)
        slope = scaled.T @ (chance - right) + ridge * weights
        curve = (scaled * (chance * (1 - chance))[:, None]).T @ scaled + torch.diag(ridge + 1e-6)
        weights -= torch.linalg.solve(curve, slope)
    unscaled = weights / spread
    unscaled[0] = weights[0] - (unscaled * mean)[1:].sum()
    return unscaled


def chosen(judgements: Sequence[Judgement], weights: torch.Tensor) -> list[tuple[float, str, bool]]:
    """For each hole, the log-odds of the text that is taken, the hole's kind, and whether the text is right."""
    found = []
    for each in judgements:
        odds = [float(torch.tensor(figures, dtype=torch.float64) @ weights) for figures, _ in each.texts]
        best = max(range(len(odds)), key=odds.__getitem__)
        found.append((odds[best], each.kind, each.texts[best][1]))
    return found


def crossed(judgements: Sequence[Judgement]) -> list[tuple[float, str, bool]]:
    """`chosen` of each half of the packages with weights that are fitted to the other half."""
    packages = sorted({each.package for each in judgements})
    halves = [[each for each in judgements if packages.index(each.package) % 2 == half] for half in (0, 1)]
    return [taken for half in (0, 1) for taken in chosen(halves[half], fitted(halves[1 - half]))]


def table(ways: dict[str, list[tuple[float, str, bool]]]) -> Table:
    """Exact fills of each kind, and among the surest shares of all."""
    kinds = list(COUNTS)
    shown = Table("per cent right", *kinds, "all", *(f"surest {share:.0%}" for share in SHARES))
    for way, taken in ways.items():
        ordered = sorted(taken, reverse=True)
        groups = [[is_right for _, of, is_right in taken if of == kind] for kind in kinds]
        groups += [[is_right for *_, is_right in ordered[: round(len(ordered) * share)]] for share in (1.0, *SHARES)]
        shown.add_row(way, *(f"{100 * sum(group) / max(len(group), 1):.1f}" for group in groups))
    return shown


@cache
def _infiller(checkpoint: str | None) -> Infiller:
    torch.set_num_threads(1)
    return Infiller.load(checkpoint, "cpu", cache_bytes=0)


def _judgement(checkpoint: str | None, texts: dict[str, str], path: str, hole: CutHole) -> Judgement:
    return judgement(_infiller(checkpoint), texts, path, hole)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    places = parser.add_mutually_exclusive_group(required=True)
    places.add_argument("--site", type=Path, help="a site-packages folder")
    places.add_argument("--packages", type=Path, help="a folder of unpacked packages")
    parser.add_argument("--holes", type=int, default=None, help="of each kind; 900 by default")
    parser.add_argument("--data", type=Path, default=Path(".train"))
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args()
    if args.packages is not None:
        packages = unpacked_packages(args.packages)
    else:
        packages = unseen_packages(args.site, args.data, args.data / "manifest.json")
    console = Console()
    for name, files in packages.items():
        console.print(f"{name} {files[0].version} {files[0].licence}: {len(files)} files", highlight=False)
    texts = {name: {file.path: file.text for file in files} for name, files in packages.items()}
    owners = {path: name for name, paths in texts.items() for path in paths}
    holes = cut_holes(packages, {kind: args.holes or count for kind, count in COUNTS.items()}, seed=0)
    with ProcessPoolExecutor(args.processes, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(_judgement, args.checkpoint, texts[owners[path]], path, hole) for path, hole in holes]
        judgements = [future.result() for future in track(waiting, "filling", console=Console(stderr=True))]
    weights = fitted(judgements)
    shipped = Policy.read(embedded_directory()).judge
    written = [max(each.texts, key=lambda text: text[0][WRITTEN]) for each in judgements]
    console.print(
        table(
            {
                "what was written": [
                    (figures[MEAN], each.kind, is_right)
                    for each, (figures, is_right) in zip(judgements, written, strict=True)
                ],
                "weights of the checkpoint": chosen(judgements, torch.tensor(shipped, dtype=torch.float64)),
                "fitted to other packages": crossed(judgements),
            }
        )
    )
    console.print(f'"judge": [{", ".join(f"{weight:.3g}" for weight in weights.tolist())}]', soft_wrap=True)


if __name__ == "__main__":
    main()
