"""What editors/FEATURES.md claims has tests, and enough of them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import test_actions
import test_cleanup
import test_language_cases

TESTS = Path(__file__).parents[1]
TABLE = (TESTS.parent / "editors" / "FEATURES.md").read_text("utf-8")
ROWS = re.findall(r"^\| ([^|\n]+) \| ([^|\n]+) \| (`[^|\n]+`) \|$", TABLE, re.MULTILINE)
PEERS = 21
"""Things by which tools of this sort are compared."""


def named_in(name: str) -> set[str]:
    tree = ast.parse(next(TESTS.rglob(name)).read_text("utf-8"))
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {function.name for function in functions if function.name.startswith("test_")}


def test_each_row_names_tests_that_are_there() -> None:
    assert len(ROWS) >= PEERS and len({what for what, _, _ in ROWS}) == len(ROWS)
    for what, _, shown_by in ROWS:
        named = re.findall(r"`(\w+\.py)::(\w+)`", shown_by)
        assert named and shown_by == ", ".join(f"`{file}::{test}`" for file, test in named), what
        missing = [f"{file}::{test}" for file, test in named if test not in named_in(file)]
        assert not missing, what


def test_each_of_the_twelve_complaints_has_its_test() -> None:
    numbers = [found[1] for test in named_in("test_complaints.py") if (found := re.match(r"test_(\d\d)_", test))]
    assert sorted(numbers) == [f"{number:02}" for number in range(1, 13)]


def test_there_are_enough_golden_cases_in_enough_languages() -> None:
    cases = test_language_cases.GOLDEN.values()
    kinds = {case.kind for case in cases}
    assert kinds == {"fill", "scopes", "errors", "outline", "suggest"}  # hole choice, context, syntax, ranges
    assert len(cases) + len(test_cleanup.GOLDEN) + len(test_actions.read_cases()) >= 150
    assert len({case.language for case in cases if case.kind == "suggest"}) >= 8
