"""The language server's life: what it can do, how it starts, what it hears of documents and settings."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from pathlib import Path
from typing import NoReturn

from lsprotocol import types
from pygls.exceptions import JsonRpcException

from dgemma_lsp import settings
from dgemma_lsp.documents.documents import Documents
from dgemma_lsp.documents.verdicts import Verdicts
from dgemma_lsp.documents.workspace import Workspace
from dgemma_lsp.engine.access_token import token_for
from dgemma_lsp.engine.choice import ChosenEngine, chosen_engine
from dgemma_lsp.engine.health import Health
from dgemma_lsp.pipeline.actions import ActionKind
from dgemma_lsp.pipeline.infiller import InfillerLike
from dgemma_lsp.server import admission, code_actions, completions, from_client, to_client, transport
from dgemma_lsp.server.loading import ChosenModel, LoadInfiller, LoadListener
from dgemma_lsp.server.session import DgemmaServer
from dgemma_lsp.server.streams import LogHandler
from dgemma_lsp.settings import Settings
from dgemma_model.checkpoint.config import Quantize
from dgemma_model.source.excerpt import ExcerptBudget

logger = logging.getLogger(__name__)

_STANDARD_ERROR = 2
_OF_THE_START = ("engine", "engine_token_file", "checkpoint", "device", "quantize")
"""Settings that are taken when the server starts."""
_PATIENCE_S = 2.0
"""How long a client may take to answer what its settings are."""


def initialize(server: DgemmaServer, params: types.InitializeParams) -> None:
    """Take positions' encoding and settings."""
    server.client = from_client.client(params.capabilities)
    server.documents = Documents(from_client.encoding(server.workspace.position_encoding))
    _take_folders(server)
    server.configure(params.initialization_options, server.configured, from_user=True)
    server.configured = server.settings
    if not server.client.inline_completion:
        menu = types.CompletionOptions(trigger_characters=from_client.MENU_TRIGGERS)
        server.feature(types.TEXT_DOCUMENT_COMPLETION, menu)(completions.completion)


def _take_folders(server: DgemmaServer) -> None:
    workspace = server.workspace
    folders = [*filter(None, [workspace.root_uri, *workspace.folders])]
    server.exclusions, server.files = Verdicts(server.disk, folders), Workspace(server.disk, folders)
    for uri in server.documents.uris:
        server.exclusions.opened(uri)


async def initialized(server: DgemmaServer, params: types.InitializedParams) -> None:
    """Ask for the settings, load the model, and say so."""
    if server.worker.started or server.loading:
        return
    server.loading = True
    await _ask_for_settings(server)
    server.show_complaints()
    started, using = time.perf_counter(), server.settings
    progress = _LoadProgress(server)
    loading = server.worker.start(lambda: server.load_infiller(using, progress))
    showing = asyncio.create_task(_show_progress(server, loading, progress)) if server.client.shows_progress else None
    await asyncio.wait([loading])
    if (error := loading.exception()) is not None:
        logger.error("the model could not be loaded", exc_info=error)
        reason = str(error) or type(error).__name__
        server.become("failed", reason)
        server.show(types.MessageType.Error, f"no suggestions, the model could not be loaded: {reason}")
    else:
        infiller, seconds = loading.result(), time.perf_counter() - started
        server.languages, server.proofreads = infiller.languages, infiller.reviewer is not None
        server.shows_others = (
            infiller.uses_project_text or ExcerptBudget.within(infiller.prompt_tokens).further_chars > 0
        )
        health = server.engine_health or Health(None, f"{infiller.name} on {infiller.device}")
        server.become("ready" if health.well else "failed", health.message)
        logger.info("model=%s device=%s load_ms=%.0f", infiller.name, infiller.device, 1000 * seconds)
        _advise(server)
    if showing is not None:
        await showing  # last, for a client may never answer whether it shows progress


def _advise(server: DgemmaServer) -> None:
    """Tell the user what would fill better. Clients that show the server's status have it from there."""
    advice = server.choice and server.choice.advice
    if advice and server.client.shows_status:
        logger.warning("%s", advice)
    elif advice:
        server.show(types.MessageType.Info, advice)


