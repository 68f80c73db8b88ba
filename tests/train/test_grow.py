"""A wider network computes what the narrower one did."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from model_fixtures import tiny_config, worst

from dgemma_model.network.cache import Cache
from dgemma_model.network.config import LayerConfig, NetworkConfig
from dgemma_model.network.diffusion_gemma import Network
from dgemma_model.train.grow import grow
from dgemma_model.train.train import fresh_network


def config(hidden: int, inner: int, heads: int, kv_heads: int) -> NetworkConfig:
    layers = tuple(
        LayerConfig(kind, 8, kv_heads, 10_000.0, "default", 1.0)  # type: ignore[arg-type]
        for kind in ("sliding_attention", "full_attention")
    )
    return tiny_config(
        hidden_size=hidden,
        intermediate_size=inner,
        num_attention_heads=heads,
        layers=layers,
        num_experts=1,
        top_k_experts=1,
        moe_intermediate_size=1,
    )


def logits(network: Network) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of the encoder, and of the first two denoising steps."""
    ids = torch.arange(4, 16)[None]
    cache = Cache()
    with torch.no_grad():
        causal = network.logits(network.encode(ids, cache))
        first = network.logits(network.decode(ids[:, :6], cache))
        second = network.logits(network.decode(ids[:, :6], cache, expected=network.expected_embeddings(first)))
    return causal, first, second


def test_a_grown_network_computes_the_same_and_all_of_it_learns() -> None:
    small = fresh_network(config(32, 48, 2, 1), seed=0)
    with torch.no_grad():
        for parameter in small.parameters():
            if parameter.dim() == 1:
                parameter.mul_(torch.rand_like(parameter) + 0.5)
    wide = fresh_network(config(48, 80, 6, 3), seed=1)
    grow(wide, small)
    for ours, theirs in zip(logits(wide), logits(small), strict=True):
        assert worst(ours, theirs) < 1e-4

    ids, cache = torch.arange(4, 16)[None], Cache()
    hidden = wide.encode(ids, cache)
    second = wide.decode(ids[:, :6], cache, expected=torch.randn(1, 6, 48))
    (wide.logits(hidden).square().sum() + wide.logits(second).square().sum()).backward()  # type: ignore[no-untyped-call]
    for name, weight in wide.named_parameters():
        if name.endswith(("q_proj.weight", "o_proj.weight", "gate_proj.weight", "down_proj.weight")):
            assert weight.grad is not None and bool(weight.grad.any())
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                assert bool(weight.grad[:32, -16:].any()), name
                # What only the head reads of the last layer learns once embeddings have left zero.
                assert bool(weight.grad[32:].any()) or name.startswith("layers.1."), name


@pytest.mark.parametrize(
    "change", [{"hidden_size": 16}, {"intermediate_size": 16}, {"vocab_size": 50}, {"num_attention_heads": 6}]
)
def test_what_cannot_grow_is_refused(change: dict[str, int]) -> None:
    small = fresh_network(config(32, 48, 2, 1), seed=0)
    with pytest.raises(ValueError, match="network"):
        grow(fresh_network(replace(small.config, **change), seed=0), small)
