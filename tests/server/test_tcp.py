"""Over TCP only who knows the token is heard, and whoever else connects does no harm."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wire import FAKE_SERVER, TIMEOUT_S, Wire, framed

from dgemma_lsp.server import admission
from dgemma_lsp.server.admission import AdmissionError

TOKEN = "the user's own token"


@pytest.fixture
def server() -> Iterator[tuple[Wire, int]]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Wire(sys.executable, "-P", str(FAKE_SERVER), "--tcp", str(port), env={"DGEMMA_TOKEN": TOKEN}) as wire:
        wire.wait_for_log("listening on")
        yield wire, port


@contextlib.contextmanager
def serving(patience_s: float) -> Iterator[tuple[Wire, int]]:
    """A server that waits so long for a token."""
    program = f"""import sys; from dgemma_lsp.server import admission; admission._PATIENCE_S = {patience_s}
sys.argv[1:] = ["--tcp", sys.argv[1]]; sys.path.insert(0, {str(FAKE_SERVER.parent)!r})
import fake_server; fake_server.main()"""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Wire(sys.executable, "-P", "-c", program, str(port), env={"DGEMMA_TOKEN": TOKEN}) as wire:
        wire.wait_for_log("listening on")
        yield wire, port


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)


def initialize(options: object, **extra: object) -> bytes:
    params = {"capabilities": {}, "initializationOptions": options}
    return framed(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params} | extra))


def answer(client: socket.socket) -> dict[str, Any] | None:
    """The next message, or None at the end of the connection."""
    with client.makefile("rb") as pipe:
        try:
            header = pipe.readline()
            if not header:
                return None
            while pipe.readline().strip():
                pass
            found: dict[str, Any] = json.loads(pipe.read(int(header.removeprefix(b"Content-Length: "))))
            return found
        except ConnectionError:
            return None


def assert_serves(server: tuple[Wire, int]) -> None:
    """The user's own editor gets in."""
    wire, port = server
    with connect(port) as client:
        client.sendall(initialize({"token": TOKEN}))
        found = answer(client)
        assert found is not None and "capabilities" in found["result"]
        client.sendall(framed('{"jsonrpc": "2.0", "id": 2, "method": "shutdown"}'))
        assert answer(client) == {"jsonrpc": "2.0", "id": 2, "result": None}
        client.sendall(framed('{"jsonrpc": "2.0", "method": "exit"}'))
        assert wire.exit_code() == 0


@pytest.mark.parametrize("options", [{"token": TOKEN}, {"dgemma": {"token": TOKEN, "trigger": "manual"}}])
def test_who_says_the_token_is_served(server: tuple[Wire, int], options: object) -> None:
    wire, port = server
    with connect(port) as client:
        client.sendall(initialize(options))
        found = answer(client)
        assert found is not None and "inlineCompletionProvider" in found["result"]["capabilities"]
        client.sendall(framed('{"jsonrpc": "2.0", "method": "initialized", "params": {}}'))
    assert wire.exit_code() == 1
    assert TOKEN not in wire.final_log() and "settings" not in wire.final_log()


@pytest.mark.parametrize(
    "options", [None, {}, 7, {"token": None}, {"token": ""}, {"token": TOKEN[:-1]}, {"token": "é"}]
)
def test_who_does_not_is_told_and_left(server: tuple[Wire, int], options: object) -> None:
    _, port = server
    with connect(port) as client:
        client.sendall(initialize(options))
        found = answer(client)
        assert found is not None and "token" in found["error"]["message"] and "result" not in found
        assert answer(client) is None
    assert_serves(server)


