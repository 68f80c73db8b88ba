"""How readily suggestions are shown unasked: levels of a setting, and what each gives with the default checkpoint."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Level:
    """One level, with what was measured of it."""

    factor: float
    """By which a checkpoint's own threshold is multiplied. Scores are logarithms, so that it is a power of the chance
    of being right."""
    offered: int
    """Per cent of the places at which something is shown."""
    right: int
    """Per cent of what is shown that was written there."""


PLACES, LANGUAGES = 520, 13
"""Where the levels were measured, with the default checkpoint."""

LEVELS = {
    "low": Level(0.4, offered=17, right=83),
    "normal": Level(1.0, offered=34, right=66),
    "high": Level(1.6, offered=61, right=51),
}
"""`eval/eagerness.py` writes the shares."""


def threshold(usual: float, name: str) -> float:
    """The `Draft.score`, in nats, under which nothing is shown unasked at the level of that name; `usual` is the
    checkpoint's own."""
    return LEVELS[name].factor * usual


def told() -> str:
    """The levels, for the description of the setting."""
    shares = "; ".join(
        f"`{name}` shows something at {level.offered} of 100 places, and {level.right} % of it is right"
        for name, level in LEVELS.items()
    )
    return (
        f"{shares} (the default checkpoint, at {PLACES} places in {LANGUAGES} languages of code that it has not read)"
    )
