"""Wider networks from trained ones, computing the same at first: what training brought is not thrown away when there is
compute for more parameters (function-preserving growth: Net2Net, arXiv 1511.05641).

The residual stream keeps its values in its first dimensions, times sqrt(wider / narrower): a norm over more dimensions,
the rest of which are zero, gives larger values, and embeddings are multiplied by sqrt(width). New inputs have random
weights and nothing to read, new outputs have none, so both learn from the first step on.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dgemma_model.network.diffusion_gemma import Network

NORMS_BEFORE = (
    "input_layernorm.weight",
    "pre_feedforward_layernorm.weight",
    "post_feedforward_layernorm_1.weight",
    "pre_norm.weight",
)
"""Norms whose output keeps its size; that of the others grows with the stream to which it is added."""
OUTPUTS = ("o_proj.weight", "down_proj.weight", "embed_tokens.weight")
"""What is written into the stream, and embeddings, which are both read from it and written."""


def grow(network: Network, narrower: Network) -> None:
    """Give `network` the weights of a `narrower` one, so that both compute the same. New weights keep their random
    values where they read, and are zero where they write; experts are left as they are.

    Raises:
        ValueError: the networks differ in more than hidden, intermediate and number of heads, or in heads a key.
    """
    new, old = network.config, narrower.config
    same_layers = [layer.head_dim for layer in new.layers] == [layer.head_dim for layer in old.layers]
    same_groups = all(
        new.num_attention_heads * before.num_key_value_heads == old.num_attention_heads * after.num_key_value_heads
        for before, after in zip(old.layers, new.layers, strict=False)
    )
    if not same_layers or not same_groups or new.vocab_size != old.vocab_size:
        raise ValueError("a network can grow in width and heads only, with as many query heads to a key head as before")
    if new.hidden_size < old.hidden_size or new.intermediate_size < old.intermediate_size:
        raise ValueError(f"a network of width {old.hidden_size} cannot become one of {new.hidden_size}")
    larger = (new.hidden_size / old.hidden_size) ** 0.5
    before = narrower.state_dict()
    with torch.no_grad():
        for name, weight in network.state_dict().items():
            if "expert" not in name and "router" not in name:
                _grow(name, weight, before[name].to(weight.device), larger)
    network.find_dense_layers()


def _grow(name: str, weight: Tensor, old: Tensor, larger: float) -> None:
    if weight.dim() == 1:
        if weight.shape != old.shape:
            weight.fill_(float(old.mean()))
        weight[: len(old)] = old
        if name.endswith(NORMS_BEFORE) or name == "norm.weight":
            weight /= larger
        return
    if name.endswith(OUTPUTS):
        weight.zero_()
    else:
        weight *= old.std() / weight.std()
    scale = larger if name == "self_conditioning.down_proj.weight" else 1.0
    weight[: old.shape[0], : old.shape[1]] = old * scale
