"""A Qwen2 or Llama network as it is served: the passes of `qwen2.Qwen2Network` in fewer and faster operations.

- Queries, keys and values come from one product, and so do both halves of the feed-forward block.
- Products are those of `int8`. The residual stream, norms and scores are float32, keys and values bfloat16.
- Query heads that share a key head are asked in one product, so that no key is copied.
- Rotary tables are computed once and cut to size, and all layers of a pass take one mask.
- Passes over ever new numbers of tokens, which products would each have to be prepared for, are filled up to a few
  numbers, and keys are read in multiples of a number.

For CPUs. Shapes as in `qwen2`; the weights are those of `qwen2_weights.joined_weights`.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache

import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
from torch import Tensor

from dgemma_model.network.cache import Cache
from dgemma_model.network.diffusion_gemma import RMSNorm, joined_padding, padding_mask
from dgemma_model.network.int8 import Int8Weights
from dgemma_model.network.kernels import Norm
from dgemma_model.network.qwen2 import causal_mask, rotary_angles
from dgemma_model.network.qwen2_config import Qwen2Config
from dgemma_model.network.threads import THREADS

QUERY_CHUNK = 128
"""Prompt tokens that look back together: a chunk skips the keys after it."""
PASS_TOKENS = (1, 2, 4, 8, 13, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Tokens of a prompt that are encoded together; fewer are filled up, and more to a multiple of the last."""
KEYS_MULTIPLE = 64
"""Keys that attention reads; those after the last one are hidden."""
DOWN_DIGITS = 2
"""8-bit digits of what goes into the down projections: one rounds its outliers' neighbours away (log/products.md)."""
EMBEDDING_BLOCK = 8192
"""Rows of the embedding that `mean_embedding` widens at a time."""


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
        self._down = weights.product(f"{prefix}down", digits=DOWN_DIGITS)

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


