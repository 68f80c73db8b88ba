"""Code actions and commands: listed without the model, computed when they are chosen, applied to the version they
were computed for."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from lsprotocol import types
from pygls.exceptions import JsonRpcContentModified, JsonRpcException, JsonRpcInvalidParams

from dgemma_lsp.documents.documents import Position
from dgemma_lsp.documents.edits import NoSuggestion, Rewrite, Snapshot
from dgemma_lsp.documents.masking import adds_secret, without_secrets
from dgemma_lsp.engine.errors import EngineError
from dgemma_lsp.pipeline import actions
from dgemma_lsp.pipeline.actions import ActionKind, Problem
from dgemma_lsp.pipeline.infiller import InfillerLike
from dgemma_lsp.pipeline.suggest import why_disabled
from dgemma_lsp.server import from_client, to_client
from dgemma_lsp.server.session import DgemmaServer
from dgemma_lsp.server.worker import Lane, Steps

logger = logging.getLogger(__name__)

_BUDGET_S = 30.0
"""How long the model may work on an action that the user waits for and can cancel."""

_CHANGED = "the document has changed meanwhile; ask again"
_command_numbers = itertools.count(1)


async def code_action(
    server: DgemmaServer, params: types.CodeActionParams
) -> list[types.CodeAction | types.Command] | None:
    """What can be done here."""
    request = from_client.actions_request(params)
    snapshot = server.documents.snapshot(request.uri, min(request.start, request.end))
    document = server.documents.get(request.uri)
    if snapshot is None or document is None:
        return []
    encoding = server.documents.encoding
    end = document.offset_at(max(request.start, request.end), encoding)
    problems = [
        Problem(
            document.offset_at(from_client.position(found.range.start), encoding),
            document.offset_at(from_client.position(found.range.end), encoding),
            found.message,
        )
        for found in request.problems
    ]
    await server.judged(snapshot)
    if server.refusal(snapshot) is not None:
        return []
    parsed = await server.trees.parsed(snapshot)
    offered = actions.offered(parsed, end, problems, proofreads=server.proofreads)
    return to_client.code_actions(offered, snapshot, request, server.client)


async def resolve(server: DgemmaServer, action: types.CodeAction) -> types.CodeAction:
    """Compute the edit of an action that was chosen."""
    if action.data is None:
        return action
    target = from_client.action_target(action.data)
    if target is None:
        raise JsonRpcInvalidParams("this is no action of dgemma's")
    rewrite = await _rewritten(server, *_found(server, target))
    action.edit = to_client.workspace_edit(rewrite, server.client, server.documents.encoding, action.title)
    return action


async def execute_command(server: DgemmaServer, params: types.ExecuteCommandParams) -> Any:
    """Run a command that a client or a key binding names."""
    arguments = list(params.arguments or [])
    if params.command == from_client.EXPLAIN_SILENCE:
        if len(arguments) != 1 or not isinstance(arguments[0], str):
            raise JsonRpcInvalidParams(f"{params.command} takes a document's uri")
        return to_client.silence(server.silences.get(arguments[0]), server.rules.get(arguments[0]))
    if params.command == from_client.DID_ACCEPT:
        server.statistics.accept(arguments[0] if arguments else None)
        return None
    kinds = {to_client.command_name(kind): kind for kind in ActionKind}
    if params.command not in kinds or len(arguments) != 1:
        raise JsonRpcInvalidParams("no such command, or not its arguments")
    kind = kinds[params.command]
    snapshot, end = _addressed(server, arguments[0])
    title = _TITLES[kind]
    work = _applied(server, kind, snapshot, end, title)
    return await _with_progress(server, title, params.work_done_token, work)


async def next_edit(server: DgemmaServer, params: object) -> dict[str, Any]:
    """The next place to change after the user's last edit, as Copilot's clients ask for it; mostly none."""
    request = from_client.next_edit_request(params)
    if request is None:
        raise JsonRpcInvalidParams("a document with its version and a position are wanted")
    uri, asked_version, position = request
    snapshot = server.documents.snapshot(uri, position)
    wanted = server.settings.next_edit and snapshot is not None and asked_version in (None, snapshot.version)
    if snapshot is not None:
        await server.judged(snapshot)
    if not wanted or snapshot is None or server.refusal(snapshot) not in (None, NoSuggestion.LANGUAGE):
        return to_client.next_edit_answer(None, None, server.documents.encoding)
    edit = server.renames.next_edit(await server.trees.parsed(snapshot))
    if edit is not None and not _is_current(server, snapshot):
        edit = None
    return to_client.next_edit_answer(snapshot, edit, server.documents.encoding)


_TITLES = {
    ActionKind.FILL: "Fill this hole",
    ActionKind.FILL_ALL: "Fill all holes in this file",
    ActionKind.REWRITE: "Rewrite selection",
    ActionKind.REPAIR: "Repair",
    ActionKind.DOCSTRING: "Add docstring",
    ActionKind.ANNOTATE: "Add type annotations",
    ActionKind.ARGUMENTS: "Add missing arguments",
    ActionKind.TRY: "Wrap in try/except",
    ActionKind.PROOFREAD: "Look for a wrong word in this function",
}


def _addressed(server: DgemmaServer, argument: object) -> tuple[Snapshot, int]:
    """What a command's argument names: an action's own data, or a document with a range or a position."""
    if (target := from_client.action_target(argument)) is not None:
        return _found(server, target)[1:]
    named = from_client.command_range(argument)
    snapshot = named and server.documents.snapshot(named[0], named[1])
    document = named and server.documents.get(named[0])
    if named is None or snapshot is None or document is None:
        raise JsonRpcInvalidParams("a command takes one argument: {uri, range} or {uri, position} in an open document")
    return snapshot, document.offset_at(named[2], server.documents.encoding)


def _found(server: DgemmaServer, target: from_client.ActionTarget) -> tuple[ActionKind, Snapshot, int]:
    """The document of an action, if it is still as it was when the action was offered."""
    snapshot = server.documents.snapshot(target.uri, Position(0, 0))
    if snapshot is None:
        raise _refusal(NoSuggestion.NOT_OPEN)
    same = snapshot.version == target.version and to_client.checksum(snapshot.text) == target.checksum
    if not same or target.end > len(snapshot.source):
        raise JsonRpcContentModified(_CHANGED)
    return target.kind, snapshot.at(target.start), target.end


async def _rewritten(server: DgemmaServer, kind: ActionKind, snapshot: Snapshot, end: int) -> Rewrite:
    """Compute an edit; raises an error for the client if there is none."""
    started, using = time.perf_counter(), server.settings
    allowed = server.allowed(snapshot, await server.judged(snapshot))

    def steps(infiller: InfillerLike) -> Steps[Rewrite]:
        reason = why_disabled(snapshot, infiller.languages, using)
        if reason is not None:
            yield reason
        else:
            for found in actions.rewrite(kind, snapshot, end, infiller, without_secrets(allowed)):
                yield NoSuggestion.SECRET if _adds_secret(found, snapshot) else found

    answer: Rewrite | NoSuggestion = NoSuggestion.CANCELLED
    try:
        if (reason := server.refusal(snapshot)) is not None:
            answer = reason
        else:
            place = kind, snapshot.offset, end
            answer = await server.worker.run(
                steps, lane=Lane.COMMAND, document=snapshot.uri, place=place, budget_s=_BUDGET_S
            )
        if isinstance(answer, Rewrite) and not _is_current(server, snapshot):
            answer = NoSuggestion.STALE
    except EngineError as error:
        answer = error.reason
    except Exception:
        logger.exception("request %s failed", server.protocol.msg_id)
        answer = NoSuggestion.FAILED
    finally:
        server.conclude_rewrite(kind.value, snapshot, answer, started)
    if answer is NoSuggestion.STALE:
        raise JsonRpcContentModified(_CHANGED)
    if isinstance(answer, NoSuggestion):
        raise _refusal(answer)
    return answer


def _adds_secret(found: Rewrite | NoSuggestion, snapshot: Snapshot) -> bool:
    edits = found.edits if isinstance(found, Rewrite) else ()
    return any(adds_secret(edit.new_text, snapshot.source) for edit in edits)


def _is_current(server: DgemmaServer, snapshot: Snapshot) -> bool:
    document = server.documents.get(snapshot.uri)
    return document is not None and document.version == snapshot.version and document.source == snapshot.source


def _refusal(reason: NoSuggestion) -> JsonRpcException:
    return JsonRpcException(reason.value, types.LSPErrorCodes.RequestFailed.value)


async def _applied(
    server: DgemmaServer, kind: ActionKind, snapshot: Snapshot, end: int, title: str
) -> dict[str, Any] | types.WorkspaceEdit:
    """Compute an edit and have the client apply it; a client that cannot gets the edit as the command's result."""
    rewrite = await _rewritten(server, kind, snapshot, end)
    edit = to_client.workspace_edit(rewrite, server.client, server.documents.encoding, title)
    if not server.client.applies_edits:
        return edit
    applied = await server.workspace_apply_edit_async(types.ApplyWorkspaceEditParams(edit=edit, label=title))
    return {"applied": applied.applied, "failureReason": applied.failure_reason}


