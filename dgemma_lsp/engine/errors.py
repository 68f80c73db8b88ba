"""What goes wrong with an engine, by its name."""

from __future__ import annotations

import re

from dgemma_lsp.documents.edits import NoSuggestion
from dgemma_model.request import InfillError

_SAID_CHARS = 200
_UNPLAIN = re.compile(r"[^\w .,:;'/+=-]+")


class EngineError(InfillError):
    """An engine does not fill. The next fill may succeed; the message is for users."""

    def __init__(self, reason: NoSuggestion, message: str, *, wait_s: float | None = None) -> None:
        """`wait_s` is how many seconds the engine wants to be left alone, if it says so."""
        super().__init__(message)
        self.reason = reason
        self.wait_s = wait_s


def plain(said: object) -> str:
    """What an engine says, as a short line without markup: editors make links of some texts."""
    words = _UNPLAIN.sub(" ", said if isinstance(said, str) else "")
    return " ".join(words.split())[:_SAID_CHARS]
