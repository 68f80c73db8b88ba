"""What the network doubts, and how likely it finds a text."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Collection

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_fixtures import SOURCE, tiny_infiller, tiny_tokenizer
from test_tokenizer import texts

from dgemma_model.network.cache import Cache
from dgemma_model.prompt.suffix_first import SuffixFirst
from dgemma_model.request import Doubt, Excerpt, InfillError

TOKENIZER = tiny_tokenizer()
INFILLER = tiny_infiller()
NETWORK = INFILLER._checkpoint.network


def words_of(text: str) -> list[tuple[int, int]]:
    return [found.span() for found in re.finditer(r"\w+", text)]


def doubts(excerpt: Excerpt, span: str, others: Collection[str], min_nats: float = -math.inf) -> list[Doubt]:
    return [doubt for some in INFILLER.review(excerpt, span, words_of(span), others, min_nats) for doubt in some]


OTHERS = sorted({*re.findall(r"\w+", SOURCE), *string.ascii_letters, *string.digits, "x1", "é"})


@settings(max_examples=30, deadline=None)
@given(prefix=texts, span=texts, suffix=texts)
def test_doubts_are_words_of_the_span_in_their_order(prefix: str, span: str, suffix: str) -> None:
    found = doubts(Excerpt(prefix, suffix), span, OTHERS)
    places = [(doubt.start, doubt.end) for doubt in found]
    assert set(places) <= set(words_of(span)) and places == sorted(set(places))
    assert all(doubt.instead in OTHERS and doubt.instead != span[doubt.start : doubt.end] for doubt in found)
    assert all(math.isfinite(doubt.nats) for doubt in found)


def log_likelihood(prompt: list[int], ids: list[int]) -> float:
    hidden = NETWORK.encode(torch.tensor([prompt + ids]), Cache())[0, len(prompt) - 1 : -1]
    return float(NETWORK.logits(hidden).log_softmax(-1)[range(len(ids)), ids].sum())


@pytest.mark.parametrize("span", ["self.a + 1", "balance = é + self.owner\n", "total = amount * 2"])
def test_a_doubt_says_how_much_likelier_the_text_would_be(span: str) -> None:
    excerpt = Excerpt("", "\n")  # nothing is healed
    prompt, found = SuffixFirst(TOKENIZER).encode(excerpt, 96).ids, doubts(excerpt, span, OTHERS)
    assert found
    for doubt in found:
        changed = span[: doubt.start] + doubt.instead + span[doubt.end :]
        with torch.inference_mode():
            gain = log_likelihood(prompt, TOKENIZER.encode(changed)) - log_likelihood(prompt, TOKENIZER.encode(span))
        assert doubt.nats == pytest.approx(gain, abs=0.05)


def test_only_what_is_doubted_strongly_is_told() -> None:
    excerpt, span = Excerpt(SOURCE[:200], "\n"), SOURCE[200:500]  # several pieces
    everything, strong = (doubts(excerpt, span, OTHERS, least) for least in (-math.inf, 20.0))
    assert 0 < len(strong) < len(everything)
    assert strong == [doubt for doubt in everything if doubt.nats >= 20.0]


def test_a_long_text_is_reviewed_piece_by_piece() -> None:
    pieces = list(INFILLER.review(Excerpt("", "\n"), SOURCE, words_of(SOURCE), OTHERS, -math.inf))
    assert len(pieces) > 2 and sum(map(bool, pieces)) > 1
    assert all(SOURCE[doubt.start : doubt.end].isidentifier() for some in pieces for doubt in some)


def test_nothing_is_doubted_in_nothing() -> None:
    assert doubts(Excerpt("x", "y"), "", OTHERS) == [] == doubts(Excerpt("x", "y"), "= (", OTHERS)


# ----------------------------------------------------------------------- score


@settings(max_examples=20, deadline=None)
@given(prefix=texts, fills=st.lists(texts, max_size=4), suffix=texts)
def test_scores_are_exact_and_do_not_depend_on_their_neighbours(prefix: str, fills: list[str], suffix: str) -> None:
    excerpt = Excerpt(prefix, suffix)
    prompt = SuffixFirst(TOKENIZER).encode(excerpt, 96)
    scores = INFILLER.score(excerpt, fills)
    assert len(scores) == len(fills)
    for fill, score in zip(fills, scores, strict=True):
        ids = [*TOKENIZER.encode(prompt.forced.decode() + fill), TOKENIZER.end_id]
        hidden = NETWORK.encode(torch.tensor([prompt.ids + ids]), Cache())[0, len(prompt.ids) - 1 : -1]
        each = NETWORK.logits(hidden).log_softmax(-1)[range(len(ids)), ids].tolist()
        size, total = 0, 0.0
        for token, value in zip(ids, each, strict=True):
            size += len(TOKENIZER.token_bytes[token])
            total += value if size > len(prompt.forced) or token == TOKENIZER.end_id else 0.0
        assert score == pytest.approx(total, abs=1e-2)


def test_scoring_nothing_is_nothing() -> None:
    assert INFILLER.score(Excerpt("x", "y"), []) == []


@given(text=texts)
def test_tokens_are_counted(text: str) -> None:
    assert INFILLER.count_tokens(text) == len(TOKENIZER.encode(text))


def test_pieces_without_words_are_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read = list[str]()
    prompted = INFILLER._prompted
    monkeypatch.setattr(INFILLER, "_prompted", lambda excerpt: read.append(excerpt.prefix) or prompted(excerpt))
    last = words_of(SOURCE)[-1]
    assert len(list(INFILLER.review(Excerpt("", "\n"), SOURCE, [last], OTHERS))) > 2
    assert len(read) == 1 and SOURCE[: last[0]].startswith(read[0])


def test_one_hole_at_a_time() -> None:
    with pytest.raises(InfillError, match="one hole"):
        INFILLER.score(Excerpt("a", "b", ("c",)), ["x"])
    with pytest.raises(InfillError, match="one hole"):
        doubts(Excerpt("a", "b", ("c",)), "x", OTHERS)


def test_a_text_longer_than_the_context_is_refused() -> None:
    with pytest.raises(InfillError, match="the model's context has room for"):
        INFILLER.score(Excerpt("a", "b"), ["x", "x = 1\n" * 200])
    assert len(INFILLER.score(Excerpt("a", "b"), ["x"])) == 1
