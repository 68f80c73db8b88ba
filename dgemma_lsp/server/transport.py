"""pygls, made strict: every request is answered, whatever arrives, and the process ends when it should.

pygls' own loop goes deaf after one wrong Content-Length, leaves requests that it cannot decode without an
answer, shows users its own errors, and exits with 0 whether or not it was asked to shut down.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import sys
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import InvalidStateError
from typing import Any, BinaryIO

from lsprotocol import types
from pygls.exceptions import (
    JsonRpcException,
    JsonRpcInvalidParams,
    JsonRpcInvalidRequest,
    JsonRpcParseError,
    JsonRpcServerNotInitialized,
)
from pygls.lsp.server import LanguageServer
from pygls.protocol import LanguageServerProtocol, lsp_method
from pygls.protocol.json_rpc import RPCMessage, RPCNotification, RPCRequest

logger = logging.getLogger(__name__)

CLIENT_WATCH_S = 2.0
"""Seconds between looks at whether the client's process still lives."""

# A longer number is rubbish: to wait for a terabyte would be to go deaf.
_CONTENT_LENGTH = re.compile(rb"Content-Length: *(\d{1,9})\s*$", re.IGNORECASE)
_EXPECTED = (types.LSPErrorCodes.ContentModified.value, types.LSPErrorCodes.RequestFailed.value)
_DOCUMENT_METHODS = (
    types.TEXT_DOCUMENT_DID_OPEN,
    types.TEXT_DOCUMENT_DID_CHANGE,
    types.TEXT_DOCUMENT_DID_CLOSE,
    types.NOTEBOOK_DOCUMENT_DID_OPEN,
    types.NOTEBOOK_DOCUMENT_DID_CHANGE,
    types.NOTEBOOK_DOCUMENT_DID_CLOSE,
)


class StrictProtocol(LanguageServerProtocol):
    """pygls' protocol without its document store and its commands, and with an answer to every request."""

    def __init__(self, server: LanguageServer, converter: Any) -> None:
        super().__init__(server, converter)
        self.exited = asyncio.Event()
        """Set when the client said `exit` or can no longer be written to."""
        self.on_undecodable: Callable[[str, object], None] = lambda method, params: None
        """Told the method and raw parameters of each notification that could not be decoded."""

    @property
    def exit_code(self) -> int:
        """What LSP asks of the process: 0 after `shutdown`, 1 without."""
        return 0 if self._shutdown else 1

    def receive(self, body: bytes) -> None:
        """Handle one message, or answer what is wrong with it. Never raises."""
        try:
            data = json.loads(body)
        except (ValueError, RecursionError):
            self._refuse(None, JsonRpcParseError("a message is not JSON"))
            return
        if not isinstance(data, dict) or data.get("jsonrpc") != self.VERSION:
            self._refuse(_id_of(data), JsonRpcInvalidRequest())
            return
        if "id" in data and data["id"] != _id_of(data):
            self._refuse(None, JsonRpcInvalidRequest())
            return
        try:
            message = self.structure_message(data)
        except JsonRpcException as error:
            logger.warning("undecodable message, method %r", str(data.get("method"))[:80])
            method = data.get("method")
            if "id" in data and "method" in data:
                # Whatever the converter stumbles over, it is the parameters that are wrong.
                self._refuse(data["id"], JsonRpcInvalidParams() if isinstance(method, str) else error)
            elif isinstance(method, str):
                self.on_undecodable(method, data.get("params"))
            return
        try:
            self.handle_message(message)
        except InvalidStateError:
            logger.debug("an answer that nobody waits for any more")
        except Exception:
            logger.exception("unhandled message")

    def handle_message(self, message: RPCMessage) -> None:
        """As pygls does, once the session's state allows it."""
        initialized = self._workspace is not None
        if isinstance(message, RPCRequest):
            if self._shutdown or (initialized and message.method == types.INITIALIZE):
                self._refuse(message.id, JsonRpcInvalidRequest())
                return
            if not initialized and message.method != types.INITIALIZE:
                self._refuse(message.id, JsonRpcServerNotInitialized())
                return
        elif isinstance(message, RPCNotification) and not initialized and message.method != types.EXIT:
            return
        super().handle_message(message)

    @lsp_method(types.EXIT)
    def lsp_exit(self, *_: object) -> None:  # type: ignore[override]
        """Leave the ending of the process to `serve`."""
        self.exited.set()

    async def cancel_open_requests(self) -> None:
        """Cancel every handler that still runs, and let its answer go out."""
        futures: list[object] = list(self._request_futures.values())
        running = [future for future in futures if isinstance(future, asyncio.Task)]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=1.0)
            await asyncio.sleep(0)  # answers are sent by the tasks' callbacks

    def _register_builtin_features(self) -> None:
        super()._register_builtin_features()  # type: ignore[no-untyped-call]
        for method in (*_DOCUMENT_METHODS, types.WORKSPACE_EXECUTE_COMMAND):
            del self.fm.builtin_features[method]  # to cancel pygls' own command is not to cancel what it started

    def _send_response(self, msg_id: Any, result: Any = None, error: types.ResponseError | None = None) -> None:
        """As pygls does, without what an internal error says of this machine: that is for the log."""
        if error is not None and isinstance(error.data, dict) and "traceback" in error.data:
            error = types.ResponseError(error.code, "internal error; the log has the reason")
        super()._send_response(msg_id, result, error)

    def _refuse(self, msg_id: Any, error: JsonRpcException) -> None:
        self._send_response(msg_id, error=error.to_response_error())


