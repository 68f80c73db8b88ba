"""Code actions and commands over the wire: listed, chosen, computed, stale, cancelled."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from wire import Wire, insertion

URI = "file:///project/module.py"
HOLE = "def f(x):\n    pass\n"
CAPABILITIES: dict[str, Any] = {
    "textDocument": {
        "inlineCompletion": {},
        "codeAction": {
            "codeActionLiteralSupport": {"codeActionKind": {"valueSet": ["quickfix", "refactor"]}},
            "resolveSupport": {"properties": ["edit"]},
            "dataSupport": True,
            "tagSupport": {"valueSet": [1]},
        },
    },
    "workspace": {
        "applyEdit": True,
        "workspaceEdit": {"documentChanges": True, "changeAnnotationSupport": {"groupsOnLabel": True}},
    },
    "window": {"workDoneProgress": True},
}


def started(capabilities: dict[str, Any]) -> Wire:
    wire = Wire()
    wire.initialize(capabilities=capabilities)
    if "window" in capabilities:
        answer(wire, "window/workDoneProgress/create", None)
    wire.wait_until_loaded()
    return wire


@pytest.fixture(scope="module")
def shared() -> Iterator[Wire]:
    with started(CAPABILITIES) as wire:
        yield wire


@pytest.fixture
def wire(shared: Wire) -> Wire:
    shared.request("test/say", {"text": "return x", "steps": 2, "held": False, "fails": False})
    shared.drop_unread()
    return shared


def answer(wire: Wire, method: str, result: object) -> dict[str, Any]:
    """Answer the server's next request of that kind; the request."""
    asked = wire.wait(lambda message: message.get("method") == method)
    wire.send({"jsonrpc": "2.0", "id": asked["id"], "result": result})
    return asked


def place(line: int, character: int = 0, end: tuple[int, int] | None = None) -> dict[str, Any]:
    start = {"line": line, "character": character}
    return {"start": start, "end": {"line": end[0], "character": end[1]} if end else start}


def listed(wire: Wire, at: dict[str, Any], uri: str = URI, **context: Any) -> list[dict[str, Any]]:
    params = {"textDocument": {"uri": uri}, "range": at, "context": {"diagnostics": []} | context}
    found: list[dict[str, Any]] = wire.request("textDocument/codeAction", params)
    return found


def chosen(wire: Wire, at: dict[str, Any], title: str, uri: str = URI, **context: Any) -> dict[str, Any]:
    return next(action for action in listed(wire, at, uri, **context) if action["title"].startswith(title))


def edits(action: dict[str, Any]) -> list[dict[str, Any]]:
    (document,) = action["edit"]["documentChanges"]
    found: list[dict[str, Any]] = document["edits"]
    return found


def test_an_action_is_listed_without_its_edit_and_computed_when_it_is_chosen(wire: Wire) -> None:
    wire.open(URI, HOLE, version=7)
    fills = wire.request("test/counts", {})["fills"]
    action = chosen(wire, place(1), "Fill this hole (pass)")
    assert wire.request("test/counts", {})["fills"] == fills
    assert "edit" not in action and action["kind"] == "quickfix" and action["tags"] == [1]
    resolved = wire.request("codeAction/resolve", action)
    (document,) = resolved["edit"]["documentChanges"]
    assert document["textDocument"] == {"uri": URI, "version": 7}
    (edit,) = document["edits"]
    assert (edit["newText"], edit["range"]) == ("return x", place(1, 4, (1, 8)))
    annotation = resolved["edit"]["changeAnnotations"][edit["annotationId"]]
    assert annotation["label"] == "Fill this hole (pass)" and "model" in annotation["description"]
    assert annotation["needsConfirmation"] is False


def test_only_the_wanted_kinds_are_listed(wire: Wire) -> None:
    wire.open(URI, HOLE)
    assert {action["kind"] for action in listed(wire, place(0, 5))} == {"refactor.rewrite"}
    assert {action["kind"] for action in listed(wire, place(1), only=["quickfix"])} == {"quickfix"}
    assert listed(wire, place(1), only=["source.organizeImports"]) == []
    assert {action["kind"] for action in listed(wire, place(0, 5), only=["refactor"])} == {"refactor.rewrite"}


def test_a_diagnostic_of_another_server_is_repaired(wire: Wire) -> None:
    wire.open(URI, "def f(x):\n    if x\n        return 1\n")
    wire.request("test/say", {"text": ":", "steps": 1})
    broken = {"range": place(1, 4, (1, 8)), "message": "expected ':'", "source": "ruff", "severity": 1}
    own = broken | {"source": "dgemma"}
    nonsense = [{"message": 5}, 7, {"range": {}}, broken | {"severity": "loud"}]
    actions = listed(wire, place(1), diagnostics=[own, *nonsense, broken])
    (repair,) = [action for action in actions if action["title"].startswith("Repair")]
    assert (repair["title"], repair["diagnostics"][0]["message"]) == ("Repair: expected ':'", "expected ':'")
    (edit,) = edits(wire.request("codeAction/resolve", repair))
    assert (edit["newText"], edit["range"]) == (":", place(1, 8))


