"""Passes in operations of torch: for machines that have no compiled ones, and for other dtypes than int8.

- Queries, keys and values come from one product, and so do both halves of the feed-forward block.
- Products are those of `int8`. The residual stream, norms and scores are float32, keys and values bfloat16.
- Query heads that share a key head are asked in one product, so that no key is copied.
- All layers of a pass take one mask.
- Passes over ever new numbers of tokens, which products would each have to be prepared for, are filled up to a few
  numbers, and keys are read in multiples of a number.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
from torch import Tensor

from dgemma_model.network.cache import Cache
from dgemma_model.network.diffusion_gemma import RMSNorm
from dgemma_model.network.int8 import Int8Weights
from dgemma_model.network.kernels import Norm
from dgemma_model.network.qwen2_config import Qwen2Config

QUERY_CHUNK = 128
"""Prompt tokens that look back together: a chunk skips the keys after it."""
PASS_TOKENS = (1, 2, 4, 8, 13, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Tokens of a prompt that are encoded together; fewer are filled up, and more to a multiple of the last."""
KEYS_MULTIPLE = 64
"""Keys that attention reads; those after the last one are hidden."""


class ServedLayer:
    """A layer over joined, packed weights."""

    def __init__(self, config: Qwen2Config, weights: Int8Weights, prefix: str) -> None:
        self._kept = kept_dtype(weights.products)
        self.heads, self.kv_heads, self.head_dim = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        self._input_norm = _norm(config, weights.tensors[f"{prefix}input_layernorm.weight"])
        self._qkv = weights.product(f"{prefix}qkv")
        self._out = weights.product(f"{prefix}out")
        self._mlp_norm = _norm(config, weights.tensors[f"{prefix}post_attention_layernorm.weight"])
        self._gate_up = weights.product(f"{prefix}gate_up")
        self._down = weights.product(f"{prefix}down")

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, T, D] and angles [1 or B, T, 1, C] -> queries [B, H, T, C], keys and values [B, K, T, C]."""
        heads, rotated_heads = self.heads, self.heads + self.kv_heads
        joined = self._qkv(self._input_norm(x)).view(*x.shape[:2], -1, self.head_dim)
        rotated = joined[:, :, :rotated_heads]
        rotated = (rotated * cos).addcmul_(rotated.roll(self.head_dim // 2, -1), sin).to(self._kept).transpose(1, 2)
        values = joined[:, :, rotated_heads:].to(self._kept).transpose(1, 2)
        return rotated[:, :heads], rotated[:, heads:], values

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """The layer after its attention: residual stream [B, T, D] and [B, H, T, C] -> [B, T, D]."""
        x = x + self._out(attended.transpose(1, 2).flatten(2).float())
        gate, up = self._gate_up(self._mlp_norm(x)).chunk(2, dim=-1)
        return x.add_(self._down(F.silu(gate).mul_(up)))


class TorchPasses:
    """See `Passes`."""

    token_cost = 0.06

    def __init__(self, config: Qwen2Config, weights: Int8Weights) -> None:
        """`weights` as `joined_weights` gives them; matrices that are not packed yet are copied."""
        self._config, self._kept = config, kept_dtype(weights.products)
        layers = range(config.num_hidden_layers)
        self._layers = [ServedLayer(config, weights, f"layers.{index}.") for index in layers]
        self._norm = _norm(config, weights.tensors["norm.weight"])
        self._head = weights.product("embed_tokens" if config.tie_word_embeddings else "lm_head")

    def run(
        self,
        x: Tensor,
        cache: Cache,
        angles: tuple[Tensor, Tensor],
        allowed: Tensor | None,
        kept: Sequence[int] = (),
    ) -> tuple[Tensor, list[Tensor]]:
        """See `Passes`."""
        start, tokens = cache.length, x.shape[1]
        added = _pass_tokens(tokens) - tokens if len(x) == 1 else 0
        upto = _multiple(start + tokens + added)
        bias = None if allowed is None else self._bias(allowed[:, None], added, upto)
        x = F.pad(x, (0, 0, 0, added))
        cos, sin = (F.pad(part, (0, 0, 0, added))[:, :, None] for part in angles)
        states = dict[int, Tensor]()
        for index, layer in enumerate(self._layers):
            if index in kept:
                states[index] = x[:, :tokens].clone()  # the stream is added to in place
            queries, keys, values = layer.project(x, cos, sin)
            cache.write(index, keys, values)
            keys, values = cache.layer(index, upto)
            if bias is None:
                attended = causal_attention(queries, keys, values, start)
            else:
                attended = attention(queries, keys, values, bias)
            x = layer.finish(x, attended)
        return self._norm(x)[:, :tokens], [states[index] for index in kept]

    def scores(self, hidden: Tensor) -> Tensor:
        """See `Passes`."""
        count = len(hidden)
        return self._head(F.pad(hidden, (0, 0, 0, _pass_tokens(count) - count)))[:count]

    def _bias(self, allowed: Tensor, added: int, upto: int) -> Tensor:
        """What to add to scores for a mask [1 or B, 1, T, N]: [1 or B, 1, G * (T + added), upto], for the G query heads
        of a key head together. Added queries see the first key."""
        allowed = F.pad(allowed, (0, upto - allowed.shape[3], 0, added))
        allowed[:, :, allowed.shape[2] - added :, 0] = True
        bias = torch.zeros(allowed.shape, dtype=self._kept).masked_fill_(~allowed, -torch.inf)
        return bias.repeat(1, 1, self._config.num_attention_heads // self._config.num_key_value_heads, 1)


def attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """Attention with a scale of 1/sqrt(C): queries [B, H, T, C] to keys and values [B, K, N, C] -> [B, H, T, C].

    `bias` [1 or B, 1, G * T, N] is added to the scores; G = H / K queries share a key head and are asked together.
    """
    batch, heads, tokens, size = queries.shape
    asked = queries.reshape(batch, keys.shape[1], -1, size)
    return F.scaled_dot_product_attention(asked, keys, values, attn_mask=bias).view(batch, heads, tokens, size)


def causal_attention(queries: Tensor, keys: Tensor, values: Tensor, before: int) -> Tensor:
    """`attention` of T tokens after `before` others, each to itself and all before it; keys after those of the T tokens
    are ignored."""
    outputs = []
    group = queries.shape[1] // keys.shape[1]
    for chunk in torch.split(queries, QUERY_CHUNK, dim=2):
        rows = chunk.shape[2]
        end = _multiple(before + rows)
        bias = _causal_bias(rows, group, before, end, queries.dtype)
        outputs.append(attention(chunk, keys[:, :, :end], values[:, :, :end], bias))
        before += rows
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)


@lru_cache(maxsize=8)
def _causal_bias(rows: int, group: int, before: int, keys: int, dtype: torch.dtype) -> Tensor:
    """The bias of the attention scores of `rows` tokens after `before` others, [1, 1, group * rows, keys]: zero for a
    token itself and all before it, -inf for all later keys. All layers of a pass use the same one."""
    query, key = torch.arange(before, before + rows)[:, None], torch.arange(keys)
    bias = torch.zeros(rows, keys, dtype=dtype).masked_fill_(key > query, -torch.inf)
    return bias.repeat(group, 1)[None, None]


def kept_dtype(products: torch.dtype) -> torch.dtype:
    """The dtype of keys and values: bfloat16, but float32 beside float32 products."""
    return torch.float32 if products == torch.float32 else torch.bfloat16


def _norm(config: Qwen2Config, weight: Tensor) -> Norm:
    norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
    norm.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
    return Norm(norm)


def _pass_tokens(tokens: int) -> int:
    """See `PASS_TOKENS`."""
    most = PASS_TOKENS[-1]
    return PASS_TOKENS[bisect_left(PASS_TOKENS, tokens)] if tokens <= most else -(-tokens // most) * most


def _multiple(keys: int) -> int:
    """See `KEYS_MULTIPLE`."""
    return -(-keys // KEYS_MULTIPLE) * KEYS_MULTIPLE
