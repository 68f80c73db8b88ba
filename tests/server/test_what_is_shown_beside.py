"""Whatever asks the model shows it what is around the document, and parses only what was typed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from wire import Wire, inline, insertion

from dgemma_lsp.documents.documents import Position, TextChange
from dgemma_lsp.documents.edits import Suggestion
from dgemma_lsp.documents.notebooks import Cell
from dgemma_lsp.server.session import DgemmaServer
from dgemma_lsp.settings import Settings
from dgemma_model.request import Draft, FillRequest

URI, OTHER = "file:///project/a.py", "file:///project/b.py"
NOTEBOOK, CELL = "file:///project/c.ipynb", "vscode-notebook-cell:/project/c.ipynb#0"
TEXT = "def f():\n    pass\n\n\nx = "
END = {"line": 4, "character": 4}


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with served() as wire:
        yield wire


def served(**env: str) -> Wire:
    wire = Wire(env={"FAKE_PROMPT": "4096", "FAKE_PROJECT": "1"} | env)
    wire.initialize(initializationOptions={"debounce_ms": 0})
    wire.wait_until_loaded()
    wire.request("test/say", {"text": "f()"})
    return wire


def beside(wire: Wire, mark: str) -> None:
    """Open a document and another one of its language."""
    wire.open(OTHER, "def only_here(): return 1\n")
    wire.change(OTHER, 2, insertion(0, 0, f"# {mark}\n"))
    wire.open(URI, TEXT)


def seen(wire: Wire) -> str:
    """All that the model was shown last."""
    found: dict[str, Any] = wire.request("test/seen", {})
    return "\n".join([found["prefix"], found["suffix"], *found["project_text"]])


def typed(wire: Wire) -> None:
    assert wire.request("textDocument/inlineCompletion", inline(URI, **END))


def asked(wire: Wire) -> None:
    assert wire.request("textDocument/inlineCompletion", inline(URI, **END, kind=1))


def in_a_notebook(wire: Wire) -> None:
    cells = [{"kind": 2, "document": CELL}]
    item = {"uri": NOTEBOOK, "notebookType": "jupyter-notebook", "version": 1, "cells": cells}
    text = {"uri": CELL, "languageId": "python", "version": 1, "text": TEXT}
    wire.notify("notebookDocument/didOpen", {"notebookDocument": item, "cellTextDocuments": [text]})
    assert wire.request("textDocument/inlineCompletion", inline(CELL, **END))


def watched(wire: Wire) -> None:
    assert wire.request("dgemma/watch", {"textDocument": {"uri": URI}, "position": END, "watch": 7})["text"]


def rewritten(wire: Wire) -> None:
    wire.open(URI, f"{TEXT}1\n")
    place = {"uri": URI, "position": {"line": 1, "character": 4}}
    assert wire.request("workspace/executeCommand", {"command": "dgemma.fillHole", "arguments": [place]})


@pytest.mark.parametrize("ask", [typed, asked, in_a_notebook, watched, rewritten])
def test_other_documents_are_shown(wire: Wire, ask: Callable[[Wire], None]) -> None:
    beside(wire, ask.__name__)
    ask(wire)
    assert f"# {ask.__name__}\ndef only_here(): return 1\n" in seen(wire)


def test_other_documents_are_shown_ahead() -> None:
    with served(FAKE_AHEAD="1") as wire:
        beside(wire, "ahead")
        typed(wire)
        wire.wait_for_log("file='a.py' outcome=ahead")
        shown = seen(wire)
    assert f"{TEXT}f()" in shown
    assert "# ahead\ndef only_here(): return 1\n" in shown


class Writer:
    """Says one thing."""

    name, device, languages, threshold, prompt_tokens, uses_project_text = "writer", "none", None, -1.0, 512, False
    sends_text = False
    reviewer = None

    def fill(self, request: FillRequest) -> Iterator[Draft]:
        yield Draft(("f()",), step=1, done=True, complete=True, score=-0.1)


@pytest.mark.parametrize("uri", [URI, CELL])
def test_a_keystroke_parses_only_what_was_typed(uri: str, parsed_anew: list[bytes]) -> None:
    async def check() -> None:
        server = DgemmaServer(lambda settings, progress: Writer(), Settings(debounce_ms=0))
        server.look_ahead_s = None
        await server.worker.start(Writer)
        server.open(uri, "python", 1, TEXT)
        if uri == CELL:
            server.notebooks.open(NOTEBOOK, [Cell(OTHER, True), Cell(CELL, True)])
            server.open(OTHER, "python", 1, "above = 1\n")
        for column, key in enumerate("f() + 1 + ", END["character"]):
            at = Position(END["line"], column)
            server.change(uri, column, [TextChange(key, (at, at))])
            snapshot = server.documents.snapshot(uri, Position(END["line"], column + 1))
            assert snapshot is not None
            answer = await server.answer(snapshot, invoked=key == "+")
        assert isinstance(answer, Suggestion)
        assert server.stop()

    asyncio.run(check())
    assert parsed_anew == [f"{TEXT}f".encode(), *([f"above = 1\n{TEXT}f".encode()] if uri == CELL else [])]
