"""Fit the probe that finds where a fill ends (decoding/end_probe.py) to packages that nothing else has seen.

    python -m dgemma_model.train.fit_ends gather GATHERED --packages FOLDER [--seconds 900]
    python -m dgemma_model.train.fit_ends held-out HELD_OUT [--set fresh]
    python -m dgemma_model.train.fit_ends fit GATHERED [--held-out HELD_OUT]

`FOLDER` is what `eval/fetch_fresh.py get eval/fresh/fitting_packages.json FOLDER` unpacked. `gather` reads true middles
with the default checkpoint and keeps what it computes in `GATHERED`, a folder outside the repository; `held-out` does
the same with the Python holes of a held-out set. Both go on where they were stopped. `fit` prints the weights for the
`ends` of a policy, and how often the end is right on packages that they were not fitted to, and on held-out holes.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import runpy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
from rich.console import Console
from rich.table import Table
from torch import Tensor

from dgemma_model.checkpoint import load as checkpoints
from dgemma_model.checkpoint import selection
from dgemma_model.checkpoint.contract import Checkpoint
from dgemma_model.decoding.end_probe import END_FIGURES, EndFigures, PlaceKind
from dgemma_model.decoding.fill_end import FillEnd, is_level
from dgemma_model.decoding.prompt_cache import PromptCaches
from dgemma_model.evaluation.held_out import SETS, HeldOutHole, read_holes
from dgemma_model.evaluation.report import wilson
from dgemma_model.network.kernels import fastest_products
from dgemma_model.prompt.format import FillVocabulary
from dgemma_model.prompt.tokenizer import Tokenizer
from dgemma_model.request import Excerpt
from dgemma_model.source.excerpt import ExcerptBudget
from dgemma_model.train.holes import CutHole, HoleCutter, HoleKind

PROMPT_TOKENS = 256
MOST_TOKENS = 96
"""Longer middles are left out."""
AFTER_TOKENS = 8
"""Tokens of the suffix that are read after the middle."""
MIX: dict[HoleKind, float] = {
    "block": 0.45, "expression": 0.2, "line": 0.1, "statement": 0.1, "span": 0.05, "rest_of_line": 0.1
}  # fmt: skip
CLOSERS = ")]}:,;"
PLACES: tuple[PlaceKind, ...] = ("line_end", "inside")
RIDGE = 1.0
PARTS = 5
"""Into so many parts the packages are divided for validation."""


@dataclass(frozen=True, slots=True)
class ReadMiddle:
    """A hole whose true middle the network has read, with the figures along it."""

    kind: HoleKind
    package: str
    excerpt: Excerpt
    middle: str
    ids: list[int]
    """What was read after the prompt: the healed piece, the middle, and the first tokens of the suffix."""
    forced: bytes
    next_log_probs: Tensor
    """float32 [len(ids) + 1, 3]: what `EndFigures.next_log_probs` gives before the first of `ids`, and after each."""
    below: dict[int, Tensor]
    """For each end of a line, by the number of `ids` before it: float32 [tokens of the next line, 2], the `below` of
    `EndFigures.of`."""


def holes_of(text: str, rng: random.Random) -> list[CutHole]:
    """One to four holes that begin at the same place of a Python file and end at different ones."""
    cutter = HoleCutter(text, code_lines=True)
    kind = rng.choices(list(MIX), list(MIX.values()))[0]
    hole = cutter.cut(kind, rng)
    if hole is None:
        return []
    found = [hole]
    if kind in ("block", "statement"):
        line_ends = [at for at in range(hole.start, hole.end) if text[at] == "\n" and is_level(text[hole.start : at])]
        for at in rng.sample(line_ends, min(3, len(line_ends))):
            found.append(CutHole("block" if "\n" in text[hole.start : at] else "line", hole.start, at))
    elif kind == "expression":
        line_end = text.find("\n", hole.end)
        ends = {end for start, end in cutter.expressions if start == hole.start and end != hole.end}
        found += [CutHole("expression", hole.start, end) for end in rng.sample(sorted(ends), min(2, len(ends)))]
        if line_end > hole.end:
            found.append(CutHole("rest_of_line", hole.start, line_end))
    elif kind in ("rest_of_line", "line"):
        inner = len(text[hole.start : hole.end].rstrip(CLOSERS))
        if 0 < inner < hole.end - hole.start and is_level(text[hole.start : hole.start + inner]):
            found.append(CutHole("rest_of_line", hole.start, hole.start + inner))
    return found


def packages_in(folder: Path, manifest: Path) -> dict[str, list[str]]:
    """The usable Python files of each package."""
    fetching = runpy.run_path(str(manifest.parent.parent / "fetch_fresh.py"))  # a script, not a package
    files_of, read_manifest = fetching["files_of"], fetching["read_manifest"]
    found = dict[str, list[str]]()
    for package in read_manifest(manifest):
        files = [text for language, _, text in files_of(package, folder / package.folder) if language == "python"]
        if files:
            found[package.name] = files
    return found


class Reader:
    """Reads true middles with a checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._format, self._network = checkpoint.format, checkpoint.network
        self._vocabulary = checkpoint.format.vocabulary
        self._tokenizer: Tokenizer = self._vocabulary.tokenizer
        self._caches = PromptCaches(self._network, 64 * 2**20)

    @torch.inference_mode()
    def read(self, kind: HoleKind, package: str, excerpt: Excerpt, middle: str) -> ReadMiddle | None:
        """None where the middle is too long."""
        prompt = self._format.encode(excerpt, PROMPT_TOKENS)
        text = prompt.forced.decode() + middle
        inside = not excerpt.suffix.startswith("\n") and bool(excerpt.suffix)
        written = self._tokenizer.encode(text if inside else text + excerpt.suffix)
        ids = written[: self._count(written, len(text.encode())) + (0 if inside else AFTER_TOKENS)]
        if len(ids) > MOST_TOKENS or not ids:
            return None
        with self._caches.borrowed(prompt.ids) as cached:
            missing = prompt.ids[len(cached.ids) :]
            said = cached.append([*missing, *ids], last=len(ids) + 1).log_softmax(-1)
            figures = EndFigures(excerpt.prefix, excerpt.suffix, self._vocabulary)
            next_log_probs = torch.tensor([figures.next_log_probs(row) for row in said.numpy()])
            below = dict[int, Tensor]()
            for count in range(len(ids), 0, -1) if figures.next_ids else ():
                place = figures.place(self._vocabulary.read(ids[:count], prompt.forced)[0])
                if place is not None and place.kind == "line_end":
                    cached.crop(len(prompt.ids) + count)
                    following = cached.append(figures.next_ids).log_softmax(-1)
                    rows = torch.cat((said[count][None], following[:-1]))
                    agreed = rows.gather(1, torch.tensor(figures.next_ids)[:, None])
                    below[count] = torch.cat((agreed, rows.max(-1).values[:, None]), 1)
        return ReadMiddle(kind, package, excerpt, middle, ids, prompt.forced, next_log_probs, below)

    def _count(self, ids: list[int], size: int) -> int:
        """How many tokens hold the first `size` bytes."""
        read = 0
        for count, token in enumerate(ids):
            if read >= size:
                return count
            read += len(self._tokenizer.token_bytes[token])
        return len(ids)


