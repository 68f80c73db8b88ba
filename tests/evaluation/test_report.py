"""Fills in, figures out: shares, intervals, rows and their file."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma_model.evaluation.held_out import Case
from dgemma_model.evaluation.judging import Fill
from dgemma_model.evaluation.report import (
    ALL,
    EACH,
    EDITOR,
    QUIET,
    Row,
    harmonic_mean,
    paired_difference,
    quantile,
    rows,
    share,
    wilson,
    write_csv,
)


def fills(kind: str, outcomes: str, **settings: Any) -> list[Fill]:
    """A fill for each letter: `+` exact, `-` wrong."""
    return [
        Fill(Case(f"{kind}/{n}", kind, "x = ", "\n", ("1",)), ("1" if sign == "+" else "0",), **settings)
        for n, sign in enumerate(outcomes)
    ]


def row(table: list[Row], way: str, kind: str) -> Row:
    (found,) = [row for row in table if (row.way, row.kind) == (way, kind)]
    return found


def test_a_share_is_per_cent() -> None:
    assert (share([]), share([False]), share([True]), share([True, False, False, False])) == (None, 0.0, 100.0, 25.0)


def test_a_quantile_is_one_of_the_values() -> None:
    assert [quantile([1.0, 2.0, 3.0, 4.0], part) for part in (0.0, 0.5, 0.95, 1.0)] == [1.0, 3.0, 4.0, 4.0]


def test_a_harmonic_mean_wants_both() -> None:
    assert (harmonic_mean(0, 100), harmonic_mean(0, 0), harmonic_mean(100, 100), harmonic_mean(50, 100)) == (
        0.0,
        0.0,
        100.0,
        pytest.approx(66.67, abs=0.01),
    )


def test_wilsons_interval_is_that_of_the_books() -> None:
    assert wilson([]) == (None, None)
    assert wilson([True] * 10 + [False] * 90) == pytest.approx((5.52, 17.44), abs=0.01)
    assert wilson([False] * 20) == pytest.approx((0.0, 16.11), abs=0.01)
    assert wilson([True] * 20) == pytest.approx((83.89, 100.0), abs=0.01)


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_wilsons_interval_holds_the_share(flags: list[bool]) -> None:
    low, high = wilson(flags)
    assert low is not None and high is not None
    assert -1e-9 <= low <= 100 * sum(flags) / len(flags) + 1e-9
    assert 100 * sum(flags) / len(flags) - 1e-9 <= high <= 100 + 1e-9


def test_a_difference_is_of_pairs() -> None:
    ours, theirs = [True] * 60 + [False] * 40, [True] * 50 + [False] * 50
    mean, low, high = paired_difference(ours, theirs)
    assert mean == 10 and 3 < low < 10 < high < 18  # ten pairs differ, all in our favour
    mean, low, high = paired_difference(ours, theirs[::-1])
    assert mean == 10 and low < 0 < high  # the same shares, without the pairs
    assert paired_difference(ours, ours) == (0.0, 0.0, 0.0)


def test_there_is_a_row_for_each_way_and_kind() -> None:
    runs = {
        "default": fills("line", "++--", ms=10.0, passes=3, score=-1.0) + fills("block", "-", ms=90.0, passes=9),
        "nothing": fills("line", "+---") + fills("block", "-"),
    }
    table = rows("tiny", runs)
    assert [(r.way, r.kind, r.n, r.exact) for r in table] == [
        ("default", "line", 4, 50.0),
        ("default", "block", 1, 0.0),
        ("default", ALL, 5, 40.0),
        ("nothing", "line", 4, 25.0),
        ("nothing", "block", 1, 0.0),
        ("nothing", ALL, 5, 20.0),
    ]
    default, nothing = row(table, "default", ALL), row(table, "nothing", ALL)
    assert (default.passes, default.p50_ms, default.p95_ms) == (pytest.approx(4.2), 10.0, 90.0)
    assert (nothing.passes, nothing.p50_ms, nothing.offered) == (None, None, None)
    assert (default.default_ahead, nothing.default_ahead) == (None, 20.0)
    assert (default.parses, default.same_tree, default.similarity) == (100.0, 40.0, 40.0)


def test_tests_judge_where_there_are_some() -> None:
    passed = [*fills("tests_line", "--", passed=True), *fills("tests_line", "--", passed=False)[1:]]
    table = rows("tiny", {"default": passed[:1] + passed[2:], "else:": fills("tests_line", "--", passed=False)})
    default, constant = row(table, "default", "tests_line"), row(table, "else:", "tests_line")
    assert (default.passed, default.exact, constant.passed) == (50.0, 0.0, 0.0)
    assert constant.default_ahead == 50.0


def test_each_of_several_holes_counts_for_itself() -> None:
    several = Case("s", "several", "a = ", "\n", ("1", "2"), ("\nb = ",))
    table = rows("tiny", {"default": [Fill(several, ("1", "2")), Fill(several, ("1", "0"))]})
    assert (row(table, "default", "several").exact, row(table, "default", EACH).exact) == (50.0, 75.0)
    assert row(table, "default", EACH).n == 4


def offered(kind: str, outcomes: str) -> list[Fill]:
    """`+` offers what is right, `-` what is wrong, `(` what does not parse, `.` nothing."""
    texts = {"+": "x = 1\n", "-": "x = 0\n", "(": "x = (\n", ".": None}
    return [
        Fill(Case(f"{kind}/{n}", kind, "x = ", "\n", ("1",)), ("0",), proposed=texts[sign], is_offered=sign != ".")
        for n, sign in enumerate(outcomes)
    ]


def test_what_is_offered_is_judged_for_itself() -> None:
    line = row(rows("tiny", {"default": offered("line", "+--(....")}), "default", "line")
    assert (line.exact, line.offered, line.offered_right, line.offered_parses) == (0.0, 50.0, 25.0, 75.0)
    assert line.offered_right_low is not None and line.offered_right_low < 25.0
    silent = row(rows("tiny", {"default": offered("line", "..")}), "default", "line")
    assert (silent.offered, silent.offered_right, silent.offered_parses) == (0.0, None, None)


@pytest.mark.parametrize(
    ("shown", "quiet", "score"),
    [
        ("++", "..", 100.0),
        ("+-", "..", 50.0),
        ("+.", "..", 66.67),
        ("+.", "-.", 50.0),
        ("++", "--", 0.0),
        ("..", "..", 0.0),
        ("--", "..", 0.0),
    ],
)
def test_an_editor_shows_what_is_right_and_is_quiet_where_it_should_be(shown: str, quiet: str, score: float) -> None:
    runs = {"default": offered("line", shown) + offered("quiet", quiet) + offered("block", "--")}
    found = row(rows("tiny", runs), "default", EDITOR)
    assert found.editor_score == pytest.approx(score, abs=0.01)
    assert found.n == 4  # a block is for who asks for it
    at_quiet = row(rows("tiny", runs), "default", QUIET)
    assert (at_quiet.n, at_quiet.exact, at_quiet.quiet) == (2, None, found.quiet)


def test_no_editor_without_both_sorts_of_cursors() -> None:
    assert EDITOR not in {row.kind for row in rows("tiny", {"default": offered("line", "++")})}


def test_the_table_is_written_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    table = rows("tiny", {"default": fills("line", "++-", ms=1.0, passes=2)})
    path = tmp_path / "results.csv"
    write_csv(path, table)
    (read,) = csv.DictReader(path.open())
    assert (read["checkpoint"], read["way"], read["kind"], read["n"], read["exact"]) == (
        "tiny",
        "default",
        "line",
        "3",
        "66.7",
    )
    assert read["offered"] == read["passed"] == ""
    before = path.read_text()
    with pytest.raises(AttributeError):
        write_csv(path, [*table, None])  # type: ignore[list-item]
    assert path.read_text() == before
