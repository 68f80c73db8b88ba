"""Which of several texts for a line is most likely right, and how likely: what was written, what the head alone would
write, what lines elsewhere have in its place, or what stands elsewhere between the same words.

What was written is the likeliest text token by token, and often a line that nobody would write; what stands elsewhere
is one, and often of another place. A logistic model of a few figures tells them apart better than any likelihood alone,
and its odds tell better than the score of what was written whether it should be shown (train/fit_judge.py, LOG.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from dgemma_model.canvas import Prompt
from dgemma_model.causal import fill_log_probabilities
from dgemma_model.copying import Occurrences, SimilarLine, TextBetween, occurrences
from dgemma_model.elsewhere import Piece
from dgemma_model.prompt_cache import CachedPrompt
from dgemma_model.request import Candidate, Draft, DraftToken, Excerpt, FillRequest
from dgemma_model.tokenizer import Tokenizer

SIMILAR_LINES, TEXTS_BETWEEN = 4, 2
"""Lines from elsewhere, and texts between the same words, that are considered."""

WEIGHTS = (
    *(-2.0, 1.34, 1.56, -0.174, -0.0456, 1.09, -1.91, 1.75, 0.251),
    *(0.0406, -0.529, 0.258, -0.0497, -0.161, 0.27, 0.475, 0.783),
)
"""Log-odds that each of `Reading.figures` adds, as `train/fit_judge.py` finds them."""
WRITTEN, MEAN = 1, 5
"""Places among them: whether the model wrote it, and its log-probability per token."""
LITTLE_ELSEWHERE = 4_000
"""Code points elsewhere, beyond the prompt, that make a project."""
_LONGEST = 300
"""Code points of a text from elsewhere, at most."""
_USUAL_TOKENS = 4
"""Among how many tokens the log-probability of being right is shared out, so that it compares with the scores of fills
that are not judged."""


NOWHERE = Occurrences(0, 0, 0, 0)
Around = tuple[str, str, Sequence[Piece]]
"""What stands before the hole, behind it, and elsewhere."""


@dataclass(frozen=True, slots=True)
class Texts:
    """What may be missing in a line."""

    written: Sequence[str]
    """By the model."""
    similar: Sequence[SimilarLine] = ()
    """The most similar first."""
    between: Sequence[TextBetween] = ()
    """The closest first."""
    beams: Sequence[str] = ()
    """What the head alone would write, the likeliest first."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One text, with what is known of it."""

    text: str
    log_probability: float
    """Of its tokens and its end under the causal head, in nats."""
    tokens: int
    """How many these are."""
    is_written: bool
    similar: int | None = None
    """Its place among similar lines, the most similar first."""
    likeness: float = 0.0
    between: int | None = None
    """Its place among texts between the same words, the closest first."""
    closeness: float = 0.0
    beam: int | None = None
    """Its place among what the head alone would write, the likeliest first."""
    occurrences: Occurrences = NOWHERE
    share: float = 1.0
    """Of the head's probability of all texts that are considered."""

    @property
    def figures(self) -> tuple[float, ...]:
        """What the judge goes by."""
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

    @property
    def log_odds(self) -> float:
        """That it is right."""
        return sum(weight * figure for weight, figure in zip(WEIGHTS, self.figures, strict=True))

    @property
    def score(self) -> float:
        """The odds as a `Draft.score`."""
        log_probability = min(0.0, self.log_odds) - math.log1p(math.exp(-abs(self.log_odds)))
        return log_probability / _USUAL_TOKENS


def readings(cached: CachedPrompt, prompt: Prompt, texts: Texts, around: Around, tokenizer: Tokenizer) -> list[Reading]:
    """What is known of each of `texts` for a line, none twice; all are read in one pass."""
    places = {line.text: (place, line.likeness) for place, line in enumerate(texts.similar)}
    ranks = {each.text: (place, each.closeness) for place, each in enumerate(texts.between)}
    beams = {text: place for place, text in enumerate(texts.beams)}
    short = [text for text in (*places, *ranks, *beams) if len(text) <= _LONGEST]
    every = list(dict.fromkeys([*texts.written, *short]))
    read = fill_log_probabilities(cached, prompt, every, tokenizer, one_line=True)
    likelihoods = torch.stack([said.sum() for said in read])
    shares = likelihoods.softmax(0).tolist()
    found = []
    for number, standing in enumerate(occurrences(every, *around)):
        text = every[number]
        place, likeness = places.get(text, (None, 0.0))
        rank, closeness = ranks.get(text, (None, 0.0))
        found.append(
            Reading(
                text=text,
                log_probability=float(likelihoods[number]),
                tokens=len(read[number]),
                is_written=text in texts.written,
                similar=place,
                likeness=likeness,
                between=rank,
                closeness=closeness,
                beam=beams.get(text),
                occurrences=standing,
                share=shares[number],
            )
        )
    return found


def is_line_begun(excerpt: Excerpt) -> bool:
    """Whether something stands on the line of the (single) hole."""
    return bool((excerpt.prefix.rpartition("\n")[2] + excerpt.suffix.partition("\n")[0]).strip())


def judged(draft: Draft, options: Sequence[Reading], request: FillRequest) -> Draft:
    """The text that is most likely right of a finished draft of one line and all `options`, of which it is one; with
    the best of all as `candidates` where the request wants several.

    The judge knows projects. Where there is next to nothing beside the prompt, whole lines are left to the head.
    """
    by_odds = is_line_begun(request.excerpt) or sum(map(len, request.elsewhere)) >= LITTLE_ELSEWHERE
    best, *_ = ordered = sorted(
        options, key=lambda reading: -(reading.log_odds if by_odds else reading.log_probability)
    )
    if request.candidates > 1:
        found = tuple(Candidate(reading.text, reading.log_probability) for reading in ordered[: request.candidates])
        draft = replace(draft, candidates=found)
    if best.text != draft.text:
        shown = (DraftToken(best.text, math.exp(best.log_probability / best.tokens), settled=True),)
        draft = replace(draft, texts=(best.text,), complete=True, tokens=(shown,))
    return replace(draft, score=best.score)
