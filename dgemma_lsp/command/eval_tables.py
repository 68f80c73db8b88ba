"""The tables that `eval` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from dgemma_model.evaluation.baselines import BASELINES
from dgemma_model.evaluation.report import ALL, DEFAULT_WAY, EACH, EDITOR, QUIET, Row

if TYPE_CHECKING:
    pass


COMPARED = ("line", "rest_of_line", "several", "tests_line", ALL)
"""Kinds whose differences are printed; the file has all of them."""


SHOWN = (
    *("similarity", "same_tree", "parses", "offered", "offered_right", "offered_parses"),
    *("passes", "revised", "p50_ms", "p95_ms"),
)
"""Columns of the row `ALL` that are printed in addition to exactness."""


def tables(table: Sequence[Row]) -> list[Table]:
    """For people: exact fills by kind, tests passed, and how good the rest is."""
    ways = list(dict.fromkeys(row.way for row in table))
    cells = {(row.way, row.kind): row for row in table}
    kinds = [kind for kind in dict.fromkeys(row.kind for row in table) if kind not in (EDITOR, ALL, QUIET)]
    kinds.sort(key=lambda kind: kind == EACH)
    found: list[Table] = []
    counts = {row.kind: row.n for row in table}
    judged_by_tests = [kind for kind in kinds if any(row.kind == kind and row.passed is not None for row in table)]
    if kinds:
        exact = Table("exact, %", *(f"{kind}\n({counts[kind]})" for kind in kinds), title="Exactly what was there")
        for way in ways:
            exact.add_row(way, *(_interval(cells.get((way, kind)), "exact") for kind in kinds))
        main = ALL if ALL in counts else kinds[0]
        others = Table(main, *(name.replace("_", " ") for name in SHOWN), title=f"{main} ({counts[main]})")
        for way in ways:
            row = cells.get((way, main))
            others.add_row(way, *(_figure(getattr(row, name)) if row else "" for name in SHOWN))
        found += [exact, others]
    if judged_by_tests:
        tests = Table("tests passed, %", *judged_by_tests, title="pass@1")
        for way in ways:
            tests.add_row(way, *(_interval(cells.get((way, kind)), "passed") for kind in judged_by_tests))
        found.append(tests)
    if QUIET in counts:
        editor = Table("as in an editor", "shown", "right of these", "parse", "quiet", "score", title="Offered unasked")
        for way in ways:
            if (row := cells.get((way, EDITOR)) or cells.get((way, QUIET))) is not None:
                figures = (row.offered, row.offered_right, row.offered_parses, row.quiet, row.editor_score)
                editor.add_row(way, *map(_figure, figures))
        found.append(editor)
    return found


def comparisons(table: Sequence[Row]) -> list[str]:
    """The default way against each other one in pairs; against the best baseline, of whole lines."""
    found = [row for row in table if row.kind in COMPARED and row.way not in BASELINES and row.way != DEFAULT_WAY]
    lines = [row for row in table if row.kind == "line" and row.way in BASELINES]
    found += sorted(lines, key=lambda row: -(row.exact or 0.0))[:1]
    return [
        f"{row.kind} (n = {row.n}): {DEFAULT_WAY} against {row.way}: {row.default_ahead:+.1f} points, "
        f"{row.default_ahead_low:+.1f} to {row.default_ahead_high:+.1f} (95 %, paired)"
        for row in found
        if row.default_ahead is not None
    ]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _interval(row: Row | None, name: str) -> str:
    if row is None or getattr(row, name) is None:
        return ""
    low, high = getattr(row, f"{name}_low"), getattr(row, f"{name}_high")
    return f"{getattr(row, name):.1f}\n[dim]{low:.0f}-{high:.0f}[/dim]"
