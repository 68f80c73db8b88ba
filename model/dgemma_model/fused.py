"""The network as it is served: the passes of `network.Network` over the same weights, in fewer and faster operations.

What differs from `Network`, which training uses and which says what is computed:

- queries, keys and values come from one product, and are normed and rotated together;
- products and norms are those of products.py;
- where a CPU has instructions for bfloat16, operands of products, keys and values are bfloat16; the residual stream,
  norms, and logits stay float32 (LOG.md says what that changes);
- canvas keys and values are written into the room behind the cached ones, instead of joining copies of both;
- rotary tables are computed once, and masks only where something is hidden.

In float32, results are those of `Network` up to the order of additions (tests/test_fused.py). Shapes as in `network`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
from torch import Tensor

from dgemma_model.network import Cache, Layer, Network, joined_padding, padding_mask
from dgemma_model.products import Norm, Product

GRAPHS = 4
"""Decoder steps that are kept recorded on a GPU."""
QUERY_CHUNK = 128
"""Prompt tokens that look back together: a chunk skips the keys behind it and those before its window."""
FEW_QUERIES = 16
"""So many queries, at most, go to torch's fused attention on CPUs: it costs less to begin with, and multiplies more
slowly (LOG.md)."""


class FusedLayer:
    """A `Layer` with its weights joined and packed; the layer's own projections become views of the joined one."""

    def __init__(self, layer: Layer, products: torch.dtype) -> None:
        attention, block = layer.self_attn, layer.mlp
        self.layer = layer
        self.heads, self.kv_heads, self.head_dim = attention.heads, attention.kv_heads, attention.head_dim
        projections = [p for p in (attention.q_proj, attention.k_proj, attention.v_proj) if p is not None]
        joined = torch.cat([projection.weight for projection in projections])
        for projection, part in zip(
            projections, torch.split(joined, [len(p.weight) for p in projections]), strict=True
        ):
            projection.weight.data = part
        self._products = products
        self._qkv, self._out = Product(joined, products), Product(attention.o_proj.weight, products)
        self._gate, self._up = (
            Product(block.gate_proj.weight, products, "gelu"),
            Product(block.up_proj.weight, products),
        )
        self._down = Product(block.down_proj.weight, products)
        self._input_norm = Norm(layer.input_layernorm, followed_by=[self._qkv])
        self._unit = Norm(attention.v_norm)
        scales = (attention.q_norm.weight, self.heads), (attention.k_norm.weight, self.kv_heads)
        self._scale = torch.cat([cast(Tensor, scale).float().expand(heads, 1, -1) for scale, heads in scales])
        self._attention_norm = Norm(layer.post_attention_layernorm)
        self._dense_norms = (
            Norm(layer.pre_feedforward_layernorm, followed_by=[self._gate, self._up]),
            Norm(layer.post_feedforward_layernorm_1),
        )
        self._expert_norms = Norm(layer.pre_feedforward_layernorm_2), Norm(layer.post_feedforward_layernorm_2)
        self._last_norm = Norm(layer.post_feedforward_layernorm)
        self.encoder_scalar, self.decoder_scalar = layer.encoder_layer_scalar.item(), layer.layer_scalar.item()

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, T, D] and angles [1 or B, 1, T, C] -> queries [B, H, T, C], keys and values [B, K, T, C]."""
        batch, tokens, _ = x.shape
        heads, both = self.heads, self.heads + self.kv_heads
        unit = self._unit(self._qkv(self._input_norm(x)).float().view(batch, tokens, -1, self.head_dim))
        unit = unit.transpose(1, 2)
        rotated = torch.mul(unit[:, :both], self._scale, out=unit.new_empty(batch, both, tokens, self.head_dim))
        exchanged = rotated.roll(self.head_dim // 2, -1)
        rotated = rotated.mul_(cos).addcmul_(exchanged, sin).to(self._products)
        return rotated[:, :heads], rotated[:, heads:], unit[:, -self.kv_heads :]

    def finish(self, residual: Tensor, attended: Tensor, scalar: float) -> Tensor:
        """The layer behind its attention: [B, T, D] and [B, H, T, C] -> [B, T, D]."""
        x = self._attention_norm.added_to(residual, self._out(attended.transpose(1, 2).flatten(2)).to(residual.dtype))
        before, after = self._dense_norms
        normed = before(x).to(self._products)
        out = after(self._down(self._up.times(normed, self._gate(normed))).to(x.dtype))
        if not self.layer.is_dense:
            flat = x.flatten(0, 1)
            before, after = self._expert_norms
            out += after(self.layer.experts(before(flat), *self.layer.router(flat))).view_as(x)
        x = self._last_norm.added_to(x, out)
        return x if scalar == 1.0 else x * scalar


class FusedNetwork:
    """What `Network` does, faster, for one that has its final weights; not differentiable."""

    def __init__(self, network: Network, products: torch.dtype) -> None:
        """`products` is the dtype of operands, keys and values; all else stays in the weights' dtype."""
        self.config = network.config
        self._network = network
        self._layers = [FusedLayer(layer, products) for layer in network.decoder_layers()]
        self._norm = Norm(network.norm)
        weight, block = network.embed_tokens.weight, network.self_conditioning
        self._embedding_scale = network.embedding_scale(weight)
        self._is_capped_inside = weight.device.type == "cpu" and weight.dtype == torch.float32
        cap = network.config.final_logit_softcapping
        # The head stays in float32: scores rounded to bfloat16 would tie.
        self._head = (
            Product(weight / cap, torch.float32, "tanh") if self._is_capped_inside else Product(weight, products)
        )
        self._mean = Product(weight.t(), products)  # the transposed weight is a view
        self._signal_norm, self._mixed_norm = Norm(block.pre_norm), Norm(block.post_norm)
        self._gate = Product(block.gate_proj.weight, products, "gelu")
        self._up, self._down = Product(block.up_proj.weight, products), Product(block.down_proj.weight, products)
        self._tables: dict[str, tuple[Tensor, Tensor]] = {}
        self._steps: dict[tuple[int, ...], StaticStep] = {}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._embedding_scale.device

    @torch.inference_mode()
    def encode(
        self, ids: Tensor, cache: Cache, *, positions: Tensor | None = None, padding: Tensor | None = None
    ) -> Tensor:
        """See `Network.encode`."""
        start, tokens = cache.length, ids.shape[1]
        valid = joined_padding(cache.padding, padding, ids, start)
        angles = self._angles(start, tokens, positions)
        own_way = valid is None and ids.device.type == "cpu"
        full, sliding = (None, None) if own_way else self._network.causal_masks(start, tokens, valid, ids.device)
        x = self.embed(ids)
        for index, (layer, kind) in enumerate(zip(self._layers, self.config.layers, strict=True)):
            queries, keys, values = layer.project(x, *angles[kind.layer_type])
            keys, values = cache.write(index, keys, values)
            if own_way:
                window = self.config.sliding_window if kind.is_sliding else start + tokens
                out = causal_attention(queries, keys, values, window)
            else:
                mask = sliding if kind.is_sliding else full
                out = layer.layer.self_attn.attend(queries, keys, values, mask, causal=mask is None and tokens > 1)
            x = layer.finish(x, out, layer.encoder_scalar)
        cache.length += tokens
        cache.padding = valid
        return self._norm(x)

    @torch.inference_mode()
    def decode(
        self, canvas: Tensor, cache: Cache, *, expected: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """See `Network.decode`. The canvas' keys and values go behind those of the cache, whose length stays."""
        length = canvas.shape[1]
        if canvas.device.type == "cuda" and positions is None and cache.padding is None:
            return self._graphed(canvas, cache, expected)
        angles = self._angles(cache.length, length, positions)
        x = self._mix(self.embed(canvas), expected)
        window_start = max(0, cache.length - (self.config.sliding_window - 1))
        for index, (layer, kind) in enumerate(zip(self._layers, self.config.layers, strict=True)):
            queries, keys, values = layer.project(x, *angles[kind.layer_type])
            keys, values = cache.write(index, keys, values)
            start = window_start if kind.is_sliding else 0
            allowed = padding_mask(cache.padding, start, length)
            out = attention(queries, keys[:, :, start:], values[:, :, start:], allowed)
            x = layer.finish(x, out, layer.decoder_scalar)
        return self._norm(x)

    def _graphed(self, canvas: Tensor, cache: Cache, expected: Tensor | None) -> Tensor:
        """`decode` by replaying a graph: one for each shape, and for each cache until its buffers move."""
        buffers = cache.reserve(canvas.shape[1])
        key = (*canvas.shape, expected is None, buffers[0][0].data_ptr(), buffers[0][0].shape[2])
        step = self._steps.pop(key, None) or StaticStep(self, canvas, expected, buffers)
        self._steps[key] = step  # latest last
        while len(self._steps) > GRAPHS:
            del self._steps[next(iter(self._steps))]
        return step(canvas, expected, cache.length)

    def logits(self, hidden: Tensor) -> Tensor:
        """See `Network.logits`."""
        cap = self.config.final_logit_softcapping
        scores = self._head(hidden)
        return scores.mul_(cap) if self._is_capped_inside else scores.float().div_(cap).tanh_().mul_(cap)

    def mean_embedding(self, probabilities: Tensor) -> Tensor:
        """See `Network.mean_embedding`."""
        return (
            self._mean(probabilities.to(self._embedding_scale.dtype))
            .to(self._embedding_scale.dtype)
            .mul_(self._embedding_scale)
        )

    def embed(self, ids: Tensor) -> Tensor:
        """See `Network.embed`."""
        return F.embedding(ids, self._network.embed_tokens.weight).mul_(self._embedding_scale)

    def _mix(self, embedded: Tensor, expected: Tensor | None) -> Tensor:
        if expected is not None:
            signal = self._signal_norm(expected)
            embedded += self._down(self._up.times(signal, self._gate(signal)))
        return self._mixed_norm(embedded)

    def _angles(self, start: int, tokens: int, positions: Tensor | None) -> dict[str, tuple[Tensor, Tensor]]:
        """Cosines and sines of each kind of layer, [1 or B, 1, T, C], from tables that grow by doubling."""
        if positions is not None:
            return self._rotary(positions)
        end = start + tokens
        known = next(iter(self._tables.values()))[0].shape[2] if self._tables else 0
        if known < end:
            size = max(1024, 1 << (end - 1).bit_length())
            self._tables = self._rotary(torch.arange(size, device=self._embedding_scale.device)[None])
        return {kind: (cos[:, :, start:end], sin[:, :, start:end]) for kind, (cos, sin) in self._tables.items()}

    def _rotary(self, positions: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Cosines, and sines that are negative for the first half of a head, for what is rotated half a head on."""
        tables = {}
        for kind, (cos, sin) in self._network.angles(positions, torch.float32).items():
            half = sin.shape[-1] // 2
            signed = torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)
            tables[kind] = cos.transpose(1, 2), signed.transpose(1, 2)
        return tables


class StaticStep:
    """A decoder step whose shapes and addresses do not depend on the prompt's length: on a GPU it is recorded once and
    replayed as a CUDA graph, which costs one launch instead of thousands.

    The canvas goes to given places of the whole cache buffers, and masks say what of them is seen.
    """

    def __init__(
        self, network: FusedNetwork, canvas: Tensor, expected: Tensor | None, buffers: list[tuple[Tensor, Tensor]]
    ) -> None:
        capacity, device = buffers[0][0].shape[2], canvas.device
        self._network, self._buffers = network, buffers
        self._canvas, self._expected = canvas.clone(), None if expected is None else expected.clone()
        self._offsets = torch.arange(canvas.shape[1], device=device)
        self._places, self._every_place = self._offsets.clone(), torch.arange(capacity, device=device)
        self._tables = network._angles(0, capacity, None)
        self._seen = {kind: torch.ones(1, 1, 1, capacity, dtype=torch.bool, device=device) for kind in self._tables}
        self._graph: torch.cuda.CUDAGraph | None = None
        self._hidden: Tensor | None = None

    def __call__(self, canvas: Tensor, expected: Tensor | None, length: int) -> Tensor:
        """See `FusedNetwork.decode`; `length` is the number of tokens in the cache."""
        self._canvas.copy_(canvas)
        if expected is not None and self._expected is not None:
            self._expected.copy_(expected)
        torch.add(self._offsets, length, out=self._places)
        for kind, seen in self._seen.items():
            window = self._network.config.sliding_window if kind == "sliding_attention" else length + 1
            start, end = max(0, length - (window - 1)), length + canvas.shape[1]
            seen.copy_((self._every_place >= start) & (self._every_place < end))
        if canvas.device.type != "cuda":
            return self._run()
        if self._graph is None:
            self._record()
        cast(torch.cuda.CUDAGraph, self._graph).replay()
        return cast(Tensor, self._hidden).clone()

    def _record(self) -> None:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self._run()  # libraries set themselves up in a first run, which cannot be recorded
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._hidden = self._run()
        self._graph = graph

    def _run(self) -> Tensor:
        network = self._network
        angles = {kind: (cos[:, :, self._places], sin[:, :, self._places]) for kind, (cos, sin) in self._tables.items()}
        x = network._mix(network.embed(self._canvas), self._expected)
        for layer, kind, (keys, values) in zip(network._layers, network.config.layers, self._buffers, strict=True):
            queries, new_keys, new_values = layer.project(x, *angles[kind.layer_type])
            keys.index_copy_(2, self._places, new_keys)
            values.index_copy_(2, self._places, new_values.to(values.dtype))
            out = attention(queries, keys, values, self._seen[kind.layer_type])
            x = layer.finish(x, out, layer.decoder_scalar)
        return network._norm(x)


def attention(queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor | None) -> Tensor:
    """Attention with a scale of one of queries [B, H, T, C] that all see the same keys and values [B, K, N, C]:
    those that `allowed` [B, 1, 1, N] names, or all -> [B, H, T, C].

    The queries that share a key head are asked in one product, so that no key is copied.
    """
    batch, heads, tokens, size = queries.shape
    kv_heads = keys.shape[1]
    asked = queries.reshape(batch, kv_heads, -1, size)
    if queries.device.type == "cpu" and tokens > FEW_QUERIES:
        scores = asked.flatten(0, 1) @ keys.flatten(0, 1).transpose(1, 2)
        if allowed is not None:
            scores.view(batch, kv_heads, -1, keys.shape[2]).masked_fill_(~allowed, -torch.inf)
        out = scores.softmax(-1) @ values.flatten(0, 1)
    else:
        out = F.scaled_dot_product_attention(asked, keys, values, attn_mask=allowed, scale=1.0)
    return out.view(batch, heads, tokens, size)


def causal_attention(queries: Tensor, keys: Tensor, values: Tensor, window: int) -> Tensor:
    """Attention with a scale of one of the last T tokens, queries [B, H, T, C], each to itself and the `window` - 1
    before it; keys and values [B, K, N, C] -> [B, H, T, C]. For CPUs."""
    batch, heads, tokens, size = queries.shape
    kv_heads, before = keys.shape[1], keys.shape[2] - tokens
    if tokens <= FEW_QUERIES:
        first = max(0, before - window + 1)
        asked = queries.reshape(batch, kv_heads, -1, size)
        seen = None if tokens == 1 else _seen(tokens, before - first, window, heads // kv_heads, queries.dtype)
        found = F.scaled_dot_product_attention(
            asked, keys[:, :, first:], values[:, :, first:], attn_mask=seen, scale=1.0
        )
        return found.view(batch, heads, tokens, size)
    outputs = []
    for chunk in torch.split(queries, QUERY_CHUNK, dim=2):
        rows = chunk.shape[2]
        first, end = max(0, before - window + 1), before + rows
        asked = chunk.reshape(batch * kv_heads, -1, size)
        scores = asked @ keys[:, :, first:end].flatten(0, 1).transpose(1, 2)
        if rows > 1:
            table = scores.view(batch, heads, rows, -1)
            everything = torch.ones(rows, rows, dtype=torch.bool)
            table[..., before - first :].masked_fill_(everything.triu(1), -torch.inf)
            if end - first > window:  # the first keys are in the window of the first rows only
                width = min(rows, end - first)
                table[..., :width].masked_fill_(everything[:, :width].tril(before - window - first), -torch.inf)
        out = scores.softmax(-1) @ values[:, :, first:end].flatten(0, 1)
        outputs.append(out.view(batch, heads, rows, size))
        before = end
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)


@lru_cache(maxsize=8)
def _seen(tokens: int, before: int, window: int, repeats: int, dtype: torch.dtype) -> Tensor:
    """What to add to the scores of the last `tokens` of `before + tokens`, [repeats * tokens, before + tokens]: zero
    where a token looks, itself and the `window - 1` before it, and -inf elsewhere. The layers of a pass share it."""
    rows, columns = torch.arange(before, before + tokens)[:, None], torch.arange(before + tokens)
    hidden = (columns > rows) | (columns <= rows - window)
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf).repeat(repeats, 1)
