"""pygls, made strict: every request is answered, whatever arrives, and the process ends when it should.

pygls' own loop goes deaf after one wrong Content-Length, leaves requests that it cannot decode without an
answer, shows users its own errors, and exits with 0 whether or not it was asked to shut down.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import InvalidStateError
from typing import Any, NoReturn

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

from dgemma_lsp.server.admission import first_client
from dgemma_lsp.server.streams import (
    NotTheProtocolError,
    PipeSource,
    PipeWriter,
    SocketWriter,
    Writer,
    bodies,
    strict_bodies,
)

logger = logging.getLogger(__name__)

CLIENT_WATCH_S = 2.0
"""Seconds between looks at whether the client's process still lives."""

_MOST_REQUESTS = 1000
"""Most requests that may be unanswered at once; no editor needs so many."""

CANCEL_S = 0.25
"""How long the end of a connection may wait for requests that were cancelled."""
FLUSH_S = 0.25
"""How long it may then wait for the client to read the last answers."""

_INTERRUPTED = 130
"""The exit code of an interrupted process."""

_CANCELLED = types.LSPErrorCodes.ServerCancelled.value
_EXPECTED = (types.LSPErrorCodes.ContentModified.value, types.LSPErrorCodes.RequestFailed.value)
_INTERNAL = "the request failed; the server's log says why"
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
        """Set when the client said `exit` or is given up."""
        self.on_undecodable: Callable[[str, object], None] = lambda method, params: None
        """Told the method and raw parameters of each notification that could not be decoded."""
        self._unanswered = set[str | int | float]()

    @property
    def exit_code(self) -> int:
        """What LSP asks of the process: 0 after `shutdown`, 1 without."""
        return 0 if self._shutdown else 1

    def receive(self, body: bytes) -> None:
        """Handle one message, or answer what is wrong with it. Never raises."""
        try:
            data = json.loads(body, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            self._refuse(None, JsonRpcParseError("a message is not JSON"))
            return
        if not isinstance(data, dict) or data.get("jsonrpc") != self.VERSION:
            self._refuse(_id_of(data), JsonRpcInvalidRequest())
            return
        if "id" in data and data["id"] != _id_of(data):
            self._refuse(None, JsonRpcInvalidRequest())
            return
        if "method" in data:
            data.setdefault("params", None)  # which JSON-RPC lets one leave out, whatever the method
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
            if message.id in self._unanswered:
                self._refuse(message.id, JsonRpcInvalidRequest("a request of this id is not answered yet"))
                self._unanswered.add(message.id)
                return
            if len(self._unanswered) >= _MOST_REQUESTS and message.method != types.SHUTDOWN:
                self._refuse(message.id, JsonRpcException("too many requests wait for an answer", _CANCELLED))
                return
            self._unanswered.add(message.id)
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
            await asyncio.wait(running, timeout=CANCEL_S)
            await asyncio.sleep(0)  # answers are sent by the tasks' callbacks

    def _register_builtin_features(self) -> None:
        super()._register_builtin_features()  # type: ignore[no-untyped-call]
        for method in (*_DOCUMENT_METHODS, types.WORKSPACE_EXECUTE_COMMAND):
            del self.fm.builtin_features[method]  # to cancel pygls' own command is not to cancel what it started

    def _refuse(self, msg_id: Any, error: JsonRpcException) -> None:
        self._send_response(msg_id, error=error.to_response_error())

    def give_up(self, reason: str) -> None:
        """End the connection; the log says why."""
        if not self.exited.is_set():
            logger.error("the connection ends: %s", reason)
            self.exited.set()

    def _send_response(self, msg_id: Any, result: Any | None = None, error: types.ResponseError | None = None) -> None:
        """As pygls does, but errors of who sent no id have a null, and none has a traceback, which is for the log."""
        self._unanswered.discard(msg_id)
        if error is None:
            super()._send_response(msg_id, result)
            return
        message = _INTERNAL if error.code == types.ErrorCodes.InternalError.value else error.message
        shown = {"code": error.code, "message": message}
        self._send_data({"jsonrpc": self.VERSION, "id": msg_id, "error": shown})


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
        self._client_named = asyncio.Event()
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

    @property
    def process_id(self) -> int | None:
        """The client's, which pygls sets; None while none is known."""
        return self._process_id

    @process_id.setter
    def process_id(self, value: int | None) -> None:
        self._process_id = value
        if value is not None:
            self._client_named.set()

    async def client_process(self) -> int:
        """The id of the client's process, once it has told it; some never do."""
        await self._client_named.wait()
        assert self._process_id is not None
        return self._process_id

    def stop(self) -> bool:
        """End all work; False where some would not end."""
        return True


def _id_of(data: object) -> str | int | float | None:
    """The id of a message; None where it has none, or one that JSON-RPC does not know."""
    msg_id = data.get("id") if isinstance(data, dict) else None
    if isinstance(msg_id, bool) or (isinstance(msg_id, float) and not math.isfinite(msg_id)):
        return None
    return msg_id if isinstance(msg_id, str | int | float) else None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def serve_stdio(server: StrictServer) -> NoReturn:
    """Serve one client on standard input and output, and end the process.

    From here on standard output is the protocol's alone: what anything else prints goes to standard error.
    """
    incoming, outgoing = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    async def serve() -> int:
        loop = asyncio.get_running_loop()
        writer = PipeWriter(outgoing, loop, server.protocol.give_up)
        return await _serve(server, bodies(PipeSource(incoming, loop).reader), writer)

    _run(server, serve())


def serve_tcp(server: StrictServer, hosts: Sequence[str], port: int, token: str) -> NoReturn:
    """Serve the first client that connects to `port` and knows the token, and end the process.

    Raises:
        OSError: nobody can listen there.
    """

    async def serve() -> int:
        client = await first_client(hosts, port, token)
        server.protocol.set_writer(writer := SocketWriter(client.writer, server.protocol.give_up))
        server.protocol.receive(client.initialize)
        return await _serve(server, strict_bodies(client.reader), writer)

    _run(server, serve())


def _run(server: StrictServer, serving: Coroutine[Any, Any, int]) -> NoReturn:
    """Run to its end, stop the server's work, and end the process, whatever its other threads do.

    No thread is waited for. One may read from a disk that does not answer, and another may compute. At its own end the
    interpreter would wait for the first one, and abort because of the second one.
    """
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        exit_code = loop.run_until_complete(serving)
    except KeyboardInterrupt:
        exit_code = _INTERRUPTED
    server.stop()
    logging.shutdown()
    os._exit(exit_code)


async def _serve(server: StrictServer, messages: AsyncIterator[bytes], writer: Writer) -> int:
    """Handle messages until the client says `exit`, hangs up, dies or is given up."""
    protocol = server.protocol
    protocol.set_writer(writer)
    endings = [
        asyncio.create_task(_receive_all(protocol, messages)),
        asyncio.create_task(protocol.exited.wait()),
        asyncio.create_task(_client_death(server)),
    ]
    await asyncio.wait(endings, return_when=asyncio.FIRST_COMPLETED)
    for task in endings:
        task.cancel()
    await protocol.cancel_open_requests()
    await writer.finish(FLUSH_S)
    return protocol.exit_code


async def _receive_all(protocol: StrictProtocol, messages: AsyncIterator[bytes]) -> None:
    try:
        async for body in messages:
            protocol.receive(body)
            # A handler starts at the next turn of the loop. Take that turn now, before the next message changes
            # the document that the handler's position belongs to.
            await asyncio.sleep(0)
    except NotTheProtocolError as error:
        protocol.give_up(str(error))


async def _client_death(server: StrictServer) -> None:
    process_id = await server.client_process()
    while _is_alive(process_id):
        if (end := _end_of(process_id)) is not None:
            await end
            return
        await asyncio.sleep(CLIENT_WATCH_S)


def _end_of(process_id: int) -> asyncio.Future[None] | None:
    """A future that is done once a process has ended, so that a server that nobody asks does nothing at all; None where
    the system does not tell that."""
    if sys.platform != "linux" or process_id <= 0:
        return None
    try:
        descriptor = os.pidfd_open(process_id)
    except OSError:  # old kernels and sandboxes have none
        return None
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def forget(_: object) -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)

    ended.add_done_callback(forget)
    loop.add_reader(descriptor, _settle, ended)
    return ended


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


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
