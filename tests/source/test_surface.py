"""What a client meets besides plain suggestions: settings that it keeps, exclusions, notebooks, menus, counts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from wire import Wire, inline, insertion

URI = "file:///project/module.py"
INLINE = "textDocument/inlineCompletion"


def texts(items: list[dict[str, Any]]) -> list[str]:
    return [item["insertText"] for item in items]


def silence(wire: Wire, uri: str = URI) -> dict[str, str] | None:
    found: dict[str, str] | None = wire.request(
        "workspace/executeCommand", {"command": "dgemma.explainSilence", "arguments": [uri]}
    )
    return found


def settings(wire: Wire, **values: object) -> None:
    wire.notify("workspace/didChangeConfiguration", {"settings": values})


def test_manual_means_only_when_asked(own_wire: Wire) -> None:
    settings(own_wire, trigger="manual")
    own_wire.open(URI, "x = ")
    assert own_wire.request(INLINE, inline(URI, 0, 4)) == []
    assert (silence(own_wire) or {})["name"] == "MANUAL"
    assert own_wire.request(INLINE, inline(URI, 0, 4, kind=1))
    menu = {"textDocument": {"uri": URI}, "position": {"line": 0, "character": 4}}
    assert own_wire.request("textDocument/completion", menu)["items"]


def test_comments_and_strings_by_setting(own_wire: Wire) -> None:
    for setting, text in [("in_comments", "# x "), ("in_strings", 'x = "a ')]:
        own_wire.open(URI, text)
        assert own_wire.request(INLINE, inline(URI, 0, len(text))) == []
        settings(own_wire, **{setting: True})
        assert own_wire.request(INLINE, inline(URI, 0, len(text)))


def test_settings_that_the_client_keeps_are_asked_for() -> None:
    with Wire() as wire:
        wire.initialize(capabilities={"workspace": {"configuration": True}}, initializationOptions={"debounce_ms": 0})
        asked = wire.wait(lambda message: message.get("method") == "workspace/configuration")
        assert asked["params"] == {"items": [{"section": "dgemma"}]}
        wire.send({"jsonrpc": "2.0", "id": asked["id"], "result": [{"checkpoint": "kept", "tigger": 1}]})
        warning = wire.wait(lambda message: message.get("method") == "window/showMessage")
        assert 'nearest one is "trigger"' in warning["params"]["message"]
        wire.wait_until_loaded()
        wire.wait_for_log("loading checkpoint=kept")
        settings(wire)
        asked = wire.wait(lambda message: message.get("method") == "workspace/configuration")
        wire.send({"jsonrpc": "2.0", "id": asked["id"], "result": [{"checkpoint": "kept", "enabled": False}]})
        wire.open(URI, "x = ")
        while wire.request(INLINE, inline(URI, 0, 4, kind=1)):
            pass  # until the answer was taken in
        assert (silence(wire) or {})["name"] == "DISABLED"


@pytest.mark.parametrize("answer", [{"result": None}, {"result": []}, {"result": [None]}, {"result": [7]},
                                    {"error": {"code": -32601, "message": "no"}}])  # fmt: skip
def test_a_client_that_keeps_no_settings_after_all(answer: dict[str, Any]) -> None:
    with Wire() as wire:
        wire.initialize(capabilities={"workspace": {"configuration": True}})
        asked = wire.wait(lambda message: message.get("method") == "workspace/configuration")
        wire.send({"jsonrpc": "2.0", "id": asked["id"]} | answer)
        wire.wait_until_loaded()


def test_an_excluded_file_is_neither_completed_nor_edited_and_the_rule_is_said(tmp_path: Path) -> None:
    (tmp_path / ".dgemmaignore").write_text("private/\n")
    private, secret, other = [(tmp_path / name).as_uri() for name in ("private/a.py", ".env", "b.py")]
    with Wire() as wire:
        wire.initialize(workspaceFolders=[{"uri": tmp_path.as_uri(), "name": "it"}])
        wire.wait_until_loaded()
        for uri in (private, secret, other):
            wire.open(uri, "def f(x):\n    pass")
        fills = wire.request("test/counts", {})["fills"]
        for uri, rule in [(private, ".dgemmaignore: private/"), (secret, "looks secret: .env")]:
            assert wire.request(INLINE, inline(uri, 1, 4, kind=1)) == []
            assert silence(wire, uri) == {
                "name": "EXCLUDED",
                "reason": "this document is never read or completed",
                "rule": rule,
            }
            at = {"line": 1, "character": 4}
            action = {"textDocument": {"uri": uri}, "range": {"start": at, "end": at}, "context": {"diagnostics": []}}
            assert wire.request("textDocument/codeAction", action) == []
            command = {"command": "dgemma.fillHole", "arguments": [{"uri": uri, "position": at}]}
            assert wire.error(wire.start("workspace/executeCommand", command)) == -32803
        assert wire.request("test/counts", {})["fills"] == fills
        assert wire.request(INLINE, inline(other, 1, 8, kind=1))


def test_folders_may_come_and_go(tmp_path: Path) -> None:
    (tmp_path / ".dgemmaignore").write_text("deep/\n")
    folder, uri = {"uri": tmp_path.as_uri(), "name": "it"}, (tmp_path / "deep" / "a.py").as_uri()
    with Wire() as wire:
        wire.initialize()
        wire.wait_until_loaded()
        wire.open(uri, "x = ")
        assert wire.request(INLINE, inline(uri, 0, 4, kind=1))
        wire.notify("workspace/didChangeWorkspaceFolders", {"event": {"added": [folder], "removed": []}})
        assert wire.request(INLINE, inline(uri, 0, 4, kind=1)) == []
        wire.notify("workspace/didChangeWorkspaceFolders", {"event": {"added": [], "removed": [folder]}})
        assert wire.request(INLINE, inline(uri, 0, 4, kind=1))


def test_a_line_that_nobody_wrote_is_left_alone(own_wire: Wire) -> None:
    own_wire.open(URI, "x = " + "1" * 30_000)
    assert own_wire.request(INLINE, inline(URI, 0, 30_004, kind=1)) == []
    assert "line longer" in (silence(own_wire) or {})["rule"]


def test_an_untitled_document_is_completed(own_wire: Wire) -> None:
    own_wire.open("untitled:Untitled-1", "x = ")
    assert texts(own_wire.request(INLINE, inline("untitled:Untitled-1", 0, 4))) == ["value"]


def test_who_asks_may_choose(own_wire: Wire) -> None:
    own_wire.request("test/say", {"text": ["one", "two", "two"], "steps": 1})
    own_wire.open(URI, "x = ")
    assert texts(own_wire.request(INLINE, inline(URI, 0, 4, kind=1))) == ["one", "two"]
    own_wire.request("test/say", {"text": ["", "two", "three"], "steps": 1})
    assert texts(own_wire.request(INLINE, inline(URI, 0, 4, kind=1))) == ["two", "three"]
    assert texts(own_wire.request(INLINE, inline(URI, 0, 4))) == []


def test_what_the_menu_has_selected_is_gone_on_from(own_wire: Wire) -> None:
    own_wire.request("test/say", {"text": "_name)", "steps": 1})
    own_wire.open(URI, "print(fi)")
    params = inline(URI, 0, 8)
    start, end = {"line": 0, "character": 6}, {"line": 0, "character": 8}
    params["context"]["selectedCompletionInfo"] = {"range": {"start": start, "end": end}, "text": "first"}
    (item,) = own_wire.request(INLINE, params)
    assert item["insertText"] == "first_name)"
    assert item["range"] == {"start": start, "end": {"line": 0, "character": 9}}
    seen = own_wire.request("test/seen", {})
    assert (seen["prefix"], seen["suffix"]) == ("print(first", ")")
    another_range = {"start": start, "end": {"line": 0, "character": 7}}  # not at the cursor: not ours to mind
    params["context"]["selectedCompletionInfo"]["range"] = another_range
    assert own_wire.request(INLINE, params)[0]["range"]["start"] == end


def test_the_same_text_again_needs_no_model(own_wire: Wire) -> None:
    own_wire.open(URI, "x = ")
    assert own_wire.request(INLINE, inline(URI, 0, 4))
    own_wire.change(URI, 2, insertion(0, 4, "z"))
    assert own_wire.request(INLINE, inline(URI, 0, 5))
    fills = own_wire.request("test/counts", {})["fills"]
    place = {"start": {"line": 0, "character": 4}, "end": {"line": 0, "character": 5}}
    own_wire.change(URI, 3, {"range": place, "text": ""})
    assert texts(own_wire.request(INLINE, inline(URI, 0, 4))) == ["value"]
    assert own_wire.request("test/counts", {})["fills"] == fills


def test_what_follows_acceptance_is_worked_out_ahead() -> None:
    with Wire(env={"FAKE_AHEAD": "1"}) as wire:
        wire.initialize()
        wire.wait_until_loaded()
        wire.request("test/say", {"text": " + b", "steps": 1})
        wire.open(URI, "x = a")
        assert texts(wire.request(INLINE, inline(URI, 0, 5))) == [" + b"]
        # What follows the first suggestion, in another document, may have been worked out, too.
        wire.wait_for_log("file='module.py' outcome=ahead found=suggestion")
        assert wire.request("test/seen", {})["prefix"] == "x = a + b"
        wire.request("test/say", {"text": " + c", "steps": 1})
        wire.change(URI, 2, insertion(0, 5, " + b"))
        assert texts(wire.request(INLINE, inline(URI, 0, 9))) == [" + b"]  # as it was worked out


def test_offers_are_counted_for_the_user_alone(own_wire: Wire) -> None:
    own_wire.open(URI, "x = ")
    (item,) = own_wire.request(INLINE, inline(URI, 0, 4))
    before = own_wire.request("dgemma/stats", {})
    own_wire.notify("textDocument/didShowCompletion", {"item": item})
    own_wire.notify("textDocument/didPartiallyAcceptCompletion", {"item": item, "acceptedLength": 2})
    for odd in ({}, None, 7, {"item": 7}, {"item": {"command": {"arguments": [[]]}}}, {"acceptedLength": "x"}):
        own_wire.notify("textDocument/didShowCompletion", odd)
        own_wire.notify("textDocument/didPartiallyAcceptCompletion", odd)
    command = {name: item["command"][name] for name in ("command", "arguments")}
    for _ in range(2):
        assert own_wire.request("workspace/executeCommand", command) is None
    own_wire.open(URI, "# x ")
    own_wire.request(INLINE, inline(URI, 0, 4))
    after = own_wire.request("dgemma/stats", {})
    assert after["offered"] == before["offered"]
    assert (after["shown"], after["partly_accepted"], after["accepted"]) == (1, 1, 1)
    assert after["silences"]["IN_COMMENT"] == 1 and after["delay_ms"] >= 0


def test_the_status_is_told_to_who_wants_it() -> None:
    for wanted in (True, False):
        with Wire() as wire:
            wire.initialize(capabilities={"experimental": {"dgemma": {"status": wanted}}})
            wire.wait_until_loaded()
            assert wire.request("dgemma/status", {}) == {"state": "ready", "message": "fake on none"}
            assert wire.request("dgemma/status", {"uri": "file:///a/.env"})["excluded"] == "looks secret: .env"
            for odd in (None, 7, {"uri": 7}):
                assert wire.request("dgemma/status", odd)["state"] == "ready"
            wire.request("shutdown", None)
            wire.notify("exit", None)
            wire.exit_code()
            told = [said["params"]["state"] for said in wire.unread() if said.get("method") == "dgemma/status"]
            assert told == (["loading", "ready"] if wanted else [])


def test_an_excluded_file_is_not_shown_beside_another_one(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("private.py\n")
    with Wire(env={"FAKE_PROMPT": "4096"}) as wire:
        wire.initialize(workspaceFolders=[{"uri": tmp_path.as_uri(), "name": "it"}])
        wire.wait_until_loaded()
        wire.open((tmp_path / "private.py").as_uri(), "def hidden_name(secret):\n    pass\n")
        wire.open((tmp_path / "public.py").as_uri(), "def open_name(known):\n    pass\n")
        wire.open((tmp_path / "a.py").as_uri(), "x = \nopen_name(hidden_name())\n")
        assert wire.request(INLINE, inline((tmp_path / "a.py").as_uri(), 0, 4))
        assert wire.request("test/seen", {})["prefix"] == "def open_name(known):\nx = "
        uri = (tmp_path / "b.py").as_uri()
        wire.open(uri, "def f():\n    pass\n\n\nopen_name(hidden_name())\n")
        named = {"uri": uri, "position": {"line": 1, "character": 4}}
        assert wire.request("workspace/executeCommand", {"command": "dgemma.fillHole", "arguments": [named]})
        assert wire.request("test/seen", {})["prefix"] == "def open_name(known):\ndef f():\n    "


def test_what_was_just_deleted_is_not_remembered_either(own_wire: Wire) -> None:
    own_wire.open(URI, "x = ")
    assert own_wire.request(INLINE, inline(URI, 0, 4))
    own_wire.change(URI, 2, insertion(0, 4, "value"))
    deletion = {"range": {"start": {"line": 0, "character": 4}, "end": {"line": 0, "character": 9}}, "text": ""}
    own_wire.change(URI, 3, deletion)
    assert own_wire.request(INLINE, inline(URI, 0, 4)) == []
    assert (silence(own_wire) or {})["name"] == "UNDOES"


NOTEBOOK = "file:///project/analysis.ipynb"


def cell(number: int) -> str:
    return f"vscode-notebook-cell:/project/analysis.ipynb#{number}"


def open_notebook(wire: Wire, *cells: str, prose: Sequence[int] = ()) -> None:
    document = {
        "uri": NOTEBOOK,
        "notebookType": "jupyter-notebook",
        "version": 1,
        "cells": [{"kind": 1 if number in prose else 2, "document": cell(number)} for number in range(len(cells))],
    }
    items = [
        {
            "uri": cell(number),
            "languageId": "markdown" if text.startswith("#") else "python",
            "version": 1,
            "text": text,
        }
        for number, text in enumerate(cells)
    ]
    wire.notify("notebookDocument/didOpen", {"notebookDocument": document, "cellTextDocuments": items})


def test_the_cells_of_a_notebook_are_one_context(own_wire: Wire) -> None:
    open_notebook(own_wire, "import os", "# Title", "path = ", "print(path)\n")
    (item,) = own_wire.request(INLINE, inline(cell(2), 0, 7))
    assert item["range"]["start"] == {"line": 0, "character": 7}
    seen = own_wire.request("test/seen", {})
    assert (seen["prefix"], seen["suffix"]) == ("import os\npath = ", "\nprint(path)\n")


def test_the_cells_are_shown_once_to_who_reads_more() -> None:
    with Wire(env={"FAKE_PROMPT": "4096"}) as wire:
        wire.initialize()
        wire.wait_until_loaded()
        open_notebook(wire, "def f(known):\n    pass\n", "path = ", "f(path)\n")
        assert wire.request(INLINE, inline(cell(1), 0, 7))
        assert wire.request("test/seen", {})["prefix"] == "def f(known):\n    pass\npath = "


@pytest.mark.parametrize("scheme", ["vscode-notebook-cell:", "file://"])
def test_names_in_a_cell_may_come_from_elsewhere(own_wire: Wire, scheme: str) -> None:
    own_wire.request("test/say", {"text": "nowhere"})
    own_wire.open(URI, "import os\nx = ")
    assert own_wire.request(INLINE, inline(URI, 1, 4)) == []
    assert (silence(own_wire) or {})["name"] == "UNRESOLVED"
    uri = f"{scheme}/project/other.ipynb#1"
    document = {"uri": f"{NOTEBOOK}2", "notebookType": "x", "version": 1, "cells": [{"kind": 2, "document": uri}]}
    item = {"uri": uri, "languageId": "python", "version": 1, "text": "import os\nx = "}
    own_wire.notify("notebookDocument/didOpen", {"notebookDocument": document, "cellTextDocuments": [item]})
    assert own_wire.request(INLINE, inline(uri, 1, 4))


def test_a_notebook_changes(own_wire: Wire) -> None:
    open_notebook(own_wire, "import os", "path = ")
    item = {"uri": cell(7), "languageId": "python", "version": 1, "text": "import sys\n"}
    own_wire.notify(
        "notebookDocument/didChange",
        {
            "notebookDocument": {"uri": NOTEBOOK, "version": 2},
            "change": {
                "cells": {
                    "structure": {
                        "array": {"start": 0, "deleteCount": 1, "cells": [{"kind": 2, "document": cell(7)}]},
                        "didOpen": [item],
                        "didClose": [{"uri": cell(0)}],
                    },
                    "textContent": [{"document": {"uri": cell(1), "version": 2}, "changes": [insertion(0, 7, "sys")]}],
                }
            },
        },
    )
    assert own_wire.text(cell(0)) is None
    assert own_wire.request(INLINE, inline(cell(1), 0, 10, kind=1))
    assert own_wire.request("test/seen", {})["prefix"] == "import sys\npath = sys"
    closed = {"notebookDocument": {"uri": NOTEBOOK}, "cellTextDocuments": [{"uri": cell(1)}]}
    own_wire.notify("notebookDocument/didClose", closed)
    assert own_wire.text(cell(1)) is None and own_wire.text(cell(7)) is None


def restructure(wire: Wire, start: int, deleted: int, *opened: tuple[int, int, str]) -> None:
    """Put cells, each a number, a kind and a text, in the place of others."""
    items = [{"uri": cell(number), "languageId": "python", "version": 1, "text": text} for number, _, text in opened]
    cells = [{"kind": kind, "document": cell(number)} for number, kind, _ in opened]
    structure = {"array": {"start": start, "deleteCount": deleted, "cells": cells}, "didOpen": items}
    params = {"notebookDocument": {"uri": NOTEBOOK, "version": 2}, "change": {"cells": {"structure": structure}}}
    wire.notify("notebookDocument/didChange", params)


def test_clients_count_cells_of_prose_too(own_wire: Wire) -> None:
    open_notebook(own_wire, "# One", "import a\n", "# Two", "import b\n", "path = ", prose=(0, 2))
    restructure(own_wire, 3, 1, (7, 2, "import c\n"))
    assert own_wire.request(INLINE, inline(cell(4), 0, 7, kind=1))
    assert own_wire.request("test/seen", {})["prefix"] == "import a\nimport c\npath = "
    restructure(own_wire, 0, 2)
    assert own_wire.request(INLINE, inline(cell(4), 0, 7, kind=1))
    assert own_wire.request("test/seen", {})["prefix"] == "import c\npath = "


def test_a_cell_may_become_prose(own_wire: Wire) -> None:
    open_notebook(own_wire, "import a\n", "path = ")
    data = {"cells": {"data": [{"kind": 1, "document": cell(0)}]}}
    own_wire.notify("notebookDocument/didChange", {"notebookDocument": {"uri": NOTEBOOK, "version": 2}, "change": data})
    assert own_wire.request(INLINE, inline(cell(1), 0, 7, kind=1))
    assert own_wire.request("test/seen", {})["prefix"] == "path = "


@pytest.mark.parametrize(
    ("above", "said"),
    [
        ("def f(x):\n    y = x", "    return y"),
        ("try:\n    f()", "except ValueError:\n    pass"),
        ("if a:\n    f()", "else:\n    g()"),
        ("x = f(\n    1,", "    a=2)"),
        ("def f(x):", "    return x"),
        ("for a in b:", "    break"),
    ],
)
@pytest.mark.parametrize("kind", [1, 2])
def test_a_cell_never_goes_on_with_the_one_above(own_wire: Wire, above: str, said: str, kind: int) -> None:
    own_wire.request("test/say", {"text": said})
    open_notebook(own_wire, above, "", "x = ")
    assert own_wire.request(INLINE, inline(cell(1), 0, 0, kind=kind)) == []
    own_wire.request("test/say", {"text": "await f(x)"})
    assert own_wire.request(INLINE, inline(cell(2), 0, 4, kind=kind))


def test_notebooks_are_announced_to_clients_that_know_them() -> None:
    with Wire() as wire:
        result = wire.initialize(capabilities={"notebookDocument": {"synchronization": {}}})
        assert result["capabilities"]["notebookDocumentSync"]["notebookSelector"] == [{"notebook": "*"}]
