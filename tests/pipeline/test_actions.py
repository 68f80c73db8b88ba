"""Code actions: what is offered, and what comes of it: the golden cases of cases/actions.md, and laws."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgemma_lsp.documents.documents import ParsedSnapshot, parsed
from dgemma_lsp.documents.edits import NoSuggestion, Rewrite, Snapshot
from dgemma_lsp.documents.text import Text
from dgemma_lsp.pipeline.actions import ActionKind, Problem, offered, rewrite
from dgemma_model.request import Draft, FillRequest, InfillError
from dgemma_model.source import syntax

CASES = Path(__file__).parents[1] / "cases" / "actions.md"


class FakeInfiller:
    """Says one list of fills after the other, the last one again and again, and remembers what it was asked."""

    name, device, threshold, languages, prompt_tokens = "fake", "none", -1.0, None, 512
    uses_project_text = False
    sends_text = False
    reviewer = None

    def __init__(self, *said: tuple[str, ...]) -> None:
        self.said = list(said)
        self.requests: list[FillRequest] = []

    def fill(self, request: FillRequest) -> Iterator[Draft]:
        self.requests.append(request)
        count = request.excerpt.hole_count
        texts = ((self.said.pop(0) if len(self.said) > 1 else self.said[0]) + ("",) * count)[:count]
        yield Draft(("",) * count, step=1)
        yield Draft(texts, step=2, done=True, complete=True, score=-0.1)


class Case(NamedTuple):
    kind: ActionKind
    file: str
    model: tuple[tuple[str, ...], ...]
    result: str


def read_cases() -> dict[str, Case]:
    cases = {}
    for section in CASES.read_text("utf-8").split("\n## ")[1:]:
        heading, body = section.split("\n", 1)
        _, _, kind = heading.rstrip(")").rpartition(" (")
        parts = dict(re.findall(r"^```(\w+)\n(.*?)\n?^```$", body, re.MULTILINE | re.DOTALL))
        assert parts.keys() == {"file", "model", "result"}, heading
        assert heading not in cases, heading
        file, model, result = (unmarked(parts[part]) for part in ("file", "model", "result"))
        said = tuple(tuple(turn.strip("\n").split("\n---\n")) for turn in model.split("==="))
        cases[heading] = Case(ActionKind(kind), file, said, result)
    return cases


def unmarked(text: str) -> str:
    return text.replace("⇥", "\t").replace("␍\n", "\r\n").replace("␍", "\r").replace("·", " ")


def selection(marked: str, language: str = "python") -> tuple[ParsedSnapshot, int]:
    """A parsed document and the end of its selection, which starts at the cursor."""
    start = marked.index("▮")
    text = marked.replace("▮", "")
    end = marked.rindex("▮") - (marked.count("▮") - 1)
    return parsed(Snapshot("file:///case.py", 7, language, Text(text), start)), end


def titles(marked: str, language: str = "python", *problems: Problem) -> list[str]:
    return [action.title for action in offered(*selection(marked, language), problems)]


def done(kind: ActionKind, marked: str, *said: tuple[str, ...]) -> Rewrite | NoSuggestion:
    at, end = selection(marked)
    return list(rewrite(kind, at.snapshot, end, FakeInfiller(*said)))[-1]


@pytest.mark.parametrize("name", read_cases())
def test_cases(name: str) -> None:
    case = read_cases()[name]
    at, end = selection(case.file)
    problems = [Problem(at.snapshot.offset, end, "broken")] if case.kind is ActionKind.REPAIR else []
    kinds = [action.kind for action in offered(at, end, problems)]
    if case.result == "OFFERED_NOT":
        assert case.kind not in kinds
        return
    assert case.kind in kinds
    answer = done(case.kind, case.file, *case.model)
    if isinstance(answer, NoSuggestion):
        assert answer.name == case.result
    else:
        assert answer.apply() == case.result


def test_repairs_are_named_after_their_problem_and_come_first() -> None:
    problem = Problem(4, 9, "undefined name\n'value'" + " and more" * 20)
    assert titles("x = va▮lue", "python", problem)[0].startswith("Repair: undefined name 'value' and more")
    assert len(titles("x = va▮lue", "python", problem)[0]) <= 72


def test_missing_arguments_are_named() -> None:
    assert "Add missing arguments (b)" in titles("def f(a, b):\n    return a\n\nf(1▮)\n")


def test_texts_without_a_tree_are_offered_nothing() -> None:
    assert titles("def f():\n    pass▮\n", "plaintext", Problem(0, 3, "broken")) == []


def test_what_is_filled_together_is_asked_for_together() -> None:
    (snapshot, _), end = selection("def a():\n    pass▮\n\ndef b():\n    pass\n")
    infiller = FakeInfiller(("return 1", "return 2"))
    list(rewrite(ActionKind.FILL_ALL, snapshot, end, infiller))
    (request,) = infiller.requests
    assert request.excerpt.between == ("\n\ndef b():\n    ",)


def test_holes_far_apart_are_filled_one_after_the_other_and_see_each_other() -> None:
    far = "x = 1\n" * 200
    (snapshot, _), end = selection(f"def a():\n    pass▮\n\n{far}\ndef b():\n    pass\n")
    infiller = FakeInfiller(("return 1",), ("return 2",))
    *_, answer = rewrite(ActionKind.FILL_ALL, snapshot, end, infiller)
    assert [request.excerpt.hole_count for request in infiller.requests] == [1, 1]
    assert isinstance(answer, Rewrite)
    assert answer.apply() == f"def a():\n    return 1\n\n{far}\ndef b():\n    return 2\n"


def test_another_try_asks_another_way() -> None:
    (snapshot, _), end = selection("def a():\n    pass▮\n")
    infiller = FakeInfiller(("pass",))
    assert list(rewrite(ActionKind.FILL, snapshot, end, infiller))[-1] is NoSuggestion.NOTHING_BETTER
    assert [(request.seed, request.verify) for request in infiller.requests] == [(0, None), (1, False), (2, False)]


class Narrow(FakeInfiller):
    """Has no room for a text that is to be revised, unless it is short; or fails altogether."""

    fails = False

    def fill(self, request: FillRequest) -> Iterator[Draft]:
        if self.fails or any(len(text) > 8 for text in request.start or ()):
            self.requests.append(request)
            raise InfillError("no room")
        yield from super().fill(request)


BROKEN = "x = 1\ntotal = compute(1, 2▮\ny = 2\n"


def test_a_repair_first_changes_what_is_there_a_little() -> None:
    (snapshot, _), _ = selection(BROKEN)
    infiller = FakeInfiller(("",))
    list(rewrite(ActionKind.REPAIR, snapshot, snapshot.offset, infiller))
    asked = [(request.start, request.noise_level) for request in infiller.requests]
    there = ("total = compute(1, 2",)
    revised = [(None, 1.0), (there, 0.1), (None, 1.0), (there, 0.3), (None, 1.0), (None, 1.0)]
    assert asked == revised  # in turn: what is missing at the end, and the line itself


def test_what_is_too_long_to_be_revised_is_written_anew_and_a_failure_is_none_of_that() -> None:
    (snapshot, _), _ = selection(BROKEN)
    narrow = Narrow(("",), ("",), ("",), ("total = compute(1, 2)",))
    *_, answer = rewrite(ActionKind.REPAIR, snapshot, snapshot.offset, narrow)
    assert isinstance(answer, Rewrite) and answer.apply() == "x = 1\ntotal = compute(1, 2)\ny = 2\n"
    narrow.fails = True
    with pytest.raises(InfillError):
        list(rewrite(ActionKind.REPAIR, snapshot, snapshot.offset, narrow))


def test_work_can_be_stopped_between_its_steps() -> None:
    (snapshot, _), end = selection("def a():\n    pass▮\n")
    steps = rewrite(ActionKind.FILL, snapshot, end, FakeInfiller(("return 1",)))
    assert next(steps) is NoSuggestion.OUT_OF_TIME
    steps.close()


def test_the_place_may_be_gone() -> None:
    assert done(ActionKind.FILL, "x = 1▮", ("2",)) is NoSuggestion.NOTHING_HERE


FRAGMENTS = [
    "def f(a, b=1):\n",
    "    pass\n",
    "    ...\n",
    "class A:\n",
    "\n",
    "x = (\n",
    "f(1)\n",
    "# TODO é\n",
    '"""\n',
]
FILLS = ["return x", "pass", "", ")", "x\n    y", '"""', "é", "int", "if x:\n    y", ": \n"]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([*FRAGMENTS, "\t", "    return\n", "é😀", "\r\n"]), max_size=8).map("".join),
    st.lists(st.sampled_from(FILLS), min_size=1, max_size=5).map(tuple),
    st.data(),
)
def test_whatever_is_offered_can_be_done_to_no_harm(text: str, said: tuple[str, ...], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    snapshot, tree = at = parsed(Snapshot("file:///case.py", 1, "python", Text(text), start))
    assert tree is not None
    for action in offered(at, end, [Problem(start, end, "broken")]):
        *_, answer = rewrite(action.kind, snapshot.at(action.start), action.end, FakeInfiller(said))
        assert answer is not NoSuggestion.NOTHING_HERE
        if isinstance(answer, Rewrite):
            after = syntax.parse("python", answer.apply())
            assert after is not None
            assert answer.apply() != text
            assert syntax.error_count(after) <= syntax.error_count(tree)
            assert all(a.end <= b.start for a, b in pairwise(answer.edits))


STUB = "def f(a: int) -> int: ...\n\n\nclass A:\n    def g(self) -> str:\n        ...\n\n    def h(self): pass\n"


@pytest.mark.parametrize("name", ["a.pyi", "A.PYI"])
def test_no_code_goes_into_stubs(name: str) -> None:
    for offset in range(len(STUB)):
        at = parsed(Snapshot(f"file:///project/{name}", 7, "python", Text(STUB), offset))
        assert {ActionKind.FILL, ActionKind.FILL_ALL}.isdisjoint(action.kind for action in offered(at, offset))
        for kind in (ActionKind.FILL, ActionKind.FILL_ALL):
            assert list(rewrite(kind, at.snapshot, offset, FakeInfiller(("return 1",)))) == [NoSuggestion.NOTHING_HERE]
    at = parsed(Snapshot("file:///project/a.d.ts", 7, "typescript", Text("// TODO: declare f\n"), 4))
    assert ActionKind.FILL not in [action.kind for action in offered(at, 4)]
