"""A client that writes without end, or never reads, is bounded, and nothing waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import IO, Any

import pytest
from wire import FAKE_SERVER, TIMEOUT_S, Wire, framed, inline

from dgemma_lsp.server import streams
from dgemma_lsp.server.streams import LogHandler, PipeSource, PipeWriter

URI = "file:///project/module.py"
needs_proc = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is read from /proc")


MANY = 20_000
"""Requests whose answers take several times the room that there is for them."""


def memory(process_id: int) -> int:
    """Bytes of a process that are in memory."""
    return int(Path(f"/proc/{process_id}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def flood(process: subprocess.Popen[bytes], send: Callable[[bytes], object], request: dict[str, object]) -> int:
    """Say `request` under ever new ids and read no answer until the server ends; the most memory that it took. A server
    that takes `MANY` requests does not end by itself."""

    def say() -> None:
        with contextlib.suppress(OSError, ValueError):
            for number in range(1, MANY):
                send(framed(json.dumps({"jsonrpc": "2.0", "id": number} | request)))

    saying = threading.Thread(target=say, daemon=True)
    saying.start()
    peak = 0
    while process.poll() is None and saying.is_alive():
        with contextlib.suppress(OSError, IndexError):  # it ends just now
            peak = max(peak, memory(process.pid))
        time.sleep(0.02)
    return peak


LITTLE_ROOM = f"""import sys; from dgemma_lsp.server import streams; streams.MAX_UNREAD_BYTES = 2**18
sys.path.insert(0, {str(FAKE_SERVER.parent)!r}); import fake_server; fake_server.main()"""
FLOODS: dict[str, dict[str, object]] = {
    "answered at once": {"method": "dgemma/stats", "params": {}},
    "unknown": {"method": "n" * 500, "params": {}},
    "invoked": {"method": "textDocument/inlineCompletion", "params": inline(URI, 0, 4, kind=1)},
    "typed": {"method": "textDocument/inlineCompletion", "params": inline(URI, 0, 4)},
    "actions": {"method": "workspace/executeCommand", "params": {"command": "dgemma.fillHole", "arguments": [{}]}},
}


@needs_proc
@pytest.mark.parametrize("kind", FLOODS)
def test_a_client_that_never_reads_is_given_up(kind: str) -> None:
    with Wire(sys.executable, "-P", "-c", LITTLE_ROOM) as wire:
        wire.initialize()
        wire.wait_until_loaded()
        wire.open(URI, "x = ")
        wire.stop_reading()
        peak = flood(wire.process, wire.send_bytes, FLOODS[kind])
        assert wire.exit_code() == 1
        assert "the connection ends: the client does not read" in wire.final_log()
        assert peak < 150 * 2**20


@needs_proc
def test_the_same_over_tcp() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Wire(
        sys.executable, "-P", str(FAKE_SERVER), "--tcp", str(port), env={"DGEMMA_TOKEN": "the user's token"}
    ) as wire:
        wire.wait_for_log("listening on")
        with socket.create_connection(("127.0.0.1", port)) as connection:
            params = {"capabilities": {}, "initializationOptions": {"token": "the user's token"}}
            first = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
            connection.sendall(framed(json.dumps(first)))
            peak = flood(wire.process, connection.sendall, {"method": "n" * 50_000, "params": {}})
        assert wire.exit_code() == 1
        assert "the connection ends: the client does not read" in wire.final_log()
        assert peak < 200 * 2**20


@needs_proc
def test_more_requests_than_anybody_has_are_refused(own_wire: Wire) -> None:
    own_wire.request("test/say", {"held": True})
    before = memory(own_wire.process.pid)
    uris = [f"file:///project/module_{number}.py" for number in range(1200)]
    asked = []
    for uri in uris:
        own_wire.open(uri, "x = ")
        asked.append(own_wire.start("textDocument/inlineCompletion", inline(uri, 0, 4, kind=1)))
    assert own_wire.error(asked.pop()) == -32802
    own_wire.notify("$/cancelRequest", {"id": asked[-400]})
    assert own_wire.error(asked.pop(-400)) == -32800  # answered, so that there is room for one more
    own_wire.request("test/release", {})
    answers = [own_wire.response(one) for one in asked]
    refused = [answer["error"]["code"] for answer in answers if "error" in answer]
    assert set(refused) == {-32802} and 150 < len(refused) < 250
    assert all(answer["result"][0]["insertText"] == "value" for answer in answers if "error" not in answer)
    assert memory(own_wire.process.pid) < before + 50 * 2**20


def test_a_client_that_never_reads_the_log_is_answered_all_the_same() -> None:
    unread, log = os.pipe()
    command = (sys.executable, "-P", str(FAKE_SERVER))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log) as server:
        os.close(log)
        assert server.stdin is not None and server.stdout is not None
        patience = threading.Timer(4 * TIMEOUT_S, server.kill)  # so that a lost answer ends the test
        patience.start()
        answers = iter(partial(message, server.stdout), None)
        say(server.stdin, {"id": 0, "method": "initialize", "params": {"capabilities": {}}})
        assert "result" in next(answers)
        asked = range(1, 3001)  # each is a line in the log, and the pipe holds a few hundred
        for number in asked:
            place = inline(f"file:///not/open/{number}.py", 0, 0)
            say(server.stdin, {"id": number, "method": "textDocument/inlineCompletion", "params": place})
            assert next(answers) == {"id": number, "jsonrpc": "2.0", "result": []}
        say(server.stdin, {"id": "end", "method": "shutdown"})
        assert next(answers)["result"] is None
        say(server.stdin, {"method": "exit"})
        assert server.wait(TIMEOUT_S) == 0
        patience.cancel()
    os.close(unread)


def say(pipe: IO[bytes], said: dict[str, object]) -> None:
    pipe.write(framed(json.dumps({"jsonrpc": "2.0"} | said)))
    pipe.flush()


def message(pipe: IO[bytes]) -> dict[str, Any] | None:
    """The next message, or None at the end."""
    header = pipe.readline()
    while header and pipe.readline().strip():
        pass
    return json.loads(pipe.read(int(header.removeprefix(b"Content-Length: ")))) if header else None


def test_who_logs_does_not_wait_for_who_reads() -> None:
    unread, log = os.pipe()
    handler = LogHandler(log)
    for number in range(3000):
        handler.emit(logging.makeLogRecord({"msg": f"{number} {'x' * 1000} \ud800"}))
    handler.flush()
    first = os.read(unread, 1000)
    assert first.startswith(b"0 xxx")
    os.close(unread)  # and nobody will ever read it
    handler.emit(logging.makeLogRecord({"msg": "more"}))
    handler.flush()
    os.close(log)


# ------------------------------------------------------------------------------------------------ the two ends of pipes


def test_a_source_reads_no_more_than_is_wanted() -> None:
    async def flood() -> int:
        read, write = os.pipe()
        source = PipeSource(read, asyncio.get_running_loop())
        os.set_blocking(write, False)
        written, idle = 0, 0
        while idle < 20 and written < 64 * 2**20:
            try:
                written += os.write(write, bytes(1 << 16))
                idle = 0
            except BlockingIOError:
                idle += 1
            await asyncio.sleep(0.01)
        body = await source.reader.readexactly(written)
        assert body == bytes(written)
        os.write(write, b"more")
        assert await source.reader.readexactly(4) == b"more"
        os.close(write)
        assert await source.reader.read() == b""
        return written

    assert asyncio.run(flood()) < 4 * 2**20


def test_a_writer_waits_for_nobody_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def write() -> tuple[bytes, bytes]:
        read, written = os.pipe()
        reasons: list[str] = []
        writer = PipeWriter(written, asyncio.get_running_loop(), reasons.append)
        sent = b"".join(bytes([number % 256]) * 5000 for number in range(100))
        for start in range(0, len(sent), 5000):
            writer.write(sent[start : start + 5000])
        received = b""
        while len(received) < len(sent):
            received += await asyncio.to_thread(os.read, read, 1000_000)
        await writer.finish(TIMEOUT_S)
        assert os.read(read, 1) == b"" and reasons == []
        return sent, received

    sent, received = asyncio.run(write())
    assert sent == received


def test_a_writer_gives_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "MAX_UNREAD_BYTES", 1000)

    async def write() -> list[str]:
        reasons: list[str] = []
        read, written = os.pipe()
        writer = PipeWriter(written, asyncio.get_running_loop(), reasons.append)
        for _ in range(5):
            writer.write(bytes(100_000))
        await writer.finish(0.0)
        os.close(read)
        read, written = os.pipe()
        writer = PipeWriter(written, asyncio.get_running_loop(), reasons.append)
        os.close(read)
        for _ in range(5):
            writer.write(b"more")
        await writer.finish(0.0)
        return reasons

    assert asyncio.run(write()) == [
        "the client does not read: 0 MiB wait for it",
        "the client's end of the pipe is closed",
    ]
