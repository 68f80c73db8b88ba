"""What the network doubts, and how likely it finds a text."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_fixtures import SOURCE, tiny_infiller, tiny_tokenizer
from test_tokenizer import texts

from dgemma_model.network.cache import Cache
from dgemma_model.prompt.suffix_first import SuffixFirst
from dgemma_model.request import Excerpt, InfillError

TOKENIZER = tiny_tokenizer()
INFILLER = tiny_infiller()
NETWORK = INFILLER._checkpoint.network


@settings(max_examples=30, deadline=None)
@given(prefix=texts, span=texts, suffix=texts)
def test_doubts_are_places_in_the_span_and_in_order(prefix: str, span: str, suffix: str) -> None:
    doubts = INFILLER.review(Excerpt(prefix, suffix), span, min_nats=0.0)
    assert all(0 <= doubt.start <= doubt.end <= len(span) for doubt in doubts)
    assert [doubt.start for doubt in doubts] == sorted(doubt.start for doubt in doubts)
    assert all(doubt.nats >= 0.0 and math.isfinite(doubt.nats) for doubt in doubts)


def test_doubts_are_what_one_noiseless_pass_says() -> None:
    excerpt, span = Excerpt("", "\n"), "self.a + 1"  # nothing is healed
    ids = TOKENIZER.encode(span)
    canvas = torch.tensor([[*ids, TOKENIZER.end_id]])
    assert canvas.shape == (1, 8)
    cache = Cache()
    with torch.inference_mode():
        NETWORK.encode(torch.tensor([SuffixFirst(TOKENIZER).encode(excerpt, 96).ids]), cache)
        scores = NETWORK.logits(NETWORK.decode(canvas, cache))[0]
        scores[:, sorted(TOKENIZER.special_ids - {TOKENIZER.end_id})] = -torch.inf
    expected, at = [], 0
    for position, token in enumerate(ids):
        nats = (scores[position].max() - scores[position, token]).item()
        size = len(TOKENIZER.decode([token]))
        if nats >= 2.0:
            expected.append(
                (at, at + size, pytest.approx(nats, abs=1e-3), TOKENIZER.decode([int(scores[position].argmax())]))
            )
        at += size
    assert [(d.start, d.end, d.nats, d.instead) for d in INFILLER.review(excerpt, span)] == expected
    assert expected


def test_only_what_is_doubted_strongly_is_told() -> None:
    excerpt, span = Excerpt(SOURCE[:200], "\n"), SOURCE[200:500]  # longer than a canvas
    everything = INFILLER.review(excerpt, span, min_nats=0.0)
    strong = INFILLER.review(excerpt, span, min_nats=5.0)
    assert 0 < len(strong) < len(everything)
    assert [doubt.nats for doubt in strong] == pytest.approx([d.nats for d in everything if d.nats >= 5.0], abs=1e-3)


def test_nothing_is_doubted_in_nothing() -> None:
    assert INFILLER.review(Excerpt("x", "y"), "") == []


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


def test_one_hole_at_a_time() -> None:
    with pytest.raises(InfillError, match="one hole"):
        INFILLER.score(Excerpt("a", "b", ("c",)), ["x"])
    with pytest.raises(InfillError, match="one hole"):
        INFILLER.review(Excerpt("a", "b", ("c",)), "x")


def test_a_text_longer_than_the_context_is_refused() -> None:
    with pytest.raises(InfillError, match="the model's context has room for"):
        INFILLER.score(Excerpt("a", "b"), ["x", "x = 1\n" * 200])
    assert len(INFILLER.score(Excerpt("a", "b"), ["x"])) == 1
