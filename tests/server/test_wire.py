"""What arrives may be anything; each request gets an answer, the server lives, and its documents stay exact."""

from __future__ import annotations

import json

import pytest
import reference_text
from wire import Wire, framed, inline, insertion

URI = "file:///project/module.py"
INLINE = "textDocument/inlineCompletion"


def assert_alive(wire: Wire) -> None:
    wire.open("file:///alive.py", "x = ")
    assert wire.text("file:///alive.py") == "x = "


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
        (b'{"jsonrpc": "2.0", "id": NaN, "method": "x"}', -32700),
        (b'{"jsonrpc": "2.0", "id": 1e999, "method": "x"}', -32600),
        (b'{"jsonrpc": "2.0", "id": true, "method": "x"}', -32600),
    ],
)
def test_what_is_no_message_gets_an_error_without_an_id(wire: Wire, rubbish: bytes, code: int) -> None:
    wire.send_bytes(framed(rubbish))
    answer = wire.response(None)
    assert (answer["id"], answer["error"]["code"]) == (None, code)
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
    assert wire.error(wire.start(INLINE, params)) == -32602
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


@pytest.mark.parametrize("left_out", [{}, {"params": None}])
def test_parameters_may_be_left_out(own_wire: Wire, left_out: dict[str, object]) -> None:
    def ask(method: str) -> dict[str, object]:
        own_wire.send({"jsonrpc": "2.0", "id": method, "method": method} | left_out)
        return own_wire.response(method)

    assert "counts" not in ask("dgemma/stats") and "result" in ask("dgemma/stats")
    assert "result" in ask("dgemma/status")
    for needed in (INLINE, "dgemma/watch", "dgemma/nextEdit", "workspace/executeCommand", "codeAction/resolve"):
        assert ask(needed)["error"]["code"] == -32602, needed  # type: ignore[index]
    assert ask("no/such/method")["error"]["code"] == -32601  # type: ignore[index]
    for ignored in ("no/such/notification", "$/cancelRequest", "textDocument/didOpen", "$/setTrace"):
        own_wire.send({"jsonrpc": "2.0", "method": ignored} | left_out)
    assert_alive(own_wire)
    assert ask("shutdown")["result"] is None
    own_wire.send({"jsonrpc": "2.0", "method": "exit"} | left_out)
    assert own_wire.exit_code() == 0


def test_an_id_that_waits_for_its_answer_is_not_taken_twice(own_wire: Wire) -> None:
    own_wire.request("test/say", {"held": True})
    own_wire.open(URI, "x = ")
    running = own_wire.start(INLINE, inline(URI, 0, 4))
    own_wire.request("test/reached", {})
    own_wire.send({"jsonrpc": "2.0", "id": running, "method": INLINE, "params": inline(URI, 0, 4)})
    assert own_wire.error(running) == -32600
    own_wire.request("test/release", {})
    assert own_wire.response(running)["result"][0]["insertText"] == "value"


def test_answers_carry_no_traceback(own_wire: Wire) -> None:
    asked = own_wire.start("test/say", None)  # it fails on that
    error = own_wire.response(asked)["error"]
    assert error == {"code": -32603, "message": "the request failed; the server's log says why"}
    own_wire.wait_for_log("AttributeError")


@pytest.mark.parametrize("msg_id", [{}, [1]])
def test_a_request_whose_id_is_none_gets_an_error_without_one(wire: Wire, msg_id: object) -> None:
    wire.send({"jsonrpc": "2.0", "id": msg_id, "method": "test/text", "params": {"uri": URI}})
    assert wire.error(None) == -32600
    wire.send({"jsonrpc": "1.0", "id": msg_id, "method": "test/text", "params": {"uri": URI}})
    assert wire.error(None) == -32600
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


def test_an_answer_that_is_a_request_s_own_id_is_survived(wire: Wire) -> None:
    wire.request("test/say", {"held": True})
    wire.open(URI, "x = ")
    running = wire.start(INLINE, inline(URI, 0, 4))
    wire.request("test/reached", {})
    wire.send({"jsonrpc": "2.0", "id": running, "result": "mine"})
    wire.request("test/release", {})
    assert wire.response(running)["result"][0]["insertText"] == "value"


@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"Content-Length: many\r\n\r\n",
        b"Content-Length: 999999999999\r\n\r\n",
        b"\r\n\r\n\x00\xff\n",
        b"Content-Length: 5\r\n\r\n" + framed('{"jsonrpc": "2.0", "method": "lost"}')[20:],
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
        assert wire.error(wire.start(INLINE, inline(URI, 0, 4))) == -32002
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


@pytest.mark.parametrize("text", [None, 5, ["y"]])
def test_what_is_no_text_does_not_become_a_document(wire: Wire, text: object) -> None:
    position = {"line": 0, "character": 0}
    for change in ({"text": text}, {"text": text, "range": {"start": position, "end": position}}):
        wire.open(URI, "x = ")
        wire.change(URI, 2, change)
        assert wire.text(URI) is None
    wire.open(URI, "x = ")
    item = {"uri": URI, "languageId": "python", "version": 2, "text": text}
    wire.notify("textDocument/didOpen", {"textDocument": item})
    assert wire.text(URI) is None


def test_each_request_sees_the_text_that_it_was_sent_with(wire: Wire) -> None:
    """Messages that arrive in one piece are still handled one after the other."""
    wire.request("test/say", {"text": "abc"})
    wire.open(URI, "x = ")
    ask = {"jsonrpc": "2.0", "id": "ask", "method": INLINE, "params": inline(URI, 0, 4, kind=1)}
    change = {"textDocument": {"uri": URI, "version": 2}, "contentChanges": [insertion(0, 0, "\n\n")]}
    told = {"jsonrpc": "2.0", "method": "textDocument/didChange", "params": change}
    wire.send_bytes(framed(json.dumps(ask)) + framed(json.dumps(told)))
    # The text moved while the model worked: nothing is shown where the cursor is not.
    assert wire.response("ask")["result"] == []
    assert wire.text(URI) == "\n\nx = "


def test_nothing_but_the_protocol_goes_to_standard_output(own_wire: Wire) -> None:
    own_wire.open(URI, "x = ")
    own_wire.request(INLINE, inline(URI, 0, 4))
    own_wire.request("shutdown", None)
    own_wire.notify("exit", None)
    assert own_wire.exit_code() == 0
    assert own_wire.unread() == []
    assert "a library prints to standard output" in own_wire.final_log()
    assert "and so does one written in C" in own_wire.final_log()


def test_source_text_is_not_logged(own_wire: Wire) -> None:
    uri = "file:///private_folder/module.py"
    own_wire.open(uri, "SECRET = ")
    own_wire.request("test/say", {"text": "SECRET"})
    own_wire.request(INLINE, inline(uri, 0, 9))
    own_wire.change(uri, 2, insertion(0, 9, "SECRET"))
    own_wire.change("file:///private_folder/not_open.py", 2, insertion(0, 9, "SECRET"))
    own_wire.start(INLINE, {"SECRET": "SECRET"})
    own_wire.change(uri, 3, {"range": "SECRET", "text": "SECRET"})
    own_wire.send({"jsonrpc": "1.0", "id": 1, "method": "x", "params": "SECRET"})
    own_wire.start("no/such/method", {"text": "SECRET"})
    own_wire.send_bytes(framed("SECRET"))
    own_wire.request("shutdown", None)
    own_wire.notify("exit", None)
    own_wire.exit_code()
    assert "outcome=shown" in own_wire.final_log()
    assert "SECRET" not in own_wire.final_log()
    assert "private_folder" not in own_wire.final_log()
