"""The drafter's network: served as it is trained, fed by the writer's cache, blind to what the writer has not read."""

from __future__ import annotations

import math
import statistics
from functools import cache
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from passes_fixtures import COMPILED
from qwen2_fixtures import Parameters, plain_network, tiny_drafter
from torch import Tensor

from dgemma_model.decoding.prompt_cache import CachedPrompt
from dgemma_model.network.cache import Cache
from dgemma_model.network.contract import Proposal
from dgemma_model.network.int8 import Int8Weights
from dgemma_model.network.kernels import CAN_PACK
from dgemma_model.network.passes import native
from dgemma_model.network.qwen2_served import ServedQwen2
from dgemma_model.network.qwen2_weights import joined_weights
from dgemma_model.network.state_drafter import DrafterConfig, StateDrafter
from dgemma_model.network.state_drafter_served import (
    CHOICES,
    LEAST_CHANCE,
    DrafterTensors,
    ServedStateDrafter,
    served_layout,
    served_weights,
)

KNOWN = 404
IDS = torch.arange(4, KNOWN, 3)
CLOSE = {"amx_int8": 0.15, "avx512_vnni": 0.15, "avx_vnni": 0.15, "avx2": 0.04}
"""Mean relative error of a token's probability, with activations of 8 and of 12 bits."""
CANVAS = 4
"""Of those that it denoises, as many as are drafted."""


@cache
def writer(products: torch.dtype = torch.float32) -> ServedQwen2:
    plain = plain_network("qwen2")
    weights = dict(joined_weights(plain.config, Parameters(plain), KNOWN))
    return ServedQwen2(plain.config, Int8Weights(weights, products))


@cache
def drafter() -> StateDrafter:
    """A random one whose weights int8 holds exactly: they were rounded once."""
    network = tiny_drafter(len(IDS))
    stored = served_weights(network, IDS)
    for name, value in network.named_parameters():
        scale = stored.get(f"{name.removesuffix('.weight')}.scale")
        if scale is not None:
            matrix = stored[f"{name.removesuffix('.weight')}.weight"]
            value.data = matrix * scale[:, None]
    return network


@cache
def served(products: torch.dtype = torch.float32) -> ServedStateDrafter:
    stored = DrafterTensors(served_weights(drafter(), IDS), writer(products))
    return ServedStateDrafter(drafter().config, Int8Weights(stored, products), writer(products))


def reference(cache: Cache, anchor: int, token: int, length: int = CANVAS) -> list[int]:
    """What the plain network drafts after the first `anchor + 1` cached tokens and `token`."""
    network = drafter()
    states = states_at(cache, anchor)
    embedded = writer().embed(torch.tensor([[token]]))
    keys = [cache.layer(layer) for layer in network.config.keys_of]
    hidden = network(states, embedded, torch.tensor([[anchor]]), keys, length)[0, 0]
    rows, scale = writer().head_rows(IDS)
    scores = hidden @ (rows * scale[:, None]).T
    known = IDS.tolist()
    found, before = list[int](), known.index(token) if token in known else len(IDS)
    for row in scores:
        before = int((row + network.pair_scores(torch.tensor(before))).argmax())
        found.append(known[before])
    return found


def states_at(cache: Cache, token: int) -> Tensor:
    states = served().writer.latest_states(cache, token)
    assert states is not None
    return states[None, None].float()


def read(ids: list[int], products: torch.dtype = torch.float32) -> Cache:
    cache = Cache()
    served(products).writer.encode(torch.tensor([ids]), cache)
    return cache


texts = st.lists(st.integers(0, KNOWN - 1), min_size=1, max_size=80)
tokens = st.integers(0, KNOWN - 1)


@settings(max_examples=60, deadline=None)
@given(ids=texts, token=tokens)
def test_it_is_served_as_it_is_trained(ids: list[int], token: int) -> None:
    drafted, likely, _ = served().draft(read(ids), token)
    assert list(drafted) == reference(read(ids), len(ids) - 1, token)[: len(drafted)]
    assert len(drafted) == CANVAS or math.prod(likely) < LEAST_CHANCE <= math.prod(likely[:-1])


@pytest.mark.parametrize("way", COMPILED)
@pytest.mark.parametrize("threads", [1, 2])
def test_compiled_it_drafts_nearly_the_same(way: str, threads: int) -> None:
    plain = plain_network("qwen2")
    joined = dict(joined_weights(plain.config, Parameters(plain), KNOWN))
    rows = torch.randint(KNOWN, (60, 20), generator=torch.Generator().manual_seed(0)).tolist()
    same, errors, before = 0, list[float](), torch.get_num_threads()
    with patch.object(native, "library", lambda: native.opened(way)):
        its_writer = ServedQwen2(plain.config, Int8Weights(joined, torch.int8))
        stored = DrafterTensors(served_weights(drafter(), IDS), its_writer)
        compiled = ServedStateDrafter(drafter().config, Int8Weights(stored, torch.int8), its_writer)
    try:
        torch.set_num_threads(threads)
        for ids in rows:
            cache = Cache()
            compiled.writer.encode(torch.tensor([ids[:-1]]), cache)
            drafted, likely, others = compiled.draft(cache, ids[-1])
            expected, shares, _ = served().draft(read(ids[:-1]), ids[-1])
            assert len(drafted) == CANVAS or math.prod(likely) < LEAST_CHANCE <= math.prod(likely[:-1])
            for place, token, share in zip(others, drafted, likely, strict=True):
                shares_there = [share, *(other for _, other in place)]
                assert shares_there == sorted(shares_there, reverse=True) and len(shares_there) == CHOICES
                assert len({token, *(other for other, _ in place)}) == CHOICES and sum(shares_there) <= 1.0001
            same += drafted[0] == expected[0]
            errors += [abs(likely[0] / shares[0] - 1)] if drafted[0] == expected[0] else []
    finally:
        torch.set_num_threads(before)
    assert same > 45  # random scores are near each other
    assert statistics.mean(errors) < CLOSE[way]


