"""The plain Qwen2 network against `transformers`: same weights, same logits; and against itself, in pieces."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_fixtures import worst
from qwen2_fixtures import VARIANTS, VOCAB, plain_network, their_model
from torch import Tensor

from dgemma_model.network.cache import Cache
from dgemma_model.network.config import ConfigError
from dgemma_model.network.qwen2_config import Qwen2Config

CLOSE = 1e-4


def ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def their_logits(variant: str, tokens: Tensor, allowed: Tensor | None = None, **inputs: Any) -> Tensor:
    """Logits of the reference; `allowed` [T, N] bool replaces the causal mask."""
    if allowed is not None:
        zero = torch.zeros(allowed.shape)
        inputs["attention_mask"] = zero.masked_fill_(~allowed, torch.finfo(torch.float32).min)[None, None]
    logits: Tensor = their_model(variant)(tokens, **inputs).logits
    return logits


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_logits_are_those_of_transformers(variant: str) -> None:
    network, tokens = plain_network(variant), ids(2, 23)
    expected = their_logits(variant, tokens)
    assert worst(network.logits(network.encode(tokens, Cache())), expected) < CLOSE
    assert expected.std() > 0.1


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_a_prompt_read_in_pieces_gives_the_same_logits(variant: str) -> None:
    network, tokens, cache = plain_network(variant), ids(1, 23), Cache()
    hidden = [network.encode(piece, cache) for piece in tokens.split([9, 1, 13], dim=1)]
    assert worst(network.logits(torch.cat(hidden, dim=1)), their_logits(variant, tokens)) < CLOSE


@torch.no_grad()
def test_branches_of_a_tree_see_only_what_leads_to_them() -> None:
    network, cache = plain_network("qwen2"), Cache()
    prompt, first, second = ids(1, 9), ids(1, 3, seed=1), ids(1, 4, seed=2)
    network.encode(prompt, cache)
    seen = torch.ones(7, 16, dtype=torch.bool).tril(9)
    seen[3:, 9:12] = False  # the second branch does not see the first
    positions = torch.tensor([[9, 10, 11, 9, 10, 11, 12]])
    hidden = network.encode(torch.cat((first, second), dim=1), cache, positions=positions, seen=seen)
    logits = network.logits(hidden)
    for branch, part in ((first, slice(0, 3)), (second, slice(3, 7))):
        expected = their_logits("qwen2", torch.cat((prompt, branch), dim=1))[:, 9:]
        assert worst(logits[:, part], expected) < CLOSE


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    network, text = plain_network("qwen2"), ids(1, 11)
    padded = torch.cat((ids(1, 5, seed=4), text), dim=1)
    real = torch.arange(16)[None] >= 5
    cache = Cache()
    hidden = network.encode(padded, cache, positions=(real.cumsum(1) - 1).clamp(min=0), padding=real)
    assert worst(network.logits(hidden)[:, 5:], their_logits("qwen2", text)) < CLOSE
    canvas = ids(1, 4, seed=5)
    decoded = network.decode(canvas, cache, positions=torch.arange(11, 15)[None])
    alone = Cache()
    network.encode(text, alone)
    assert worst(decoded, network.decode(canvas, alone)) < CLOSE


@pytest.mark.parametrize("variant", ["qwen2", "llama"])
@torch.no_grad()
def test_a_canvas_is_read_in_both_directions_and_leaves_the_cache_alone(variant: str) -> None:
    network, prompt, canvas, cache = plain_network(variant), ids(1, 9), ids(1, 6, seed=1), Cache()
    network.encode(prompt, cache)
    for _ in range(2):
        logits = network.logits(network.decode(canvas, cache))
        allowed = torch.ones(15, 15, dtype=torch.bool).tril()
        allowed[9:] = True
        assert worst(logits, their_logits(variant, torch.cat((prompt, canvas), dim=1), allowed)[:, 9:]) < CLOSE
        assert cache.length == 9


def test_the_mean_embedding_of_certain_ids_is_their_embedding() -> None:
    network, tokens = plain_network("qwen2"), ids(2, 5)
    certain = torch.nn.functional.one_hot(tokens, VOCAB).float()
    assert worst(network.mean_embedding(certain), network.embed(tokens)) < CLOSE


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_configuration_survives_being_written(variant: str) -> None:
    config = Qwen2Config.from_json(their_model(variant).config.to_dict())
    assert Qwen2Config.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "'gpt2' model"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"use_sliding_window": True}, "sliding windows"),
        ({"hidden_act": "gelu"}, "SwiGLU"),
        ({"attention_bias": True, "model_type": "llama"}, "bias"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "'yarn'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": None}, "'linear'"),
        ({"hidden_size": None}, "missing or unusable"),
        ({"vocab_size": 0}, "vocab_size cannot be 0"),
        ({"num_key_value_heads": 3}, "cannot share 3"),
        ({"head_dim": 7}, "head_dim cannot be 7"),
        ({"rms_norm_eps": 0.0}, "rms_norm_eps"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Qwen2Config.from_json(their_model("qwen2").config.to_dict() | changes)
