"""Bytes from and to a client, bounded in both directions, whatever the client does.

A client that writes faster than the server handles messages has to wait. A client that does not read its answers is
disconnected. One that does not read the log misses the rest of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import select
import threading
from collections.abc import AsyncIterator, Callable
from typing import Protocol

MAX_UNREAD_BYTES = 16 * 2**20
"""Bytes that may wait for a client to read them; with more, the next message ends the connection."""

LOG_S = 0.2
"""How long the end of the process may wait for the log to be read."""
_LOG_BYTES = 2**20
"""So much of the log may wait to be read; what is logged meanwhile is lost."""

_CHUNK_BYTES = 1 << 16
_CHUNKS = 16
"""So many chunks may wait for the event loop."""

_PIPE_BYTES = getattr(select, "PIPE_BUF", 512)
"""Bytes that a writable pipe takes without blocking."""

# A longer number is rubbish: to wait for a terabyte would be to go deaf.
_CONTENT_LENGTH = re.compile(rb"Content-Length: *(\d{1,9})\s*$", re.IGNORECASE)
_HEADER = re.compile(rb"Content-(Length: *\d{1,9}|Type: *[^\r\n]*)\r?\n", re.IGNORECASE)


class NotTheProtocolError(Exception):
    """What arrived on a connection is not the protocol, so the other side is not a client."""


class Writer(Protocol):
    """Where messages to a client go."""

    def write(self, data: bytes) -> None:
        """Send, or give the client up; never waits, never raises."""

    def close(self) -> None:
        """Send nothing more."""

    async def finish(self, timeout_s: float) -> None:
        """Send what waits, for at most `timeout_s` seconds, and close."""


async def bodies(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The bodies of messages. Rubbish between them is skipped, up to the next header."""
    length = None
    while True:
        try:
            line = await reader.readline()
        except ValueError:  # longer than any header
            continue
        except ConnectionError:
            return
        if not line:
            return
        if header := _CONTENT_LENGTH.search(line):
            length = int(header[1])
        elif length is not None and not line.strip():
            try:
                yield await reader.readexactly(length)
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            length = None


async def strict_bodies(reader: asyncio.StreamReader, max_bytes: int | None = None) -> AsyncIterator[bytes]:
    """The bodies of messages from an unknown sender: nothing is skipped.

    Raises:
        NotTheProtocolError: a line is no header of the protocol, as those of HTTP, or a message is longer than
            `max_bytes`.
    """
    length = None
    while True:
        try:
            line = await reader.readline()
        except ValueError as error:
            raise NotTheProtocolError("a header without an end") from error
        except ConnectionError:
            return
        if not line:
            return
        if length is not None and line in (b"\r\n", b"\n"):
            try:
                yield await reader.readexactly(length)
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            length = None
        elif not _HEADER.fullmatch(line):
            raise NotTheProtocolError("a header that the protocol does not have")
        elif header := _CONTENT_LENGTH.search(line):
            length = int(header[1])
            if max_bytes is not None and length > max_bytes:
                raise NotTheProtocolError("a message that is too long")


class PipeSource(asyncio.ReadTransport):
    """Feeds `reader` from a pipe, no faster than it is read. It uses a thread of its own, which works on every
    system."""

    def __init__(self, descriptor: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.reader = asyncio.StreamReader(loop=loop)
        self.reader.set_transport(self)
        self._descriptor, self._loop = descriptor, loop
        self._may_read = threading.Event()
        self._may_read.set()
        self._room = threading.Semaphore(_CHUNKS)
        threading.Thread(target=self._read, name="stdin", daemon=True).start()

    def pause_reading(self) -> None:
        """Read no more; the reader says so when it has enough."""
        self._may_read.clear()

    def resume_reading(self) -> None:
        """Read on."""
        self._may_read.set()

    def _read(self) -> None:
        with contextlib.suppress(RuntimeError, OSError):  # the loop is closed, the pipe is broken
            while chunk := self._next_chunk():
                self._loop.call_soon_threadsafe(self._feed, chunk)
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.reader.feed_eof)

    def _next_chunk(self) -> bytes:
        self._room.acquire()
        self._may_read.wait()
        return os.read(self._descriptor, _CHUNK_BYTES)

    def _feed(self, chunk: bytes) -> None:
        self._room.release()
        self.reader.feed_data(chunk)