async def _ask_for_settings(server: DgemmaServer) -> None:
    """Take the settings that the client keeps for us, if it keeps any; one that never answers keeps none."""
    if not server.client.keeps_settings:
        return
    items = [types.ConfigurationItem(section=settings.SECTION)]
    asking = server.workspace_configuration_async(types.ConfigurationParams(items=items))
    try:
        kept = await asyncio.wait_for(asking, _PATIENCE_S)
    except (TimeoutError, JsonRpcException):
        return
    if isinstance(kept, list | tuple) and kept and kept[0] is not None:
        server.configure(from_client.plain(kept[0]), server.configured)
        server.memory.forget()


_LOADING = "loading the model"


class _LoadProgress:
    """Which checkpoint is loaded and how much of it has been read: told to clients that show the server's state, and
    kept for `_show_progress`.

    Made on the event loop's thread, where it is followed, too; `chose` and `read` are for the model's.
    """

    def __init__(self, server: DgemmaServer) -> None:
        self._server, self._loop = server, asyncio.get_running_loop()
        self._read = 0
        self.changes = asyncio.Queue[int | None]()
        server.become("loading", _LOADING, 0)

    def chose(self, choice: ChosenModel) -> None:
        """Take the checkpoint that is loaded."""
        self._loop.call_soon_threadsafe(setattr, self._server, "choice", choice)

    def read(self, share: float) -> None:
        """Take the share that has been read, from 0 to 1."""
        if (percentage := int(100 * share)) > self._read:
            self._read = percentage
            self._loop.call_soon_threadsafe(self._advance, percentage)

    def health_changed(self, health: Health) -> None:
        """Take how the engine is."""
        self._loop.call_soon_threadsafe(self._server.engine_is, health)

    def _advance(self, percentage: int) -> None:
        self._server.become("loading", _LOADING, percentage)
        self.changes.put_nowait(percentage)


async def _show_progress(
    server: DgemmaServer, loading: asyncio.Future[InfillerLike], percentages: _LoadProgress
) -> None:
    """Show that the model loads, for as long as it does."""
    progress, token = server.work_done_progress, "dgemma/loading"
    try:
        await progress.create_async(token)
    except JsonRpcException:
        return  # the client would rather not
    progress.begin(token, types.WorkDoneProgressBegin(title="dgemma", message=_LOADING, percentage=0))
    loading.add_done_callback(lambda _: percentages.changes.put_nowait(None))
    while (percentage := await percentages.changes.get()) is not None:
        progress.report(token, types.WorkDoneProgressReport(message=_LOADING, percentage=percentage))
    message = "ready" if loading.exception() is None else "the model could not be loaded"
    progress.end(token, types.WorkDoneProgressEnd(message=message))


def shutdown(server: DgemmaServer, params: None) -> None:
    """Let the running fill end after its step; `transport` waits for it."""
    server.worker.stop(0.0)


def did_open(server: DgemmaServer, params: types.DidOpenTextDocumentParams) -> None:
    """Take a document in."""
    item = params.text_document
    server.open(item.uri, item.language_id, item.version, item.text)


def did_change(server: DgemmaServer, params: types.DidChangeTextDocumentParams) -> None:
    """Apply changes."""
    document = params.text_document
    server.change(document.uri, document.version, from_client.text_changes(params))


def did_close(server: DgemmaServer, params: types.DidCloseTextDocumentParams) -> None:
    """Forget a document."""
    server.forget(params.text_document.uri)


def did_change_configuration(server: DgemmaServer, params: types.DidChangeConfigurationParams) -> None:
    """Take new settings; what they do not mention is as it was at the start. Who sends none is asked for them."""
    before = server.settings
    if not params.settings and server.client.keeps_settings:
        server.in_background(_ask_again(server, before))
        return
    settings_of_ours = settings.own_part(from_client.plain(params.settings))
    if settings_of_ours is None:
        return
    server.configure(settings_of_ours, server.configured)
    _use_settings(server, before)


async def _ask_again(server: DgemmaServer, before: Settings) -> None:
    await _ask_for_settings(server)
    _use_settings(server, before)


def _use_settings(server: DgemmaServer, before: Settings) -> None:
    """What changes with the settings besides themselves."""
    server.memory.forget()
    server.show_complaints()
    now = server.settings
    if any(getattr(before, name) != getattr(now, name) for name in _OF_THE_START):
        server.show(types.MessageType.Info, "another engine, checkpoint, device or quantize is used after a restart")