class ServedQwen2:
    """What `Qwen2Network` does, faster; its head knows the ids of the tokenizer only."""

    def __init__(self, config: Qwen2Config, weights: Int8Weights) -> None:
        """`weights` as `joined_weights` gives them.

        Matrices that are not packed yet are copied into the products' own layout, the head's too. The embedding is kept
        as it is, and may be mapped from a file.
        """
        self.config = config
        self._embedding = weights.tensors["embed_tokens.weight"]
        self._embedding_scale = weights.tensors["embed_tokens.scale"]
        self.vocab_size = len(self._embedding)
        """Ids that there are: the V of `logits`."""
        self._kept = kept_dtype(weights.products)
        layers = range(config.num_hidden_layers)
        self._layers = [ServedLayer(config, weights, f"layers.{index}.") for index in layers]
        self._norm = _norm(config, weights.tensors["norm.weight"])
        self._head = weights.product("embed_tokens" if config.tie_word_embeddings else "lm_head")
        self._tables: tuple[Tensor, Tensor] | None = None

    @property
    def context_length(self) -> int:
        """See `CodeNetwork`."""
        return self.config.max_position_embeddings

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._embedding.device

    @torch.inference_mode()
    def encode(
        self,
        ids: Tensor,
        cache: Cache,
        *,
        positions: Tensor | None = None,
        padding: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> Tensor:
        """See `Qwen2Network.encode`."""
        start, tokens = cache.length, ids.shape[1]
        valid = joined_padding(cache.padding, padding, ids, start)
        added = _pass_tokens(tokens) - tokens if len(ids) == 1 and valid is None else 0
        if added:
            ids = F.pad(ids, (0, added))
            positions = None if positions is None else F.pad(positions, (0, added))
        bias = None
        if seen is not None:
            bias = self._bias(seen[None, None], added, _multiple(start + tokens + added))
        elif valid is not None:
            bias = self._bias(causal_mask(start, tokens, valid, ids.device), 0, _multiple(start + tokens))
        with THREADS.measured(ids.numel()):
            hidden = self._run(ids, cache, positions, bias, is_causal=bias is None)
        cache.length += tokens
        cache.padding = valid
        return hidden[:, :tokens]

    @torch.inference_mode()
    def decode(
        self, canvas: Tensor, cache: Cache, *, expected: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """See `Qwen2Network.decode`."""
        end = cache.length + canvas.shape[1]
        mask = padding_mask(cache.padding, 0, canvas.shape[1])
        if mask is None:
            mask = torch.ones(1, 1, 1, end, dtype=torch.bool)
        bias = self._bias(mask.expand(-1, -1, canvas.shape[1], -1), 0, _multiple(end))
        with THREADS.measured(canvas.numel()):
            return self._run(canvas, cache, positions, bias, is_causal=False)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> float32 scores of the ids that the tokenizer has, [..., V]."""
        rows = hidden.reshape(-1, hidden.shape[-1])
        count = len(rows)
        with THREADS.chosen(count):
            scores = self._head(F.pad(rows, (0, 0, 0, _pass_tokens(count) - count)))
        return scores[:count].view(*hidden.shape[:-1], self.vocab_size)

    def mean_embedding(self, probabilities: Tensor) -> Tensor:
        """See `Qwen2Network.mean_embedding`."""
        weighted = probabilities.float() * self._embedding_scale
        parts = zip(
            torch.split(weighted, EMBEDDING_BLOCK, -1), torch.split(self._embedding, EMBEDDING_BLOCK), strict=True
        )
        mean = torch.zeros(*probabilities.shape[:-1], self.config.hidden_size)
        for part, block in parts:
            mean += part @ block.float()
        return mean

    def embed(self, ids: Tensor) -> Tensor:
        """See `Qwen2Network.embed`."""
        return F.embedding(ids, self._embedding) * F.embedding(ids, self._embedding_scale[:, None])

    def _run(self, ids: Tensor, cache: Cache, positions: Tensor | None, bias: Tensor | None, is_causal: bool) -> Tensor:
        """The layers over new tokens; keys and values go after the cached ones."""
        start, tokens = cache.length, ids.shape[1]
        cos, sin = self._angles(start, tokens, positions)
        upto = _multiple(start + tokens)
        x = self.embed(ids)
        for index, layer in enumerate(self._layers):
            queries, keys, values = layer.project(x, cos, sin)
            cache.write(index, keys, values)
            keys, values = cache.layer(index, upto)
            if is_causal:
                attended = causal_attention(queries, keys, values, start)
            else:
                attended = attention(queries, keys, values, bias)
            x = layer.finish(x, attended)
        return self._norm(x)

    def _angles(self, start: int, tokens: int, positions: Tensor | None) -> tuple[Tensor, Tensor]:
        """Cosines and sines, [1 or B, T, 1, C], from tables that grow by doubling."""
        if positions is not None:
            return self._rotary(positions)
        end = start + tokens
        if self._tables is None or self._tables[0].shape[1] < end:
            self._tables = self._rotary(torch.arange(max(1024, 1 << (end - 1).bit_length()))[None])
        cos, sin = self._tables
        return cos[:, start:end], sin[:, start:end]

    def _rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines, and sines that are negative for the first half of a head, for what is rotated half a head on."""
        cos, sin = rotary_angles(self.config, positions)
        half = sin.shape[-1] // 2
        signed = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)
        return cos[:, :, None], signed[:, :, None]

    def _bias(self, allowed: Tensor, added: int, upto: int) -> Tensor:
        """What to add to scores for a mask [1 or B, 1, T, N]: [1 or B, 1, G * (T + added), upto], for the G query heads
        of a key head together. Added queries see the first key."""
        allowed = F.pad(allowed, (0, upto - allowed.shape[3], 0, added))
        allowed[:, :, allowed.shape[2] - added :, 0] = True
        bias = torch.zeros(allowed.shape, dtype=self._kept).masked_fill_(~allowed, -torch.inf)
        return bias.repeat(1, 1, self.config.num_attention_heads // self.config.num_key_value_heads, 1)


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