def gather(folder: Path, packages: dict[str, list[str]], reader: Reader, seconds: float) -> None:
    """Read holes for so long, the packages in equal shares."""
    names, began, number = sorted(packages), time.monotonic(), 0
    while time.monotonic() - began < seconds:
        number += 1
        place = folder / f"{number}.pt"
        if place.exists():
            continue
        rng = random.Random(number)
        name = names[number % len(names)]
        text = rng.choice(packages[name])
        cutter = HoleCutter(text)
        readings = []
        for hole in holes_of(text, rng):
            excerpt = cutter.excerpt(hole, ExcerptBudget())
            readings.append(reader.read(hole.kind, name, excerpt, text[hole.start : hole.end]))
        _keep(readings, place)
        if number % 20 == 0:
            print(number, f"{time.monotonic() - began:.0f} s", flush=True)


def gather_held_out(folder: Path, holes: Sequence[HeldOutHole], reader: Reader) -> None:
    """Read held-out holes of the kinds that have an end to find."""
    for hole in holes:
        place = folder / f"{hole.id}.pt"
        if hole.language == "python" and hole.kind in MIX and not place.exists():
            _keep([reader.read(hole.kind, hole.package, Excerpt(hole.prefix, hole.suffix), hole.middle)], place)


def _keep(readings: Sequence[ReadMiddle | None], place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_suffix(".part")
    torch.save([reading for reading in readings if reading is not None], part)
    part.rename(place)


def kept(folder: Path, vocabulary: FillVocabulary) -> list[Middle]:
    """All that was read into `folder`."""
    places = sorted(folder.glob("*.pt"))
    read = [reading for place in places for reading in torch.load(place, weights_only=False)]
    return [middle_of(reading, vocabulary) for reading in read]


# --------------------------------------------------------------------- fit


@dataclass(frozen=True, slots=True)
class EndCandidate:
    """A place where a fill might end, and whether it should."""

    kind: PlaceKind
    figures: Sequence[float]
    is_end: bool
    ends: float
    """The writer's log-probability, in nats, that the fill ends here."""


@dataclass(frozen=True, slots=True)
class Middle:
    """The candidates of one hole, up to its true end."""

    kind: HoleKind
    package: str
    candidates: Sequence[EndCandidate]
    is_cut_early: bool
    """Whether the rules of `FillEnd` end the fill too early."""

    def is_right(self, odds: Sequence[float], threshold: float = 0.0) -> bool:
        """Whether the fill ends where it should, and nowhere before, with such odds of its candidates."""
        ending = next((each for each, odd in zip(self.candidates, odds, strict=True) if odd > threshold), None)
        return not self.is_cut_early and ending is not None and ending.is_end


def middle_of(reading: ReadMiddle, vocabulary: FillVocabulary) -> Middle:
    """The candidates of a reading, as a fill would meet them."""
    prefix, suffix = reading.excerpt.prefix, reading.excerpt.suffix
    figures, rules = EndFigures(prefix, suffix, vocabulary), FillEnd.of(prefix, suffix, one_line=False)
    candidates, right = list[EndCandidate](), reading.middle.rstrip()
    for count in range(1, len(reading.ids) + 1):
        text, _ = vocabulary.read(reading.ids[:count], reading.forced)
        cut = rules.cut(text)
        if cut is not None and text[:cut].rstrip() != right:
            return Middle(reading.kind, reading.package, candidates, is_cut_early=True)
        if (place := figures.place(text)) is None:
            continue
        said, is_end = reading.next_log_probs[count].tolist(), text[: place.cut].rstrip() == right
        below = reading.below.get(count, torch.empty(0, 2)).numpy()
        candidates.append(EndCandidate(place.kind, figures.of(text, said, below), is_end, said[0]))
        if is_end:
            break
    return Middle(reading.kind, reading.package, candidates, is_cut_early=False)


def fitted(middles: Sequence[Middle]) -> dict[PlaceKind, Tensor]:
    """Weights [END_FIGURES] of a logistic model for each kind of place, with a ridge on figures of unit variance."""
    found: dict[PlaceKind, Tensor] = {}
    for kind in PLACES:
        candidates = [each for middle in middles for each in middle.candidates if each.kind == kind]
        figures = torch.tensor([each.figures for each in candidates], dtype=torch.float64)
        right = torch.tensor([each.is_end for each in candidates], dtype=torch.float64)
        mean, spread = figures.mean(0), figures.std(0).clamp_min(1e-2)
        mean[0], spread[0] = 0.0, 1.0
        scaled = (figures - mean) / spread
        ridge = torch.full_like(mean, RIDGE)
        ridge[0] = 0.0
        weights = _minimum(scaled, right, ridge) / spread
        weights[0] -= (weights * mean)[1:].sum()
        found[kind] = weights
    return found


def _minimum(figures: Tensor, right: Tensor, ridge: Tensor) -> Tensor:
    weights = torch.zeros(figures.shape[1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> float:
        optimiser.zero_grad()
        value = F.binary_cross_entropy_with_logits(figures @ weights, right, reduction="sum")
        value = value + (ridge * weights**2).sum() / 2
        value.backward()  # type: ignore[no-untyped-call]
        return float(value.detach())

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return weights.detach()


def odds_of(middle: Middle, weights: dict[PlaceKind, Tensor]) -> list[float]:
    """Log-odds of each candidate."""
    return [float(torch.tensor(each.figures, dtype=torch.float64) @ weights[each.kind]) for each in middle.candidates]


def crossed(middles: Sequence[Middle]) -> list[list[float]]:
    """Odds of the candidates of each middle, by weights that are fitted to other packages."""
    packages = sorted({each.package for each in middles})
    part = {package: number % PARTS for number, package in enumerate(packages)}
    weights = [fitted([each for each in middles if part[each.package] != number]) for number in range(PARTS)]
    return [odds_of(each, weights[part[each.package]]) for each in middles]


GROUPS: dict[str, tuple[HoleKind, ...]] = {
    "line": ("line", "rest_of_line"),
    "expression": ("expression",),
    "block": ("block",),
    "statement": ("statement",),
    "span": ("span",),
}
Ways = dict[str, tuple[list[list[float]], float]]
"""Ways of telling the end, by name: odds of the candidates of each middle, and what they must exceed."""


def ways_of(middles: Sequence[Middle], probe: list[list[float]], served: Sequence[float] | None) -> Ways:
    """What the writer says of the end, the odds of the fitted `probe`, and those by the `served` weights of a policy,
    which may have been fitted to some of these middles."""
    said = [[c.ends for c in each.candidates] for each in middles]
    ways = {
        "the writer says so, in even odds": (said, math.log(0.5)),
        "the writer says so, at 5 %": (said, math.log(0.05)),
        "probe": (probe, 0.0),
    }
    if served is not None and len(served) == len(PLACES) * END_FIGURES:  # else they are of other figures
        weights = dict(zip(PLACES, torch.tensor(served, dtype=torch.float64).view(len(PLACES), -1), strict=True))
        ways["probe as served"] = [odds_of(each, weights) for each in middles], 0.0
    return ways


def table(middles: Sequence[Middle], ways: Ways, title: str) -> Table:
    """How often a middle ends where it should and nowhere before, in per cent, with intervals of 95 %."""
    heads = (f"{name} ({sum(m.kind in of for m in middles)})" for name, of in GROUPS.items())
    shown = Table("right, %", *heads, title=title)
    for way, (odds, threshold) in ways.items():
        cells = []
        for group in GROUPS:
            right = [m.is_right(o, threshold) for m, o in zip(middles, odds, strict=True) if m.kind in GROUPS[group]]
            low, high = wilson(right)
            cells.append(f"{100 * sum(right) / len(right):.1f} ({low:.0f} to {high:.0f})" if right else "")
        shown.add_row(way, *cells)
    return shown


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    gathering = commands.add_parser("gather")
    gathering.add_argument("--packages", type=Path, required=True)
    gathering.add_argument("--manifest", type=Path, default=Path("eval/fresh/fitting_packages.json"))
    gathering.add_argument("--seconds", type=float, default=900)
    reading = commands.add_parser("held-out")
    reading.add_argument("--set", choices=SETS, default="fresh")
    fitting = commands.add_parser("fit")
    fitting.add_argument("--held-out", type=Path)
    for command in (gathering, reading, fitting):
        command.add_argument("folder", type=Path)
        command.add_argument("--checkpoint", default=None)
    args = parser.parse_args()
    device = torch.device("cpu")
    loaded = checkpoints.load(selection.find(args.checkpoint, "cpu"), device, torch.float32, lambda share: None)
    if args.command == "fit":
        _fit(args.folder, args.held_out, loaded)
        return
    reader = Reader(loaded.served(fastest_products(device)))
    if args.command == "gather":
        gather(args.folder, packages_in(args.packages, args.manifest), reader, args.seconds)
    else:
        gather_held_out(args.folder, read_holes(SETS[args.set].holes), reader)


def _fit(folder: Path, held_out: Path | None, loaded: Checkpoint) -> None:
    console, vocabulary, served = Console(width=150), loaded.format.vocabulary, loaded.policy.ends
    middles = kept(folder, vocabulary)
    weights = fitted(middles)
    console.print(table(middles, ways_of(middles, crossed(middles), served), "on packages not fitted to"))
    if held_out is not None:
        others = kept(held_out, vocabulary)
        odds = [odds_of(each, weights) for each in others]
        console.print(table(others, ways_of(others, odds, served), "on held-out holes"))
    numbers = [float(f"{weight:.4g}") for kind in PLACES for weight in weights[kind].tolist()]
    console.print(f'"ends": {json.dumps(numbers)}', soft_wrap=True)


if __name__ == "__main__":
    main()