def did_change_folders(server: DgemmaServer, params: types.DidChangeWorkspaceFoldersParams) -> None:
    """Read the rules of the folders that are open now."""
    _take_folders(server)


def did_open_notebook(server: DgemmaServer, params: types.DidOpenNotebookDocumentParams) -> None:
    """Take a notebook's cells in."""
    notebook = params.notebook_document
    server.notebooks.open(notebook.uri, from_client.cells(notebook.cells))
    for cell in params.cell_text_documents:
        server.open(cell.uri, cell.language_id, cell.version, cell.text)


def did_change_notebook(server: DgemmaServer, params: types.DidChangeNotebookDocumentParams) -> None:
    """Apply changes to a notebook's cells and to their texts."""
    changed = params.change.cells
    if changed is None:
        return
    if changed.structure is not None:
        array, cells = changed.structure.array, from_client.cells(changed.structure.array.cells or [])
        server.notebooks.replace_cells(params.notebook_document.uri, array.start, array.delete_count, cells)
        for closed in changed.structure.did_close or []:
            server.forget(closed.uri)
        for opened in changed.structure.did_open or []:
            server.open(opened.uri, opened.language_id, opened.version, opened.text)
    for cell in from_client.cells(changed.data or []):
        server.notebooks.update(params.notebook_document.uri, cell)
    for content in changed.text_content or []:
        changes = from_client.content_changes(content.changes)
        server.change(content.document.uri, content.document.version, changes)


def did_close_notebook(server: DgemmaServer, params: types.DidCloseNotebookDocumentParams) -> None:
    """Forget a notebook and its cells."""
    cells = server.notebooks.close(params.notebook_document.uri)
    for uri in {*cells, *(cell.uri for cell in params.cell_text_documents)}:
        server.forget(uri)


async def status(server: DgemmaServer, params: object) -> dict[str, object]:
    """What the server is doing, and why a document is excluded."""
    uri = from_client.status_uri(params)
    rule = None if uri is None else await server.rule_about(uri)
    return server.state if rule is None else server.state | {"excluded": rule}


def create_server(load_infiller: LoadInfiller, defaults: Settings | None = None) -> DgemmaServer:
    """A server that has not started. `load_infiller` gets the client's settings on top of `defaults`."""
    server = DgemmaServer(load_infiller, defaults or settings.DEFAULTS)
    server.feature(types.INITIALIZE)(initialize)
    server.feature(types.INITIALIZED)(initialized)
    server.feature(types.SHUTDOWN)(shutdown)
    server.feature(types.TEXT_DOCUMENT_DID_OPEN)(did_open)
    server.feature(types.TEXT_DOCUMENT_DID_CHANGE)(did_change)
    server.feature(types.TEXT_DOCUMENT_DID_CLOSE)(did_close)
    server.feature(types.NOTEBOOK_DOCUMENT_DID_OPEN)(did_open_notebook)
    server.feature(types.NOTEBOOK_DOCUMENT_DID_CHANGE)(did_change_notebook)
    server.feature(types.NOTEBOOK_DOCUMENT_DID_CLOSE)(did_close_notebook)
    server.feature(types.WORKSPACE_DID_CHANGE_CONFIGURATION)(did_change_configuration)
    server.feature(types.WORKSPACE_DID_CHANGE_WORKSPACE_FOLDERS)(did_change_folders)
    # Without options pygls does not advertise the capability.
    server.feature(types.TEXT_DOCUMENT_INLINE_COMPLETION, types.InlineCompletionOptions())(
        completions.inline_completion
    )
    actions = types.CodeActionOptions(code_action_kinds=to_client.CODE_ACTION_KINDS, resolve_provider=True)
    server.feature(types.TEXT_DOCUMENT_CODE_ACTION, actions)(code_actions.code_action)
    server.feature(types.CODE_ACTION_RESOLVE)(code_actions.resolve)
    server.feature(types.WORKSPACE_EXECUTE_COMMAND)(code_actions.execute_command)
    for method in (from_client.NEXT_EDIT, from_client.COPILOT_INLINE_EDIT):
        server.feature(method)(code_actions.next_edit)
    server.feature(from_client.DID_SHOW_EDIT)(completions.did_show)
    server.feature(from_client.STATUS)(status)
    server.feature(from_client.WATCH)(completions.watch)
    server.feature(from_client.STATS)(completions.stats)
    server.feature(from_client.DID_SHOW)(completions.did_show)
    server.feature(from_client.DID_ACCEPT_PARTLY)(completions.did_accept_partly)
    for command in (from_client.EXPLAIN_SILENCE, from_client.DID_ACCEPT, *map(to_client.command_name, ActionKind)):
        server.command(command)(code_actions.execute_command)  # to have it advertised
    return server


