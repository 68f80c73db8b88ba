"""The network against `transformers`' DiffusionGemma: same weights, same logits; and against itself, in pieces."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
from model_fixtures import random_network, randomize, tiny_config, worst
from torch import Tensor
from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion, DynamicCache

from dgemma_model.checkpoint import diffusion_gemma, published_layout
from dgemma_model.network.cache import Cache
from dgemma_model.network.config import LayerConfig, NetworkConfig
from dgemma_model.network.diffusion_gemma import CAUSAL_CHUNK, Network, causal_attention, masked_attention

CLOSE = 1e-4
VOCAB = 61
VISION = published_layout._vision_config()

TEXT: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "global_head_dim": 16,
    "num_global_key_value_heads": 1,
    "sliding_window": 6,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 12,
    "max_position_embeddings": 512,
}
ROPE_OF_EACH_KIND = {
    "sliding_attention": {"rope_type": "proportional", "rope_theta": 5000.0, "partial_rotary_factor": 0.75},
    "full_attention": {"rope_type": "default", "rope_theta": 20_000.0},
}
SCALED_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    "full_attention": {
        "rope_type": "proportional",
        "rope_theta": 1e6,
        "partial_rotary_factor": 0.25,
        "factor": 4.0,
    },
}
VARIANTS: dict[str, dict[str, Any]] = {
    "several experts": {},
    "one expert": {"num_experts": 1, "top_k_experts": 1},
    "all experts": {"num_experts": 3, "top_k_experts": 3},
    "same sizes everywhere": {"global_head_dim": 8, "num_global_key_value_heads": None},
    "full first": {"layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]},
    "one full layer": {"num_hidden_layers": 1, "layer_types": ["full_attention"]},
    "ropes exchanged": {"rope_parameters": ROPE_OF_EACH_KIND},
    "rope with a factor": {"rope_parameters": SCALED_ROPE},
    "wide window": {"sliding_window": 64},
    "window of two": {"sliding_window": 2},
    "one head": {"num_attention_heads": 1, "num_key_value_heads": 1},
    "other cap and epsilon": {"final_logit_softcapping": 5.0, "rms_norm_eps": 1e-3},
}


@dataclass(frozen=True)
class Pair:
    """One set of weights in both implementations."""

    theirs: DiffusionGemmaForBlockDiffusion
    ours: Network
    saved_config: dict[str, Any]


@cache
def pair(variant: str = "several experts") -> Pair:
    """A random model that `transformers` has saved and we have loaded."""
    torch.manual_seed(1)
    config = DiffusionGemmaConfig(text_config=dict(TEXT | VARIANTS[variant]), vision_config=VISION, canvas_length=8)
    theirs = DiffusionGemmaForBlockDiffusion(config).eval()
    randomize(theirs)
    with TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        saved = json.loads((Path(folder) / "config.json").read_text())
        read = NetworkConfig.from_json(saved)
        ours, _ = diffusion_gemma.load_network(Path(folder), read, torch.device("cpu"), torch.float32)
    return Pair(theirs, ours, saved)


def ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(seed))


def capped(model: DiffusionGemmaForBlockDiffusion, hidden: Tensor) -> Tensor:
    cap = model.final_logit_softcapping
    return torch.tanh(model.lm_head(hidden).float() / cap) * cap


@torch.no_grad()
def their_logits(
    model: DiffusionGemmaForBlockDiffusion,
    prompt: Tensor,
    canvas: Tensor,
    conditioning: Tensor | None = None,
    real: Tensor | None = None,
    positions: tuple[Tensor | None, Tensor | None] = (None, None),
) -> tuple[Tensor, Tensor]:
    """Encoder and decoder logits of the reference; `real` is [B, S] bool, False at padding."""
    real = torch.ones_like(prompt, dtype=torch.bool) if real is None else real
    cache = DynamicCache(config=model.config.get_text_config(decoder=True))
    encoded = model.model.encoder(
        input_ids=prompt, past_key_values=cache, attention_mask=real, position_ids=positions[0]
    )
    seen = torch.cat((real, torch.ones_like(canvas, dtype=torch.bool)), dim=1)
    decoded = model(
        decoder_input_ids=canvas,
        past_key_values=cache,
        self_conditioning_logits=conditioning,
        decoder_attention_mask=seen,
        decoder_position_ids=positions[1],
    )
    return capped(model, encoded.last_hidden_state), decoded.logits


@torch.no_grad()
def our_logits(
    network: Network,
    prompt: Tensor,
    canvas: Tensor,
    conditioning: Tensor | None = None,
    real: Tensor | None = None,
    positions: tuple[Tensor | None, Tensor | None] = (None, None),
) -> tuple[Tensor, Tensor]:
    """The same of our network."""
    cache = Cache()
    encoded = network.encode(prompt, cache, positions=positions[0], padding=real)
    expected = None if conditioning is None else network.expected_embeddings(conditioning)
    decoded = network.decode(canvas, cache, expected=expected, positions=positions[1])
    return network.logits(encoded), network.logits(decoded)


# -------------------------------------------------------------------- parity


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_the_reference(variant: str) -> None:
    models = pair(variant)
    prompt, canvas, conditioning = ids(2, 11), ids(2, 5, seed=1), torch.randn(2, 5, VOCAB)
    for signal in (None, conditioning):
        theirs, ours = (
            their_logits(models.theirs, prompt, canvas, signal),
            our_logits(models.ours, prompt, canvas, signal),
        )
        assert worst(ours[0], theirs[0]) < CLOSE
        assert worst(ours[1], theirs[1]) < CLOSE
        assert theirs[1].std() > 0.1  # else everything would be close


@pytest.mark.parametrize("canvas_length", [1, 3, 8, 40])
@pytest.mark.parametrize("prompt_length", [1, 5, 6, 7, 30])
def test_logits_equal_the_reference_at_any_length(prompt_length: int, canvas_length: int) -> None:
    models = pair()
    prompt, canvas, signal = ids(1, prompt_length), ids(1, canvas_length), torch.randn(1, canvas_length, VOCAB)
    theirs, ours = their_logits(models.theirs, prompt, canvas, signal), our_logits(models.ours, prompt, canvas, signal)
    assert worst(ours[0], theirs[0]) < CLOSE
    assert worst(ours[1], theirs[1]) < CLOSE


@pytest.mark.parametrize("variant", ["several experts", "wide window"])
def test_logits_of_a_long_prompt_equal_the_reference(variant: str) -> None:
    models = pair(variant)
    prompt, canvas = ids(1, 2 * CAUSAL_CHUNK + 9), ids(1, 6)
    theirs, ours = their_logits(models.theirs, prompt, canvas), our_logits(models.ours, prompt, canvas)
    assert worst(ours[0], theirs[0]) < CLOSE
    assert worst(ours[1], theirs[1]) < CLOSE


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("length", [5, 14])
def test_logits_of_a_padded_batch_equal_the_reference(attention: str, length: int) -> None:
    models = pair()
    models.theirs.set_attn_implementation(attention)
    try:
        prompt, canvas, signal = ids(3, length), ids(3, 7, seed=2), torch.randn(3, 7, VOCAB)
        real = torch.arange(length)[None] >= torch.tensor([0, 3, length - 1])[:, None]
        encoder_positions = (real.cumsum(1) - 1).clamp(min=0)
        decoder_positions = real.sum(1, keepdim=True) + torch.arange(7)
        for positions in ((None, None), (encoder_positions, decoder_positions)):
            theirs = their_logits(models.theirs, prompt, canvas, signal, real, positions)
            ours = our_logits(models.ours, prompt, canvas, signal, real, positions)
            assert worst(ours[0][real], theirs[0][real]) < CLOSE
            assert worst(ours[1], theirs[1]) < CLOSE
    finally:
        models.theirs.set_attn_implementation("sdpa")


def test_padding_changes_nothing_for_the_text_behind_it() -> None:
    network = pair().ours
    prompt, canvas = ids(1, 9), ids(1, 4)
    padded = torch.cat((ids(1, 5, seed=3), prompt), dim=1)
    real = torch.arange(14)[None] >= 5
    positions = ((real.cumsum(1) - 1).clamp(min=0), 9 + torch.arange(4)[None])
    plain, after_padding = (
        our_logits(network, prompt, canvas),
        our_logits(network, padded, canvas, None, real, positions),
    )
    assert worst(after_padding[0][:, 5:], plain[0]) < CLOSE
    assert worst(after_padding[1], plain[1]) < CLOSE


def test_the_two_passes_have_layer_scalars_of_their_own() -> None:
    network = random_network(tiny_config())
    prompt, canvas = ids(1, 6), ids(1, 4)
    encoder, decoder = our_logits(network, prompt, canvas)
    network.layers[0].layer_scalar.mul_(2.0)  # the last layer's would be normed away
    changed = our_logits(network, prompt, canvas)
    assert torch.equal(changed[0], encoder)
    assert worst(changed[1], decoder) > 0.01


def test_both_spellings_of_a_config_are_one_network() -> None:
    saved = pair().saved_config
    assert "per_layer_config" in saved["text_config"] and "global_head_dim" not in saved["text_config"]
    published = {**saved, "text_config": {k: v for k, v in saved["text_config"].items() if k != "per_layer_config"}}
    published["text_config"] |= {"global_head_dim": 16, "num_global_key_value_heads": 1}
    assert NetworkConfig.from_json(published) == NetworkConfig.from_json(saved) == pair().ours.config
    kinds = {(layer.layer_type, layer.head_dim, layer.num_key_value_heads) for layer in pair().ours.config.layers}
    assert kinds == {("sliding_attention", 8, 2), ("full_attention", 16, 1)}


@pytest.mark.parametrize("variant", ["several experts", "ropes exchanged", "rope with a factor"])
def test_rotary_frequencies_are_the_reference_to_the_last_bit(variant: str) -> None:
    """At position 100,000 a last bit is a hundredth of a radian."""
    models = pair(variant)
    theirs = models.theirs.model.decoder.rotary_emb
    for kind, rotary in models.ours._rotary.items():
        assert torch.equal(rotary.inverse_frequencies, getattr(theirs, f"{kind}_inv_freq"))


def test_values_of_full_layers_are_unrotated_and_unscaled_keys() -> None:
    attention = random_network(tiny_config()).layers[1].self_attn
    assert attention.v_proj is None
    x, half_turn = torch.randn(1, 3, 24), torch.full((1, 3, 1, 16), torch.pi)
    _, keys, values = attention.project(x, half_turn.cos(), half_turn.sin())
    scaled_back = -keys / attention.k_norm.weight  # half a turn is a change of sign
    assert worst(scaled_back, values) < CLOSE
    assert worst(keys, values) > 0.1


# ----------------------------------------------------- one network, in pieces


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
