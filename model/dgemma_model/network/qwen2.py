"""The plain network of Qwen2 models, and of Llama models with other switches in the configuration.

`encode` reads a prompt causally and appends to a `Cache`; `decode` reads a canvas in both directions over the same
weights. It says what is computed, in float32 if the weights are; `qwen2_served` computes the same faster.

Parameter names are the published ones without their `model.` in front. Reference: `transformers` models/qwen2 and
models/llama (the parity tests compare logits with them).

Shapes: B batch, T tokens, L canvas tokens, D hidden, H query heads, K key/value heads, C head size, V vocabulary.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
from torch import Tensor, nn

from dgemma_model.network.cache import Cache
from dgemma_model.network.diffusion_gemma import RMSNorm, joined_padding, masked_attention, padding_mask, rotate
from dgemma_model.network.qwen2_config import Qwen2Config


class Attention(nn.Module):
    """Grouped-query attention with rotary embeddings and a scale of 1/sqrt(C)."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        size, bias = config.hidden_size, config.has_qkv_bias
        self.q_proj = nn.Linear(size, self.heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(size, self.kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(size, self.kv_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(self.heads * self.head_dim, size, bias=False)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, T, D] and angles [1 or B, T, 1, C] -> queries [B, H, T, C], keys and values [B, K, T, C]."""
        batch, tokens, _ = x.shape
        queries = self.q_proj(x).view(batch, tokens, self.heads, self.head_dim)
        keys = self.k_proj(x).view(batch, tokens, self.kv_heads, self.head_dim)
        values = self.v_proj(x).view(batch, tokens, self.kv_heads, self.head_dim)
        queries = rotate(queries, cos, sin) * self.head_dim**-0.5
        return queries.transpose(1, 2), rotate(keys, cos, sin).transpose(1, 2), values.transpose(1, 2)

    def output(self, attended: Tensor) -> Tensor:
        """What the heads found, [B, H, T, C] -> [B, T, D]."""
        return cast(Tensor, self.o_proj(attended.transpose(1, 2).flatten(2)))


class SwiGLU(nn.Module):
    """Gated feed-forward block with SiLU."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return cast(Tensor, self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x)))


class Layer(nn.Module):
    """Attention, then the feed-forward block; each reads a norm of the residual stream and is added to it."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = SwiGLU(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """The layer after its attention: [B, T, D] and [B, H, T, C] -> [B, T, D]."""
        x = x + self.self_attn.output(attended)
        return cast(Tensor, x + self.mlp(self.post_attention_layernorm(x)))


class Qwen2Network(nn.Module):
    """The whole network. Not differentiable through its cache; for inference and as the reference in tests."""

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = (
            None if config.tie_word_embeddings else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        )

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.config.vocab_size

    @property
    def context_length(self) -> int:
        """The most positions that it was made for."""
        return self.config.max_position_embeddings

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embed_tokens.weight.device

    def encode(
        self,
        ids: Tensor,
        cache: Cache,
        *,
        positions: Tensor | None = None,
        padding: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> Tensor:
        """Causal pass over new prompt tokens; appends them to `cache`.

        `ids` [B, T] int64; `positions` [1 or B, T], counting on from the cache by default; `padding` [B, T] bool, True
        at real tokens; `seen` [T, cached + T] bool, where there is no padding: which tokens each one sees, instead of
        all before it. Returns the last hidden states, [B, T, D]; `logits` turns them into next-token scores.
        """
        start, tokens = cache.length, ids.shape[1]
        valid = joined_padding(cache.padding, padding, ids, start)
        mask = causal_mask(start, tokens, valid, ids.device) if seen is None else seen[None, None]
        hidden = self._run(ids, cache, positions, mask)
        cache.length += tokens
        cache.padding = valid
        return hidden

    def decode(
        self, canvas: Tensor, cache: Cache, *, expected: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Bidirectional pass over a canvas [B, L] int64 after the cached prompt, whose length stays -> [B, L, D].

        `positions` [1 or B, L] count on from the cache by default. `expected`, the self-conditioning signal of
        diffusion models, is ignored: this network has no block that reads it.
        """
        mask = padding_mask(cache.padding, 0, canvas.shape[1])
        if mask is None:
            mask = torch.ones(1, 1, 1, cache.length + canvas.shape[1], dtype=torch.bool, device=canvas.device)
        return self._run(canvas, cache, positions, mask)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> float32 scores over the vocabulary, [..., V]."""
        weight = self.embed_tokens.weight if self.lm_head is None else self.lm_head.weight
        return F.linear(hidden, weight.to(hidden.dtype)).float()

    def mean_embedding(self, probabilities: Tensor) -> Tensor:
        """The mean of all tokens' embeddings under `probabilities` [..., V], [..., D]."""
        return probabilities.to(self.embed_tokens.weight.dtype) @ self.embed_tokens.weight

    def embed(self, ids: Tensor) -> Tensor:
        """The embeddings of `ids` [...], [..., D]."""
        return cast(Tensor, self.embed_tokens(ids))

    def decoder_layers(self) -> list[Layer]:
        """The layers, first to last."""
        return cast(list[Layer], list(self.layers))

    def _run(self, ids: Tensor, cache: Cache, positions: Tensor | None, mask: Tensor) -> Tensor:
        start, tokens = cache.length, ids.shape[1]
        if positions is None:
            positions = torch.arange(start, start + tokens, device=ids.device)[None]
        x = self.embed(ids)
        cos, sin = rotary_angles(self.config, positions)
        cos, sin = cos[:, :, None].to(x.dtype), sin[:, :, None].to(x.dtype)
        for index, layer in enumerate(self.decoder_layers()):
            queries, keys, values = layer.self_attn.project(layer.input_layernorm(x), cos, sin)
            keys, values = cache.write(index, keys, values)
            x = layer.finish(x, masked_attention(queries, keys, values, mask))
        return cast(Tensor, self.norm(x))


def rotary_angles(config: Qwen2Config, positions: Tensor) -> tuple[Tensor, Tensor]:
    """[...] positions -> float32 cosines and sines of a head's rotation, [..., C] each."""
    steps = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=positions.device) / config.head_dim
    angles = positions[..., None].float() * (1.0 / config.rope_theta**steps)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def causal_mask(start: int, tokens: int, valid: Tensor | None, device: torch.device) -> Tensor:
    """Which keys `tokens` tokens after `start` others see, [1 or B, 1, tokens, start + tokens] bool.

    `valid` [B, start + tokens] is True at real tokens. A padded token sees itself, so that no row is empty.
    """
    query = torch.arange(start, start + tokens, device=device)[:, None]
    key = torch.arange(start + tokens, device=device)[None, :]
    allowed = (key <= query)[None, None]
    return allowed if valid is None else allowed & (valid[:, None, None, :] | (key == query))


def parameter_shapes(config: Qwen2Config) -> dict[str, tuple[int, ...]]:
    """The shapes of a network's parameters, by name."""
    with torch.device("meta"):
        return {name: tuple(value.shape) for name, value in Qwen2Network(config).state_dict().items()}