def test_all_holes_are_filled_at_once(wire: Wire) -> None:
    wire.open(URI, "def f(x):\n    pass\n\ndef g(x):\n    ...\n")
    action = wire.request("codeAction/resolve", chosen(wire, place(0, 5), "Fill all holes"))
    assert [edit["newText"] for edit in edits(action)] == ["return x", "return x"]
    assert [edit["range"]["start"]["line"] for edit in edits(action)] == [1, 4]
    (annotation,) = action["edit"]["changeAnnotations"].values()
    assert annotation["needsConfirmation"] is True


@pytest.mark.parametrize("nothing", ["pass", "...", "", "# later", "raise NotImplementedError"])
def test_a_fill_that_does_nothing_is_an_error_that_says_so(wire: Wire, nothing: str) -> None:
    wire.open(URI, HOLE)
    wire.request("test/say", {"text": nothing, "steps": 1})
    failed = wire.response(wire.start("codeAction/resolve", chosen(wire, place(1), "Fill")))["error"]
    assert failed["code"] == -32803
    assert "nothing better" in failed["message"]
    explain = {"command": "dgemma.explainSilence", "arguments": [URI]}
    assert wire.request("workspace/executeCommand", explain)["name"] == "NOTHING_BETTER"


def test_an_action_of_an_older_text_is_refused(wire: Wire) -> None:
    wire.open(URI, HOLE)
    action = chosen(wire, place(1), "Fill")
    wire.change(URI, 2, insertion(0, 0, "\n"))
    assert wire.error(wire.start("codeAction/resolve", action)) == -32801
    wire.open(URI, HOLE.replace("x", "y"))  # the same version of another text
    assert wire.error(wire.start("codeAction/resolve", action)) == -32801
    wire.notify("textDocument/didClose", {"textDocument": {"uri": URI}})
    assert wire.error(wire.start("codeAction/resolve", action)) == -32803


def test_an_edit_while_it_is_computed_is_refused(wire: Wire) -> None:
    wire.open(URI, HOLE)
    action = chosen(wire, place(1), "Fill")
    wire.request("test/say", {"held": True})
    resolving = wire.start("codeAction/resolve", action)
    wire.request("test/reached", {})
    wire.change(URI, 2, insertion(2, 0, "y = 1\n"))
    wire.request("test/release", {})
    assert wire.error(resolving) == -32801


def test_a_resolve_can_be_cancelled(wire: Wire) -> None:
    wire.open(URI, HOLE)
    action = chosen(wire, place(1), "Fill")
    wire.request("test/say", {"held": True, "steps": 100})
    steps = wire.request("test/counts", {})["steps"]
    resolving = wire.start("codeAction/resolve", action)
    wire.request("test/reached", {})
    wire.notify("$/cancelRequest", {"id": resolving})
    assert wire.error(resolving) == -32800
    wire.request("test/say", {"text": "return 1", "steps": 1})
    (edit,) = edits(wire.request("codeAction/resolve", action))
    assert edit["newText"] == "return 1"
    assert wire.request("test/counts", {})["steps"] == steps + 2


@pytest.mark.parametrize(
    "data",
    [
        7,
        [],
        "fillHole",
        {},
        {"kind": "rm"},
        {"kind": "fillHole", "uri": URI, "version": 1, "checksum": 0, "start": -1, "end": 3},
        {"kind": "fillHole", "uri": URI, "version": 1, "checksum": "0", "start": 0, "end": 3},
        {"kind": "fillHole", "uri": URI, "version": 1, "checksum": 0, "start": 5, "end": 3},
    ],
)
def test_an_action_of_somebody_else_is_refused(wire: Wire, data: object) -> None:
    assert wire.error(wire.start("codeAction/resolve", {"title": "x", "data": data})) == -32602


def test_an_action_beyond_the_end_is_refused(wire: Wire) -> None:
    wire.open(URI, HOLE)
    action = chosen(wire, place(1), "Fill")
    action["data"]["end"] = 10_000
    assert wire.error(wire.start("codeAction/resolve", action)) == -32801


def test_an_action_without_data_comes_back_as_it_is(wire: Wire) -> None:
    assert wire.request("codeAction/resolve", {"title": "x"}) == {"title": "x"}


def test_documents_that_are_not_open_or_not_wanted_offer_nothing(wire: Wire) -> None:
    assert listed(wire, place(0), uri="file:///not/open.py") == []
    wire.notify("workspace/didChangeConfiguration", {"settings": {"disabled_languages": ["python"]}})
    wire.open(URI, HOLE)
    assert listed(wire, place(1)) == []
    wire.notify("workspace/didChangeConfiguration", {"settings": {}})
    assert listed(wire, place(1)) != []