@pytest.mark.skipif(not CAN_PACK, reason="products of integers are not packed here")
def test_in_int8_it_drafts_nearly_the_same() -> None:
    rows = torch.randint(KNOWN, (60, 20), generator=torch.Generator().manual_seed(0)).tolist()
    same = 0
    for ids in rows:
        drafted, *_ = served(torch.int8).draft(read(ids[:-1], torch.int8), ids[-1])
        same += drafted[0] == reference(read(ids[:-1]), len(ids) - 2, ids[-1])[0]
    assert same > 45  # random scores are near each other


@settings(max_examples=30, deadline=None)
@given(ids=texts, later=texts, token=tokens)
def test_what_comes_after_the_anchor_is_not_seen(ids: list[int], later: list[int], token: int) -> None:
    assert reference(read([*ids, *later]), len(ids) - 1, token) == reference(read(ids), len(ids) - 1, token)


def test_drafts_are_not_all_alike() -> None:
    rows = torch.randint(KNOWN, (20, 12), generator=torch.Generator().manual_seed(0)).tolist()
    drafts = [tuple(served().draft(read(ids[:-1]), ids[-1]).ids) for ids in rows]
    assert len(set(drafts)) > 15
    assert set().union(*drafts) <= set(IDS.tolist()) and all(1 <= len(draft) <= CANVAS for draft in drafts)


@pytest.mark.parametrize("products", [torch.float32, torch.int8])
@settings(max_examples=30, deadline=None)
@given(ids=texts, more=texts, cut=st.integers(1, 200))
def test_states_are_those_of_the_latest_pass(ids: list[int], more: list[int], cut: int, products: torch.dtype) -> None:
    if products == torch.int8 and not CAN_PACK:
        return
    network, cache, end = served(products).writer, read(ids, products), len(ids) + min(cut, len(more))
    assert cache.states is not None and cache.states.shape == (len(ids), 2, network.config.hidden_size)
    alone = writer(products).encode(torch.tensor([ids]), Cache())[0]
    assert torch.equal(cache.states[:, -1], alone.to(cache.states.dtype))  # keeping them changes nothing
    exact = read(ids).states
    assert exact is not None and (cache.states - exact).norm() <= 0.1 * exact.norm()
    network.encode(torch.tensor([more]), cache)
    cache.crop(end)
    for place in range(len(ids) + len(more)):
        assert (network.latest_states(cache, place) is not None) == (len(ids) <= place < end)
    again = network.encode(torch.tensor([more]), read(ids, products))[0]
    last = network.latest_states(cache, end - 1)
    assert last is not None and torch.equal(last[-1], again[end - 1 - len(ids)].to(last.dtype))
    cache.crop(len(ids))
    assert served(products).draft(cache, 5) == Proposal()  # nothing to draft from


def test_states_of_a_branch_that_is_kept_are_those_of_its_tokens() -> None:
    network = served().writer
    cached = CachedPrompt(network, Cache(), [])
    cached.append([1, 2, 3])
    _, tree = cached.append_tree([4], [[5, 6], [5, 7, 8]])
    cached.keep_row(tree, 1)
    assert cached.ids == [1, 2, 3, 4, 5, 7, 8]
    alone = read(cached.ids)
    for place in (3, 4, 5, 6):
        kept, expected = (network.latest_states(cache, place) for cache in (cached.cache, alone))
        assert kept is not None and expected is not None and (kept - expected).abs().max() < 1e-2 * expected.abs().max()
    assert network.latest_states(cached.cache, 2) is None and network.latest_states(cached.cache, 7) is None


def test_probabilities_are_those_of_the_choice() -> None:
    ids = list(range(30))
    drafted, likely, others = served().draft(read(ids), 40)
    assert len(likely) == len(drafted) and all(1 / len(IDS) <= share <= 1 for share in likely)
    network, cache = drafter(), read(ids)
    states = states_at(cache, 29)
    keys = [cache.layer(layer) for layer in network.config.keys_of]
    hidden = network(states, writer().embed(torch.tensor([[40]])), torch.tensor([[29]]), keys, CANVAS)[0, 0, 0]
    rows, scale = writer().head_rows(IDS)
    before = IDS.tolist().index(40)
    scores = hidden @ (rows * scale[:, None]).T + network.pair_scores(torch.tensor(before))
    expected = scores.softmax(-1).topk(CHOICES)
    found = [(drafted[0], likely[0]), *others[0]]
    assert [IDS.tolist().index(token) for token, _ in found] == expected.indices.tolist()
    assert [share for _, share in found] == pytest.approx(expected.values.tolist(), rel=1e-3)
    assert len(others) == len(drafted)


def test_what_is_stored_is_as_announced() -> None:
    stored = served_weights(drafter(), IDS)
    found = {name: (value.dtype, tuple(value.shape)) for name, value in stored.items()}
    assert found == served_layout(drafter().config)


def test_a_shape_is_read_back() -> None:
    config = drafter().config
    assert DrafterConfig.from_json(config.to_json()) == config
    for name, value in (("canvas", 0), ("keys_of", [-1]), ("vocab_size", "many"), ("states_before", 3)):
        with pytest.raises((KeyError, TypeError, ValueError)):
            DrafterConfig.from_json(config.to_json() | {name: value})
