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
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
from rich.console import Console
from rich.table import Table
from torch import Tensor

from dgemma_model.checkpoint import load as checkpoints
from dgemma_model.checkpoint import selection
from dgemma_model.checkpoint.contract import Checkpoint
from dgemma_model.decoding.end_probe import END_FIGURES, LINES_AHEAD, EndFigures, EndPlace, EndSearch, PlaceKind
from dgemma_model.decoding.fill_end import FillEnd, is_level
from dgemma_model.decoding.prompt_cache import CachedPrompt, PromptCaches
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
MOST_BEYOND = 64
"""Tokens that are written after a middle."""
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
    """For each end of a line, by the number of `ids` before it: float32 [`NEXT_TOKENS` or fewer, 2], the `below` of
    `EndFigures.of`."""
    beyond: list[tuple[str, Tensor, Tensor]] = field(default_factory=list)
    """What the writer writes on after a middle that ends with its line, up to each of its next ends of lines: the whole
    text, and the other two arguments of `EndFigures.of` there."""
    ends_right: bool | None = None
    """Whether that text then ends by itself where the middle does, by a rule or a token; None if it does not end."""


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
                    below[count] = _below(torch.cat((said[count][None], following)), figures.next_ids)
            reading = ReadMiddle(kind, package, excerpt, middle, ids, prompt.forced, next_log_probs, below)
            return reading if inside else self._written_on(reading, cached, len(prompt.ids))

    def _written_on(self, reading: ReadMiddle, cached: CachedPrompt, prompt_length: int) -> ReadMiddle:
        """With what the writer writes after the middle."""
        prefix, suffix, right = reading.excerpt.prefix, reading.excerpt.suffix, reading.middle.rstrip()
        figures = EndFigures(prefix, suffix, self._vocabulary)
        rules = FillEnd.of(prefix, suffix, one_line=False)
        read = partial(self._vocabulary.read, forced=reading.forced)
        counts = range(1, len(reading.ids) + 1)
        end = next((count for count in counts if _is_end(figures, read(reading.ids[:count])[0], right)), None)
        if end is None:
            return reading
        ids, place, beyond = reading.ids[:end], None, list[tuple[str, Tensor, Tensor]]()
        cached.crop(prompt_length + end - 1)
        while len(ids) < end + MOST_BEYOND and len(beyond) < LINES_AHEAD:
            following: list[int] = figures.next_ids if place is not None else []
            said = cached.append([ids[-1], *following]).log_softmax(-1)
            said[:, self._vocabulary.never] = -math.inf
            cached.crop(prompt_length + len(ids))
            text = read(ids)[0]
            if place is not None:
                beyond.append((text, torch.tensor(figures.next_log_probs(said[0].numpy())), _below(said, following)))
            ids = [*ids, int(said[0].argmax())]
            if ids[-1] in self._vocabulary.ends:
                return replace(reading, beyond=beyond, ends_right=text.rstrip() == right)
            text = read(ids)[0]
            if (cut := rules.cut(text)) is not None:
                return replace(reading, beyond=beyond, ends_right=text[:cut].rstrip() == right)
            place = figures.place(text) if text.rstrip() != right else None
        return replace(reading, beyond=beyond)

    def _count(self, ids: list[int], size: int) -> int:
        """How many tokens hold the first `size` bytes."""
        read = 0
        for count, token in enumerate(ids):
            if read >= size:
                return count
            read += len(self._tokenizer.token_bytes[token])
        return len(ids)


def _below(said: Tensor, ids: Sequence[int]) -> Tensor:
    """The `below` of `EndFigures.of` [n, 2], where `said` [1 + n, V] are the log-probabilities before and after each of
    `ids`."""
    rows = said[:-1]
    agreed = rows.gather(1, torch.tensor(ids, dtype=torch.long)[:, None])
    return torch.cat((agreed, rows.max(-1).values[:, None]), 1)


