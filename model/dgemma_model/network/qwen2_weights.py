"""The weights of a Qwen2 or Llama network in the form that `qwen2_served` takes: joined matrices in int8.

Each matrix is rounded to 8 bits with a scale for each of its rows. Projections that read the same input are joined, one
below the other, into one matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from dgemma_model.network.int8 import quantised_rows
from dgemma_model.network.qwen2_config import Qwen2Config

JOINED = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""The products of a layer, and the projections that each one joins."""
NORMS = ("input_layernorm", "post_attention_layernorm")
BLOCK = 8192
"""Rows that are read and rounded together, so that a large embedding is never whole in float32."""

Layout = dict[str, tuple[torch.dtype, tuple[int, ...]]]
"""The dtype and shape of each tensor, by name."""


class Weights(Protocol):
    """Where the parameters of a `Qwen2Network` come from."""

    def weight(self, name: str, rows: slice = ...) -> Tensor:
        """A parameter, or some rows of a matrix, in float32."""


def joined_layout(config: Qwen2Config, vocab_size: int) -> Layout:
    """What `joined_weights` gives for a network, in its order."""
    size, inner = config.hidden_size, config.intermediate_size
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    matrices = {"qkv": (queries + 2 * keys, size), "out": (size, queries)}
    matrices |= {"gate_up": (2 * inner, size), "down": (size, inner)}
    layout: Layout = {}
    for name in vocabulary_matrices(config):
        layout |= _matrix_layout(name, (vocab_size, size))
    for layer in range(config.num_hidden_layers):
        for name, shape in matrices.items():
            layout |= _matrix_layout(f"layers.{layer}.{name}", shape)
        if config.has_qkv_bias:
            layout[f"layers.{layer}.qkv.bias"] = torch.float32, (queries + 2 * keys,)
        for norm in NORMS:
            layout[f"layers.{layer}.{norm}.weight"] = torch.float32, (size,)
    layout["norm.weight"] = torch.float32, (size,)
    return layout


def joined_weights(config: Qwen2Config, source: Weights, vocab_size: int) -> Iterator[tuple[str, Tensor]]:
    """The weights by name, one at a time; matrices as `name.weight` in int8 and `name.scale` in float32.

    Only the first `vocab_size` rows of embedding and head are taken: those of the ids that the tokenizer has.
    """
    for name in vocabulary_matrices(config):
        yield from _joined_matrix(name, source, [name], vocab_size)
    for layer in range(config.num_hidden_layers):
        prefix = f"layers.{layer}."
        for name, projections in JOINED.items():
            parts = [prefix + projection for projection in projections]
            yield from _joined_matrix(prefix + name, source, parts)
        if config.has_qkv_bias:
            biases = [source.weight(f"{prefix}{projection}.bias") for projection in JOINED["qkv"]]
            yield f"{prefix}qkv.bias", torch.cat(biases)
        for norm in NORMS:
            yield f"{prefix}{norm}.weight", source.weight(f"{prefix}{norm}.weight")
    yield "norm.weight", source.weight("norm.weight")


def vocabulary_matrices(config: Qwen2Config) -> tuple[str, ...]:
    """The matrices with a row for each id."""
    return ("embed_tokens",) if config.tie_word_embeddings else ("embed_tokens", "lm_head")


def _matrix_layout(name: str, shape: tuple[int, int]) -> Layout:
    return {f"{name}.weight": (torch.int8, shape), f"{name}.scale": (torch.float32, shape[:1])}


def _joined_matrix(
    name: str, source: Weights, parts: list[str], rows: int | None = None
) -> Iterator[tuple[str, Tensor]]:
    blocks = [quantised_rows(block) for part in parts for block in _blocks(source, f"{part}.weight", rows)]
    yield f"{name}.weight", torch.cat([weight for weight, _ in blocks])
    yield f"{name}.scale", torch.cat([scale for _, scale in blocks])


def _blocks(source: Weights, name: str, rows: int | None) -> Iterator[Tensor]:
    """A matrix, or its first `rows`, a few rows at a time."""
    if rows is None:
        yield source.weight(name)
        return
    for start in range(0, rows, BLOCK):
        yield source.weight(name, slice(start, min(start + BLOCK, rows)))
