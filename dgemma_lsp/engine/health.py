"""Whether an engine can fill."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Health:
    """Whether an engine can fill, with a message for users."""

    well: bool
    message: str
    """Which model it serves; or what is wrong and what to do about it."""
