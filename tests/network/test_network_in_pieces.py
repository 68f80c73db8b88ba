"""One network, in pieces: prompts, crops, canvases, experts."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
from model_fixtures import random_network, tiny_config, worst
from test_network import CLOSE, VOCAB, ids, our_logits, pair

from dgemma_model.network.cache import Cache
from dgemma_model.network.config import LayerConfig
from dgemma_model.network.diffusion_gemma import CAUSAL_CHUNK, causal_attention, masked_attention


def pieces_of(length: int) -> list[tuple[int, ...]]:
    return [(length,), (1,) * length, (length - 1, 1), (1, length - 1), (3, 1, length - 4)]


@pytest.mark.parametrize("length", [9, 30])
@pytest.mark.parametrize("which", range(5))
@torch.no_grad()
def test_a_prompt_may_be_encoded_in_pieces(length: int, which: int) -> None:
    network = pair().ours  # window of 6
    prompt, canvas = ids(2, length), ids(2, 5)
    once, decoded = our_logits(network, prompt, canvas)
    cache = Cache()
    parts = [network.logits(network.encode(part, cache)) for part in prompt.split(pieces_of(length)[which], dim=1)]
    assert worst(torch.cat(parts, dim=1), once) < CLOSE
    assert worst(network.logits(network.decode(canvas, cache)), decoded) < CLOSE
    assert cache.length == length


@pytest.mark.parametrize("kept", [0, 1, 4, 20, 29, 30])
@torch.no_grad()
def test_a_cropped_cache_is_that_of_the_shorter_prompt(kept: int) -> None:
    network = pair().ours
    first, rest, canvas = ids(1, 30), ids(1, 40, seed=4), ids(1, 5)
    expected = our_logits(network, torch.cat((first[:, :kept], rest), dim=1), canvas)
    cache = Cache()
    network.encode(first, cache)
    cache.crop(kept)
    if kept:
        shorter = our_logits(network, first[:, :kept], canvas)[1]
        assert worst(network.logits(network.decode(canvas, cache)), shorter) < CLOSE
    encoded = torch.cat([network.logits(network.encode(part, cache)) for part in rest.split((3, 30, 7), dim=1)], dim=1)
    assert worst(encoded, expected[0][:, kept:]) < CLOSE
    assert worst(network.logits(network.decode(canvas, cache)), expected[1]) < CLOSE


@torch.no_grad()
def test_cropping_and_writing_again_and_again_leaves_nothing_behind() -> None:
    network = pair().ours
    generator, text, cache = torch.Generator().manual_seed(5), ids(1, 0), Cache()
    for _ in range(25):
        kept = int(torch.randint(text.shape[1] + 1, (1,), generator=generator))
        new = torch.randint(VOCAB, (1, 1 + int(torch.randint(9, (1,), generator=generator))), generator=generator)
        cache.crop(kept)
        encoded = network.logits(network.encode(new, cache))
        text = torch.cat((text[:, :kept], new), dim=1)
        assert worst(encoded, our_logits(network, text, ids(1, 2))[0][:, kept:]) < CLOSE


@torch.no_grad()
def test_padding_survives_pieces_and_crops() -> None:
    network = pair().ours
    prompt, canvas, real = ids(2, 12), ids(2, 3), torch.arange(12)[None] >= torch.tensor([[0], [4]])
    expected = our_logits(network, prompt, canvas, None, real)
    cache = Cache()
    network.encode(prompt[:, :8], cache, padding=real[:, :8])
    cache.crop(6)
    parts = [network.encode(prompt[:, 6:9], cache), network.encode(prompt[:, 9:], cache)]
    later = network.logits(torch.cat(parts, dim=1))
    assert worst(later, expected[0][:, 6:]) < CLOSE
    assert worst(network.logits(network.decode(canvas, cache)), expected[1]) < CLOSE


@torch.no_grad()
def test_the_decoder_leaves_the_cache_alone() -> None:
    network = pair().ours
    cache = Cache()
    network.encode(ids(1, 9), cache)
    before = [tensor.clone() for index in range(4) for tensor in cache.layer(index)]
    network.decode(ids(1, 12), cache)
    assert cache.length == 9
    assert all(torch.equal(a, b) for a, b in zip(before, [t for i in range(4) for t in cache.layer(i)], strict=True))


@pytest.mark.parametrize("length", [-1, 6])
def test_a_cache_cannot_be_cropped_to_what_it_does_not_hold(length: int) -> None:
    cache = Cache()
    pair().ours.encode(ids(1, 5), cache)
    with pytest.raises(ValueError, match="cache of 5 tokens"):
        cache.crop(length)


@torch.no_grad()
def test_several_canvases_behind_one_prompt_are_as_good_as_each_alone() -> None:
    """Training puts them side by side, each after a prefix of its own length."""
    network = random_network(tiny_config(sliding_window=64))
    prompt, canvases, starts = ids(1, 12), [ids(1, 4, seed=6), ids(1, 4, seed=7)], (5, 12)
    number = torch.arange(8) // 4
    own_start = torch.tensor(starts)[number]
    seen = torch.cat((torch.arange(12) < own_start[:, None], number[:, None] == number[None]), dim=1)[None]
    cache = Cache()
    network.encode(prompt, cache)
    positions = (own_start + torch.arange(8) % 4)[None]
    together = network.logits(network.decode(torch.cat(canvases, 1), cache, positions=positions, mask=seen))
    for index, (canvas, start) in enumerate(zip(canvases, starts, strict=True)):
        alone = our_logits(network, prompt[:, :start], canvas)[1]
        assert worst(together[:, 4 * index : 4 * index + 4], alone) < CLOSE


@torch.no_grad()
def test_an_expert_that_adds_nothing_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network(tiny_config())
    for layer in network.layers:
        layer.post_feedforward_layernorm_2.weight.zero_()
    with_experts = our_logits(network, ids(1, 7), ids(1, 4))
    network.find_dense_layers()
    monkeypatch.setattr("dgemma_model.network.diffusion_gemma.Experts.forward", None)
    without = our_logits(network, ids(1, 7), ids(1, 4))
    assert all(torch.equal(a, b) for a, b in zip(with_experts, without, strict=True))


def test_layers_that_use_their_experts_are_not_called_dense() -> None:
    network = random_network(tiny_config())
    network.find_dense_layers()
    assert not any(layer.is_dense for layer in network.layers)


def test_gradients_reach_every_weight_that_is_used() -> None:
    sliding = LayerConfig("sliding_attention", 8, 2, 10_000.0, "default", 1.0)
    full = LayerConfig("full_attention", 8, 2, 10_000.0, "default", 1.0)
    network = random_network(tiny_config(layers=(sliding, full), top_k_experts=2)).requires_grad_(True)
    cache = Cache()
    encoded = network.encode(ids(2, 8), cache)
    decoded = network.decode(ids(2, 4), cache, expected=torch.randn(2, 4, 24))
    torch.autograd.backward(network.logits(encoded).square().mean() + network.logits(decoded).square().mean())
    untouched = [name for name, p in network.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert untouched == []


@pytest.mark.parametrize("tokens", [1, 5, CAUSAL_CHUNK + 3])
def test_attention_on_a_processor_equals_that_on_a_gpu(tokens: int) -> None:
    """On CPUs attention is written out; on other devices the fused kernel gives the same."""
    queries, keys, values = (torch.randn(2, heads, tokens, 8) for heads in (4, 2, 2))
    fused = partial(F.scaled_dot_product_attention, queries, keys, values, scale=1.0, enable_gqa=True)
    allowed = torch.rand(2, 1, tokens, tokens) < 0.5
    allowed[..., 0] = True
    assert worst(masked_attention(queries, keys, values, allowed), fused(attn_mask=allowed)) < CLOSE
    assert worst(causal_attention(queries, keys, values), fused(is_causal=True)) < CLOSE


@pytest.mark.parametrize("top_k", [1, 3])
@torch.no_grad()
def test_experts_in_grouped_products_equal_those_one_by_one(top_k: int) -> None:
    config = tiny_config(hidden_size=32, moe_intermediate_size=16, num_experts=5, top_k_experts=top_k)
    layer = random_network(config).decoder_layers()[0]
    layer.experts.gate_up_proj.mul_(10)
    x = torch.randn(11, 32)
    weights, chosen = layer.router(x)
    one_by_one = layer.experts(x, weights, chosen)
    assert one_by_one.abs().max() > 1e-3
    assert worst(layer.experts.grouped(x, weights, chosen), one_by_one) < CLOSE
