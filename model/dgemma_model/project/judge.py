"""Which of several texts for a line is most likely right, and how likely it is.

The texts are what the model wrote, what its causal head alone would write, what similar lines of the project have, and
what the project has between the same words. Text that is the likeliest token by token is often a line that nobody would
write. A copied line is real code, but it may belong somewhere else. A logistic model of a few figures tells them apart
better than any likelihood alone. Its odds also tell better whether the text should be shown (train/fit_judge.py,
log/archive.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dgemma_model.project.texts_between import Occurrences

FIGURES = 17
"""How many figures of a text the judge weighs."""
WRITTEN, MEAN = 1, 5
"""Places among them: whether the model wrote it, and its log-probability per token."""
_USUAL_TOKENS = 4
"""Tokens of a usual line. The log-probability of being right is divided by them, so that it compares with the scores of
fills that are not judged, which are means per token."""


NOWHERE = Occurrences(0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class ScoredText:
    """One text, with what is known of it."""

    text: str
    log_probability: float
    """Of its tokens and its end under the causal head, in nats."""
    tokens: int
    """How many tokens, its end included."""
    is_written: bool
    similar: int | None = None
    """Its rank among similar lines, from 0 for the most similar; None if it is not one."""
    likeness: float = 0.0
    between: int | None = None
    """Its rank among texts between the same words, from 0 for the closest; None if it is not one."""
    closeness: float = 0.0
    beam: int | None = None
    """Its rank among what the head alone would write, from 0 for the likeliest; None if it is not one."""
    occurrences: Occurrences = NOWHERE
    share: float = 1.0
    """Its share of the head's probability of all considered texts, 0 to 1."""

    @property
    def figures(self) -> tuple[float, ...]:
        """The inputs of the judge, in the order of its weights."""
        return (
            1.0,
            self.is_written,
            self.similar == 0,
            self.tokens,
            self.log_probability,
            self.log_probability / self.tokens,
            self.similar is not None,
            self.likeness,
            self.between is not None,
            self.closeness,
            self.beam is not None,
            self.beam == 0,
            *map(math.log1p, self.occurrences),
            self.share,
        )


@dataclass(frozen=True, slots=True)
class Judge:
    """A logistic model of the figures of a text; its weights are found by train/fit_judge.py."""

    weights: tuple[float, ...]
    """Log-odds that each of `ScoredText.figures` adds."""

    def log_odds(self, text: ScoredText) -> float:
        """That the text is right."""
        return sum(weight * figure for weight, figure in zip(self.weights, text.figures, strict=True))

    def score(self, text: ScoredText) -> float:
        """The odds as a `Draft.score`."""
        log_odds = self.log_odds(text)
        log_probability = min(0.0, log_odds) - math.log1p(math.exp(-abs(log_odds)))
        return log_probability / _USUAL_TOKENS
