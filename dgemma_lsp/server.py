"""The language server: one short function per method, between `protocol` and `worker`."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version

from cattrs import Converter
from lsprotocol import types
from pygls.exceptions import JsonRpcException
from pygls.protocol import default_converter

from dgemma_lsp import protocol, settings, transport
from dgemma_lsp.documents import Documents, parsed
from dgemma_lsp.edits import NoSuggestion, Snapshot, Suggestion, rebase
from dgemma_lsp.settings import Settings
from dgemma_lsp.suggest import InfillerLike, suggest
from dgemma_lsp.worker import Answer, Lane, Steps, Worker

logger = logging.getLogger(__name__)

LoadInfiller = Callable[[Settings], InfillerLike]
"""Loads the model. Runs on the model's thread, so that this is where torch may be imported."""

_STOP_S = 2.0
"""How long the end of the process may wait for a denoising step."""


class DgemmaServer(transport.StrictServer):
    """What the server remembers: open documents, settings, the worker, and each document's last outcome."""

    def __init__(self, load_infiller: LoadInfiller, defaults: Settings) -> None:
        super().__init__("dgemma-lsp", version("dgemma-lsp"), _converter)
        self.load_infiller = load_infiller
        self.settings = self.configured = defaults
        self.complaints: list[str] = []
        self.documents = Documents()
        self.worker: Worker[InfillerLike] = Worker()
        self.offered: dict[str, Suggestion] = {}
        self.silences: dict[str, NoSuggestion] = {}
        self.protocol.on_undecodable = self._forget_what_is_uncertain

    def stop(self) -> bool:
        """End the worker; False where its thread does not end in time."""
        return self.worker.stop(_STOP_S)

    def configure(self, options: object, defaults: Settings) -> None:
        """Use what the client sent; what cannot be used is kept as a complaint."""
        self.settings, self.complaints = settings.parse(options, defaults)
        level = self.settings.log_level.upper()
        logging.getLogger("dgemma_lsp").setLevel(level)
        # pygls logs whole messages, and with them source text, at any level.
        logging.getLogger("pygls").setLevel(level if level == "DEBUG" else logging.CRITICAL + 1)

    def show_complaints(self) -> None:
        """Tell the user about settings that could not be used; once each."""
        for complaint in self.complaints:
            self.show(types.MessageType.Warning, f"settings: {complaint}")
        self.complaints = []

    def show(self, kind: types.MessageType, message: str) -> None:
        """Show a message in the editor, and log it."""
        logger.warning("%s", message)
        self.window_show_message(types.ShowMessageParams(type=kind, message=f"dgemma: {message}"))

    async def answer(self, snapshot: Snapshot, *, invoked: bool) -> Answer:
        """What to show at the snapshot's cursor; raises what the pipeline raises."""
        using = self.settings
        if not invoked and (rest := self._typed_through(snapshot)) is not None:
            self.worker.supersede(snapshot.uri)
            return rest

        def steps(infiller: InfillerLike) -> Steps:
            yield from suggest(parsed(snapshot), infiller, using, invoked=invoked)

        answer = await self.worker.run(
            steps,
            lane=Lane.COMMAND if invoked else Lane.KEYSTROKE,
            document=snapshot.uri,
            delay_s=0.0 if invoked else using.debounce_ms / 1000,
            budget_s=using.time_budget_ms / 1000,
        )
        return self._brought_up_to_date(answer) if isinstance(answer, Suggestion) else answer

    def conclude(self, uri: str, answer: Answer, started: float) -> None:
        """Remember a request's outcome and write its line to the log."""
        fields: dict[str, object] = {
            "request": self.protocol.msg_id,
            "file": ascii(uri.rpartition("/")[2][:80]),
        }
        if isinstance(answer, Suggestion):
            self.offered[uri] = answer
            self.silences.pop(uri, None)
            fields |= {
                "outcome": "shown" if answer.steps else "typed_through",
                "version": answer.snapshot.version,
            }
            fields |= {"chars": len(answer.edit.new_text), "steps": answer.steps}
            fields |= {stage: f"{ms:.1f}" for stage, ms in answer.trace.items()}
        else:
            if answer is not NoSuggestion.SUPERSEDED:  # the last request is another, and may be answered already
                self.silences[uri] = answer
            fields["outcome"] = answer.name.lower()
        fields["total_ms"] = f"{1000 * (time.perf_counter() - started):.1f}"
        logger.info(" ".join(f"{name}={value}" for name, value in fields.items()))

    def forget(self, uri: str) -> None:
        """Forget a document and settle what it waits for."""
        self.documents.close(uri)
        self.worker.supersede(uri)
        self.offered.pop(uri, None)
        self.silences.pop(uri, None)

    def _typed_through(self, snapshot: Snapshot) -> Suggestion | None:
        """The rest of the last suggestion, if the user has done nothing since but type its beginning."""
        offered = self.offered.get(snapshot.uri)
        rest = offered and rebase(offered, snapshot)
        return replace(rest, steps=0, trace={}) if rest else None

    def _brought_up_to_date(self, suggestion: Suggestion) -> Answer:
        """The suggestion in terms of the text as it is now, or STALE."""
        asked = suggestion.snapshot
        document = self.documents.get(asked.uri)
        if document is None:
            return NoSuggestion.STALE
        if document.text == asked.text:
            return suggestion
        cursor = asked.offset + len(document.text) - len(asked.text)
        newer = Snapshot(asked.uri, document.version, document.language, document.text, cursor)
        return rebase(suggestion, newer) or NoSuggestion.STALE

    def _forget_what_is_uncertain(self, method: str, params: object) -> None:
        """After a text that could not be read, a document's content is not known: better silent than wrong."""
        changes_text = method in (types.TEXT_DOCUMENT_DID_CHANGE, types.TEXT_DOCUMENT_DID_OPEN)
        uri = protocol.changed_uri(params) if changes_text else None
        if uri is not None:
            self.forget(uri)


