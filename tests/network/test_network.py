"""The network against `transformers`' DiffusionGemma: same weights, same logits; and against itself, in pieces."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from model_fixtures import random_network, randomize, tiny_config, worst
from torch import Tensor
from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion, DynamicCache

from dgemma_model.checkpoint import diffusion_gemma, published_layout
from dgemma_model.network.cache import Cache
from dgemma_model.network.config import NetworkConfig
from dgemma_model.network.diffusion_gemma import CAUSAL_CHUNK, Network

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
