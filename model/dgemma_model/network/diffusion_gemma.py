"""The text part of DiffusionGemma, and of Gemma 3: one stack of weights, two passes over it.

- `encode`: causal over the prompt; appends every layer's keys and values to a `Cache`.
- `decode`: bidirectional over a canvas of any length; reads the cache, never writes it.

Parameter names are the published ones below `model.decoder.`; the only weights that the encoder keeps for itself are
its `layer_scalar`s. Reference: `transformers` models/diffusion_gemma (the parity tests compare logits with it).

Shapes: B batch, S prompt tokens, L canvas tokens, T = S or L, D hidden, H query heads, K key/value heads, C head
size, V vocabulary.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
from torch import Tensor, nn

from dgemma_model.network.cache import Cache
from dgemma_model.network.config import LayerConfig, NetworkConfig
from dgemma_model.network.quantised.experts import QuantisedExperts
from dgemma_model.network.quantised.groupwise import Bits


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension, computed in float32; optionally without a learnt scale."""

    def __init__(self, size: int, eps: float, *, with_scale: bool = True) -> None:
        super().__init__()
        self.size, self.eps = size, eps
        self.weight = nn.Parameter(torch.ones(size)) if with_scale else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] -> the same shape and dtype."""
        wide = x.float()
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (normed if self.weight is None else normed * self.weight.float()).to(x.dtype)


class Rotary(nn.Module):
    """Rotary position embedding of one kind of layer."""

    inverse_frequencies: Tensor

    def __init__(self, config: LayerConfig) -> None:
        super().__init__()
        size = config.head_dim
        if config.rope_type == "default":
            size = int(size * config.partial_rotary_factor)
            frequencies = 1.0 / config.rope_theta ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
        else:  # proportional: the first pairs rotate as in a full-size embedding, the rest do not rotate
            rotated = int(config.partial_rotary_factor * size // 2)
            frequencies = torch.zeros(size // 2)
            steps = torch.arange(0, 2 * rotated, 2, dtype=torch.float32)
            frequencies[:rotated] = 1.0 / config.rope_theta ** (steps / size)
            frequencies /= config.rope_factor
        self.register_buffer("inverse_frequencies", frequencies, persistent=False)

    def forward(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """[1 or B, T] positions -> cosine and sine, [1 or B, T, 1, C] each."""
        angles = positions[..., None].float() * self.inverse_frequencies
        angles = torch.cat((angles, angles), dim=-1)[:, :, None, :]
        return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate [B, T, heads, C] by the angles given as [1 or B, T, 1, C]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


CAUSAL_CHUNK = 128


def masked_attention(queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor) -> Tensor:
    """Attention with a scale of one in plain matrix products.

    [B, H, T, C] queries, [B, K, N, C] keys and values; `allowed` is bool, broadcastable to [B, 1, T, N] -> [B, H, T,
    C]. On CPUs this is faster than the fused kernel with a mask, and grouped queries need no copies of the keys
    (log/archive.md).
    """
    batch, heads, tokens, size = queries.shape
    kv_heads, seen = keys.shape[1], keys.shape[2]
    group = heads // kv_heads
    asked = queries.reshape(batch, kv_heads, group * tokens, size)
    scores = (asked @ keys.transpose(2, 3)).float().view(batch, heads, tokens, seen)
    weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1).to(queries.dtype)
    return (weights.view(batch, kv_heads, group * tokens, seen) @ values).view(batch, heads, tokens, size)


def causal_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """`masked_attention` of every token to itself and those before it, a chunk of queries at a time. A chunk skips
    the keys after it."""
    outputs = []
    for start in range(0, queries.shape[2], CAUSAL_CHUNK):
        chunk = queries[:, :, start : start + CAUSAL_CHUNK]
        rows, end = chunk.shape[2], start + chunk.shape[2]
        past = torch.ones(rows, end, dtype=torch.bool, device=queries.device).tril(start)
        outputs.append(masked_attention(chunk, keys[:, :, :end], values[:, :, :end], past[None, None]))
    return torch.cat(outputs, dim=2)


class Attention(nn.Module):
    """Grouped-query attention with normed queries, keys and values and a scale of one.

    Full layers have no value projection: their values are the unscaled norm of the same projection that, scaled and
    rotated, gives the keys.
    """

    def __init__(self, config: NetworkConfig, layer: LayerConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = config.num_attention_heads, layer.num_key_value_heads, layer.head_dim
        self.q_proj = nn.Linear(config.hidden_size, self.heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=False)
        self.norms_values = not config.only_writes
        self.v_proj = (
            nn.Linear(config.hidden_size, self.kv_heads * self.head_dim, bias=False)
            if layer.is_sliding or config.only_writes
            else None
        )
        self.o_proj = nn.Linear(self.heads * self.head_dim, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(self.head_dim, config.rms_norm_eps)
        self.v_norm = RMSNorm(self.head_dim, config.rms_norm_eps, with_scale=False)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, T, D] -> queries [B, H, T, C], keys and values [B, K, T, C]."""
        batch, tokens, _ = x.shape
        queries = self.q_proj(x).view(batch, tokens, self.heads, self.head_dim)
        raw_keys = self.k_proj(x).view(batch, tokens, self.kv_heads, self.head_dim)
        values = raw_keys if self.v_proj is None else self.v_proj(x).view(raw_keys.shape)
        queries = rotate(self.q_norm(queries), cos, sin)
        keys = rotate(self.k_norm(raw_keys), cos, sin)
        values = self.v_norm(values) if self.norms_values else values
        return queries.transpose(1, 2), keys.transpose(1, 2), values.transpose(1, 2)

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
        """Attention of [B, H, T, C] queries to [B, K, N, C] keys and values -> [B, H, T, C].

        `mask` is bool, broadcastable to [B, H, T, N], True where attention is allowed.
        """
        if causal and queries.device.type == "cpu" and queries.shape[2] > CAUSAL_CHUNK:
            return causal_attention(queries, keys, values)
        if mask is not None and queries.device.type == "cpu":
            return masked_attention(queries, keys, values, mask)
        return F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=mask,
            is_causal=causal,
            scale=1.0,
            enable_gqa=self.heads != self.kv_heads,
        )

    def output(self, attended: Tensor) -> Tensor:
        """What the heads found, [B, H, T, C] -> [B, T, D]."""
        return cast(Tensor, self.o_proj(attended.transpose(1, 2).flatten(2)))


