"""How far the score that gates suggestions can be trusted: a fitted probability of being right, checked on other cases.

The probability is fitted on half of the cases by isotonic regression (pool adjacent violators; Zadrozny & Elkan 2002
use it for this) and compared with what came true on the other half.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from dgemma_model.evaluation.held_out import SHOWN_KINDS
from dgemma_model.evaluation.judging import Fill
from dgemma_model.evaluation.report import wilson

ACCEPTED = 0.25
"""The share of suggestions that users accept where they are content (infilling products publish 25 to 35 %): the
threshold is to be such that at least so many of the offered fills are right."""
BINS = 10
THRESHOLDS = (-0.05, -0.1, -0.15, -0.2, -0.25, -0.3, -0.4, -0.5, -0.7, -1.0)


@dataclass(frozen=True, slots=True)
class Judged:
    """One suggestion that passed every check but that of its score."""

    score: float
    """See `Draft.score`, in nats."""
    is_right: bool


@dataclass(frozen=True, slots=True)
class Bin:
    """Suggestions of about the same fitted probability."""

    expected: float
    """Its mean, 0 to 1."""
    right: float
    """The share that was right; `low` and `high` are its 95 % interval."""
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class ThresholdOutcome:
    """How many suggestions a threshold would offer, and how many of these are right."""

    threshold: float
    offered: float
    """Share of all cases, 0 to 1."""
    right: float | None
    """Share of these that are right, 0 to 1; None where nothing is offered."""


@dataclass(frozen=True, slots=True)
class Reliability:
    """What is plotted."""

    bins: tuple[Bin, ...]
    outcomes: tuple[ThresholdOutcome, ...]
    threshold: float
    """The checkpoint's own."""
    suggested: float | None
    """The lowest with which `ACCEPTED` of the offered are right; None where there is none."""
    expected_at_threshold: float


class Isotonic:
    """The probability of being right as a function of the score that never falls, fitted by least squares."""

    def __init__(self, judged: Sequence[Judged]) -> None:
        blocks: list[tuple[float, float, int]] = []  # first score, sum of rights, count
        for score, group in groupby(sorted(judged, key=lambda one: one.score), key=lambda one: one.score):
            rights = [one.is_right for one in group]
            blocks.append((score, float(sum(rights)), len(rights)))
            while len(blocks) > 1 and blocks[-2][1] * blocks[-1][2] >= blocks[-1][1] * blocks[-2][2]:
                _, total, count = blocks.pop()
                first, total_before, count_before = blocks.pop()
                blocks.append((first, total_before + total, count_before + count))
        self._starts = [first for first, _, _ in blocks]
        self._shares = [total / count for _, total, count in blocks]

    def __call__(self, score: float) -> float:
        """0 to 1; that of the lowest score seen for all below it."""
        return self._shares[max(0, bisect_right(self._starts, score) - 1)] if self._shares else 0.0


def measured(fills: Sequence[Fill], threshold: float) -> Reliability:
    """Reliability of the scores of model fills, of the kinds that an editor should show."""
    shown = [fill for fill in fills if fill.case.kind in SHOWN_KINDS and fill.is_offered is not None]
    judged = [
        Judged(fill.score, fill.is_proposal_right)
        for fill in shown
        if fill.proposed is not None and fill.score is not None
    ]
    fitted, checked = judged[::2], judged[1::2]
    probability = Isotonic(fitted)
    outcomes = [at_threshold(judged, len(shown), at) for at in sorted({*THRESHOLDS, threshold}, reverse=True)]
    return Reliability(
        bins=tuple(reliability(checked, probability)),
        outcomes=tuple(outcomes),
        threshold=threshold,
        suggested=threshold_for(judged, ACCEPTED),
        expected_at_threshold=probability(threshold),
    )


