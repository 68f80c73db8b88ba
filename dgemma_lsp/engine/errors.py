"""The error of a fill by an engine, with its `NoSuggestion` reason."""

from __future__ import annotations

import re

from dgemma_lsp.documents.edits import NoSuggestion
from dgemma_model.request import InfillError

_MOST_CHARS = 200
_UNPLAIN = re.compile(r"[^\w .,:;'/+=-]+")


class EngineError(InfillError):
    """A fill by an engine failed. The next one may succeed. The message is for users."""

    def __init__(self, reason: NoSuggestion, message: str, *, wait_s: float | None = None) -> None:
        """`wait_s` is how many seconds the engine asked to wait before the next request; None if it did not."""
        super().__init__(message)
        self.reason = reason
        self.wait_s = wait_s


def plain_line(text: object) -> str:
    """`text` of an engine as one short line without markup, since editors turn some texts into links; empty if it is no
    string."""
    words = _UNPLAIN.sub(" ", text if isinstance(text, str) else "")
    return " ".join(words.split())[:_MOST_CHARS]
