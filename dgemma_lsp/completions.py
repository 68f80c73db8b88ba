"""What is suggested at the cursor: as inline completions, or in the menu of clients that do not know those."""

from __future__ import annotations

import logging
import time

from lsprotocol import types

from dgemma_lsp import protocol
from dgemma_lsp.documents import Position
from dgemma_lsp.edits import NoSuggestion
from dgemma_lsp.session import DgemmaServer
from dgemma_lsp.worker import Answer

logger = logging.getLogger(__name__)


async def inline_completion(
    server: DgemmaServer, params: types.InlineCompletionParams
) -> list[types.InlineCompletionItem] | None:
    """Suggest at the cursor."""
    request = protocol.inline_request(params)
    answer = await _answer(server, request.uri, request.position, invoked=request.invoked)
    return protocol.inline_answer(answer, server.documents.encoding)


async def completion(server: DgemmaServer, params: types.CompletionParams) -> types.CompletionList | None:
    """The same suggestion as an item of the completion menu.

    Editors call every menu that opens "invoked", whoever opened it: it counts as typed.
    """
    position = protocol.position(params.position)
    answer = await _answer(server, params.text_document.uri, position, invoked=False)
    return protocol.menu_answer(answer, server.documents.encoding, server.client)


async def _answer(server: DgemmaServer, uri: str, position: Position, *, invoked: bool) -> Answer:
    """What there is to suggest, or why there is nothing, which is remembered and logged."""
    started = time.perf_counter()
    snapshot = server.documents.snapshot(uri, position)
    answer: Answer = NoSuggestion.CANCELLED
    try:
        if snapshot is None:
            answer = NoSuggestion.NOT_OPEN
        else:
            answer = await server.answer(snapshot, invoked=invoked)
    except Exception:
        logger.exception("request %s failed", server.protocol.msg_id)
        answer = NoSuggestion.FAILED
    finally:
        server.conclude(uri, answer, started)
    return answer
