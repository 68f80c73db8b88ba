"""Suggestions at the cursor: as inline completions, or in the completion menu of clients without those."""

from __future__ import annotations

import logging
import time
from functools import partial

from lsprotocol import types
from pygls.exceptions import JsonRpcInvalidParams

from dgemma_lsp.documents.documents import Position
from dgemma_lsp.documents.edits import Edit, NoSuggestion, Snapshot
from dgemma_lsp.engine.errors import EngineError
from dgemma_lsp.pipeline.watched import Frame
from dgemma_lsp.server import from_client, to_client
from dgemma_lsp.server.session import DgemmaServer
from dgemma_lsp.server.worker import Answer

logger = logging.getLogger(__name__)


async def inline_completion(
    server: DgemmaServer, params: types.InlineCompletionParams
) -> list[types.InlineCompletionItem] | None:
    """Suggest at the cursor."""
    request = from_client.inline_request(params)
    answer, number = await _answer(
        server, request.uri, request.position, invoked=request.invoked, selected=request.selected
    )
    return to_client.inline_answer(answer, server.documents.encoding, number)


async def completion(server: DgemmaServer, params: types.CompletionParams) -> types.CompletionList | None:
    """The same suggestion as an item of the completion menu.

    Editors call every menu "invoked", even one that opens by itself. So a menu counts as automatic. Only with the
    setting `trigger` at "manual" does it count as asked for.
    """
    position = from_client.position(params.position)
    answer, number = await _answer(server, params.text_document.uri, position, invoked=False, typed=False)
    return to_client.menu_answer(answer, server.documents.encoding, server.client, number)


async def watch(server: DgemmaServer, params: object) -> dict[str, str]:
    """Run a watched fill. Only the client that asked receives its `dgemma/canvas` notifications."""
    request = from_client.watch_request(params)
    if request is None:
        raise JsonRpcInvalidParams("a document, a position and a number are wanted")
    uri, position, number = request
    started, snapshot = time.perf_counter(), server.documents.snapshot(uri, position)
    answer: Answer = NoSuggestion.CANCELLED
    try:
        if snapshot is None:
            answer = NoSuggestion.NOT_OPEN
        else:
            show = partial(_show_frame, server, number)
            answer = await server.watch(snapshot, show)
    except EngineError as error:
        answer = error.reason
    except Exception:
        logger.exception("request %s failed", server.protocol.msg_id)
        answer = NoSuggestion.FAILED
    finally:
        server.conclude_watch(uri, answer, started)
    return to_client.watched(answer)


def _show_frame(server: DgemmaServer, number: int, frame: Frame) -> None:
    server.protocol.notify(from_client.CANVAS, to_client.canvas(number, frame))


def stats(server: DgemmaServer, params: object) -> dict[str, object]:
    """How often suggestions were of use in this session."""
    seen = server.statistics
    delay_s = server.rhythm.delay_s(server.settings.debounce_ms / 1000)
    return {**seen.counts, "silences": dict(seen.silences), "delay_ms": round(1000 * delay_s)}


def did_show(server: DgemmaServer, params: object) -> None:
    """A client shows an item."""
    server.statistics.show(from_client.shown_number(params))


def did_accept_partly(server: DgemmaServer, params: object) -> None:
    """A client has inserted a part of an item."""
    server.statistics.accept_partly(from_client.shown_number(params), from_client.accepted_length(params))


async def _answer(
    server: DgemmaServer,
    uri: str,
    position: Position,
    *,
    invoked: bool,
    typed: bool = True,
    selected: tuple[Position, Position, str] | None = None,
) -> tuple[Answer, int]:
    """The suggestion, or the reason why there is none, and its number. A reason is kept and logged."""
    started = time.perf_counter()
    snapshot = server.documents.snapshot(uri, position)
    answer: Answer = NoSuggestion.CANCELLED
    try:
        if snapshot is None:
            answer = NoSuggestion.NOT_OPEN
        else:
            menu = _selected(server, snapshot, selected)
            answer = await server.answer(snapshot, invoked=invoked, typed=typed, selected=menu)
    except EngineError as error:
        answer = error.reason
    except Exception:
        logger.exception("request %s failed", server.protocol.msg_id)
        answer = NoSuggestion.FAILED
    finally:
        server.conclude(uri, answer, started)
    return answer, server.statistics.offer(answer)


def _selected(server: DgemmaServer, snapshot: Snapshot, selected: tuple[Position, Position, str] | None) -> Edit | None:
    """The edit that the menu would make, if it ends at the cursor; otherwise None."""
    document = server.documents.get(snapshot.uri)
    if selected is None or document is None:
        return None
    start, end = (document.offset_at(position, server.documents.encoding) for position in selected[:2])
    return Edit(start, end, selected[2]) if start <= snapshot.offset == end else None
