"""Every request and notification with parameters that make no sense: always an answer, never another text."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import pytest
from wire import Wire, inline, insertion

WITNESS, TARGET, NOTEBOOK = "file:///fuzz/witness.py", "file:///fuzz/target.py", "file:///fuzz/n.ipynb"
TEXT = "def f(x, y):\n    pass\n\nf(1)\n# TODO: é😀\nx = ...\n"
AT = {"line": 1, "character": 6}
RANGE = {"start": {"line": 0, "character": 0}, "end": AT}
DOCUMENT = {"uri": TARGET, "version": 3}
CELL = {"uri": "file:///fuzz/n.ipynb#1", "languageId": "python", "version": 1, "text": "x = "}
ITEM = {"insertText": "x", "command": {"title": "", "command": "dgemma.didAccept", "arguments": [1]}}
PROBLEM = {"range": RANGE, "message": "broken", "source": "ruff", "severity": 1}
DATA = {"kind": "fillHole", "uri": TARGET, "version": 1, "checksum": 0, "start": 0, "end": 3}
CELLS = [{"kind": 2, "document": CELL["uri"]}]
FOLDER = {"uri": "file:///fuzz", "name": "x"}
SETTINGS = {"debounce_ms": 0, "languages": ["python"], "next_edit": True}

REQUESTS: dict[str, Any] = {
    "textDocument/inlineCompletion": inline(TARGET, 1, 6)
    | {"context": {"triggerKind": 1, "selectedCompletionInfo": {"range": RANGE, "text": "pass"}}},
    "textDocument/completion": {"textDocument": DOCUMENT, "position": AT, "context": {"triggerKind": 1}},
    "textDocument/codeAction": {
        "textDocument": DOCUMENT,
        "range": RANGE,
        "context": {"diagnostics": [PROBLEM], "only": ["quickfix"]},
    },
    "codeAction/resolve": {"title": "Fill", "data": DATA},
    "workspace/executeCommand": {"command": "dgemma.fillHole", "arguments": [{"uri": TARGET, "range": RANGE}]},
    "textDocument/copilotInlineEdit": {"textDocument": DOCUMENT, "position": AT},
    "dgemma/nextEdit": {"textDocument": DOCUMENT, "position": AT},
    "dgemma/stats": {},
}
NOTIFICATIONS: dict[str, Any] = {
    "textDocument/didOpen": {"textDocument": {"uri": TARGET, "languageId": "python", "version": 1, "text": TEXT}},
    "textDocument/didChange": {"textDocument": DOCUMENT, "contentChanges": [insertion(1, 2, "a\r\n"), {"text": TEXT}]},
    "textDocument/didClose": {"textDocument": {"uri": TARGET}},
    "notebookDocument/didOpen": {
        "notebookDocument": {"uri": NOTEBOOK, "notebookType": "x", "version": 1, "cells": CELLS},
        "cellTextDocuments": [CELL],
    },
    "notebookDocument/didChange": {
        "notebookDocument": {"uri": NOTEBOOK, "version": 2},
        "change": {
            "cells": {
                "structure": {
                    "array": {"start": 0, "deleteCount": 1, "cells": []},
                    "didOpen": [CELL],
                    "didClose": [{"uri": CELL["uri"]}],
                },
                "textContent": [{"document": {"uri": CELL["uri"], "version": 2}, "changes": [insertion(0, 0, "y")]}],
            }
        },
    },
    "notebookDocument/didClose": {"notebookDocument": {"uri": NOTEBOOK}, "cellTextDocuments": [{"uri": CELL["uri"]}]},
    "workspace/didChangeConfiguration": {"settings": {"dgemma": SETTINGS}},
    "workspace/didChangeWorkspaceFolders": {"event": {"added": [FOLDER], "removed": []}},
    "textDocument/didShowCompletion": {"item": ITEM},
    "textDocument/didPartiallyAcceptCompletion": {"item": ITEM, "acceptedLength": 1},
    "textDocument/didShowInlineEdit": {"item": ITEM},
    "window/workDoneProgress/cancel": {"token": "dgemma/loading"},
    "$/setTrace": {"value": "off"},
}
ODD: list[Any] = [
    *(None, True, -1, 0, 7, 2**31 - 1, 2**31, 2**70, 1.5, -1e300, "", "x", "\ud800", "file:///fuzz/other.py", "\0"),
    *([], {}, [[]], {"line": 0}, {"uri": TARGET}, [None], {"text": None}, {"line": 2**31 - 1, "character": 2**31 - 1}),
]


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    yield at
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from paths(value[key], (*at, key))


def spoiled(params: Any, chance: random.Random) -> Any:
    """The parameters with something odd in one or more places, or with something missing."""
    params = copy.deepcopy(params)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 4))):
        *way, last = ("", *chance.choice(list(paths(params))))
        if not way:
            return chance.choice(ODD)
        holder = params
        for key in way[1:]:
            holder = holder[key]
        if isinstance(holder, dict) and chance.random() < 0.3:
            del holder[last]
        else:
            holder[last] = copy.deepcopy(chance.choice(ODD))
    return params


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with Wire(env={"FAKE_AHEAD": "1"}) as wire:
        wire.initialize(initializationOptions={"debounce_ms": 0, "next_edit": True})
        wire.wait_until_loaded()
        wire.open(WITNESS, TEXT)
        yield wire


@pytest.mark.parametrize("seed", range(12))
def test_always_an_answer_and_never_another_text(wire: Wire, seed: int) -> None:
    chance = random.Random(seed)
    wire.open(TARGET, TEXT)
    waiting = []
    for _ in range(120):
        if chance.random() < 0.5:
            method, params = chance.choice(list(REQUESTS.items()))
            waiting.append(wire.start(method, spoiled(params, chance)))
            if chance.random() < 0.3:
                wire.notify("$/cancelRequest", {"id": chance.choice(waiting)})
        else:
            method, params = chance.choice(list(NOTIFICATIONS.items()))
            wire.notify(method, spoiled(params, chance))
    for msg_id in waiting:
        response = wire.response(msg_id)
        assert ("result" in response) != ("error" in response)
        assert response.get("error", {}).get("code") != -32603, response  # a bug, in the protocol's words
    assert wire.text(WITNESS) == TEXT
    wire.notify("workspace/didChangeConfiguration", {"settings": {}})
    wire.notify(
        "workspace/didChangeWorkspaceFolders",
        {"event": {"added": [], "removed": [FOLDER]}},
    )
    assert wire.request("textDocument/inlineCompletion", inline(WITNESS, 1, 8, kind=1))
    wire.drop_unread()


def test_documents_that_open_and_close_in_a_hurry(wire: Wire) -> None:
    waiting = []
    for number in range(200):
        wire.open(TARGET, TEXT, version=number)
        waiting.append(wire.start("textDocument/inlineCompletion", inline(TARGET, 5, 4)))
        wire.change(TARGET, number + 1, insertion(0, 0, "\n"))
        wire.notify("textDocument/didClose", {"textDocument": {"uri": TARGET}})
    results = [wire.response(msg_id)["result"] for msg_id in waiting]
    assert not any(results)  # nothing is suggested for a document that is closed
    assert wire.text(TARGET) is None


def test_a_document_of_a_hundred_thousand_lines(wire: Wire) -> None:
    wire.open(TARGET, "x = compute(1)\n" * 100_000)
    for version in range(2, 7):
        wire.change(TARGET, version, insertion(50_000, 0, "y = 1\n"))
        assert wire.request("textDocument/inlineCompletion", inline(TARGET, 50_000, 5, kind=1)) is not None
    actions = {"textDocument": {"uri": TARGET}, "range": RANGE, "context": {"diagnostics": []}}
    assert wire.request("textDocument/codeAction", actions) == []  # longer than what is parsed
