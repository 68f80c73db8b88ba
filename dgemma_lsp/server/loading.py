"""What is said of the checkpoint that a server loads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dgemma_lsp.engine.health import Health
from dgemma_lsp.pipeline.infiller import InfillerLike
from dgemma_lsp.settings import Settings


@dataclass(frozen=True, slots=True)
class Choice:
    """What fills, for a user who wants to know."""

    checkpoint: str
    why: str
    better: str | None = None
    """The checkpoint that this machine should use instead."""
    offer: str | None = None
    """What that one is: size, languages, quality, licence."""
    advice: str | None = None
    """What to do, in a sentence for whoever has a terminal."""
    engine: str | None = None
    """The address of the engine that is asked in place of a checkpoint."""
    text_goes_to: str | None = None
    """The same in words; None where text stays in the server."""


class LoadListener(Protocol):
    """Who is told how loading goes, on the thread that loads."""

    def chose(self, choice: Choice) -> None:
        """This checkpoint is loaded now."""

    def read(self, share: float) -> None:
        """This share of it has been read, from 0 to 1."""

    def health_changed(self, health: Health) -> None:
        """The engine's health has changed. Called on the model's thread, also while it fills."""


LoadInfiller = Callable[[Settings, LoadListener], InfillerLike]
"""Loads the model. Runs on the model's thread, so that this is where torch may be imported."""