class PipeWriter:
    """Writes to a pipe without waiting for its reader; `give_up` is told why nothing more is sent."""

    def __init__(self, pipe: int, loop: asyncio.AbstractEventLoop, give_up: Callable[[str], None]) -> None:
        self._pipe, self._loop, self._give_up = pipe, loop, give_up
        self._waiting = bytearray()
        self._is_open = True
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    def write(self, data: bytes) -> None:
        """See `Writer`."""
        if not self._is_open:
            return
        if len(self._waiting) > MAX_UNREAD_BYTES:
            self._end(_unread(len(self._waiting)))
            return
        self._waiting += data
        if self._is_empty.is_set():
            self._is_empty.clear()
            self._write_on()

    def close(self) -> None:
        """See `Writer`."""
        self._end(None)

    async def finish(self, timeout_s: float) -> None:
        """See `Writer`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_empty.wait(), timeout_s)
        self.close()

    def _write_on(self) -> None:
        """Write what the pipe takes now, and come back when it takes more."""
        try:
            while self._waiting and self._takes_more():
                written = os.write(self._pipe, self._waiting[:_PIPE_BYTES])
                del self._waiting[:written]
        except (OSError, ValueError):
            self._end("the client's end of the pipe is closed")
            return
        if not self._waiting:
            self._is_empty.set()
            self._stop_watching()
        else:
            self._loop.add_writer(self._pipe, self._write_on)

    def _takes_more(self) -> bool:
        """Whether `_PIPE_BYTES` can be written at once. Windows cannot tell of pipes, and waits."""
        return os.name == "nt" or bool(select.select([], [self._pipe], [], 0)[1])

    def _stop_watching(self) -> None:
        if os.name != "nt":
            self._loop.remove_writer(self._pipe)

    def _end(self, reason: str | None) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._waiting.clear()
        self._is_empty.set()
        self._stop_watching()
        with contextlib.suppress(OSError):
            os.close(self._pipe)
        if reason is not None:
            self._give_up(reason)


class SocketWriter:
    """The same for a connection."""

    def __init__(self, writer: asyncio.StreamWriter, give_up: Callable[[str], None]) -> None:
        self._writer, self._give_up = writer, give_up

    def write(self, data: bytes) -> None:
        """See `Writer`."""
        transport = self._writer.transport
        if transport.is_closing():
            return
        if (waiting := transport.get_write_buffer_size()) > MAX_UNREAD_BYTES:
            transport.abort()
            self._give_up(_unread(waiting))
            return
        self._writer.write(data)

    def close(self) -> None:
        """See `Writer`."""
        self._writer.close()

    async def finish(self, timeout_s: float) -> None:
        """See `Writer`."""
        self._writer.close()
        with contextlib.suppress(TimeoutError, ConnectionError):
            await asyncio.wait_for(self._writer.wait_closed(), timeout_s)
        self._writer.transport.abort()


def _unread(count: int) -> str:
    return f"the client does not read: {count / 2**20:.0f} MiB wait for it"


class LogHandler(logging.Handler):
    """Writes the log to a pipe or file on a thread of its own: whoever logs never waits for who reads."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._waiting = bytearray()
        self._is_writing = False
        self._changed = threading.Condition()
        threading.Thread(target=self._write, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        line = f"{self.format(record)}\n".encode("utf-8", "backslashreplace")
        with self._changed:
            if len(self._waiting) < _LOG_BYTES:
                self._waiting += line
                self._changed.notify_all()

    def flush(self) -> None:
        """Return when all is written, or after `LOG_S` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting and not self._is_writing, LOG_S)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._is_writing = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting)
                lines, self._waiting, self._is_writing = self._waiting, bytearray(), True
            with contextlib.suppress(OSError):  # nobody reads it any more
                while lines:
                    del lines[: os.write(self._descriptor, lines)]
