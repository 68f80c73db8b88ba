"""What is suggested at the cursor: inline completions, and why there was none."""

from __future__ import annotations

import logging
import time

from lsprotocol import types

from dgemma_lsp import protocol
from dgemma_lsp.edits import NoSuggestion
from dgemma_lsp.session import DgemmaServer
from dgemma_lsp.worker import Answer

logger = logging.getLogger(__name__)


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