class GatedMLP(nn.Module):
    """Gated feed-forward block with tanh-approximated GELU."""

    def __init__(self, hidden_size: int, intermediate_size: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = nn.Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = nn.Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return cast(Tensor, self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x)))


class Router(nn.Module):
    """Chooses `top_k_experts` experts a token; weights sum to one before the per-expert scale."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.top_k = config.top_k_experts
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, with_scale=False)
        self.proj = nn.Linear(config.hidden_size, config.num_experts, bias=False)
        self.scale = nn.Parameter(torch.ones(config.hidden_size))
        self.per_expert_scale = nn.Parameter(torch.ones(config.num_experts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[tokens, D] -> weights and expert indices, [tokens, top_k] each."""
        scores = self.proj(self.norm(x) * self.scale * x.shape[-1] ** -0.5)
        weights, chosen = torch.topk(scores.softmax(dim=-1, dtype=torch.float32), self.top_k, dim=-1)
        weights = weights / weights.sum(dim=-1, keepdim=True)
        return weights * self.per_expert_scale[chosen], chosen


class Experts(nn.Module):
    """The experts' gated blocks, stacked: `gate_up_proj` [E, 2F, D] and `down_proj` [E, D, F]."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        count, inner, size = config.num_experts, config.moe_intermediate_size, config.hidden_size
        self.gate_up_proj = nn.Parameter(torch.randn(count, 2 * inner, size) * 0.02)
        self.down_proj = nn.Parameter(torch.randn(count, size, inner) * 0.02)

    def forward(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """[tokens, D], and what `Router` gives for them -> [tokens, D]."""
        if x.device.type == "cuda" and x.dtype == torch.bfloat16 and hasattr(torch, "_grouped_mm"):
            return self.grouped(x, weights, chosen)
        out = torch.zeros_like(x)
        for expert in torch.unique(chosen).tolist():
            token, slot = torch.where(chosen == expert)
            gate, up = F.linear(x[token], self.gate_up_proj[expert]).chunk(2, dim=-1)
            part = F.linear(F.gelu(gate, approximate="tanh") * up, self.down_proj[expert])
            out.index_add_(0, token, (part * weights[token, slot, None]).to(out.dtype))
        return out

    def grouped(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """The same in two grouped products over tokens in the order of their experts; the host waits for nothing."""
        order = chosen.flatten().argsort(stable=True)
        token = order // chosen.shape[1]
        counts = torch.zeros(len(self.down_proj), dtype=torch.int32, device=x.device)
        ends = counts.index_add_(0, chosen.flatten(), torch.ones_like(order, dtype=torch.int32)).cumsum(0).int()
        gate, up = torch._grouped_mm(x[token], self.gate_up_proj.transpose(1, 2), offs=ends).chunk(2, dim=-1)
        inner = F.gelu(gate, approximate="tanh") * up
        part = torch._grouped_mm(inner, self.down_proj.transpose(1, 2), offs=ends)
        part = part * weights.flatten()[order, None]
        return torch.zeros_like(x, dtype=part.dtype).index_add_(0, token, part).to(x.dtype)


class Layer(nn.Module):
    """Attention, then a dense block and, in parallel, routed experts; each between two norms."""

    layer_scalar: Tensor
    encoder_layer_scalar: Tensor

    def __init__(self, config: NetworkConfig, layer: LayerConfig, expert_bits: Bits | None = None) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = Attention(config, layer)
        self.mlp = GatedMLP(size, config.intermediate_size)
        self.input_layernorm = RMSNorm(size, eps)
        self.post_attention_layernorm = RMSNorm(size, eps)
        self.pre_feedforward_layernorm = RMSNorm(size, eps)
        self.post_feedforward_layernorm = RMSNorm(size, eps)
        if not config.only_writes:
            self.router = Router(config)
            self.experts = Experts(config) if expert_bits is None else QuantisedExperts(config, expert_bits)
            self.post_feedforward_layernorm_1 = RMSNorm(size, eps)
            self.pre_feedforward_layernorm_2 = RMSNorm(size, eps)
            self.post_feedforward_layernorm_2 = RMSNorm(size, eps)
        self.register_buffer("layer_scalar", torch.ones(1))
        self.register_buffer("encoder_layer_scalar", torch.ones(1))
        self.has_experts = not config.only_writes
        self.is_dense = config.only_writes
        """There are no experts, or their last norm is all zeros, so that they add nothing and are not run (see
        `find_dense_layers`)."""

    def finish(self, residual: Tensor, attended: Tensor, scalar: Tensor) -> Tensor:
        """The layer after its attention: [B, T, D] -> [B, T, D]."""
        x = residual + self.post_attention_layernorm(attended)
        out = self.mlp(self.pre_feedforward_layernorm(x))
        if self.has_experts:
            out = self.post_feedforward_layernorm_1(out)
        if not self.is_dense:
            flat = x.flatten(0, 1)
            routed = self.experts(self.pre_feedforward_layernorm_2(flat), *self.router(flat))
            out = out + self.post_feedforward_layernorm_2(routed).view_as(x)
        return cast(Tensor, (x + self.post_feedforward_layernorm(out)) * scalar.to(x.dtype))


class SelfConditioning(GatedMLP):
    """Mixes what the previous denoising step expected at each position into the canvas' embeddings."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config.hidden_size, config.intermediate_size)
        self.pre_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, with_scale=False)

    def mix(self, embedded: Tensor, expected: Tensor | None) -> Tensor:
        """Embedded canvas and expected embeddings (None in the first step), [B, L, D] each -> [B, L, D]."""
        if expected is None:  # the signal is zero, and the block maps zero to zero
            return cast(Tensor, self.post_norm(embedded))
        return cast(Tensor, self.post_norm(embedded + self(self.pre_norm(expected))))