def initialize(server: DgemmaServer, params: types.InitializeParams) -> None:
    """Take positions' encoding and settings."""
    server.documents = Documents(protocol.encoding(server.workspace.position_encoding))
    server.configure(params.initialization_options, server.configured)
    server.configured = server.settings


async def initialized(server: DgemmaServer, params: types.InitializedParams) -> None:
    """Load the model, and say so."""
    if server.worker.started:
        return
    server.show_complaints()
    started, using = time.perf_counter(), server.settings
    loading = server.worker.start(lambda: server.load_infiller(using))
    window = server.client_capabilities.window
    shows_progress = window is not None and window.work_done_progress
    showing = asyncio.create_task(_show_progress(server, loading)) if shows_progress else None
    await asyncio.wait([loading])
    if (error := loading.exception()) is not None:
        logger.error("the model could not be loaded", exc_info=error)
        reason = str(error) or type(error).__name__
        server.show(types.MessageType.Error, f"no suggestions, the model could not be loaded: {reason}")
    else:
        infiller, seconds = loading.result(), time.perf_counter() - started
        logger.info("model=%s device=%s load_ms=%.0f", infiller.name, infiller.device, 1000 * seconds)
    if showing is not None:
        await showing  # last, for a client may never answer whether it shows progress


async def _show_progress(server: DgemmaServer, loading: asyncio.Future[InfillerLike]) -> None:
    """Show that the model loads, for as long as it does."""
    progress, token = server.work_done_progress, "dgemma/loading"
    try:
        await progress.create_async(token)
    except JsonRpcException:
        return  # the client would rather not
    progress.begin(token, types.WorkDoneProgressBegin(title="dgemma", message="loading the model"))
    await asyncio.wait([loading])
    message = "ready" if loading.exception() is None else "the model could not be loaded"
    progress.end(token, types.WorkDoneProgressEnd(message=message))


def shutdown(server: DgemmaServer, params: None) -> None:
    """Let the running fill end after its step; `transport` waits for it."""
    server.worker.stop(0.0)


def did_open(server: DgemmaServer, params: types.DidOpenTextDocumentParams) -> None:
    """Take a document in."""
    item = params.text_document
    server.forget(item.uri)
    server.documents.open(item.uri, item.language_id, item.version, item.text)


