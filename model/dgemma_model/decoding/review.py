"""Which words of an existing text the writer would replace.

The most surprising words are tried: the writer reads copies of the text with another word in place of one of them, all
in one pass. A word is doubted where that makes the whole text much likelier. So what comes after a word counts, too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from dgemma_model.decoding.causal import next_token_logits
from dgemma_model.decoding.prompt_cache import OpenPrompt
from dgemma_model.prompt.tokenizer import Tokenizer
from dgemma_model.request import Doubt, Excerpt, Places

PIECE_TOKENS = 56
"""About so many tokens are reviewed together, in whole lines."""
MOST_TRIED, OTHERS, LIKELIEST = 4, 2, 16
"""Of a piece, so many words are tried at most, and for each of them so many others, which must begin with one of so
many likeliest tokens."""


def reviewed(
    prompted: Callable[[Excerpt], AbstractContextManager[OpenPrompt]],
    count_tokens: Callable[[str], int],
    excerpt: Excerpt,
    span: str,
    words: Places,
    others: Collection[str],
    min_nats: float,
) -> Iterator[list[Doubt]]:
    """See `Infiller.review`; `prompted` caches the prompt of an excerpt."""
    done = 0
    for piece in _pieces(span, count_tokens):
        end = done + len(piece)
        around = replace(excerpt, prefix=excerpt.prefix + span[:done], suffix=span[end:] + excerpt.suffix)
        within = [(start - done, stop - done) for start, stop in words if done <= start and stop <= end]
        found = list[Doubt]()
        if within:
            with prompted(around) as opened:
                found = list(doubts(opened, piece, within, others, min_nats))
        yield [replace(doubt, start=doubt.start + done, end=doubt.end + done) for doubt in found]
        done = end


def _pieces(text: str, count_tokens: Callable[[str], int]) -> Iterator[str]:
    """Whole lines, as many as are reviewed together."""
    piece = ""
    for line in text.splitlines(keepends=True):
        if piece and count_tokens(piece + line) > PIECE_TOKENS:
            yield piece
            piece = ""
        piece += line
    if piece:
        yield piece


class _Place(NamedTuple):
    """A word and the tokens that it is made of."""

    start: int
    end: int
    lead: str
    """What the first of its tokens has before the word, often a blank."""
    tokens: range


@torch.inference_mode()
def doubts(opened: OpenPrompt, text: str, words: Places, others: Collection[str], min_nats: float) -> Iterator[Doubt]:
    """Yield those of `words`, places in code points of `text`, with which one of `others` in their place makes `text`
    at least `min_nats` likelier. `text` is in the hole; all of the prompt is cached.

    Raises:
        InfillError: the text is too long for the context.
    """
    tokenizer, prompt = opened.vocabulary.tokenizer, opened.prompt
    ids = tokenizer.encode(prompt.forced.decode("utf-8", "replace") + text)
    if not words or not ids:
        return
    logits, _ = next_token_logits(opened.cached, prompt.ids, [ids])
    surprise = (logits[:-1].max(-1).values - logits[:-1].gather(-1, torch.tensor(ids)[:, None])[:, 0]).tolist()
    places = list(_places(prompt.forced + text.encode(), len(prompt.forced), text, ids, words, tokenizer))
    places.sort(key=lambda place: -max(surprise[at] for at in place.tokens))
    tried, rows = list[tuple[_Place, str]](), [ids]
    for place in places[:MOST_TRIED]:
        at = max(place.tokens, key=surprise.__getitem__)
        if surprise[at] > 0:
            likeliest = logits[at].topk(min(LIKELIEST, logits.shape[-1])).indices.tolist()
            for other, new in _others(text, ids, place, at, likeliest, others, tokenizer):
                tried.append((place, other))
                rows.append([*ids[: place.tokens.start], *new, *ids[place.tokens.stop :]])
    first, *changed = _log_likelihoods(opened, rows)
    best: dict[_Place, Doubt] = {}
    for (place, other), said in zip(tried, changed, strict=True):
        doubt = Doubt(place.start, place.end, said - first, other)
        if doubt.nats >= max(min_nats, best[place].nats if place in best else min_nats):
            best[place] = doubt
    yield from sorted(best.values(), key=lambda doubt: doubt.start)


def _places(
    data: bytes, healed: int, text: str, ids: Sequence[int], words: Places, tokenizer: Tokenizer
) -> Iterator[_Place]:
    """The words whose last token ends with them; `data` is what `ids` spell, of which the first `healed` bytes are not
    `text`."""
    edges = [0, *itertools.accumulate(len(tokenizer.token_bytes[token]) for token in ids)]
    for start, end in words:
        first, last = (healed + len(text[:at].encode()) for at in (start, end))
        tokens = [at for at in range(len(ids)) if edges[at] < last and edges[at + 1] > first]
        if tokens and edges[tokens[-1] + 1] == last:
            lead = data[edges[tokens[0]] : first].decode("utf-8", "replace")
            yield _Place(start, end, lead, range(tokens[0], tokens[-1] + 1))


def _others(
    text: str,
    ids: Sequence[int],
    place: _Place,
    at: int,
    likeliest: Sequence[int],
    others: Collection[str],
    tokenizer: Tokenizer,
) -> list[tuple[str, list[int]]]:
    """The words to try at a place, and their tokens: like the present one up to its token `at`, then one of the
    `likeliest`; the likeliest first."""
    kept, found = ids[place.tokens.start : at], list[tuple[int, str, list[int]]]()
    for other in others:
        new = tokenizer.encode(place.lead + other)
        following = new[len(kept) : len(kept) + 1]
        is_new = other != text[place.start : place.end] and following != [ids[at]]
        if is_new and new[: len(kept)] == kept and following and following[0] in likeliest:
            found.append((likeliest.index(following[0]), other, new))
    return [(other, new) for _, other, new in sorted(found)[:OTHERS]]


def _log_likelihoods(opened: OpenPrompt, rows: Sequence[Sequence[int]]) -> list[float]:
    """Of rows of tokens after the prompt, in nats."""
    logits, paths = next_token_logits(opened.cached, opened.prompt.ids, rows)

    def of(path: Sequence[int], row: Sequence[int]) -> Tensor:
        read = logits[path[:-1]]
        return (read.gather(-1, torch.tensor(row)[:, None])[:, 0] - read.logsumexp(-1)).sum()

    return [float(of(path, row)) for path, row in zip(paths, rows, strict=True)]
