"""The contract of loading a model: what was chosen and why, and who is told how loading goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from dgemma_lsp.engine.health import Health
from dgemma_lsp.pipeline.infiller import InfillerLike
from dgemma_lsp.settings import Settings


@dataclass(frozen=True, slots=True)
class ChosenModel:
    """The checkpoint or engine that fills, as users are told of it."""

    checkpoint: str
    """Its name, or the engine's address."""
    why: str
    """Why it was chosen."""
    better: str | None = None
    """The checkpoint that this machine should use instead."""
    offer: str | None = None
    """What that one brings: size, languages, quality, licence."""
    advice: str | None = None
    """A sentence with the command that gets it."""
    engine: str | None = None
    """The address of the engine; None if a checkpoint fills."""
    text_goes_to: str | None = None
    """Where text goes, in words; None if it stays in the server."""


class LoadListener(Protocol):
    """Is told how loading goes. All methods are called on the thread that loads."""

    def chose(self, choice: ChosenModel) -> None:
        """This model is loaded now."""

    def read(self, share: float) -> None:
        """This share of its weights has been read, from 0 to 1."""

    def health_changed(self, health: Health) -> None:
        """The engine's health has changed. Called on the model's thread, also while it fills."""


LoadInfiller = Callable[[Settings, LoadListener], InfillerLike]
"""Loads the model. Runs on the model's thread, so that this is where torch may be imported."""