class StrictServer(LanguageServer):
    """A pygls server that logs its own errors instead of showing them to the user."""

    protocol: StrictProtocol

    def __init__(
        self,
        name: str,
        version: str,
        converter_factory: Callable[[], Any],
        notebooks: types.NotebookDocumentSyncOptions | None = None,
    ) -> None:
        super().__init__(
            name,
            version,
            notebook_document_sync=notebooks,
            protocol_cls=StrictProtocol,
            converter_factory=converter_factory,
        )

    def report_server_error(self, error: Exception, source: Any) -> None:
        """Log; requests have been answered with the error already."""
        if isinstance(error, JsonRpcException) and error.code in _EXPECTED:
            return  # an answer like any other, and logged as such
        data = error.data if isinstance(error, JsonRpcException) else None
        frames = data["traceback"] if isinstance(data, dict) else ()
        logger.error("%s: %s\n%s", type(error).__name__, error, "".join(frames))

    def stop(self) -> bool:
        """End all work; False where some would not end."""
        return True


def _id_of(data: object) -> str | int | float | None:
    """The id of a message; None where it has none, or one that JSON-RPC does not know."""
    msg_id = data.get("id") if isinstance(data, dict) else None
    return msg_id if isinstance(msg_id, str | int | float) else None


def serve_stdio(server: StrictServer) -> int:
    """Serve one client on standard input and output; the exit code for the process.

    From here on standard output is the protocol's alone: what anything else prints goes to standard error.
    """
    incoming, outgoing = os.dup(0), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    async def serve() -> int:
        reader = asyncio.StreamReader()
        arguments = (incoming, reader, asyncio.get_running_loop())
        threading.Thread(target=_pump, args=arguments, name="stdin", daemon=True).start()
        return await _serve(server, reader, _PipeWriter(outgoing, server.protocol.exited.set))

    return _ended(server, asyncio.run(serve()))


def serve_tcp(server: StrictServer, host: str, port: int) -> int:
    """Serve the first client that connects to `host:port`; the exit code for the process.

    Raises:
        OSError: nobody can listen there.
    """

    async def serve() -> int:
        connected: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]]
        connected = asyncio.get_running_loop().create_future()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if connected.done():
                writer.close()
            else:
                connected.set_result((reader, writer))

        listener = await asyncio.start_server(accept, host, port)
        logger.info("listening on %s:%d", *listener.sockets[0].getsockname()[:2])
        reader, writer = await connected
        listener.close()
        return await _serve(server, reader, writer)

    return _ended(server, asyncio.run(serve()))


async def _serve(server: StrictServer, reader: asyncio.StreamReader, writer: Any) -> int:
    """Handle messages until the client says `exit`, hangs up or dies."""
    protocol = server.protocol
    protocol.set_writer(writer)
    endings = [
        asyncio.create_task(_receive_all(protocol, reader)),
        asyncio.create_task(protocol.exited.wait()),
        asyncio.create_task(_client_death(server)),
    ]
    await asyncio.wait(endings, return_when=asyncio.FIRST_COMPLETED)
    for task in endings:
        task.cancel()
    await protocol.cancel_open_requests()
    writer.close()
    return protocol.exit_code


async def _receive_all(protocol: StrictProtocol, reader: asyncio.StreamReader) -> None:
    async for body in _bodies(reader):
        protocol.receive(body)
        # A handler starts at the next turn of the loop. Take that turn now, before the next message changes
        # the document that the handler's position belongs to.
        await asyncio.sleep(0)


async def _bodies(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
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


async def _client_death(server: StrictServer) -> None:
    while server.process_id is None or _is_alive(server.process_id):
        await asyncio.sleep(CLIENT_WATCH_S)


def _is_alive(process_id: int) -> bool:
    if os.name == "nt" or process_id <= 0:  # on Windows `os.kill` would kill; the pipe's end must do
        return True
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _pump(descriptor: int, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> None:
    """Feed the reader from a pipe, on a thread of its own: portable, and the client can always write."""
    with contextlib.suppress(RuntimeError, OSError):  # the loop is closed, the pipe is broken
        while chunk := os.read(descriptor, 1 << 16):
            loop.call_soon_threadsafe(reader.feed_data, chunk)
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(reader.feed_eof)


class _PipeWriter:
    """pygls' writer over a pipe that the client may close at any time."""

    def __init__(self, pipe: BinaryIO, on_broken: Callable[[], None]) -> None:
        self._pipe = pipe
        self._on_broken = on_broken

    def write(self, data: bytes) -> None:
        try:
            self._pipe.write(data)
            self._pipe.flush()
        except (OSError, ValueError):
            self._on_broken()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._pipe.close()


def _ended(server: StrictServer, exit_code: int) -> int:
    """Stop the server's work; where that does not end in time, end the process."""
    if not server.stop():
        logging.shutdown()
        os._exit(exit_code)
    return exit_code
