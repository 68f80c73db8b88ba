"""Cached prompts: the same logits as without, at the cost of what is new."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_fixtures import (
    SOURCE,
    VOCAB_SIZE,
    lively_network,
    tiny_checkpoint,
    tiny_config,
    tiny_infiller,
    tiny_tokenizer,
    worst,
)
from torch import Tensor

from dgemma_model.checkpoint.load import load
from dgemma_model.decoding.prompt_cache import PREFILL_CHUNK, CachedPrompt, PromptCaches
from dgemma_model.infill import Infiller
from dgemma_model.network.cache import Cache
from dgemma_model.network.diffusion_gemma import Network
from dgemma_model.request import Excerpt, FillRequest, InfillError

NETWORK = lively_network(tiny_config())
WINDOW = NETWORK.config.sliding_window
PLENTY = 2**30


def anew(network: Network, ids: list[int]) -> Tensor:
    """Logits after `ids`, with nothing reused."""
    with torch.inference_mode():
        return network.logits(network.encode(torch.tensor([ids]), Cache())[0, -1])


def read(caches: PromptCaches, ids: list[int]) -> Tensor:
    """Logits after `ids`, reusing whatever is cached."""
    with caches.borrowed(ids) as cached:
        for _ in cached.read_most_of(ids):
            pass
        return cached.append(ids[len(cached.ids) :], last=1)[0]


def encoded_tokens(monkeypatch: pytest.MonkeyPatch, network: Network) -> list[int]:
    """A list that gets the number of tokens of every encoder pass from now on."""
    counts: list[int] = []
    encode = network.encode

    def counted(ids: Tensor, cache: Cache, **more: Any) -> Tensor:
        counts.append(ids.shape[1])
        return encode(ids, cache, **more)

    monkeypatch.setattr(network, "encode", counted)
    return counts


tokens = st.lists(st.integers(0, VOCAB_SIZE - 1), min_size=1, max_size=6)
edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 4), tokens), min_size=1, max_size=8)
"""Where, as a share of the length, how many tokens go, and what comes in their place."""


@settings(max_examples=40, deadline=None)
@given(
    size=st.sampled_from([3, WINDOW - 2, WINDOW + 5, 3 * WINDOW]),
    edits=edits,
    budget=st.sampled_from([0, 60_000, PLENTY]),
)
def test_with_reuse_and_without_logits_are_the_same(
    size: int, edits: list[tuple[float, int, list[int]]], budget: int
) -> None:
    caches = PromptCaches(NETWORK, budget)
    ids = [(7 * at) % VOCAB_SIZE for at in range(size)]
    for share, gone, new in [(1.0, 0, []), *edits]:
        at = round(share * len(ids))
        ids = [*ids[:at], *new, *ids[at + gone :]] or [1]
        assert worst(read(caches, ids), anew(NETWORK, ids)) < 1e-4
        assert sum(prompt.cache.nbytes for prompt in caches._kept) == caches.nbytes <= budget


@settings(max_examples=30, deadline=None)
@given(typed=st.lists(tokens, min_size=1, max_size=6), cue=tokens)
def test_typing_encodes_only_what_is_new(typed: list[list[int]], cue: list[int]) -> None:
    caches, text = PromptCaches(NETWORK, PLENTY), list(range(5, 40))
    with pytest.MonkeyPatch.context() as patch:
        counts = encoded_tokens(patch, NETWORK)
        read(caches, text + cue)
        for new in typed:
            before = [*text, *cue]
            text = text + new
            counts.clear()
            read(caches, text + cue)
            same = next((at for at, (a, b) in enumerate(zip(before, text + cue, strict=False)) if a != b), len(before))
            assert sum(counts) == len(text + cue) - min(same, len(text + cue) - 1) <= len(new) + len(cue)


def test_several_documents_are_kept_and_the_one_longest_unused_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [[10 * number + at % 7 for at in range(60)] for number in (1, 2, 3)]
    size = 0
    caches = PromptCaches(NETWORK, PLENTY)
    for ids in documents:
        read(caches, ids)
        size = max(size, caches.nbytes)
    counts = encoded_tokens(monkeypatch, NETWORK)
    for ids in documents:
        read(caches, ids)
    assert counts == [1, 1, 1]
    room_for_two = PromptCaches(NETWORK, caches.nbytes * 2 // 3 + 1)
    for ids in (documents[0], documents[1], documents[0], documents[2]):
        read(room_for_two, ids)
    counts.clear()
    for ids in (documents[0], documents[2]):
        read(room_for_two, ids)
    assert counts == [1, 1]
    read(room_for_two, documents[1])
    assert counts[2:] == [60]


def test_a_text_that_only_begins_like_another_leaves_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    caches, one = PromptCaches(NETWORK, PLENTY), list(range(100, 160))
    other = one[:10] + list(range(200, 250))
    read(caches, one)
    counts = encoded_tokens(monkeypatch, NETWORK)
    for ids in (other, one, other):
        assert worst(read(caches, ids), anew(NETWORK, ids)) < 1e-4
    assert counts[0] == 50 and counts[2] == counts[4] == 1  # between them, those of `anew`


def test_what_is_lent_is_nobody_elses() -> None:
    """A fill that is read now and then, with others between, sees its own prompt."""
    caches, ids = PromptCaches(NETWORK, PLENTY), list(range(50, 80))
    read(caches, ids)
    with caches.borrowed(ids) as first:
        with caches.borrowed(ids) as second:
            assert second is not first and second.cache is not first.cache
            second.append([1, 2, 3])
        first.append(ids[len(first.ids) :])
        assert worst(first.append([9])[0], anew(NETWORK, [*ids, 9])) < 1e-4


def test_an_error_empties_the_caches() -> None:
    caches, ids = PromptCaches(NETWORK, PLENTY), list(range(30))
    read(caches, ids)
    with pytest.raises(ValueError, match="something"), caches.borrowed(list(range(90, 120))):
        raise ValueError("something")
    assert caches.nbytes == 0
    assert worst(read(caches, ids), anew(NETWORK, ids)) < 1e-4


@pytest.mark.parametrize("token", [-1, VOCAB_SIZE, 10**9])
def test_ids_outside_of_the_vocabulary_are_refused(token: int) -> None:
    with pytest.raises(InfillError, match=f"0 to {VOCAB_SIZE - 1}"):
        CachedPrompt(NETWORK, Cache(), []).append([1, token, 2])


def test_a_text_longer_than_the_context_is_refused() -> None:
    cached = CachedPrompt(NETWORK, Cache(), [])
    cached.append([1] * NETWORK.config.max_position_embeddings, last=0)
    with pytest.raises(InfillError, match="context of 512"):
        cached.append([1])


def test_a_long_prompt_is_read_in_chunks_between_which_one_may_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, ids = encoded_tokens(monkeypatch, NETWORK), [3] * (PREFILL_CHUNK + 90)
    caches = PromptCaches(NETWORK, PLENTY)
    with caches.borrowed(ids) as cached:
        next(cached.read_all_of(ids))
    assert counts == [PREFILL_CHUNK]
    assert worst(read(caches, ids), anew(NETWORK, ids)) < 1e-4
    assert counts[1] == 90  # what was read before is there


# -------------------------------------------------------------------- in fills


@pytest.mark.parametrize("verify", [True, False])
def test_a_keystroke_costs_what_was_typed_and_the_cue(verify: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    infiller = tiny_infiller()
    counts = encoded_tokens(monkeypatch, infiller._checkpoint.network)
    first_passes = []
    for size in range(1, 7):
        request = FillRequest(Excerpt("x = " + "1 + " * size, "\ny = x\n"), max_tokens=4, verify=verify)
        drafts = infiller.fill(replace(request, drafting="none"))
        counts.clear()
        next(drafts)
        first_passes.append(sum(counts))
        list(drafts)
    typed_and_marker = len(tiny_tokenizer().encode(" 1 +")) + 1
    assert first_passes[0] > 2 * typed_and_marker
    assert max(first_passes[1:]) <= typed_and_marker


def test_prompts_are_not_shared_between_weights() -> None:
    """The same text with other weights is another matter."""
    ours, theirs = (
        Infiller(load(tiny_checkpoint(seed), torch.device("cpu"), torch.float32), torch.device("cpu"))
        for seed in (0, 1)
    )
    excerpt = Excerpt(SOURCE[:200], "\n")
    before = theirs.score(excerpt, ["self", "x"])
    ours.score(excerpt, ["self", "x"])
    assert theirs.score(excerpt, ["self", "x"]) == pytest.approx(before, abs=1e-4)
    assert ours.score(excerpt, ["self", "x"]) != pytest.approx(before, abs=1e-2)


def test_a_fill_may_be_stopped_while_its_prompt_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dgemma_model.decoding.prompt_cache.PREFILL_CHUNK", 16)
    infiller = tiny_infiller()
    counts = encoded_tokens(monkeypatch, infiller._checkpoint.network)
    drafts = infiller.fill(FillRequest(Excerpt(SOURCE, SOURCE), verify=True))
    draft = next(drafts)
    drafts.close()  # type: ignore[attr-defined]
    assert (draft.step, draft.texts, draft.done) == (0, ("",), False)
    assert counts == [16]
