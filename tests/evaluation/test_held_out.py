"""The committed holes as cases, and the kinds that are cut from them."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dgemma_model.evaluation.cases import Task
from dgemma_model.evaluation.held_out import (
    COMMITTED_KINDS,
    HOLES_FILE,
    SEVERAL_FILE,
    Case,
    HeldOutHole,
    case_of,
    case_of_outside_task,
    case_of_several,
    case_of_task,
    corrupted,
    mid_token_cases,
    read_holes,
    read_several,
    repair_cases,
)
from dgemma_model.train import cut_held_out, several_holes
from dgemma_model.train.corpus import HELD_OUT

ROOT = Path(__file__).parents[2]
HOLES = read_holes(ROOT / HOLES_FILE)


def hole(middle: str, **changes: Any) -> HeldOutHole:
    made = HeldOutHole(0, "line", "p", "MIT", "p.py", "0" * 64, "alpha = beta\n", middle, "\ngamma()\n")
    return replace(made, **changes)


def test_a_case_is_filled_in_all_its_holes() -> None:
    case = Case("c", "several", "a = ", "\n", ("1", "2"), between=("\nb = ",))
    assert (case.holes, case.filled(["x", "y"])) == (2, "a = x\nb = y\n")
    with pytest.raises(ValueError):
        case.filled(["x"])


def test_names_are_cut_in_their_middle() -> None:
    for number, text in enumerate(["result = compute(value)", "return total"]):
        (case,) = mid_token_cases([hole(text, id=number)])
        written = case.prefix.removeprefix("alpha = beta\n")
        assert case.middles is not None and written + case.middles[0] == text
        assert written[-1].isidentifier() and case.middles[0][0].isalnum()
        assert case.one_line and case.suffix == "\ngamma()\n"
    assert mid_token_cases([hole("x = 1"), hole("return total", kind="statement")]) == []


def test_words_are_replaced_by_others_of_their_sort() -> None:
    seen = set()
    for seed in range(40):
        text = corrupted("return total", "value = 3", random.Random(seed))
        assert text in {"value total", "return value"}
        seen.add(text)
    assert len(seen) == 2
    assert corrupted("a + b", "", random.Random(0)) == "a + b"
    assert corrupted("", "value", random.Random(0)) == ""


def test_a_repair_starts_from_a_corrupted_line() -> None:
    (case,) = repair_cases([hole("self.alpha = beta(self.gamma)")])
    assert case.start is not None and case.middles == ("self.alpha = beta(self.gamma)",)
    assert case.start != case.middles
    assert repair_cases([hole("x")]) == []


def test_cut_kinds_are_the_same_every_time() -> None:
    for cut in (mid_token_cases, repair_cases):
        cases = cut(HOLES)
        assert len(cases) == 100 == len({case.id for case in cases})
        assert cases == cut(HOLES)
        assert all("\n" not in middle for case in cases for middle in case.middles or ())


@pytest.mark.parametrize(
    ("kind", "expected", "one_line"), [("line", "tests_line", True), ("block", "tests_block", False)]
)
def test_a_task_is_filled_as_far_as_its_kind_says(kind: str, expected: str, one_line: bool) -> None:
    case = case_of_task(Task("t", "a", "b", "assert a", "a", kind))
    assert (case.kind, case.one_line, case.is_whole) == (expected, one_line, True)
    assert case.task is not None and case.middles is None


@pytest.mark.parametrize("one_line", [True, False])
def test_an_outside_task_is_filled_as_far_as_it_is_told(one_line: bool) -> None:
    task = Task("t", "a", "b", middle="m", kind="line", language="go")
    case = case_of_outside_task(task, one_line=one_line, max_tokens=7)
    assert (case.kind, case.one_line, case.max_tokens, case.is_whole) == ("line", one_line, 7, False)
    assert (case.language, case.middles, case.task) == ("go", ("m",), None)
    assert case_of_outside_task(Task("t", "a", "b", middle="m"), one_line=one_line, max_tokens=7).kind == "task"


# ------------------------------------------------------------ what is committed


def test_the_committed_holes_are_as_described() -> None:
    assert [h.id for h in HOLES] == list(range(len(HOLES)))
    assert Counter(h.kind for h in HOLES) == Counter(cut_held_out.COUNTS) + Counter(expression=240)  # these were added
    assert {h.kind for h in HOLES} == {*COMMITTED_KINDS}
    assert {h.package for h in HOLES} == HELD_OUT
    assert all(h.licence and len(h.sha256) == 64 and h.path.endswith(".py") for h in HOLES)
    assert all((h.middle == "") == (h.kind == "empty") for h in HOLES)
    cases = [case_of(h) for h in HOLES]
    assert all("\n" not in h.middle for h in HOLES if h.kind in ("line", "rest_of_line"))
    assert {case.kind for case in cases if not case.one_line} == {"statement", "block", "span"}


def test_the_committed_cases_with_several_holes_are_as_described() -> None:
    several = read_several(ROOT / SEVERAL_FILE)
    assert [c.id for c in several] == list(range(len(several)))
    for count, cases_of_it in several_holes.COUNTS.items():
        assert sum(len(c.middles) == count == len(c.between) + 1 for c in several) == cases_of_it
    assert {c.package for c in several} == HELD_OUT
    assert all(c.licence and len(c.sha256) == 64 for c in several)
    assert all(middle and "\n" not in middle for c in several for middle in c.middles)
    assert all(between for c in several for between in c.between)
    assert all(case_of_several(c).holes == len(c.middles) for c in several)
