"""The setting `eagerness`: how sure the model must be before a suggestion is shown unasked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Level:
    """One level, with the shares that were measured with the default checkpoint."""

    factor: float
    """A checkpoint's own threshold, in nats, is multiplied by this. Scores are log-probabilities, so 0.4 raises the
    required probability p to p ** 0.4."""
    offered: int
    """At how many of 100 places something is shown."""
    right: int
    """How many of 100 suggestions shown are exactly what the author wrote there."""


PLACES, LANGUAGES = 520, 13
"""How many places of code the model has not read, in how many languages, the levels were measured at."""

LEVELS = {
    "low": Level(0.4, offered=17, right=83),
    "normal": Level(1.0, offered=34, right=66),
    "high": Level(1.6, offered=61, right=51),
}
"""The shares are written here by `eval/eagerness.py`."""


def threshold(usual: float, name: str) -> float:
    """The `Draft.score`, in nats, below which nothing is shown unasked at the level `name`. `usual` is the checkpoint's
    own threshold."""
    return LEVELS[name].factor * usual


def description() -> str:
    """The levels and their shares, as text for the description of the setting."""
    shares = "; ".join(
        f"`{name}` shows something at {level.offered} of 100 places, and {level.right} % of it is right"
        for name, level in LEVELS.items()
    )
    return (
        f"{shares} (the default checkpoint, at {PLACES} places in {LANGUAGES} languages of code that it has not read)"
    )
