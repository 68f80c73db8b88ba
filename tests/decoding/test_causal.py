"""Several texts read after one prompt in one pass: what each would give alone."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_fixtures import VOCAB_SIZE, lively_network, tiny_config, worst

from dgemma_model.decoding.causal import next_token_logits
from dgemma_model.decoding.prompt_cache import CachedPrompt
from dgemma_model.network.cache import Cache
from dgemma_model.network.diffusion_gemma import Network
from dgemma_model.network.served import ServedNetwork
from dgemma_model.request import InfillError

NETWORK = lively_network(tiny_config())
FUSED = ServedNetwork(copy.deepcopy(NETWORK), torch.float32)
WINDOW = NETWORK.config.sliding_window

few = st.integers(0, 3)  # texts that often begin alike
rows = st.lists(st.lists(few, max_size=6), min_size=1, max_size=5)
prompts = st.lists(few, min_size=1, max_size=3 * WINDOW)


def are_equal(logits: torch.Tensor, expected: torch.Tensor) -> bool:
    """But for the rounding of float32, which is of the size of the largest."""
    return worst(logits, expected) < 2e-5 * float(expected.abs().max())


@pytest.mark.parametrize("network", [NETWORK, FUSED], ids=["plain", "fused"])
@settings(max_examples=60, deadline=None)
@given(prompt=prompts, texts=rows, more=st.lists(few, max_size=4))
def test_texts_are_read_as_if_each_stood_alone_behind_the_prompt(
    network: Network | ServedNetwork, prompt: list[int], texts: list[list[int]], more: list[int]
) -> None:
    cached = CachedPrompt(network, Cache(), [])  # type: ignore[arg-type]
    cached.append([*prompt, *more])
    logits, paths = next_token_logits(cached, prompt, texts)
    assert len(logits) == 1 + len({tuple(text[: n + 1]) for text in texts for n in range(len(text))})
    for text, path in zip(texts, paths, strict=True):
        with torch.inference_mode():
            alone = NETWORK.logits(NETWORK.encode(torch.tensor([[*prompt, *text]]), Cache())[0, len(prompt) - 1 :])
        assert are_equal(logits[path], alone)
    assert cached.cache.length == len(cached.ids) == len(prompt) + len(more)
    following = cached.append([1])
    with torch.inference_mode():
        alone = NETWORK.logits(NETWORK.encode(torch.tensor([cached.ids]), Cache())[0, -1])
    assert are_equal(following[-1], alone)


def test_a_text_beyond_the_context_is_refused() -> None:
    cached = CachedPrompt(FUSED, Cache(), [])
    cached.append([1, 2])
    with pytest.raises(InfillError, match="room for"):
        next_token_logits(cached, [1, 2], [[VOCAB_SIZE - 1] * NETWORK.config.max_position_embeddings])


@pytest.mark.parametrize("network", [NETWORK, FUSED], ids=["plain", "fused"])
@settings(max_examples=60, deadline=None)
@given(
    known=st.lists(few, max_size=2 * WINDOW),
    ids=st.lists(few, min_size=1, max_size=2 * WINDOW),
    texts=rows,
    chosen=st.integers(0, 99),
)
def test_any_one_of_the_branches_can_be_kept(
    network: Network | ServedNetwork, known: list[int], ids: list[int], texts: list[list[int]], chosen: int
) -> None:
    cached = CachedPrompt(network, Cache(), [])  # type: ignore[arg-type]
    if known:
        cached.append(known)
    logits, tree = cached.append_tree(ids, texts)
    for text, path in zip(texts, tree.paths, strict=True):
        with torch.inference_mode():
            whole = torch.tensor([[*known, *ids, *text]])
            alone = NETWORK.logits(NETWORK.encode(whole, Cache())[0, len(known) + len(ids) - 1 :])
        assert are_equal(logits[path], alone)
    cached.keep_row(tree, chosen % len(texts))
    assert cached.cache.length == len(cached.ids)
    assert cached.ids == [*known, *ids, *texts[chosen % len(texts)]]
    following = cached.append([1])
    with torch.inference_mode():
        alone = NETWORK.logits(NETWORK.encode(torch.tensor([cached.ids]), Cache())[0, -1])
    assert are_equal(following[-1], alone)


@pytest.mark.parametrize("alien", [VOCAB_SIZE, -1])
def test_a_branch_of_tokens_that_the_network_does_not_have_is_refused(alien: int) -> None:
    cached = CachedPrompt(FUSED, Cache(), [])
    with pytest.raises(InfillError, match="a tokenizer that does not belong here"):
        cached.append_tree([1, 2], [[3], [3, alien]])
    with pytest.raises(InfillError, match="a tokenizer that does not belong here"):
        cached.append_tree([alien, 2], [[3]])
    assert cached.ids == [] and cached.cache.length == 0