def serve_stdio(
    *,
    checkpoint: str | None = None,
    device: str | None = None,
    quantize: Quantize | None = None,
    engine: str | None = None,
    engine_token_file: Path | None = None,
) -> NoReturn:
    """Serve one client on standard input and output, and end the process.

    `checkpoint`, `device`, `quantize` and `engine` go before the client's settings.
    """
    log_to_stderr()
    transport.serve_stdio(create_server(_infiller_loader(checkpoint, device, quantize, engine, engine_token_file)))


def serve_tcp(
    host: str,
    port: int,
    *,
    checkpoint: str | None = None,
    device: str | None = None,
    quantize: Quantize | None = None,
    engine: str | None = None,
    engine_token_file: Path | None = None,
    token_file: Path | None = None,
    insecure: bool = False,
) -> NoReturn:
    """Serve the first client that connects to `host:port` and knows the token; otherwise as `serve_stdio`.

    `insecure` says that other machines may reach it.

    Raises:
        OSError: nobody can listen there.
        admission.AdmissionError: it is not safe, or the token is none.
    """
    log_to_stderr()
    hosts, token = admission.addresses(host, port, insecure=insecure), admission.chosen_token(token_file)
    loader = _infiller_loader(checkpoint, device, quantize, engine, engine_token_file)
    transport.serve_tcp(create_server(loader), hosts, port, token)


def log_to_stderr() -> None:
    """Send this process's log to standard error. Source text is never logged above debug level."""
    logging.basicConfig(handlers=[LogHandler(_STANDARD_ERROR)], format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("dgemma_lsp").setLevel(logging.INFO)
    logging.getLogger("dgemma_model.checkpoint.quantised.budget").setLevel(logging.INFO)  # what memory it needs
    logging.getLogger("pygls").setLevel(logging.CRITICAL + 1)


def _infiller_loader(
    checkpoint: str | None,
    device: str | None,
    quantize: Quantize | None = None,
    engine: str | None = None,
    engine_token_file: Path | None = None,
) -> LoadInfiller:
    def load(using: Settings, listener: LoadListener) -> InfillerLike:
        if (chosen := chosen_engine(engine, using.engine, checkpoint=checkpoint)) is not None:
            named = using.engine_token_file
            return _engine(chosen, engine_token_file or (Path(named).expanduser() if named else None), listener)
        from dgemma_model.checkpoint.machine import give_back_memory
        from dgemma_model.checkpoint.selection import default_checkpoint, offer
        from dgemma_model.infill import Infiller  # imports torch

        wanted, place = checkpoint or using.checkpoint, device or using.device
        if wanted:
            choice = ChosenModel(wanted, "named on the command line" if checkpoint else "named in the settings")
        else:
            default = default_checkpoint(place)
            wanted, better = str(default.path), default.better
            choice = ChosenModel(
                default.name,
                default.why,
                better=better.name if better else None,
                offer=offer(better) if better else None,
                advice=default.advice,
            )
        listener.chose(choice)
        infiller = Infiller.load(wanted, place, quantize=quantize or using.quantize, progress=listener.read)
        # What torch brought stays. To look through it for garbage takes 150 ms, in which no key would be answered.
        gc.freeze()
        give_back_memory()
        return infiller

    return load


def _engine(chosen: ChosenEngine, token_file: Path | None, listener: LoadListener) -> InfillerLike:
    """An engine in place of a checkpoint. It need not be there yet."""
    from dgemma_lsp.engine.infiller import EngineInfiller  # imports a client for HTTP

    address, why = chosen
    listener.chose(ChosenModel(address.url, why, engine=address.url, text_goes_to=address.described))
    infiller = EngineInfiller(address, token_for(address, token_file), listener.health_changed)
    infiller.check_health()
    return infiller