def did_change(server: DgemmaServer, params: types.DidChangeTextDocumentParams) -> None:
    """Apply changes."""
    document = params.text_document
    server.documents.change(document.uri, document.version, protocol.text_changes(params))


def did_close(server: DgemmaServer, params: types.DidCloseTextDocumentParams) -> None:
    """Forget a document."""
    server.forget(params.text_document.uri)


def did_change_configuration(server: DgemmaServer, params: types.DidChangeConfigurationParams) -> None:
    """Take new settings; what they do not mention is as it was at the start."""
    before = server.settings
    server.configure(params.settings, server.configured)
    server.offered.clear()
    server.show_complaints()
    if (before.checkpoint, before.device) != (server.settings.checkpoint, server.settings.device):
        server.show(types.MessageType.Info, "another checkpoint or device is used after a restart")


async def inline_completion(
    server: DgemmaServer, params: types.InlineCompletionParams
) -> list[types.InlineCompletionItem] | None:
    """Suggest at the cursor."""
    started = time.perf_counter()
    request = protocol.inline_request(params)
    snapshot = server.documents.snapshot(request.uri, request.position)
    answer: Answer = NoSuggestion.CANCELLED
    try:
        if snapshot is None:
            answer = NoSuggestion.NOT_OPEN
        else:
            answer = await server.answer(snapshot, invoked=request.invoked)
    except Exception:
        logger.exception("request %s failed", server.protocol.msg_id)
        answer = NoSuggestion.FAILED
    finally:
        server.conclude(request.uri, answer, started)
    return protocol.inline_answer(answer, server.documents.encoding)


def explain_silence(server: DgemmaServer, uri: str) -> dict[str, str] | None:
    """Why the document's last request showed nothing; None if it showed something."""
    return protocol.silence(server.silences.get(uri))


def create_server(load_infiller: LoadInfiller, defaults: Settings | None = None) -> DgemmaServer:
    """A server that has not started. `load_infiller` gets the client's settings on top of `defaults`."""
    server = DgemmaServer(load_infiller, defaults or settings.DEFAULTS)
    server.feature(types.INITIALIZE)(initialize)
    server.feature(types.INITIALIZED)(initialized)
    server.feature(types.SHUTDOWN)(shutdown)
    server.feature(types.TEXT_DOCUMENT_DID_OPEN)(did_open)
    server.feature(types.TEXT_DOCUMENT_DID_CHANGE)(did_change)
    server.feature(types.TEXT_DOCUMENT_DID_CLOSE)(did_close)
    server.feature(types.WORKSPACE_DID_CHANGE_CONFIGURATION)(did_change_configuration)
    # Without options pygls does not advertise the capability.
    server.feature(types.TEXT_DOCUMENT_INLINE_COMPLETION, types.InlineCompletionOptions())(inline_completion)
    server.command(protocol.EXPLAIN_SILENCE)(explain_silence)
    return server


def serve_stdio(*, checkpoint: str | None = None, device: str | None = None) -> int:
    """Serve one client on standard input and output; the exit code for the process.

    `checkpoint` and `device` go before the client's settings.
    """
    log_to_stderr()
    return transport.serve_stdio(create_server(_infiller_loader(checkpoint, device)))


def serve_tcp(host: str, port: int, *, checkpoint: str | None = None, device: str | None = None) -> int:
    """Serve the first client that connects to `host:port`; otherwise as `serve_stdio`."""
    log_to_stderr()
    return transport.serve_tcp(create_server(_infiller_loader(checkpoint, device)), host, port)


def log_to_stderr() -> None:
    """Send this process's log to standard error. Source text is never logged above debug level."""
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("dgemma_lsp").setLevel(logging.INFO)
    logging.getLogger("pygls").setLevel(logging.CRITICAL + 1)


def _converter() -> Converter:
    return protocol.make_lenient(default_converter())  # type: ignore[no-untyped-call]


def _infiller_loader(checkpoint: str | None, device: str | None) -> LoadInfiller:
    def load(using: Settings) -> InfillerLike:
        from dgemma_model.infill import Infiller  # imports torch

        return Infiller.load(checkpoint or using.checkpoint, device or using.device)

    return load