async def _with_progress(
    server: DgemmaServer, title: str, token: types.ProgressToken | None, work: Coroutine[Any, Any, Any]
) -> Any:
    """Await `work` while the client shows that it goes on, and may cancel it."""
    task = asyncio.ensure_future(work)
    progress = server.work_done_progress
    shown = token is not None
    if token is None and server.client.shows_progress:
        token = f"dgemma/command/{next(_command_numbers)}"
        shown = await _accepted(progress.create_async(token), task)
    if token is None or not shown:
        return await task
    progress.begin(token, types.WorkDoneProgressBegin(title=f"dgemma: {title}", cancellable=True))
    progress.tokens[token].add_done_callback(_cancelling(task))
    try:
        return await task  # to cancel this is to cancel the task
    finally:
        progress.end(token, types.WorkDoneProgressEnd())
        progress.tokens.pop(token, None)


async def _accepted(creating: Awaitable[object], task: asyncio.Future[Any]) -> bool:
    """Whether the client shows progress; the work does not wait for its answer."""
    asking = asyncio.ensure_future(creating)
    try:
        await asyncio.wait([asking, task], return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        task.cancel()
        asking.cancel()
        raise
    if not asking.done():
        asking.cancel()
        return False
    return asking.exception() is None


def _cancelling(task: asyncio.Future[Any]) -> Callable[[Any], object]:
    """Cancels a task when the client cancels its progress."""

    def on_done(patience: Any) -> None:
        if patience.cancelled():
            task.cancel()

    return on_done
