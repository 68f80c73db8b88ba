"""What arrives may be anything; each request gets an answer, the server lives, and its documents stay exact."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest
import reference_text
from wire import FAKE_SERVER, TIMEOUT_S, Wire, inline, insertion

URI = "file:///work/module.py"
INLINE = "textDocument/inlineCompletion"


def body(text: str | bytes) -> bytes:
    data = text if isinstance(text, bytes) else text.encode()
    return b"Content-Length: %d\r\n\r\n%s" % (len(data), data)


def assert_alive(wire: Wire) -> None:
    wire.open("file:///alive.py", "x = ")
    assert wire.text("file:///alive.py") == "x = "


def error_of(wire: Wire, msg_id: object) -> int:
    return int(wire.response(msg_id)["error"]["code"])


@pytest.mark.parametrize(
    ("rubbish", "code"),
    [
        (b"{", -32700),
        (b"\xff\xfe\x00", -32700),
        (b"", -32700),
        (b"[" * 100_000, -32700),
        (b"42", -32600),
        (b"[]", -32600),
        (b"null", -32600),
        (b'{"id": null, "method": "x"}', -32600),
    ],
)
def test_what_is_no_message_gets_an_error_without_an_id(wire: Wire, rubbish: bytes, code: int) -> None:
    wire.send_bytes(body(rubbish))
    assert error_of(wire, None) == code
    assert_alive(wire)


@pytest.mark.parametrize(
    "params",
    [
        None,
        7,
        {},
        {"textDocument": {"uri": URI}},
        {"textDocument": {"uri": URI}, "position": {"line": -1, "character": 0}},
        {"textDocument": {"uri": URI}, "position": {"line": "a", "character": 0}},
    ],
)
def test_a_request_that_cannot_be_decoded_gets_an_error(wire: Wire, params: object) -> None:
    assert error_of(wire, wire.start(INLINE, params)) == -32602
    assert_alive(wire)


@pytest.mark.parametrize(
    "message",
    [
        {"jsonrpc": "2.0", "id": "an id", "method": "no/such/method", "params": {}},
        {"jsonrpc": "2.0", "id": "an id", "method": "no/such/method"},
        {"jsonrpc": "2.0", "id": "an id", "method": 7, "params": {}},
        {"jsonrpc": "2.0", "id": "an id", "method": ["unhashable"], "params": {}},
        {"jsonrpc": "2.0", "id": "an id", "method": INLINE, "params": {"jsonrpc": "2.0", "id": 5}},
        {"jsonrpc": "1.0", "id": "an id", "method": INLINE, "params": {}},
        {"jsonrpc": "2.0", "id": "an id", "method": "initialize", "params": {"capabilities": {}}},
        {"jsonrpc": "2.0", "id": "an id", "method": "workspace/executeCommand", "params": {"command": "rm"}},
    ],
)
def test_a_request_that_makes_no_sense_gets_an_error(wire: Wire, message: object) -> None:
    wire.send(message)
    assert "error" in wire.response("an id")
    assert_alive(wire)


@pytest.mark.parametrize(
    "message",
    [
        {"jsonrpc": "2.0", "method": "no/such/notification", "params": {}},
        {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {"id": 4711}},
        {"jsonrpc": "2.0", "method": "$/cancelRequest", "params": {}},
        {"jsonrpc": "2.0", "method": "textDocument/didOpen", "params": {}},
        {"jsonrpc": "2.0", "method": "workspace/didChangeConfiguration", "params": {"settings": 7}},
        {"jsonrpc": "2.0", "id": 4711, "result": {"nobody": "asked"}},
        {"jsonrpc": "2.0", "id": 4711, "error": {"code": 1, "message": "nobody asked"}},
        {"jsonrpc": "2.0"},
    ],
)
def test_other_nonsense_is_survived(wire: Wire, message: object) -> None:
    wire.send(message)
    assert_alive(wire)


@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"Content-Length: many\r\n\r\n",
        b"\r\n\r\n\x00\xff\n",
        b"Content-Length: 5\r\n\r\n" + body('{"jsonrpc": "2.0", "method": "lost"}')[20:],
        b"x" * 1_000_000 + b"\r\n",
    ],
)
def test_rubbish_between_messages_is_skipped(wire: Wire, noise: bytes) -> None:
    wire.send_bytes(noise)
    assert_alive(wire)


def test_a_wrong_length_does_not_deafen_the_server(wire: Wire) -> None:
    for wrong in (-7, -1, 5):
        message = json.dumps({"jsonrpc": "2.0", "method": "test/none", "params": {}}).encode()
        wire.send_bytes(b"Content-Length: %d\r\n\r\n%s" % (len(message) + wrong, message))
        wire.notify("a message that may be lost with it", {})
    assert_alive(wire)


def test_headers_in_any_case_and_order_and_a_message_byte_by_byte(wire: Wire) -> None:
    message = b'{"jsonrpc": "2.0", "id": "slow", "method": "test/text", "params": {"uri": "none"}}'
    header = b"content-type: application/vscode-jsonrpc; charset=utf-8\r\ncontent-length:%d\r\n\r\n" % len(message)
    for byte in header + message:
        wire.send_bytes(bytes([byte]))
    assert wire.response("slow")["result"] is None


def test_before_initialize_requests_are_refused_and_notifications_dropped() -> None:
    with Wire() as wire:
        wire.open(URI, "x = ")
        assert error_of(wire, wire.start(INLINE, inline(URI, 0, 4))) == -32002
        wire.initialize()
        assert wire.text(URI) is None


@pytest.mark.parametrize("kind", [0, 1, 2, 3, "Automatic", None])
def test_any_trigger_kind_is_answered(wire: Wire, kind: int) -> None:
    wire.open(URI, "x = \n")
    items = wire.request(INLINE, inline(URI, 0, 4, kind))
    assert [item["insertText"] for item in items] == ["value"]


@pytest.mark.parametrize("position", [(0, 99), (99, 0), (2**31 - 1, 2**31 - 1)])
def test_positions_outside_the_text_are_its_ends(wire: Wire, position: tuple[int, int]) -> None:
    wire.open(URI, "x = ")
    (item,) = wire.request(INLINE, inline(URI, *position))
    assert item["range"]["start"] == {"line": 0, "character": 4}


def test_a_document_that_is_not_open_gets_silence_with_a_reason(wire: Wire) -> None:
    wire.change("file:///elsewhere.py", 2, insertion(0, 0, "secret"))
    assert wire.request(INLINE, inline("file:///elsewhere.py", 0, 0)) == []
    explain = {"command": "dgemma.explainSilence", "arguments": ["file:///elsewhere.py"]}
    assert wire.request("workspace/executeCommand", explain)["name"] == "NOT_OPEN"
    assert wire.text("file:///elsewhere.py") is None


@pytest.mark.parametrize(
    "text",
    [
        "x = 1\f\ny = ",
        "x = '\u2028\x85'\ny = ",
        "x = 1\r\ny = ",
        "x = 1\ry = ",
        "x = '\ud800'\ny = ",
        "\x00\x01\x02\x7f\ny = ",
        "x = '<turn|> <bos> <|mask|>'\ny = ",
        "x = '" + "long" * 1_250_000 + "'\ny = ",
    ],
)
def test_strange_files_are_kept_exactly_and_filled(wire: Wire, text: str) -> None:
    wire.open(URI, text)
    (item,) = wire.request(INLINE, inline(URI, 1, 4))
    assert item["range"]["start"] == {"line": 1, "character": 4}
    assert wire.text(URI) == text


@pytest.mark.parametrize("language", ["plaintext", "no such language", ""])
def test_any_language_is_filled_as_text(wire: Wire, language: str) -> None:
    wire.open(URI, "some words and ", language)
    assert len(wire.request(INLINE, inline(URI, 0, 15))) == 1


@pytest.mark.parametrize("encoding", reference_text.ENCODINGS)
def test_random_edits_leave_the_reference_text(encoding: str) -> None:
    with Wire() as wire:
        result = wire.initialize(capabilities={"general": {"positionEncodings": [encoding]}})
        assert result["capabilities"]["positionEncoding"] == encoding
        wire.open(URI, "")
        expected = ""
        edits = iter(reference_text.random_edits(1126, 600, encoding))
        for version in range(2, 62):
            chunk = [next(edits) for _ in range(10)]
            for edit, _ in chunk[:5]:  # one notification each, then one with five changes
                wire.change(URI, version, edit.lsp())
            wire.change(URI, version, *(edit.lsp() for edit, _ in chunk[5:]))
            expected = chunk[-1][1]
            assert wire.text(URI) == expected


def test_after_a_change_that_cannot_be_read_the_document_is_not_guessed_at(wire: Wire) -> None:
    wire.open(URI, "x = ")
    wire.change(URI, 2, {"range": {"start": "here", "end": "there"}, "text": "y"})
    assert wire.text(URI) is None
    assert wire.request(INLINE, inline(URI, 0, 4)) == []


def test_each_request_sees_the_text_that_it_was_sent_with(wire: Wire) -> None:
    """Messages that arrive in one piece are still handled one after the other."""
    wire.request("test/say", {"text": "abc"})
    wire.open(URI, "x = ")
    ask = {"jsonrpc": "2.0", "id": "ask", "method": INLINE, "params": inline(URI, 0, 4, kind=1)}
    change = {"textDocument": {"uri": URI, "version": 2}, "contentChanges": [insertion(0, 0, "\n\n")]}
    told = {"jsonrpc": "2.0", "method": "textDocument/didChange", "params": change}
    wire.send_bytes(body(json.dumps(ask)) + body(json.dumps(told)))
    # The text moved while the model worked: nothing is shown where the cursor is not.
    assert wire.response("ask")["result"] == []
    assert wire.text(URI) == "\n\nx = "


def test_exit_after_shutdown_is_0(wire: Wire) -> None:
    assert wire.request("shutdown", None) is None
    assert error_of(wire, wire.start(INLINE, inline(URI, 0, 0))) == -32600
    wire.notify("exit", None)
    assert wire.exit_code() == 0


def test_exit_without_shutdown_is_1(wire: Wire) -> None:
    wire.notify("exit", None)
    assert wire.exit_code() == 1


def test_the_end_of_input_ends_the_server(wire: Wire) -> None:
    wire.process.stdin.close()
    assert wire.exit_code() == 1


def test_half_a_message_at_the_end_of_input_ends_the_server(wire: Wire) -> None:
    wire.send_bytes(b'Content-Length: 100\r\n\r\n{"jsonrpc": ')
    wire.process.stdin.close()
    assert wire.exit_code() == 1


def test_a_client_that_does_not_read_ends_the_server() -> None:
    read_end, write_end = os.pipe()
    command = (sys.executable, "-P", str(FAKE_SERVER))
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=write_end, stderr=subprocess.DEVNULL)
    os.close(read_end)
    os.close(write_end)
    initialize = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"capabilities": {}}}
    assert server.stdin is not None
    server.stdin.write(body(json.dumps(initialize)))
    server.stdin.flush()  # and the pipe stays open
    assert server.wait(TIMEOUT_S) == 1
    server.stdin.close()


def test_the_end_of_the_clients_process_ends_the_server() -> None:
    client = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with Wire() as wire:
        wire.initialize(processId=client.pid)
        assert_alive(wire)
        client.communicate(b"\n")
        assert wire.exit_code() == 1


def test_shutdown_during_a_fill(wire: Wire) -> None:
    wire.request("test/say", {"held": True})
    wire.open(URI, "x = ")
    running = wire.start(INLINE, inline(URI, 0, 4))
    wire.request("test/reached", {})
    wire.request("shutdown", None)
    assert error_of(wire, running) == -32800
    wire.notify("exit", None)
    assert wire.exit_code() == 0  # although the model still stands at its step


def test_exit_while_the_model_loads() -> None:
    with Wire(env={"FAKE_LOAD": "wait"}) as wire:
        wire.initialize()
        wire.request("test/reached", {})
        wire.request("shutdown", None)
        wire.notify("exit", None)
        assert wire.exit_code() == 0


def test_nothing_but_the_protocol_goes_to_standard_output(wire: Wire) -> None:
    wire.open(URI, "x = ")
    wire.request(INLINE, inline(URI, 0, 4))
    wire.request("shutdown", None)
    wire.notify("exit", None)
    assert wire.exit_code() == 0
    assert wire.unread() == []
    assert "a library prints to standard output" in wire.final_log()
    assert "and so does one written in C" in wire.final_log()


def test_source_text_is_not_logged(wire: Wire) -> None:
    wire.open(URI, "SECRET = ")
    wire.request("test/say", {"text": "SECRET"})
    wire.request(INLINE, inline(URI, 0, 9))
    wire.change(URI, 2, insertion(0, 9, "SECRET"))
    wire.change("file:///not/open.py", 2, insertion(0, 9, "SECRET"))
    wire.start(INLINE, {"SECRET": "SECRET"})
    wire.change(URI, 3, {"range": "SECRET", "text": "SECRET"})
    wire.send({"jsonrpc": "1.0", "id": 1, "method": "x", "params": "SECRET"})
    wire.start("no/such/method", {"text": "SECRET"})
    wire.send_bytes(body("SECRET"))
    wire.request("shutdown", None)
    wire.notify("exit", None)
    wire.exit_code()
    assert "outcome=shown" in wire.final_log()
    assert "SECRET" not in wire.final_log()
    assert "/work/" not in wire.final_log().replace(os.getcwd(), "")


def test_over_tcp() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Wire(sys.executable, "-P", str(FAKE_SERVER), "--tcp", str(port)) as wire:
        wire.wait_for_log("listening on")
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as client, client.makefile("rwb") as pipe:
            request = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"capabilities": {}}}
            pipe.write(body(json.dumps(request)))
            pipe.flush()
            length = int(pipe.readline().removeprefix(b"Content-Length: "))
            while pipe.readline().strip():
                pass
            assert "inlineCompletionProvider" in json.loads(pipe.read(length))["result"]["capabilities"]
        assert wire.exit_code() == 1


def test_importing_the_server_does_not_import_torch() -> None:
    program = "import sys, dgemma_lsp.server; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
