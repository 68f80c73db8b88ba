"""Whether an engine can fill."""

from __future__ import annotations

from dataclasses import dataclass

from dgemma_lsp.documents.edits import NoSuggestion


@dataclass(frozen=True, slots=True)
class Health:
    """Whether an engine can fill, with a message for users."""

    reason: NoSuggestion | None
    """Why it cannot; None if it can."""
    message: str
    """Which model it serves; or what is wrong and what to do about it."""

    @property
    def well(self) -> bool:
        """Whether it can fill."""
        return self.reason is None
