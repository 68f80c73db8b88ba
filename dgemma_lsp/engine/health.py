"""How an engine is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Health:
    """How an engine is, for people."""

    well: bool
    message: str
    """What it serves, or what is wrong and what to do."""
