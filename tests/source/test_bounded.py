"""Texts that take too long to parse are plain text, said by name; deep nesting takes no time at all."""

from __future__ import annotations

import asyncio
import itertools
import logging

import pytest
from test_suggest import FakeInfiller, done

from dgemma_lsp.documents.documents import ParsedSnapshot, Trees, is_too_complex, parsed, parsed_whole
from dgemma_lsp.documents.edits import Edit, NoSuggestion, Snapshot, Suggestion
from dgemma_lsp.documents.text import Text
from dgemma_lsp.pipeline.actions import ActionKind, offered, rewrite
from dgemma_lsp.pipeline.checks import _objections
from dgemma_lsp.pipeline.suggest import suggest
from dgemma_lsp.settings import Settings
from dgemma_model.source import bounded, fill_sites, syntax, templates

CODE = "def f(a, b):\n    return [a, b, (a + b) * 2]\n\n" * 20
NESTED = 5_000
"""Levels. What took a walk from the root for each node would not end within a day."""


@pytest.fixture
def hours_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock finds that an hour has passed."""
    hours = itertools.count(step=3600.0)
    monkeypatch.setattr(bounded.time, "thread_time", lambda: next(hours))


def snapshot(text: str = CODE + "x = ", offset: int | None = None) -> Snapshot:
    return Snapshot("file:///case.py", 1, "python", Text(text), len(text) if offset is None else offset)


def suggested(at: ParsedSnapshot, *, invoked: bool) -> Suggestion | NoSuggestion:
    return list(suggest(at, FakeInfiller(done("a b (")), Settings(), invoked=invoked))[-1]


@pytest.mark.usefixtures("hours_pass")
def test_a_text_that_takes_too_long_has_no_tree(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert syntax.parse("python", CODE) is None
    assert caplog.messages == [f"no syntax tree: parsing {len(CODE)} bytes takes more than 0.5 s"]


def test_an_edit_that_takes_too_long_is_refused(request: pytest.FixtureRequest) -> None:
    at, tree = parsed(snapshot())
    assert tree is not None
    objection = _objections(ParsedSnapshot(at, tree), names=False, invoked=True)
    edit = Edit(at.offset, at.offset, CODE)
    assert objection(Edit(at.offset, at.offset, "1")) is None
    request.getfixturevalue("hours_pass")
    assert syntax.spliced(tree, at.offset, at.offset, CODE) is None
    assert syntax.parse("python", CODE * 2, like=tree) is None
    assert objection(edit) is NoSuggestion.UNPARSEABLE


@pytest.mark.usefixtures("hours_pass")
def test_a_document_that_takes_too_long_is_plain_text() -> None:
    at = parsed(snapshot())
    assert is_too_complex(at)
    assert suggested(at, invoked=False) is NoSuggestion.TOO_COMPLEX
    shown = suggested(at, invoked=True)
    assert isinstance(shown, Suggestion) and shown.edit.new_text == "a b ("
    assert offered(at, at.snapshot.offset) == []
    assert list(rewrite(ActionKind.FILL_ALL, at.snapshot, 0, FakeInfiller())) == [NoSuggestion.TOO_COMPLEX]


def test_it_is_not_tried_again_until_it_is_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = list[int]()
    real = bounded.parse

    def slow(grammar, data, old=None, *, limit_s=bounded.PARSE_S):  # type: ignore[no-untyped-def]
        tries.append(len(data))
        return real(grammar, data, old, limit_s=limit_s) if len(data) < len(CODE) else None

    monkeypatch.setattr(bounded, "parse", slow)

    async def check() -> None:
        trees = Trees()
        for text in (CODE, CODE + "x", CODE[:-1] + "y"):
            assert (await trees.parsed(snapshot(text))).tree is None
        assert (await trees.parsed(snapshot(CODE[:-9]))).tree is not None

    asyncio.run(check())
    assert tries == [len(CODE), len(CODE), len(CODE) - 9]  # the first one on the loop, and then on another thread
    tries.clear()
    last = syntax.LastTree()
    assert [last.update("python", text, 0) is None for text in (CODE, CODE + "x", CODE[:-9])] == [True, True, False]
    assert tries == [len(CODE), len(CODE) - 9]


FORMS = {"f-string": ('f"{', '}"'), "quotes": ("f'{f\"{", "}\"}'"), "call": ('f"{g(', ')}"'), "brackets": ("[x,", "]")}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("left_open", [False, True])
def test_deep_nesting(form: str, *, left_open: bool) -> None:
    opening, closing = FORMS[form]
    text = "x = " + opening * NESTED + "1" + closing * (NESTED - left_open) + "\ny = 1\n"
    middle, end = 4 + len(opening) * NESTED, text.index("\n")
    whole, tree = parsed_whole(snapshot(text))
    assert tree is not None
    syntax.is_damaged_from(tree, len(text), len(text))
    for offset in (middle, end, len(text)):
        syntax.kind_at(tree, offset)
        syntax.scope_starts(tree, offset)
        fill_sites.unit_around(tree, offset - 1, offset)
        fill_sites.errors_within(tree, offset - 1, offset)
        templates.try_except(tree, offset - 1, offset)
        assert isinstance(suggested(parsed(snapshot(text, offset)), invoked=False), NoSuggestion)
        offered(ParsedSnapshot(whole.at(offset), tree), offset)