def _is_end(figures: EndFigures, text: str, right: str) -> bool:
    """Whether `text` ends at a place where `right` ends."""
    place = figures.place(text)
    return place is not None and text[: place.cut].rstrip() == right


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
    beyond: Sequence[EndCandidate] = ()
    """Places in what the writer writes on after the true end."""
    ends_right: bool | None = None
    """As of `ReadMiddle`."""

    def is_right(self, odds: Sequence[float], threshold: float) -> bool:
        """Whether the first place with higher odds is the true end."""
        ending = next((each for each, odd in zip(self.places, odds, strict=True) if odd > threshold), None)
        return not self.is_cut_early and ending is not None and ending.is_end

    def is_found(self, odds: Sequence[float]) -> bool:
        """Whether a fill ends at the true end, where places have such odds: as `EndSearch` decides, or by itself."""
        if self.is_cut_early:
            return False
        search = EndSearch()
        for number, (place, odd) in enumerate(zip(self.places, odds, strict=True)):
            if (found := search.end(odd, EndPlace(place.kind, number))) is not None:
                return self.places[found].is_end
        if self.ends_right is not None:
            return self.ends_right
        return search.likeliest is not None and self.places[search.likeliest].is_end

    @property
    def places(self) -> Sequence[EndCandidate]:
        """All places in the order in which a fill would meet them."""
        return [*self.candidates, *self.beyond]


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
    beyond = [
        EndCandidate("line_end", figures.of(text, said.tolist(), below.numpy()), False, float(said[0]))
        for text, said, below in reading.beyond
    ]
    return Middle(reading.kind, reading.package, candidates, False, beyond, reading.ends_right)


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
    """Log-odds of each of its places."""
    return [float(torch.tensor(each.figures, dtype=torch.float64) @ weights[each.kind]) for each in middle.places]


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


def right_ways(
    middles: Sequence[Middle], odds: Sequence[Sequence[float]], served: Sequence[float] | None
) -> dict[str, list[bool]]:
    """Whether each middle ends where it should and nowhere before, by name of what tells it: the writer, the fitted
    probe with such `odds`, and the probe with the `served` weights of a policy, which may have been fitted to some of
    them."""
    ways = {
        name: [each.is_right([place.ends for place in each.places], threshold) for each in middles]
        for name, threshold in (
            ("the writer says so, in even odds", math.log(0.5)),
            ("the writer says so, at 5 %", math.log(0.05)),
        )
    }
    ways["probe, the first likely place"] = [each.is_right(of, 0.0) for each, of in zip(middles, odds, strict=True)]
    ways["probe"] = [each.is_found(of) for each, of in zip(middles, odds, strict=True)]
    if served is not None and len(served) == len(PLACES) * END_FIGURES:  # else they are of other figures
        weights = dict(zip(PLACES, torch.tensor(served, dtype=torch.float64).view(len(PLACES), -1), strict=True))
        ways["probe as served"] = [each.is_found(odds_of(each, weights)) for each in middles]
    return ways


def table(middles: Sequence[Middle], ways: dict[str, list[bool]], title: str) -> Table:
    """The share of middles of each group that are right, in per cent, with intervals of 95 %."""
    heads = (f"{name} ({sum(m.kind in of for m in middles)})" for name, of in GROUPS.items())
    shown = Table("right, %", *heads, title=title)
    for way, flags in ways.items():
        cells = []
        for of in GROUPS.values():
            right = [flag for middle, flag in zip(middles, flags, strict=True) if middle.kind in of]
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
    console.print(table(middles, right_ways(middles, crossed(middles), served), "on packages not fitted to"))
    if held_out is not None:
        others = kept(held_out, vocabulary)
        odds = [odds_of(each, weights) for each in others]
        console.print(table(others, right_ways(others, odds, served), "on held-out holes"))
    numbers = [float(f"{weight:.4g}") for kind in PLACES for weight in weights[kind].tolist()]
    console.print(f'"ends": {json.dumps(numbers)}', soft_wrap=True)


if __name__ == "__main__":
    main()
