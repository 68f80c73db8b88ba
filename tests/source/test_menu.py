"""Suggestions in the completion menu of clients that know no inline completion."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from wire import Wire, insertion

URI = "file:///project/module.py"
MENU = "textDocument/completion"


@pytest.fixture(scope="module")
def shared() -> Iterator[Wire]:
    with Wire() as wire:
        details = {"completionItem": {"labelDetailsSupport": True}}
        capabilities = wire.initialize(
            capabilities={"textDocument": {"completion": details}}, initializationOptions={"debounce_ms": 0}
        )["capabilities"]
        assert {" ", "."} <= set(capabilities["completionProvider"]["triggerCharacters"])
        wire.wait_until_loaded()
        yield wire


@pytest.fixture
def wire(shared: Wire) -> Wire:
    shared.request("test/say", {"text": "value", "steps": 1, "held": False, "fails": False})
    return shared


def at(line: int, character: int, **context: Any) -> dict[str, Any]:
    params: dict[str, Any] = {"textDocument": {"uri": URI}, "position": {"line": line, "character": character}}
    return params | ({"context": context} if context else {})


def accepted(text: str, item: dict[str, Any]) -> str:
    """A text of one line with the item in it."""
    start, end = (item["textEdit"]["range"][end]["character"] for end in ("start", "end"))
    return text[:start] + item["textEdit"]["newText"] + text[end:]


def test_a_client_with_inline_completion_gets_no_menu() -> None:
    with Wire() as wire:
        result = wire.initialize(capabilities={"textDocument": {"inlineCompletion": {}}})
        assert "completionProvider" not in result["capabilities"]
        assert wire.error(wire.start(MENU, at(0, 0))) == -32601


def test_an_item_includes_the_word_before_the_cursor(wire: Wire) -> None:
    wire.open(URI, "x = first")
    wire.request("test/say", {"text": "_name + last_name"})
    answer = wire.request(MENU, at(0, 9))
    (item,) = answer["items"]
    assert answer["isIncomplete"] is True
    assert accepted("x = first", item) == "x = first_name + last_name"
    assert item["filterText"].startswith("first") and item["label"] == "first_name + last_name"
    assert item["labelDetails"] == {"description": "dgemma"}


def test_a_bracket_that_is_typed_again_is_replaced(wire: Wire) -> None:
    wire.open(URI, "print()")
    wire.request("test/say", {"text": '"hi")'})
    (item,) = wire.request(MENU, at(0, 6))["items"]
    assert accepted("print()", item) == 'print("hi")'


def test_several_lines_have_one_as_their_label(wire: Wire) -> None:
    wire.open(URI, "def f(x):\n    ")
    wire.request("test/say", {"text": "y = x\n    return y"})
    (item,) = wire.request(MENU, at(1, 4))["items"]
    assert item["label"] == "y = x …"
    assert item["textEdit"]["newText"] == "y = x\n    return y"
    assert item["documentation"]["value"] == "y = x\n    return y"


def test_typing_on_asks_again_and_needs_no_model(wire: Wire) -> None:
    wire.open(URI, "x = ")
    assert wire.request(MENU, at(0, 4))["items"]
    fills = wire.request("test/counts", {})["fills"]
    wire.change(URI, 2, insertion(0, 4, "va"))
    (item,) = wire.request(MENU, at(0, 6, triggerKind=3))["items"]
    assert item["label"] == "value" and accepted("x = va", item) == "x = value"
    assert wire.request("test/counts", {})["fills"] == fills


@pytest.mark.parametrize("context", [{"triggerKind": 0}, {"triggerKind": 9}, {"triggerKind": "x"}, {"no": 1}])
def test_how_a_menu_was_opened_does_not_matter(wire: Wire, context: dict[str, Any]) -> None:
    wire.open(URI, "x = ")
    assert len(wire.request(MENU, at(0, 4, **context))["items"]) == 1


def test_silence_is_an_empty_list_that_may_fill(wire: Wire) -> None:
    wire.open(URI, "# x ")
    assert wire.request(MENU, at(0, 4)) == {"isIncomplete": True, "items": []}
    explain = {"command": "dgemma.explainSilence", "arguments": [URI]}
    assert wire.request("workspace/executeCommand", explain)["name"] == "IN_COMMENT"


def test_a_replaced_request_answers_null(wire: Wire) -> None:
    wire.open(URI, "x = ")
    wire.request("test/say", {"held": True})
    first = wire.start(MENU, at(0, 4))
    wire.request("test/reached", {})
    wire.change(URI, 2, insertion(0, 4, "z"))
    second = wire.start(MENU, at(0, 5))
    assert wire.response(first)["result"] is None
    wire.request("test/release", {})
    assert wire.response(second)["result"]["items"]


@pytest.mark.parametrize("params", [None, 7, {}, {"textDocument": {"uri": URI}}, at(-1, 0)])
def test_nonsense_is_refused(wire: Wire, params: object) -> None:
    assert wire.error(wire.start(MENU, params)) == -32602
