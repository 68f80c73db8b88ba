"""Scores and outcomes in, probabilities and thresholds out."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma_model.evaluation.calibration import (
    Isotonic,
    Judged,
    ThresholdOutcome,
    at_threshold,
    measured,
    reliability,
    summary,
    svg,
    threshold_for,
)
from dgemma_model.evaluation.held_out import Case
from dgemma_model.evaluation.judging import Fill

scores = st.floats(-5, 0)
some_judged = st.lists(st.builds(Judged, scores, st.booleans()), min_size=1, max_size=60)


def judged(outcomes: str) -> list[Judged]:
    """One for each letter, `+` right, with scores that rise from -n to -1."""
    return [Judged(float(at - len(outcomes)), sign == "+") for at, sign in enumerate(outcomes)]


def test_the_fit_pools_what_falls() -> None:
    fit = Isotonic(judged("-+-++"))
    assert [fit(score) for score in (-9.0, -5.0, -4.0, -3.0, -2.0, 0.0)] == [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]


def test_equal_scores_have_one_probability() -> None:
    fit = Isotonic([Judged(-1.0, True), Judged(-1.0, False), Judged(-1.0, False), Judged(-1.0, False)])
    assert fit(-1.0) == 0.25


def test_of_nothing_nothing_is_learnt() -> None:
    assert Isotonic([])(-1.0) == 0.0


@given(some_judged, scores, scores)
def test_the_fit_never_falls(found: list[Judged], a: float, b: float) -> None:
    fit = Isotonic(found)
    assert 0 <= fit(min(a, b)) <= fit(max(a, b)) <= 1


@given(some_judged)
def test_the_fit_expects_as_many_as_there_were(found: list[Judged]) -> None:
    fit = Isotonic(found)
    assert sum(fit(one.score) for one in found) == pytest.approx(sum(one.is_right for one in found))


def test_bins_compare_what_was_expected_with_what_came_true() -> None:
    fit = Isotonic(judged("----++++"))
    low, high = reliability(judged("---+++++"), fit, bins=2)
    assert (low.expected, low.right, low.n) == (0.0, 0.25, 4)
    assert (high.expected, high.right, high.n) == (1.0, 1.0, 4)
    assert low.low < 0.25 < low.high


@given(some_judged, st.integers(1, 12))
def test_every_suggestion_is_in_one_bin(found: list[Judged], bins: int) -> None:
    made = reliability(found, Isotonic(found), bins)
    assert sum(one.n for one in made) == len(found)
    assert [one.expected for one in made] == sorted(one.expected for one in made)


def test_a_threshold_offers_what_is_above_it() -> None:
    found = judged("-+-+")
    assert at_threshold(found, 8, -9.0) == ThresholdOutcome(-9.0, 0.5, 0.5)
    assert (at_threshold(found, 8, -1.0).offered, at_threshold(found, 8, -1.0).right) == (0.125, 1.0)
    assert (at_threshold(found, 8, 0.0).offered, at_threshold(found, 8, 0.0).right) == (0.0, None)


@pytest.mark.parametrize(
    ("outcomes", "precision", "threshold"),
    [
        ("++++", 1.0, -4.0),
        ("--++", 1.0, -2.0),
        ("--++", 0.5, -4.0),
        ("-+-+", 0.6, -3.0),
        ("++--", 1.0, None),
        ("----", 0.25, None),
    ],
)
def test_the_lowest_threshold_that_is_precise_enough(outcomes: str, precision: float, threshold: float | None) -> None:
    assert threshold_for(judged(outcomes), precision) == threshold


def fills(count: int) -> list[Fill]:
    """Half of them right, those with the better scores; every fourth without a suggestion."""
    return [
        Fill(
            Case(f"line/{n}", "line", "x = ", "\n", ("1",)),
            ("1",),
            score=-1.0 + n / count,
            proposed=None if n % 4 == 0 else "x = 1\n" if n >= count / 2 else "x = 0\n",
            is_offered=n % 4 != 0,
        )
        for n in range(count)
    ]


def test_what_is_measured_is_plotted() -> None:
    found = measured(fills(200), -0.5)
    assert found.suggested == pytest.approx(-1.0, abs=0.01)  # half are right
    (own,) = [c for c in found.outcomes if c.threshold == -0.5]
    assert (own.offered, own.right) == (0.375, 1.0)
    assert sum(one.n for one in found.bins) == 75  # the other half was fitted
    root = ElementTree.fromstring(svg(found))
    assert root.tag.endswith("svg")
    said = {text.text for text in root.iter() if text.tag.endswith("text")}
    assert {"threshold -0.5", "share that was right", "offered"} <= said
    assert "-0.50    37.5%   100.0%" in summary(found)


def test_where_nothing_was_suggested_nothing_is_right() -> None:
    found = measured([fill for fill in fills(8) if fill.proposed is None], -0.5)
    assert (found.bins, found.suggested) == ((), None)
    assert "no threshold" in summary(found)
    ElementTree.fromstring(svg(found))
