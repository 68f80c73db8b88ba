"""How the server ends."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pygls.protocol import default_converter
from test_session import INLINE, URI
from wire import FAKE_SERVER, TIMEOUT_S, Wire, framed, inline

from dgemma_lsp.server import session, streams, transport


def test_exit_after_shutdown_is_0(own_wire: Wire) -> None:
    assert own_wire.request("shutdown", None) is None
    assert own_wire.error(own_wire.start(INLINE, inline(URI, 0, 0))) == -32600
    own_wire.notify("exit", None)
    assert own_wire.exit_code() == 0


def test_exit_without_shutdown_is_1(own_wire: Wire) -> None:
    own_wire.notify("exit", None)
    assert own_wire.exit_code() == 1


def test_the_end_of_input_ends_the_server(own_wire: Wire) -> None:
    own_wire.process.stdin.close()
    assert own_wire.exit_code() == 1


def test_half_a_message_at_the_end_of_input_ends_the_server(own_wire: Wire) -> None:
    own_wire.send_bytes(b'Content-Length: 100\r\n\r\n{"jsonrpc": ')
    own_wire.process.stdin.close()
    assert own_wire.exit_code() == 1


def test_a_client_that_does_not_read_ends_the_server() -> None:
    read_end, write_end = os.pipe()
    command = (sys.executable, "-P", str(FAKE_SERVER))
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=write_end, stderr=subprocess.DEVNULL)
    os.close(read_end)
    os.close(write_end)
    initialize = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"capabilities": {}}}
    assert server.stdin is not None
    server.stdin.write(framed(json.dumps(initialize)))
    server.stdin.flush()  # and the pipe stays open
    assert server.wait(TIMEOUT_S) == 1
    server.stdin.close()


def test_the_end_of_the_clients_process_ends_the_server() -> None:
    client = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    with Wire() as wire:
        wire.initialize(processId=client.pid)
        assert wire.text(URI) is None  # it lives
        client.communicate(b"\n")
        assert wire.exit_code() == 1


def test_the_end_of_a_client_is_seen_where_the_system_does_not_tell_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(process_id: int) -> int:
        raise OSError("a sandbox forbids it")

    monkeypatch.setattr(os, "pidfd_open", refused, raising=False)
    monkeypatch.setattr(transport, "CLIENT_WATCH_S", 0.01)

    async def ends() -> None:
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as client:
            server = transport.StrictServer("server", "1", default_converter, None)
            server.process_id = client.pid
            watching = asyncio.create_task(transport._client_death(server))
            await asyncio.sleep(0.1)
            assert not watching.done()
            client.communicate(b"\n")
            await asyncio.wait_for(watching, TIMEOUT_S)

    asyncio.run(ends())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells when a process has ended")
def test_a_server_that_nobody_asks_does_nothing() -> None:
    with Wire() as wire:
        wire.initialize(processId=os.getpid())
        wire.wait_until_loaded()
        assert wire.text(URI) is None
        before, deadline = None, time.monotonic() + TIMEOUT_S
        while (found := switches(wire.process.pid)) != before and time.monotonic() < deadline:
            before = found
            time.sleep(transport.CLIENT_WATCH_S / 2)  # until it has come to rest
        time.sleep(2.5 * transport.CLIENT_WATCH_S)
        assert switches(wire.process.pid) == before


def switches(process_id: int) -> list[str]:
    """How often the process' first thread began to wait."""
    return [line for line in Path(f"/proc/{process_id}/status").read_text().split("\n") if "ctxt_switches" in line]


def test_shutdown_during_a_fill(own_wire: Wire) -> None:
    own_wire.request("test/say", {"held": True})
    own_wire.open(URI, "x = ")
    running = own_wire.start(INLINE, inline(URI, 0, 4))
    own_wire.request("test/reached", {})
    own_wire.request("shutdown", None)
    assert own_wire.error(running) == -32800
    own_wire.notify("exit", None)
    assert own_wire.exit_code() == 0  # although the model is still held at its step


def test_the_end_waits_for_nothing_that_hangs(tmp_path: Path) -> None:
    """A disk that does not answer, a model that is held at its step, and a client that does not read."""
    stuck = (tmp_path / "a.py").as_uri()
    with Wire(env={"FAKE_STUCK": str(tmp_path)}) as wire:
        wire.initialize()
        wire.wait_until_loaded()
        wire.request("test/say", {"held": True})
        for uri in (stuck, URI):
            wire.open(uri, "x = ")
            wire.start(INLINE, inline(uri, 0, 4, kind=1))
        wire.request("test/reached", {})
        wire.stop_reading()
        for _ in range(3000):  # more answers than the pipe holds
            wire.start("no/such/method", {})
        wire.start("shutdown", None)
        wire.notify("exit", None)
        assert wire.exit_code() == 0
    waits = (transport.CANCEL_S, transport.FLUSH_S, session.STOP_S, streams.LOG_S)
    assert sum(waits) < 2.0, "this is all that it waits for"


def test_exit_while_the_model_loads() -> None:
    with Wire(env={"FAKE_LOAD": "wait"}) as wire:
        wire.initialize()
        wire.request("test/reached", {})
        wire.request("shutdown", None)
        wire.notify("exit", None)
        assert wire.exit_code() == 0