def reliability(judged: Sequence[Judged], probability: Isotonic, bins: int = BINS) -> list[Bin]:
    """Equally many suggestions in each bin, by rising probability; equal ones stay together."""
    found: list[Bin] = []
    ordered = sorted((probability(one.score), one.is_right) for one in judged)
    size = max(1, len(ordered) // bins)
    start = 0
    while start < len(ordered):
        end = min(start + size, len(ordered))
        while end < len(ordered) and ordered[end][0] == ordered[end - 1][0]:
            end += 1
        rights = [is_right for _, is_right in ordered[start:end]]
        low, high = wilson(rights)
        expected = sum(value for value, _ in ordered[start:end]) / len(rights)
        assert low is not None and high is not None
        found.append(Bin(expected, sum(rights) / len(rights), low / 100, high / 100, len(rights)))
        start = end
    return found


def at_threshold(judged: Sequence[Judged], cases: int, threshold: float) -> ThresholdOutcome:
    """What would be offered with this threshold, and how much of it is right; `cases` are those without a suggestion,
    too."""
    rights = [one.is_right for one in judged if one.score >= threshold]
    return ThresholdOutcome(threshold, len(rights) / max(cases, 1), sum(rights) / len(rights) if rights else None)


def threshold_for(judged: Sequence[Judged], precision: float) -> float | None:
    """The lowest score from which on at least `precision` of all suggestions are right; None where there is none."""
    ordered = sorted(judged, key=lambda one: -one.score)
    best, rights = None, 0
    for count, one in enumerate(ordered, 1):
        rights += one.is_right
        is_last_of_equals = count == len(ordered) or ordered[count].score != one.score
        if is_last_of_equals and rights >= precision * count:
            best = one.score
    return best


def summary(found: Reliability) -> str:
    """For people: what thresholds give."""
    lines = ["threshold  offered  right of these"]
    for c in found.outcomes:
        right = "" if c.right is None else f"  {100 * c.right:6.1f}%"
        lines.append(f"{c.threshold:9.2f}  {100 * c.offered:6.1f}%{right}")
    if found.suggested is None:
        lines.append(f"with no threshold {100 * ACCEPTED:.0f} % of the offered are right")
    else:
        lines.append(f"from {found.suggested:.3f} on, {100 * ACCEPTED:.0f} % of the offered are right")
    return "\n".join(lines)


# ---------------------------------------------------------------------- plot

SIDE, MARGIN = 260, 56
_STYLE = "font: 12px sans-serif; fill: #444"


def svg(found: Reliability) -> str:
    """Two panels: fitted probability against what came true, and what each threshold gives."""
    left, right = _Panel(MARGIN), _Panel(2 * MARGIN + SIDE + 40)
    lowest = min(outcome.threshold for outcome in found.outcomes)
    parts = [
        left.frame("fitted probability of being right", "share that was right", ("0", "0.5", "1")),
        left.line([(0.0, 0.0), (1.0, 1.0)], "#999", dashed=True),
        left.line([(found.expected_at_threshold, 0.0), (found.expected_at_threshold, 1.0)], "#c60", dashed=True),
        *(left.line([(b.expected, b.low), (b.expected, b.high)], "#259") for b in found.bins),
        *(left.dot(b.expected, b.right, "#259", f"{b.n} suggestions") for b in found.bins),
    ]

    def place(threshold: float) -> float:
        return 1 - threshold / lowest

    at = place(found.threshold)
    offered = [(place(c.threshold), c.offered) for c in found.outcomes]
    rights = [(place(c.threshold), c.right) for c in found.outcomes if c.right is not None]
    parts += [
        right.frame("threshold (nats per token)", "share", (f"{lowest:g}", f"{lowest / 2:g}", "0")),
        right.line([(at, 0.0), (at, 1.0)], "#c60", dashed=True),
        right.line(offered, "#595"),
        right.line(rights, "#259"),
        *(right.dot(x, y, "#595", "offered") for x, y in offered),
        *(right.dot(x, y, "#259", "right of the offered") for x, y in rights),
        right.text(0.03, 0.93, "offered", "#595"),
        right.text(0.03, 0.86, "right of the offered", "#259"),
        right.text(0.03, 0.79, f"threshold {found.threshold:g}", "#c60"),
    ]
    width, height = 3 * MARGIN + 2 * SIDE + 40, SIDE + 2 * MARGIN
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">'
    return "\n".join([head, f'<rect width="{width}" height="{height}" fill="white"/>', *parts, "</svg>\n"])


@dataclass(frozen=True, slots=True)
class _Panel:
    """A square in which both axes go from 0 to 1."""

    left: int

    def _at(self, x: float, y: float) -> tuple[float, float]:
        return self.left + SIDE * x, MARGIN / 2 + SIDE * (1 - y)

    def frame(self, x_label: str, y_label: str, x_ticks: tuple[str, str, str]) -> str:
        x, y = self._at(0, 1)
        parts = [f'<rect x="{x}" y="{y}" width="{SIDE}" height="{SIDE}" fill="none" stroke="#444"/>']
        for number, (x_tick, y_tick) in enumerate(zip(x_ticks, ("0", "0.5", "1"), strict=True)):
            parts.append(_text(x + SIDE * number / 2, y + SIDE + 16, x_tick, "middle"))
            parts.append(_text(x - 6, y + SIDE * (1 - number / 2) + 4, y_tick, "end"))
        parts.append(_text(x + SIDE / 2, y + SIDE + 36, x_label, "middle"))
        turned = f'transform="rotate(-90 {x - 34} {y + SIDE / 2})"'
        parts.append(_text(x - 34, y + SIDE / 2, y_label, "middle", turned))
        return "\n".join(parts)

    def line(self, points: Sequence[tuple[float, float]], colour: str, *, dashed: bool = False) -> str:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self._at(*point) for point in points))
        dashes = ' stroke-dasharray="4 4"' if dashed else ""
        return f'<polyline points="{path}" fill="none" stroke="{colour}"{dashes}/>'

    def dot(self, x: float, y: float, colour: str, title: str) -> str:
        cx, cy = self._at(x, y)
        return f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="3" fill="{colour}"><title>{title}</title></circle>'

    def text(self, x: float, y: float, said: str, colour: str) -> str:
        at_x, at_y = self._at(x, y)
        return f'<text x="{at_x:.1f}" y="{at_y:.1f}" style="{_STYLE}; fill: {colour}">{said}</text>'


def _text(x: float, y: float, said: str, anchor: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" style="{_STYLE}" {more}>{said}</text>'