@pytest.mark.parametrize(
    "said",
    [
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 300\r\n\r\n" + initialize({"token": TOKEN}),
        b"GET / HTTP/1.1\r\n\r\n",
        b"X: y\r\n" + initialize({"token": TOKEN}),
        b"\r\n" + initialize({"token": TOKEN}),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\n",
        b"x" * 100_000,
        framed('{"jsonrpc": "2.0", "id": 1, "method": "shutdown"}'),
        framed('{"jsonrpc": "2.0", "id": 1, "method": "test/text", "params": {"uri": "file:///etc/passwd"}}'),
        framed("[" * 50_000),
        framed("nonsense") + initialize({"token": TOKEN}),
        initialize({"token": TOKEN}, id=None),
        b"Content-Length: 999999999\r\n\r\n",
    ],
)
def test_nothing_else_is_answered(server: tuple[Wire, int], said: bytes) -> None:
    _, port = server
    with connect(port) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(said)
        with contextlib.suppress(ConnectionError):
            assert client.recv(1) == b""
    assert_serves(server)


def test_a_header_that_is_no_protocol_s_ends_a_session_too(server: tuple[Wire, int]) -> None:
    wire, port = server
    with connect(port) as client:
        client.sendall(initialize({"token": TOKEN}))
        assert answer(client) is not None
        client.sendall(b"POST / HTTP/1.1\r\n\r\n")
        assert answer(client) is None
    assert wire.exit_code() == 1
    assert "the connection ends: a header that the protocol does not have" in wire.final_log()


def test_scans_and_silent_connections_cost_nothing() -> None:
    with serving(patience_s=600.0) as server, contextlib.ExitStack() as silent:
        wire, port = server
        for _ in range(50):
            connect(port).close()
        first = silent.enter_context(connect(port))
        others = [silent.enter_context(connect(port)) for _ in range(100)]
        assert first.recv(1) == b""  # closed, as too many came after it
        descriptors = Path(f"/proc/{wire.process.pid}/fd")
        if descriptors.is_dir():
            # The system accepts many at once, and the server then closes them one by one.
            deadline = time.monotonic() + TIMEOUT_S
            while len(list(descriptors.iterdir())) >= 32 + 20:
                assert time.monotonic() < deadline, "the server keeps the connections of silent clients"
                time.sleep(0.02)
        half = others[-1]
        half.sendall(b"Content-Len")
        assert_serves(server)
        assert half.recv(1) == b""


def test_a_silent_connection_is_closed() -> None:
    with serving(patience_s=0.1) as server, connect(server[1]) as client:
        assert client.recv(1) == b""


# ------------------------------------------------------------------------------------------------ where and which


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_this_machine_alone_may_be_listened_on(host: str) -> None:
    assert "127.0.0.1" in admission.addresses(host, 7777, insecure=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_others_may_reach_it_only_if_that_is_said(host: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(AdmissionError, match="--insecure-listen"):
        admission.addresses(host, 7777, insecure=False)
    assert admission.addresses(host, 7777, insecure=True) == [host]
    assert "INSECURE" in caplog.text


def test_a_token_is_made_where_there_is_none(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.delenv("DGEMMA_TOKEN", raising=False)
    tokens = {admission.chosen_token(None) for _ in range(2)}
    assert len(tokens) == 2 and all(token in caplog.text and len(token) > 40 for token in tokens)
    monkeypatch.setenv("DGEMMA_TOKEN", TOKEN)
    assert admission.chosen_token(None) == TOKEN
    assert TOKEN not in caplog.text
    monkeypatch.setenv("DGEMMA_TOKEN", "guess me")
    with pytest.raises(AdmissionError, match="longer"):
        admission.chosen_token(None)


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_a_token_file_is_the_user_s_alone(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.touch(0o600)
    with pytest.raises(AdmissionError, match="empty"):
        admission.chosen_token(file)
    file.write_text(TOKEN + "\n")
    assert admission.chosen_token(file) == TOKEN
    for mode in (0o644, 0o640, 0o602):
        file.chmod(mode)
        with pytest.raises(AdmissionError, match="chmod 600"):
            admission.chosen_token(file)
    with pytest.raises(AdmissionError, match="No such file"):
        admission.chosen_token(tmp_path / "nowhere")
    with pytest.raises(AdmissionError, match="regular"):
        admission.chosen_token(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(AdmissionError, match="regular"):
        admission.chosen_token(tmp_path / "pipe")