class Network(nn.Module):
    """The whole network. Create it from a config, then load weights with `checkpoint.load`."""

    def __init__(self, config: NetworkConfig, expert_bits: Bits | None = None) -> None:
        """Random weights; with `expert_bits`, the experts' are rounded ones without content.

        Raises:
            ValueError: experts of odd sizes cannot be rounded.
        """
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, layer, expert_bits) for layer in config.layers)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_conditioning = None if config.only_writes else SelfConditioning(config)
        self._rotary = nn.ModuleDict({layer.layer_type: Rotary(layer) for layer in config.layers})

    @property
    def vocab_size(self) -> int:
        """See `CodeNetwork`."""
        return self.config.vocab_size

    @property
    def context_length(self) -> int:
        """See `CodeNetwork`."""
        return self.config.max_position_embeddings

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embed_tokens.weight.device

    def get_parameter_or_buffer(self, name: str) -> Tensor:
        """The parameter or buffer of that dotted name.

        Raises:
            KeyError: there is none.
        """
        return cast(Tensor, self.state_dict(keep_vars=True)[name])

    def build_rotary(self, device: torch.device) -> None:
        """Compute the rotary embeddings anew on `device`; they are not stored, so a network made on the meta device
        lacks them."""
        self._rotary = nn.ModuleDict({layer.layer_type: Rotary(layer) for layer in self.config.layers}).to(device)

    def find_dense_layers(self) -> None:
        """Mark the layers whose experts add exactly nothing; call after loading or changing weights."""
        for layer in self.decoder_layers() if not self.config.only_writes else ():
            weight = layer.post_feedforward_layernorm_2.weight
            layer.is_dense = weight is not None and not bool(weight.any())

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

        `ids` [B, T] int64; `positions` [1 or B, T], counting on from the cache by default; `padding` [B, T] bool,
        True at real tokens; `seen` [T, cached + T] bool, where there is no padding: which tokens each one sees, as far
        as they are in its window, instead of all before it. Returns the last hidden states, [B, T, D]; `logits` turns
        them into next-token scores.
        """
        start, tokens = cache.length, ids.shape[1]
        if positions is None:
            positions = torch.arange(start, start + tokens, device=ids.device)[None]
        valid = joined_padding(cache.padding, padding, ids, start)
        full, sliding = self.causal_masks(start, tokens, valid, ids.device)
        if seen is not None:
            full, sliding = self.seen_masks(start, seen, positions)
        x = self.embed(ids)
        angles = self.angles(positions, x.dtype)
        for index, (layer, kind) in enumerate(zip(self.decoder_layers(), self.config.layers, strict=True)):
            queries, keys, values = layer.self_attn.project(layer.input_layernorm(x), *angles[kind.layer_type])
            keys, values = cache.write(index, keys, values)
            mask = sliding if kind.is_sliding else full
            out = layer.self_attn.attend(queries, keys, values, mask, causal=mask is None and tokens > 1)
            x = layer.finish(x, layer.self_attn.output(out), layer.encoder_layer_scalar)
        cache.length += tokens
        cache.padding = valid
        return cast(Tensor, self.norm(x))

    def decode(
        self,
        canvas: Tensor,
        cache: Cache,
        *,
        expected: Tensor | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Bidirectional pass over a canvas, after the cached prompt.

        `canvas` [B, L] int64; `expected` [B, L, D]: `expected_embeddings` of the previous step, None in the first;
        `positions` [1 or B, L], after the prompt by default; `mask` [1 or B, L, cached + L] bool, True where
        attention is allowed, replaces the windows (training uses it to put several canvases after one prompt).
        Returns the last hidden states, [B, L, D].
        """
        length = canvas.shape[1]
        if positions is None:
            positions = torch.arange(cache.length, cache.length + length, device=canvas.device)[None]
        x = self.embed(canvas)
        if self.self_conditioning is not None:
            x = self.self_conditioning.mix(x, expected)
        angles = self.angles(positions, x.dtype)
        window_start = max(0, cache.length - (self.config.sliding_window - 1))
        for index, (layer, kind) in enumerate(zip(self.decoder_layers(), self.config.layers, strict=True)):
            queries, keys, values = layer.self_attn.project(layer.input_layernorm(x), *angles[kind.layer_type])
            seen_keys, seen_values = cache.layer(index)
            start = window_start if kind.is_sliding and mask is None else 0
            keys = torch.cat((seen_keys[:, :, start:], keys), dim=2)
            values = torch.cat((seen_values[:, :, start:], values), dim=2)
            allowed = mask[:, None] if mask is not None else padding_mask(cache.padding, start, length)
            out = layer.self_attn.attend(queries, keys, values, allowed, causal=False)
            x = layer.finish(x, layer.self_attn.output(out), layer.layer_scalar)
        return cast(Tensor, self.norm(x))

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> softcapped float32 scores over the vocabulary, [..., V]."""
        cap = self.config.final_logit_softcapping
        raw = F.linear(hidden, self.embed_tokens.weight.to(hidden.dtype)).float()
        if self.config.only_writes:
            return raw
        return torch.tanh(raw / cap) * cap

    def expected_embeddings(self, logits: Tensor) -> Tensor:
        """The self-conditioning signal: the embedding that `logits` [B, L, V] expect at each position, [B, L, D]."""
        return self.mean_embedding(logits.softmax(dim=-1, dtype=torch.float32))

    def mean_embedding(self, probabilities: Tensor) -> Tensor:
        """The mean of all tokens' embeddings under `probabilities` [..., V], [..., D]."""
        weight = self.embed_tokens.weight
        return probabilities.to(weight.dtype) @ weight * self.embedding_scale(weight)

    def decoder_layers(self) -> list[Layer]:
        """The layers, first to last."""
        return cast(list[Layer], list(self.layers))

    def embed(self, ids: Tensor) -> Tensor:
        """The scaled embeddings of `ids` [...], [..., D]."""
        embedded = self.embed_tokens(ids)
        embedded = embedded * self.embedding_scale(embedded)
        return cast(
            Tensor, embedded.to(self.decoder_layers()[0].mlp.down_proj.weight.dtype)
        )  # training keeps wider embeddings

    def embedding_scale(self, like: Tensor) -> Tensor:
        """What embeddings are multiplied by, rounded to the dtype of `like` as in the reference: in bfloat16 this is
        not quite sqrt(D)."""
        return torch.tensor(self.config.hidden_size**0.5, dtype=like.dtype, device=like.device)

    def angles(self, positions: Tensor, dtype: torch.dtype) -> dict[str, tuple[Tensor, Tensor]]:
        """Cosines and sines for each kind of layer, see `Rotary`."""
        return {kind: rotary(positions, dtype) for kind, rotary in self._rotary.items()}

    def causal_masks(
        self, start: int, tokens: int, valid: Tensor | None, device: torch.device
    ) -> tuple[Tensor | None, Tensor | None]:
        """Masks for full and sliding layers, [1 or B, 1, T, start + T]; None where plain causal attention is enough."""
        window = self.config.sliding_window
        short = start + tokens <= window
        if valid is None and short and (start == 0 or tokens == 1):
            return None, None
        query = torch.arange(start, start + tokens, device=device)[:, None]
        key = torch.arange(start + tokens, device=device)[None, :]
        full = (key <= query)[None, None]
        if valid is not None:
            full = full & (valid[:, None, None, :] | (key == query))  # a padded query sees itself: no empty softmax
        return full, full if short else full & (key > query - window)

    def seen_masks(self, start: int, seen: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor]:
        """What `seen` of `encode` [T, start + T] leaves in full and sliding layers, [1, 1, T, start + T]."""
        query = torch.arange(start, seen.shape[1]) if positions is None else positions[0, : len(seen)]
        query = query.to(seen.device)[:, None]
        key = torch.cat((torch.arange(start, device=seen.device), query[:, 0]))
        return seen[None, None], (seen & (key > query - self.config.sliding_window))[None, None]


def joined_padding(cached: Tensor | None, new: Tensor | None, ids: Tensor, start: int) -> Tensor | None:
    """Padding of the cached and the new tokens together, [B, start + T]; None when there is none."""
    if cached is None and (new is None or bool(new.all())):
        return None
    before = cached if cached is not None else ids.new_ones(ids.shape[0], start, dtype=torch.bool)
    after = new if new is not None else torch.ones_like(ids, dtype=torch.bool)
    return torch.cat((before, after), dim=1)


def padding_mask(padding: Tensor | None, start: int, canvas_length: int) -> Tensor | None:
    """Every canvas position sees the real prompt tokens from `start` on and the whole canvas: [B, 1, 1, N + L], or
    None for all."""
    if padding is None:
        return None
    prompt = padding[:, start:]
    canvas = prompt.new_ones(prompt.shape[0], canvas_length)
    return torch.cat((prompt, canvas), dim=1)[:, None, None]