def command(wire: Wire, name: str, argument: object, **params: object) -> int:
    return wire.start("workspace/executeCommand", {"command": f"dgemma.{name}", "arguments": [argument]} | params)


def progress(wire: Wire, token: object) -> dict[str, Any]:
    """The next report about a token."""
    found = wire.wait(lambda message: message.get("method") == "$/progress" and message["params"]["token"] == token)
    value: dict[str, Any] = found["params"]["value"]
    return value


def test_a_command_edits_and_shows_its_progress(wire: Wire) -> None:
    wire.open(URI, HOLE, version=3)
    running = command(wire, "fillHole", {"uri": URI, "position": {"line": 1, "character": 6}}, workDoneToken="mine")
    begin = progress(wire, "mine")
    assert (begin["kind"], begin["cancellable"]) == ("begin", True)
    applied = answer(wire, "workspace/applyEdit", {"applied": True})["params"]
    (document,) = applied["edit"]["documentChanges"]
    assert document["textDocument"]["version"] == 3
    assert document["edits"][0]["newText"] == "return x"
    assert wire.response(running)["result"]["applied"] is True
    assert progress(wire, "mine")["kind"] == "end"


def test_a_command_makes_its_own_progress(wire: Wire) -> None:
    wire.open(URI, HOLE)
    wire.request("test/say", {"held": True})
    running = command(wire, "fillAllHoles", {"uri": URI, "range": place(0)})
    token = answer(wire, "window/workDoneProgress/create", None)["params"]["token"]
    assert progress(wire, token)["kind"] == "begin"
    wire.request("test/release", {})
    answer(wire, "workspace/applyEdit", {"applied": False, "failureReason": "read only"})
    assert wire.response(running)["result"] == {"applied": False, "failureReason": "read only"}
    assert progress(wire, token)["kind"] == "end"


def test_progress_that_is_cancelled_cancels_the_command(wire: Wire) -> None:
    wire.open(URI, HOLE)
    wire.request("test/say", {"held": True, "steps": 100})
    running = command(wire, "fillHole", {"uri": URI, "range": place(1)}, workDoneToken="mine")
    assert progress(wire, "mine")["kind"] == "begin"
    wire.request("test/reached", {})
    wire.notify("window/workDoneProgress/cancel", {"token": "mine"})
    assert wire.error(running) == -32800
    assert progress(wire, "mine")["kind"] == "end"


def test_a_command_that_is_cancelled_stops(wire: Wire) -> None:
    wire.open(URI, HOLE)
    wire.request("test/say", {"held": True, "steps": 100})
    running = command(wire, "fillHole", {"uri": URI, "range": place(1)}, workDoneToken="mine")
    wire.request("test/reached", {})
    wire.notify("$/cancelRequest", {"id": running})
    assert wire.error(running) == -32800
    assert progress(wire, "mine")["kind"] == "begin"
    assert progress(wire, "mine")["kind"] == "end"


@pytest.mark.parametrize(
    "argument", [None, 7, URI, {}, {"uri": URI}, {"uri": 7, "range": place(1)}, {"uri": URI, "range": {}}]
)
def test_a_command_without_its_arguments_is_refused(wire: Wire, argument: object) -> None:
    assert wire.error(command(wire, "fillHole", argument)) == -32602


def test_a_command_where_there_is_nothing_to_do_says_so(wire: Wire) -> None:
    wire.open(URI, "x = 1\n")
    failed = wire.response(command(wire, "fillHole", {"uri": URI, "range": place(0)}))["error"]
    assert failed["code"] == -32803 and "nothing here" in failed["message"]


def test_a_client_that_resolves_nothing_gets_commands_in_its_actions() -> None:
    document = {"codeAction": {"codeActionLiteralSupport": {"codeActionKind": {"valueSet": [""]}}}}
    with started({"textDocument": document}) as wire:
        wire.open(URI, HOLE)
        wire.request("test/say", {"text": "return x"})
        action = chosen(wire, place(1), "Fill")
        assert "data" not in action
        # It applies no edits either: they are the command's result.
        result = wire.request("workspace/executeCommand", action["command"])
        assert result["changes"][URI][0]["newText"] == "return x"


def test_a_client_that_knows_no_actions_gets_commands() -> None:
    with started({"workspace": {"applyEdit": True}}) as wire:
        wire.open(URI, HOLE)
        wire.request("test/say", {"text": "return x"})
        (fill,) = [found for found in listed(wire, place(1)) if found["title"].startswith("Fill")]
        running = wire.start("workspace/executeCommand", {"command": fill["command"], "arguments": fill["arguments"]})
        edit = answer(wire, "workspace/applyEdit", {"applied": True})["params"]["edit"]
        assert edit["changes"][URI][0]["newText"] == "return x"
        assert wire.response(running)["result"]["applied"] is True
