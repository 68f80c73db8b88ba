"""Which of several texts for a line is most likely right, and how likely: what was written, or what lines elsewhere
have in its place.

What was written is the likeliest text token by token, and often a line that nobody would write; a line from elsewhere
is one, and often of another place. A logistic model of a few figures tells them apart better than any likelihood alone,
and its odds tell better than the score of what was written whether it should be shown (LOG.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from dgemma_model.canvas import Prompt
from dgemma_model.causal import next_token_logits
from dgemma_model.copying import SimilarLine, Suggestions
from dgemma_model.prompt_cache import CachedPrompt
from dgemma_model.request import Candidate, Draft, DraftToken, FillRequest
from dgemma_model.tokenizer import Tokenizer

SIMILAR_LINES = 4
"""Lines from elsewhere that are considered."""
LEAST = 1e-30
"""The probability of what is impossible."""

_ALWAYS, _WRITTEN, _MOST_SIMILAR = -0.623, 0.51, 2.04
"""Log-odds of any text, and what it adds that it was written by the model, or is the most similar line's."""
_TOTAL, _MEAN, _TOKENS = 0.205, 1.091, -0.163
"""What each nat of the text's log-probability adds, each nat of that per token, and each token."""
_USUAL_TOKENS = 4
"""Among how many tokens the log-probability of being right is shared out, so that it compares with the scores of fills
that are not judged."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One text, with what is known of it."""

    text: str
    log_probability: float
    """Of its tokens and its end, copies being counted in, in nats."""
    tokens: int
    """How many these are."""
    is_written: bool
    is_most_similar: bool = False

    @property
    def log_odds(self) -> float:
        """That it is right."""
        likelihood = _TOTAL * self.log_probability + _MEAN * self.log_probability / self.tokens + _TOKENS * self.tokens
        return _ALWAYS + _WRITTEN * self.is_written + _MOST_SIMILAR * self.is_most_similar + likelihood

    @property
    def score(self) -> float:
        """The odds as a `Draft.score`."""
        log_probability = min(0.0, self.log_odds) - math.log1p(math.exp(-abs(self.log_odds)))
        return log_probability / _USUAL_TOKENS


def judged(
    cached: CachedPrompt,
    prompt: Prompt,
    draft: Draft,
    others: Sequence[str],
    similar: Sequence[SimilarLine],
    request: FillRequest,
    tokenizer: Tokenizer,
    suggestions: Callable[[], Suggestions],
) -> Draft:
    """The text that is most likely right of a finished draft of one line, `others` that the model wrote, and what
    `similar` lines have, the most similar first; with the best of all as `candidates` where the request wants several.

    `suggestions` makes fresh ones, with which each text is read as it would be written.
    """
    written = [draft.text, *others]
    texts = list(dict.fromkeys([*written, *(line.text for line in similar)]))
    forced = prompt.forced.decode("utf-8", "replace")
    rows = tokenizer.encode_batch([forced + text for text in texts])
    readings = []
    for text, row, logits in zip(texts, rows, next_token_logits(cached, prompt.ids, rows), strict=True):
        read = log_probabilities(row, logits, len(prompt.forced), tokenizer, suggestions())
        is_most_similar = bool(similar) and text == similar[0].text
        readings.append(Reading(text, sum(read), len(read), text in written, is_most_similar))
    best, *_ = ordered = sorted(readings, key=lambda reading: -reading.log_odds)
    if request.candidates > 1:
        found = tuple(Candidate(reading.text, reading.log_probability) for reading in ordered[: request.candidates])
        draft = replace(draft, candidates=found)
    if best.text != draft.text:
        shown = (DraftToken(best.text, math.exp(best.log_probability / best.tokens), settled=True),)
        draft = replace(draft, texts=(best.text,), complete=True, tokens=(shown,))
    return replace(draft, score=best.score)


def log_probabilities(
    row: Sequence[int], logits: Tensor, forced: int, tokenizer: Tokenizer, suggestions: Suggestions
) -> list[float]:
    """Of the tokens of a line and of its end, in nats, by the head and what is suggested; those that say nothing but
    the first `forced` bytes are left out.

    `logits` [len(row) + 1, V] are of what follows the prompt and each token.
    """
    ends = [tokenizer.end_id, *tokenizer.ids_starting(b"\n")]
    heads = logits.log_softmax(-1)
    endings = heads[:, ends].logsumexp(-1).tolist()
    likeliest = heads[:, : tokenizer.vocab_size].max(-1).values.tolist()
    found = list[float]()
    said = 0
    for place, token in enumerate([*row, tokenizer.end_id]):
        head, ending = heads[place], endings[place]

        def own(token: int, head: Tensor = head, ending: float = ending) -> float:
            return ending if token == tokenizer.end_id else float(head[token])

        said += len(tokenizer.token_bytes[token])
        if said > forced or token == tokenizer.end_id:
            share, copied = suggestions.predict(max(likeliest[place], ending), own)
            chance = (1 - share) * math.exp(own(token)) + share * copied.get(token, 0.0)
            found.append(math.log(max(chance, LEAST)))
        if token != tokenizer.end_id:
            suggestions.append(token)
    return found
