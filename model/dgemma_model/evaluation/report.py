"""Figures of many fills: shares with their intervals, one row for each way to fill and each kind of hole."""

from __future__ import annotations

import csv
import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from dgemma_model.evaluation.held_out import COMMITTED_KINDS, SHOWN_KINDS
from dgemma_model.evaluation.judging import Fill

DEFAULT_WAY = "default"
QUIET = "quiet"
"""The kind of a cursor at which nothing should be shown."""
ALL, EACH, EDITOR = "all", "each_of_several", "editor"
"""Rows that are no kind of case: the committed holes with one hole each, the holes of cases with several, and what an
editor would show."""

Z_95 = 1.959964


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of one way to fill and one kind of hole. Shares are per cent, `_low` and `_high` 95 % intervals
    (Wilson's); None where something does not apply."""

    checkpoint: str
    way: str
    kind: str
    n: int
    exact: float | None = None
    exact_low: float | None = None
    exact_high: float | None = None
    default_ahead: float | None = None
    """How many points more are exact (or pass, where tests judge) the default way: mean, and 95 % interval in pairs."""
    default_ahead_low: float | None = None
    default_ahead_high: float | None = None
    similarity: float | None = None
    same_tree: float | None = None
    parses: float | None = None
    passed: float | None = None
    """pass@1: one fill each, judged by tests."""
    passed_low: float | None = None
    passed_high: float | None = None
    offered: float | None = None
    """Share of cases in which the server offers something unasked."""
    offered_right: float | None = None
    """Precision of that: share of what was offered that was there, or the first lines of it."""
    offered_right_low: float | None = None
    offered_right_high: float | None = None
    offered_parses: float | None = None
    quiet: float | None = None
    """Share of the cursors where nothing should be shown at which nothing was."""
    editor_score: float | None = None
    """Precision of what was offered, times the harmonic mean of the shares of `offered` and `quiet`."""
    p50_ms: float | None = None
    p95_ms: float | None = None
    passes: float | None = None
    revised: float | None = None


def rows(checkpoint: str, runs: Mapping[str, Sequence[Fill]]) -> list[Row]:
    """The table: a row for each way and each kind that it filled, in their order, then the rows `ALL`, `EACH` and
    `EDITOR` where there is something to say."""
    default = {fill.case.id: fill for fill in runs.get(DEFAULT_WAY, ())}
    found: list[Row] = []
    for way, fills in runs.items():
        kinds = dict.fromkeys(fill.case.kind for fill in fills)
        for kind in kinds:
            of_kind = [fill for fill in fills if fill.case.kind == kind]
            if kind == QUIET:
                quiet = share([not fill.is_offered for fill in of_kind])
                found.append(Row(checkpoint=checkpoint, way=way, kind=QUIET, n=len(of_kind), quiet=quiet))
            else:
                found.append(_row(checkpoint, way, kind, of_kind, default))
        committed = [fill for fill in fills if fill.case.kind in COMMITTED_KINDS]
        if len(kinds.keys() & {*COMMITTED_KINDS}) > 1:
            found.append(_row(checkpoint, way, ALL, committed, default))
        found += _each_of_several(checkpoint, way, fills)
        found += _editor(checkpoint, way, fills)
    return found


def _row(checkpoint: str, way: str, kind: str, fills: Sequence[Fill], default: Mapping[str, Fill]) -> Row:
    known = [fill for fill in fills if fill.is_exact is not None]
    exact = [bool(fill.is_exact) for fill in known]
    passed = [fill.passed for fill in fills if fill.passed is not None]
    asked = [fill for fill in fills if fill.is_offered is not None]
    offered = [fill for fill in asked if fill.is_offered]
    right = [fill.is_proposal_right for fill in offered if fill.case.middles is not None]
    times = sorted(fill.ms for fill in fills)
    modelled = any(fill.passes for fill in fills)
    exact_low, exact_high = wilson(exact)
    passed_low, passed_high = wilson(passed)
    right_low, right_high = wilson(right)
    ahead, ahead_low, ahead_high = _default_ahead(fills, default) if way != DEFAULT_WAY else (None, None, None)
    return Row(
        checkpoint=checkpoint,
        way=way,
        kind=kind,
        n=len(fills),
        exact=share(exact),
        exact_low=exact_low,
        exact_high=exact_high,
        default_ahead=ahead,
        default_ahead_low=ahead_low,
        default_ahead_high=ahead_high,
        similarity=_mean(known, lambda fill: 100 * (fill.similarity or 0.0)),
        same_tree=share([bool(fill.has_same_tree) for fill in known]),
        parses=share([fill.parses for fill in fills]),
        passed=share(passed),
        passed_low=passed_low,
        passed_high=passed_high,
        offered=share([bool(fill.is_offered) for fill in asked]),
        offered_right=share(right),
        offered_right_low=right_low,
        offered_right_high=right_high,
        offered_parses=share([fill.does_proposal_parse for fill in offered]),
        p50_ms=quantile(times, 0.5) if modelled else None,
        p95_ms=quantile(times, 0.95) if modelled else None,
        passes=_mean(fills, lambda fill: fill.passes) if modelled else None,
        revised=_mean(fills, lambda fill: fill.revised) if modelled else None,
    )


def _default_ahead(
    fills: Sequence[Fill], default: Mapping[str, Fill]
) -> tuple[float, float, float] | tuple[None, None, None]:
    pairs = [(default[fill.case.id], fill) for fill in fills if fill.case.id in default]
    judged = [(_verdict(ours), _verdict(theirs)) for ours, theirs in pairs]
    both = [(ours, theirs) for ours, theirs in judged if ours is not None and theirs is not None]
    if not both:
        return None, None, None
    return paired_difference([ours for ours, _ in both], [theirs for _, theirs in both])


def _verdict(fill: Fill) -> bool | None:
    """Tests judge where there are some; otherwise what was there does."""
    return fill.passed if fill.passed is not None else fill.is_exact


def _each_of_several(checkpoint: str, way: str, fills: Sequence[Fill]) -> list[Row]:
    holes = [exact for fill in fills if fill.case.holes > 1 for exact in fill.exact_holes]
    if not holes:
        return []
    low, high = wilson(holes)
    return [
        Row(checkpoint=checkpoint, way=way, kind=EACH, n=len(holes), exact=share(holes), exact_low=low, exact_high=high)
    ]


def _editor(checkpoint: str, way: str, fills: Sequence[Fill]) -> list[Row]:
    shown = [fill for fill in fills if fill.case.kind in SHOWN_KINDS and fill.is_offered is not None]
    quiet = [not fill.is_offered for fill in fills if fill.case.kind == QUIET and fill.is_offered is not None]
    if not shown or not quiet:
        return []
    offered = [fill for fill in shown if fill.is_offered]
    right = share([fill.is_proposal_right for fill in offered]) or 0.0
    show_rate, quiet_rate = share([bool(fill.is_offered) for fill in shown]) or 0.0, share(quiet) or 0.0
    return [
        Row(
            checkpoint=checkpoint,
            way=way,
            kind=EDITOR,
            n=len(shown) + len(quiet),
            offered=show_rate,
            offered_right=right,
            offered_parses=share([fill.does_proposal_parse for fill in offered]),
            quiet=quiet_rate,
            editor_score=right * harmonic_mean(show_rate, quiet_rate) / 100,
        )
    ]


# ------------------------------------------------------------------- figures


def share(flags: Sequence[bool]) -> float | None:
    """How many are true, in per cent; None of none."""
    return 100 * sum(flags) / len(flags) if flags else None


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which that share of `values` (sorted, not empty) lies."""
    return values[min(int(share * len(values)), len(values) - 1)]


def harmonic_mean(a: float, b: float) -> float:
    """0 where either is 0."""
    return 2 * a * b / (a + b) if a + b else 0.0


def wilson(flags: Sequence[bool]) -> tuple[float, float] | tuple[None, None]:
    """95 % interval of the share of true ones, in per cent (Wilson 1927): sound near 0 and 100, too."""
    n = len(flags)
    if not n:
        return None, None
    p, z2 = sum(flags) / n, Z_95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)


def paired_difference(ours: Sequence[bool], theirs: Sequence[bool], draws: int = 2000) -> tuple[float, float, float]:
    """How many points more of ours are true: mean, and its 95 % bootstrap interval, drawn in pairs."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    rng = random.Random(0)
    means = sorted(sum(rng.choices(differences, k=len(differences))) for _ in range(draws))
    low, high = means[int(0.025 * draws)], means[int(0.975 * draws)]
    scale = 100 / len(differences)
    return scale * sum(differences), scale * low, scale * high


def _mean(fills: Sequence[Fill], figure: Callable[[Fill], float]) -> float | None:
    return statistics.fmean(map(figure, fills)) if fills else None


# ----------------------------------------------------------------------- csv


def write_csv(path: Path, table: Sequence[Row]) -> None:
    """Write the rows; the file is there as a whole or not at all."""
    names = [field.name for field in fields(Row)]
    beside = path.with_name(path.name + ".part")
    with beside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        writer.writerows([[_cell(getattr(row, name)) for name in names] for row in table])
    beside.replace(path)


def _cell(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.1f}"
    return "" if value is None else value
