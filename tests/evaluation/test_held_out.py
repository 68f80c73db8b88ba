"""The committed holes as cases, and the kinds that are cut from them."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dgemma_model.evaluation.cases import Task
from dgemma_model.evaluation.held_out import (
    COMMITTED_KINDS,
    HOLES_FILE,
    SETS,
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
    read_set,
    read_several,
    repair_cases,
)
from dgemma_model.train import cut_held_out, several_holes
from dgemma_model.train.corpus import HELD_OUT

ROOT = Path(__file__).parents[2]
HOLES = read_holes(ROOT / HOLES_FILE)
MANIFESTS = ("packages", "fitting_packages", "drafter_packages")
PYTHON_COUNTS = {
    "line": 640,
    "rest_of_line": 300,
    "expression": 300,
    "statement": 80,
    "block": 120,
    "span": 60,
    "empty": 80,
}
OTHER_COUNTS = {"line": 90, "rest_of_line": 60}
OTHERS = ("bash", "c", "cpp", "csharp", "go", "java", "javascript", "lua", "php", "ruby", "rust", "typescript")


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


# ------------------------------------------------- packages published since 2025

FRESH = SETS["fresh"]
FRESH_HOLES = read_holes(ROOT / FRESH.holes)
MANIFEST, FITTING, DRAFTING = (
    json.loads((ROOT / "eval" / "fresh" / f"{name}.json").read_text("utf-8")) for name in MANIFESTS
)


def test_the_fresh_holes_are_as_described() -> None:
    assert [h.id for h in FRESH_HOLES] == list(range(len(FRESH_HOLES)))
    python = [h for h in FRESH_HOLES if h.language == "python"]
    assert Counter(h.kind for h in python) == PYTHON_COUNTS and len(python) >= 1500
    assert {*PYTHON_COUNTS} == {*COMMITTED_KINDS}
    packages = Counter(h.package for h in python)
    assert len(packages) >= 12 and max(packages.values()) <= 0.15 * len(python)
    others = Counter((h.language, h.kind) for h in FRESH_HOLES if h.language != "python")
    assert others == {(language, kind): count for language in OTHERS for kind, count in OTHER_COUNTS.items()}
    assert all((h.middle == "") == (h.kind == "empty") for h in FRESH_HOLES)
    assert all("\n" not in h.middle for h in FRESH_HOLES if h.kind in ("line", "rest_of_line"))
    assert len({(h.path, h.kind, h.prefix, h.middle) for h in FRESH_HOLES}) == len(FRESH_HOLES)
    assert len(read_several(ROOT / FRESH.several)) == sum(several_holes.COUNTS.values())


def test_fresh_cases_of_other_languages_are_kinds_of_their_own() -> None:
    rust = next(h for h in FRESH_HOLES if (h.language, h.kind) == ("rust", "line"))
    case = case_of(rust)
    assert (case.kind, case.language, case.one_line) == ("line.rust", "rust", True)
    cut_later = [*mid_token_cases(FRESH_HOLES), *repair_cases(FRESH_HOLES)]
    assert len(cut_later) == 200 and {case.language for case in cut_later} == {"python"}
    assert {case.files for case in read_set(FRESH)} == {FRESH.files}


@pytest.mark.parametrize("package", [*MANIFEST, *FITTING], ids=lambda package: package["name"])
def test_a_fresh_package_is_permitted_and_published_since_2025(package: dict[str, Any]) -> None:
    assert package["first_release"] >= "2025" and package["evidence"]
    assert_permitted(package)


@pytest.mark.parametrize("package", DRAFTING, ids=lambda package: package["name"])
def test_a_package_that_drafters_learn_from_is_permitted(package: dict[str, Any]) -> None:
    assert_permitted(package)


def assert_permitted(package: dict[str, Any]) -> None:
    assert re.fullmatch(r"(MIT|Apache-2\.0|BSD-[23]-Clause|ISC)( OR (UPL-1|Apache-2)\.0)?", package["licence"])
    assert len(package["sha256"]) == 64 and package["version"] and package["languages"]


def test_what_is_fitted_on_is_not_what_is_measured_on() -> None:
    held_out, fitting, drafting = (
        {package["name"] for package in packages} for packages in (MANIFEST, FITTING, DRAFTING)
    )
    assert len(fitting) >= 25 and not held_out & (fitting | drafting)
    assert {(h.package, h.licence) for h in FRESH_HOLES} <= {(p["name"], p["licence"]) for p in MANIFEST}
    assert {h.package for h in FRESH_HOLES} == held_out
