"""A session from its start to its end: settings, loading the model, the log, and how the process ends."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from wire import FAKE_SERVER, TIMEOUT_S, Wire, framed, inline, insertion

URI = "file:///project/module.py"
INLINE = "textDocument/inlineCompletion"


def test_capabilities() -> None:
    with Wire() as wire:
        result = wire.initialize(capabilities={"general": {"positionEncodings": ["utf-32", "utf-8"]}})
    capabilities = result["capabilities"]
    assert capabilities["inlineCompletionProvider"] == {}
    assert capabilities["positionEncoding"] == "utf-32"
    assert capabilities["textDocumentSync"] == {"openClose": True, "change": 2, "save": False}
    assert capabilities["codeActionProvider"] == {
        "codeActionKinds": ["quickfix", "refactor.rewrite"],
        "resolveProvider": True,
    }
    commands = capabilities["executeCommandProvider"]["commands"]
    assert {"dgemma.explainSilence", "dgemma.fillHole", "dgemma.fillAllHoles", "dgemma.repair"} <= set(commands)


@pytest.mark.parametrize("root", [None, "", "untitled:new", "%zz", "file://", "file:///no/such/folder", "\ud800"])
def test_any_root_will_do(root: str | None) -> None:
    with Wire() as wire:
        folders = None if root is None else [{"uri": root, "name": root}]
        assert wire.initialize(rootUri=root, workspaceFolders=folders)


def test_the_model_is_loaded_once() -> None:
    with Wire() as wire:
        wire.initialize()
        wire.notify("initialized", {})
        wire.wait_until_loaded()
        wire.notify("initialized", {})
        wire.request("shutdown", None)
        wire.notify("exit", None)
        assert wire.exit_code() == 0
        assert wire.final_log().count("loading checkpoint") == 1


def test_the_log_has_one_line_for_each_request() -> None:
    with Wire() as wire:
        wire.initialize()
        wire.wait_until_loaded()
        wire.open("file:///project/module.py", "x = ")
        wire.request(INLINE, inline("file:///project/module.py", 0, 4))
        wire.change("file:///project/module.py", 2, insertion(0, 4, "va"))
        wire.request(INLINE, inline("file:///project/module.py", 0, 6))
        wire.open("file:///project/module.py", "# x ")
        wire.request(INLINE, inline("file:///project/module.py", 0, 4))
        wire.request("shutdown", None)
        wire.notify("exit", None)
        wire.exit_code()
        lines = [line for line in wire.final_log().splitlines() if "file='module.py'" in line]
    shown, typed_through, in_comment = lines
    assert "request=3" in shown and "outcome=shown" in shown and "steps=3" in shown and "model_ms=" in shown
    assert "outcome=typed_through" in typed_through and "steps=0" in typed_through
    assert "outcome=in_comment" in in_comment and "total_ms=" in in_comment


def test_bad_settings_give_messages_and_defaults() -> None:
    options = {"dgemma": {"debounceMs": 5, "time_budget_ms": "long", "checkpoint": "mine"}}
    with Wire() as wire:
        wire.initialize(initializationOptions=options)
        messages = [shown_message(wire) for _ in range(2)]
        assert any('nearest one is "debounce_ms"' in message for message in messages)
        assert any("'long'; 60000 is used" in message for message in messages)
        wire.wait_until_loaded()
        wire.wait_for_log("loading checkpoint=mine")


def test_settings_can_change() -> None:
    uri = "file:///a.py"
    with Wire() as wire:
        wire.initialize(initializationOptions={"debounce_ms": 0})
        wire.wait_until_loaded()
        wire.open(uri, "x = ")
        assert wire.request(INLINE, inline(uri, 0, 4))
        off = {"settings": {"dgemma": {"disabled_languages": ["python"]}}}
        wire.notify("workspace/didChangeConfiguration", off)
        assert wire.request(INLINE, inline(uri, 0, 4)) == []
        wire.notify("workspace/didChangeConfiguration", {"settings": {"enabled": "perhaps"}})
        assert "perhaps" in shown_message(wire)
        assert wire.request(INLINE, inline(uri, 0, 4))


def test_while_the_model_loads_there_is_progress_and_a_named_silence() -> None:
    uri = "file:///a.py"
    with Wire(env={"FAKE_LOAD": "wait"}) as wire:
        wire.initialize(capabilities={"window": {"workDoneProgress": True}})
        create = wire.wait(lambda message: message.get("method") == "window/workDoneProgress/create")
        wire.send({"jsonrpc": "2.0", "id": create["id"], "result": None})
        begun, advanced = progress(wire), progress(wire)
        assert (begun["kind"], begun["percentage"]) == ("begin", 0)
        assert (advanced["kind"], advanced["percentage"]) == ("report", 25)
        wire.open(uri, "x = ")
        assert wire.request(INLINE, inline(uri, 0, 4)) == []
        explain = {"command": "dgemma.explainSilence", "arguments": [uri]}
        assert wire.request("workspace/executeCommand", explain)["name"] == "LOADING"
        asked = wire.start(INLINE, inline(uri, 0, 4, kind=1))
        wire.request("test/release", {})
        assert wire.response(asked)["result"][0]["insertText"] == "value"
        assert progress(wire)["kind"] == "end"


def test_the_status_says_how_much_of_the_model_is_loaded() -> None:
    with Wire(env={"FAKE_LOAD": "wait"}) as wire:
        wire.initialize(capabilities={"experimental": {"dgemma": {"status": True}}})
        loading = {"state": "loading", "message": "loading the model"}
        assert [told_status(wire) for _ in range(2)] == [loading | {"percentage": 0}, loading | {"percentage": 25}]
        assert wire.request("dgemma/status", {}) == loading | {"percentage": 25}
        wire.request("test/release", {})
        assert told_status(wire) == {"state": "ready", "message": "fake on none"}


def test_the_status_says_which_checkpoint_it_is_and_what_would_be_better() -> None:
    known = {"checkpoint": "fake", "why": "no other is here", "better": "another"}
    with Wire(env={"FAKE_BETTER": "another"}) as wire:
        wire.initialize(capabilities={"experimental": {"dgemma": {"status": True}}})
        wire.wait_until_loaded()
        found = wire.request("dgemma/status", {})
        assert found["state"] == "ready" and found | known == found
        assert (found["offer"], found["advice"]) == ("3 MB, all languages", "get another")
        wire.request("shutdown", None)
        wire.notify("exit", None)
        assert wire.exit_code() == 0
        assert "window/showMessage" not in [message.get("method") for message in wire.unread()]


def test_a_client_without_the_status_is_told_once_what_would_be_better() -> None:
    with Wire(env={"FAKE_BETTER": "another"}) as wire:
        wire.initialize()
        assert shown_message(wire) == "dgemma: get another"


@pytest.mark.parametrize(
    ("arguments", "options", "why"),
    [
        (["--checkpoint", "embedded"], {}, "named on the command line"),
        ([], {"checkpoint": "embedded"}, "named in the settings"),
        ([], {}, "no better one that can be used is on this machine"),
    ],
)
def test_the_real_server_says_why_it_is_this_checkpoint(
    arguments: list[str], options: dict[str, str], why: str
) -> None:
    with Wire(sys.executable, "-P", "-m", "dgemma_lsp", *arguments) as wire:
        wire.initialize(capabilities={"experimental": {"dgemma": {"status": True}}}, initializationOptions=options)
        wire.wait_until_loaded()
        found = wire.request("dgemma/status", {})
    assert found["message"].startswith("embedded on ") and (found["checkpoint"], found["why"]) == ("embedded", why)
    named = bool(arguments or options)
    assert ("better" in found, "offer" in found, "advice" in found) == (not named,) * 3
    if not named:
        assert f"get it with `dgemma-lsp pull {found['better']}` ({found['offer']})" in found["advice"]


def test_the_embedded_checkpoint_says_how_much_of_it_is_loaded() -> None:
    with Wire(sys.executable, "-P", "-m", "dgemma_lsp") as wire:
        wire.initialize(capabilities={"experimental": {"dgemma": {"status": True}}})
        told = [told_status(wire)]
        while told[-1]["state"] == "loading":
            told.append(told_status(wire))
    assert told[-1]["state"] == "ready"
    shares = [status["percentage"] for status in told[:-1]]
    assert shares == sorted(set(shares)) and (shares[0], shares[-1]) == (0, 100) and len(shares) > 5


def test_a_client_that_refuses_progress_gets_none() -> None:
    with Wire() as wire:
        wire.initialize(capabilities={"window": {"workDoneProgress": True}})
        create = wire.wait(lambda message: message.get("method") == "window/workDoneProgress/create")
        wire.send({"jsonrpc": "2.0", "id": create["id"], "error": {"code": -32603, "message": "no"}})
        wire.wait_until_loaded()
        wire.request("shutdown", None)
        wire.notify("exit", None)
        assert wire.exit_code() == 0
        assert wire.unread() == []


def test_a_client_that_never_answers_about_progress_is_told_all_the_same() -> None:
    with Wire(env={"FAKE_LOAD": "fail"}) as wire:
        wire.initialize(capabilities={"window": {"workDoneProgress": True}})
        assert "the weights are truncated" in shown_message(wire)


def test_a_model_that_cannot_be_loaded_is_told_once_and_the_server_lives_on() -> None:
    uri = "file:///a.py"
    with Wire(env={"FAKE_LOAD": "fail"}) as wire:
        wire.initialize()
        assert "the weights are truncated" in shown_message(wire)
        wire.open(uri, "x = ")
        for kind in (1, 2, 2):
            assert wire.request(INLINE, inline(uri, 0, 4, kind)) == []
        explain = {"command": "dgemma.explainSilence", "arguments": [uri]}
        assert wire.request("workspace/executeCommand", explain)["name"] == "NO_MODEL"
        wire.request("shutdown", None)
        wire.notify("exit", None)
        assert wire.exit_code() == 0
        assert wire.unread() == []


def shown_message(wire: Wire) -> str:
    """The next message that the user is shown."""
    return str(wire.wait(lambda message: message.get("method") == "window/showMessage")["params"]["message"])


def told_status(wire: Wire) -> dict[str, Any]:
    """The next notification of what the server is doing."""
    found: dict[str, Any] = wire.wait(lambda message: message.get("method") == "dgemma/status")["params"]
    return found


def progress(wire: Wire) -> dict[str, Any]:
    """The next progress report."""
    value: dict[str, Any] = wire.wait(lambda message: message.get("method") == "$/progress")["params"]["value"]
    return value


def test_over_tcp() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Wire(sys.executable, "-P", str(FAKE_SERVER), "--tcp", str(port), env={"DGEMMA_TOKEN": "the token"}) as wire:
        wire.wait_for_log("listening on")
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as client, client.makefile("rwb") as pipe:
            request = {"jsonrpc": "2.0", "id": 1, "method": "initialize"}
            request["params"] = {"capabilities": {}, "initializationOptions": {"token": "the token"}}
            pipe.write(framed(json.dumps(request)))
            pipe.flush()
            length = int(pipe.readline().removeprefix(b"Content-Length: "))
            while pipe.readline().strip():
                pass
            assert "inlineCompletionProvider" in json.loads(pipe.read(length))["result"]["capabilities"]
        assert wire.exit_code() == 1


def test_importing_the_server_does_not_import_torch() -> None:
    program = "import sys, dgemma_lsp.server; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_key_that_is_held_down_keeps_nobody_waiting(own_wire: Wire) -> None:
    own_wire.request("test/say", {"held": True, "steps": 1})
    own_wire.open(URI, "x = ")
    before = own_wire.request("test/counts", {})["fills"]
    invoked = [own_wire.start(INLINE, inline(URI, 0, 4, kind=1)) for _ in range(40)]
    own_wire.request("test/reached", {})
    fills = [command_at(own_wire) for _ in range(5)]
    own_wire.change(URI, 2, insertion(0, 4, "v"))
    typed = own_wire.start(INLINE, inline(URI, 0, 5))
    assert [own_wire.response(asked)["result"] for asked in invoked[:-1]] == [None] * 39
    assert [own_wire.error(asked) for asked in fills[:-1]] == [-32803] * 4
    own_wire.request("test/release", {})
    own_wire.response(typed)
    own_wire.response(invoked[-1])
    own_wire.response(fills[-1])
    # One of the forty began before the others came; the last has candidates, the command a fill, the keystroke one.
    assert own_wire.request("test/counts", {})["fills"] - before <= 1 + 3 + 1 + 1


def command_at(wire: Wire) -> int:
    place = {"uri": URI, "position": {"line": 0, "character": 4}}
    return wire.start("workspace/executeCommand", {"command": "dgemma.fillHole", "arguments": [place]})


def test_what_a_client_tells_other_servers_is_not_for_us(own_wire: Wire) -> None:
    own_wire.open(URI, "x = ")
    own_wire.notify("workspace/didChangeConfiguration", {"settings": {"dgemma": {"enabled": False}}})
    others = {"pylsp": {"plugins": {"jedi_completion": {"enabled": True}}}, "gopls": {}}
    own_wire.notify("workspace/didChangeConfiguration", {"settings": others})
    assert own_wire.request(INLINE, inline(URI, 0, 4)) == []  # as it was
    own_wire.notify("workspace/didChangeConfiguration", {"settings": others | {"dgemma": {"enabled": True}}})
    assert own_wire.request(INLINE, inline(URI, 0, 4)) != []
    own_wire.notify("exit", None)
    own_wire.exit_code()
    assert [said for said in own_wire.unread() if said.get("method") == "window/showMessage"] == []


def test_folders_may_change_while_requests_wait_for_their_rules(own_wire: Wire, tmp_path: Path) -> None:
    """All in one piece, so that the folders change before the disk has said what the rules are."""
    (tmp_path / ".dgemmaignore").write_text("0.py\n")
    uris = [(tmp_path / f"{number}.py").as_uri() for number in range(40)]
    said, asked = b"", []
    for number, uri in enumerate(uris):
        item = {"uri": uri, "languageId": "python", "version": 1, "text": "x = "}
        said += framed(message("textDocument/didOpen", {"textDocument": item}))
        for method, params in (("dgemma/status", {"uri": uri}), (INLINE, inline(uri, 0, 4, kind=1))):
            asked.append(f"{method} {number}")
            said += framed(message(method, params, asked[-1]))
    added = [{"uri": tmp_path.as_uri(), "name": "project"}]
    said += framed(message("workspace/didChangeWorkspaceFolders", {"event": {"added": added, "removed": []}}))
    own_wire.send_bytes(said)
    results = {name: own_wire.response(name)["result"] for name in asked}
    assert [name for name in asked if name.startswith("dgemma/status") and "excluded" in results[name]] == [
        "dgemma/status 0"
    ]
    assert [name for name in asked if results[name] == []] == [f"{INLINE} 0"]


def message(method: str, params: object, msg_id: str | None = None) -> str:
    return json.dumps({"jsonrpc": "2.0", "method": method, "params": params} | ({"id": msg_id} if msg_id else {}))
