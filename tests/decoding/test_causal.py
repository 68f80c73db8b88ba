"""Several texts read after one prompt in one pass: what each would give alone."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_fixtures import VOCAB_SIZE, lively_network, tiny_config, tiny_infiller, worst

from dgemma_model.decoding.causal import NextTokens, next_token_logits
from dgemma_model.decoding.prompt_cache import CachedPrompt
from dgemma_model.decoding.verified import CausalText
from dgemma_model.network.cache import Cache
from dgemma_model.network.diffusion_gemma import Network
from dgemma_model.network.passes import native
from dgemma_model.network.served import ServedNetwork
from dgemma_model.project.copy_model import CopyModel, CopyWeights
from dgemma_model.request import Excerpt, FillRequest, InfillError

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


@pytest.mark.parametrize("compiled", [True, False])
def test_whole_fills_with_and_without_compiled_functions(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr(native, "library", lambda: None)
    infiller, excerpt = tiny_infiller(), Excerpt("def add(a, b):\n    return ", "\n")
    assert all(score < 0 for score in infiller.score(excerpt, ["a + b", "a"]))
    for knobs in ({"candidates": 2}, {"verify": False}, {}):
        *_, draft = infiller.fill(FillRequest(excerpt, one_line=True, max_tokens=8, **knobs))
        assert draft.done and draft.score < 0


def next_tokens(scores: list[list[float]], never: list[int]) -> NextTokens:
    tokenizer = SimpleNamespace(vocab_size=len(scores[0]))
    return NextTokens(torch.tensor(scores), SimpleNamespace(tokenizer=tokenizer, never=never))  # type: ignore[arg-type]


def test_what_no_fill_may_have_is_never_next() -> None:
    found = next_tokens([[0.0, 5.0, 1.0], [2.0, 0.0, 0.0]], never=[1])
    first, second = found.along([0, 1])
    assert first[1] == second[1] == -np.inf and [found.likeliest(0), found.likeliest(1)] == [2, 0]
    assert float(np.exp(second[[0, 2]]).sum()) == pytest.approx(1 - 1 / (2 + math.exp(2)))
    assert found.log_probabilities(0) is first  # a place of several paths is changed once


def test_a_tokenizer_that_does_not_belong_to_the_scores_is_no_end_of_a_path() -> None:
    with pytest.raises(IndexError):
        list(next_tokens([[0.0, 1.0]], never=[9]).along([0]))


def test_another_beginning_does_not_end_by_what_it_must_not_begin_with() -> None:
    """The likeliest first token ends the line; the second likeliest beginning is asked for."""
    infiller = tiny_infiller()
    with infiller._opened(Excerpt("", "\n")) as opened:
        assert not opened.prompt.forced
        copies = CopyModel(
            opened.vocabulary, (), (), weight=0.0, weights=CopyWeights(), before="", after="", one_line=True
        )
        text = CausalText(opened, copies, limit=5, one_line=True, alternative=1)
        end, word = opened.vocabulary.line_ends[-1], opened.vocabulary.tokenizer.encode("x")[0]
        said = np.full(opened.vocabulary.tokenizer.vocab_size, -9.0, dtype=np.float32)
        said[[end, word]] = np.log([0.9, 0.05])
        text.take([said], [], "copies")
        assert text.ids == [word] and not text.is_finished


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
