"""What is said of the checkpoint that a server loads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dgemma_lsp.pipeline.infiller import InfillerLike
from dgemma_lsp.settings import Settings


@dataclass(frozen=True, slots=True)
class Choice:
    """The checkpoint that fills, for a user who wants to know."""

    checkpoint: str
    why: str
    better: str | None = None
    """The checkpoint that this machine should use instead."""
    offer: str | None = None
    """What that one is: size, languages, quality, licence."""
    advice: str | None = None
    """What to do, in a sentence for whoever has a terminal."""


class LoadListener(Protocol):
    """Who is told how loading goes, on the thread that loads."""

    def chose(self, choice: Choice) -> None:
        """This checkpoint is loaded now."""

    def read(self, share: float) -> None:
        """This share of it has been read, from 0 to 1."""


LoadInfiller = Callable[[Settings, LoadListener], InfillerLike]
"""Loads the model. Runs on the model's thread, so that this is where torch may be imported."""
