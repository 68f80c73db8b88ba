"""What `bench` measures of whole servers: answers while they fill, and their memory."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Self

from dgemma_lsp.documents import disk

_MOST_BYTES = 4_096
"""What the system tells of a process' memory is a tenth of that."""
AHEAD_SECONDS = 4.0
"""After an answer, a server may work for so long on what could follow it."""
URI = "file:///bench.py"
TEXT = "import os\n\n\ndef read(path):\n    \n"
FILL = {
    "textDocument": {"uri": URI},
    "position": {"line": 4, "character": 4},
    "context": {"triggerKind": 1},
}


class Server:
    """A server in a process of its own, with a document open and a model loaded."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.process, self._stdin, self._stdout = process, process.stdin, process.stdout

    @classmethod
    async def start(cls, *options: str) -> Self:
        """Start it with these options, and return once it has answered a first fill."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "dgemma_lsp", *options),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        server = cls(process)
        server.send("initialize", {"processId": os.getpid(), "rootUri": None, "capabilities": {}}, 0)
        await server.receive()
        server.send("initialized", {})
        document = {"uri": URI, "languageId": "python", "version": 1, "text": TEXT}
        server.send("textDocument/didOpen", {"textDocument": document})
        server.send("textDocument/inlineCompletion", FILL, -1)  # answered once the model is loaded
        while (await server.receive()).get("id") != -1:
            pass
        return server

    def send(self, method: str, params: object, number: int | None = None) -> None:
        """A notification, or a request with a number."""
        message = {"jsonrpc": "2.0", "method": method, "params": params} | ({} if number is None else {"id": number})
        body = json.dumps(message).encode()
        self._stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))

    async def receive(self) -> dict[str, Any]:
        """The next message."""
        length = 0
        while line := (await self._stdout.readline()).strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return dict(json.loads(await self._stdout.readexactly(length)))

    async def end(self) -> None:
        """Kill it."""
        self.process.kill()
        await self.process.wait()


async def pings(seconds: float, *options: str) -> dict[str, float]:
    """Round trips of a request that needs no model, while the server is kept filling."""
    server = await Server.start(*options)
    taken: list[float] = []
    fills = number = 0
    deadline = time.perf_counter() + seconds
    filling: int | None = None
    answered: dict[int, dict[str, Any]] = {}
    while time.perf_counter() < deadline:
        if filling is None or filling in answered:
            fills += filling is not None
            filling = number = number + 1
            server.send("textDocument/inlineCompletion", FILL, number)
        number += 1
        started = time.perf_counter()
        server.send("workspace/executeCommand", {"command": "dgemma.explainSilence", "arguments": [URI]}, number)
        while number not in answered:
            message = await server.receive()
            if "id" in message and "method" not in message:
                answered[message["id"]] = message
        taken.append(1000 * (time.perf_counter() - started))
        await asyncio.sleep(0.005)
    await server.end()
    taken.sort()
    median, p95 = statistics.median(taken), taken[int(0.95 * len(taken))]
    return {"median_ms": round(median, 3), "p95_ms": round(p95, 3), "pings": len(taken), "fills": fills}


async def memory(count: int, *options: str) -> list[int]:
    """Megabytes of each of `count` servers that run together, once they are idle: what is its own, and its part of the
    files that all of them have mapped. This is their proportional set size where no other process has mapped these
    files. Empty where the system does not tell."""
    servers = [await Server.start(*options) for _ in range(count)]
    try:
        await asyncio.sleep(AHEAD_SECONDS)
        held = [found for server in servers if (found := own_and_mapped_mb(server.process.pid)) is not None]
        return [round(own + mapped / count) for own, mapped in held]
    finally:
        for server in servers:
            await server.end()


async def idle_ms(seconds: float, *options: str) -> float | None:
    """Milliseconds of the processor that a server takes in some seconds in which nobody asks it for anything, once it
    has worked out what may follow its last answer. None where the system does not tell."""
    server = await Server.start(*options)
    try:
        await asyncio.sleep(AHEAD_SECONDS)
        before = processor_ms(server.process.pid)
        await asyncio.sleep(seconds)
        after = processor_ms(server.process.pid)
        return None if before is None or after is None else after - before
    finally:
        await server.end()


def own_and_mapped_mb(process_id: int) -> tuple[float, float] | None:
    """Megabytes that a process holds: of its own, and of files as they are on disk. None where the system does not
    tell."""
    lines = _told(process_id, "smaps_rollup").splitlines()
    kilobytes = {line.split(b":")[0]: int(line.split()[1]) for line in lines if line.endswith(b" kB")}
    if b"Rss" not in kilobytes or b"Anonymous" not in kilobytes:
        return None
    own = kilobytes[b"Anonymous"]  # pages of files that it has changed are among them
    return own / 1024, (kilobytes[b"Rss"] - own) / 1024


def processor_ms(process_id: int) -> float | None:
    """How long a process has run on processors, in its own code and in the system's; None where the system does not
    tell."""
    fields = _told(process_id, "stat").rpartition(b")")[2].split()  # its name, in brackets, may have blanks
    if len(fields) < 13:
        return None
    return 1000 * (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _told(process_id: int, what: str) -> bytes:
    told = disk.read(Path(f"/proc/{process_id}/{what}"), _MOST_BYTES)
    return b"" if isinstance(told, disk.Fault) else told
