"""Which text a line gets: every candidate is read by the causal head in one pass, and the judge chooses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from dgemma_model.decoding.causal import fill_log_probabilities
from dgemma_model.decoding.prompt_cache import CachedPrompt
from dgemma_model.project.judge import ScoredText
from dgemma_model.project.similar_lines import SimilarLine
from dgemma_model.project.text_index import IndexedText
from dgemma_model.project.texts_between import TextBetween, occurrences
from dgemma_model.prompt.canvas import Prompt
from dgemma_model.prompt.tokenizer import Tokenizer
from dgemma_model.request import Candidate, Draft, DraftToken, Excerpt, FillRequest

SIMILAR_LINES, TEXTS_BETWEEN = 4, 2
"""Lines from elsewhere, and texts between the same words, that are considered."""


LITTLE_ELSEWHERE = 4_000
"""Code points elsewhere, beyond the prompt, that make a project."""


_LONGEST = 300
"""Code points of a text from elsewhere, at most."""


Surroundings = tuple[str, str, Sequence[IndexedText]]
"""What stands before the hole, behind it, and elsewhere."""


@dataclass(frozen=True, slots=True)
class LineCandidates:
    """What may be missing in a line."""

    written: Sequence[str]
    """By the model."""
    similar: Sequence[SimilarLine] = ()
    """The most similar first."""
    between: Sequence[TextBetween] = ()
    """The closest first."""
    beams: Sequence[str] = ()
    """What the head alone would write, the likeliest first."""


def readings(
    cached: CachedPrompt, prompt: Prompt, texts: LineCandidates, around: Surroundings, tokenizer: Tokenizer
) -> list[ScoredText]:
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
            ScoredText(
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


def judged(draft: Draft, options: Sequence[ScoredText], request: FillRequest) -> Draft:
    """The text that is most likely right of a finished draft of one line and all `options`, of which it is one; with
    the best of all as `candidates` where the request wants several.

    The judge knows projects. Where there is next to nothing beside the prompt, whole lines are left to the head.
    """
    by_odds = is_line_begun(request.excerpt) or sum(map(len, request.project_text)) >= LITTLE_ELSEWHERE
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
