"""The network as it is served: the passes of `Network` over the same weights, in fewer and faster operations.

`Network` says what is computed, and training uses it. What differs here:

- queries, keys and values come from one product, and are normed and rotated together;
- products and norms are those of kernels.py;
- where a CPU has instructions for bfloat16, operands of products, keys and values are bfloat16; the residual stream,
  norms, and logits stay float32 (log/archive.md says what that changes);
- canvas keys and values are written into the free room after the cached ones, instead of joining copies of both;
- rotary tables and masks are computed once and cut to size;
- on CPUs, products must be prepared for each new number of tokens; so passes are padded to a few numbers of tokens, and
  keys are read in multiples of a number.

In float32, results are those of `Network` up to the order of additions (tests/network/test_served.py).
"""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
from torch import Tensor

from dgemma_model.network import vocabulary
from dgemma_model.network.cache import Cache
from dgemma_model.network.diffusion_gemma import Layer, Network, joined_padding, padding_mask
from dgemma_model.network.kernels import CAN_PACK, Norm, Product
from dgemma_model.network.threads import THREADS

CANVAS_SIZES = (16, 32, 64, 128, 256)
"""Positions of the decoder steps that are recorded on a GPU: a smaller canvas is filled up, a larger one to a multiple
of the last."""
GRAPHS = 10
"""Most steps that are kept recorded for a cache: of all these sizes, for one canvas and for several side by side."""
QUERY_CHUNK = 128
"""Prompt tokens of a chunk of queries; a chunk skips the keys after it and those before its window."""
PASS_TOKENS = (1, 2, 4, 8, 13, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""Tokens of a prompt that are encoded together on CPUs; fewer are filled up, and more to a multiple of the last."""
KEYS_MULTIPLE = 64
"""On CPUs keys are read in multiples of this number; keys after the last one are masked."""
FEW_QUERIES = 16
"""Most queries for which torch's fused attention is used on CPUs: it starts faster and multiplies more slowly
(log/archive.md)."""


class ServedLayer:
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
        self._dense_norm = Norm(layer.pre_feedforward_layernorm, followed_by=[self._gate, self._up])
        if layer.has_experts:
            self._after_dense = Norm(layer.post_feedforward_layernorm_1)
            self._expert_norms = Norm(layer.pre_feedforward_layernorm_2), Norm(layer.post_feedforward_layernorm_2)
        self._last_norm = Norm(layer.post_feedforward_layernorm)
        self.encoder_scalar, self.decoder_scalar = layer.encoder_layer_scalar.item(), layer.layer_scalar.item()

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, T, D] and angles [1 or B, 1, T, C] -> queries [B, H, T, C], keys and values [B, K, T, C]."""
        batch, tokens, _ = x.shape
        heads, both = self.heads, self.heads + self.kv_heads
        read = self._qkv(self._input_norm(x)).float().view(batch, tokens, -1, self.head_dim)
        unit = self._unit(read).transpose(1, 2)
        values = unit if self.layer.self_attn.norms_values else read.transpose(1, 2)
        rotated = torch.mul(unit[:, :both], self._scale, out=unit.new_empty(batch, both, tokens, self.head_dim))
        exchanged = rotated.roll(self.head_dim // 2, -1)
        rotated = rotated.mul_(cos).addcmul_(exchanged, sin).to(self._products)
        return rotated[:, :heads], rotated[:, heads:], values[:, -self.kv_heads :]

    def finish(self, residual: Tensor, attended: Tensor, scalar: float) -> Tensor:
        """The layer after its attention: [B, T, D] and [B, H, T, C] -> [B, T, D]."""
        x = self._attention_norm.added_to(residual, self._out(attended.transpose(1, 2).flatten(2)).to(residual.dtype))
        normed = self._dense_norm(x).to(self._products)
        out = self._down(self._up.times(normed, self._gate(normed))).to(x.dtype)
        if self.layer.has_experts:
            out = self._after_dense(out)
        if not self.layer.is_dense:
            flat = x.flatten(0, 1)
            before, after = self._expert_norms
            out += after(self.layer.experts(before(flat), *self.layer.router(flat))).view_as(x)
        x = self._last_norm.added_to(x, out)
        return x if scalar == 1.0 else x * scalar


class ServedNetwork:
    """What `Network` does, faster, for one that has its final weights; not differentiable."""

    def __init__(self, network: Network, products: torch.dtype) -> None:
        """`products` is the dtype of operands, keys and values; all else stays in the weights' dtype."""
        self.config = network.config
        self._network = network
        self._products = products
        self._layers = [ServedLayer(layer, products) for layer in network.decoder_layers()]
        self._norm = Norm(network.norm)
        weight, block = network.embed_tokens.weight, network.self_conditioning
        self._embedding_scale = network.embedding_scale(weight)
        # The head stays in float32: scores rounded to bfloat16 would tie.
        self._cap = None if network.config.only_writes else network.config.final_logit_softcapping
        self._head = self._mean = None
        if weight.device.type == "cpu":
            self._head = (
                Product(weight, torch.float32)
                if self._cap is None
                else Product(weight / self._cap, torch.float32, "tanh")
            )
            self._mean = Product(weight.t(), products)  # the transposed weight is a view
        self._has_signal = block is not None
        if block is not None:
            self._signal_norm, self._mixed_norm = Norm(block.pre_norm), Norm(block.post_norm)
            self._gate = Product(block.gate_proj.weight, products, "gelu")
            self._up, self._down = Product(block.up_proj.weight, products), Product(block.down_proj.weight, products)
        self._tables: dict[str, tuple[Tensor, Tensor]] = {}
        self._steps = WeakKeyDictionary[Cache, dict[tuple[int, int], StaticStep]]()
        self.has_static_steps = weight.device.type == "cuda"
        """Steps run at fixed addresses and in few sizes, which is what can be recorded."""

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
        return self._embedding_scale.device

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
        """See `Network.encode`."""
        if ids.device.type != "cpu":
            return self._encode(ids, cache, positions, padding, seen)
        with THREADS.measured(_pass_tokens(ids.numel())):
            if padding is None and cache.padding is None:
                return self._encode_on_cpu(ids, cache, positions, seen)
            return self._encode(ids, cache, positions, padding, seen)

    def _encode(
        self, ids: Tensor, cache: Cache, positions: Tensor | None, padding: Tensor | None, seen: Tensor | None
    ) -> Tensor:
        start, tokens = cache.length, ids.shape[1]
        valid = joined_padding(cache.padding, padding, ids, start)
        full, sliding = self._network.causal_masks(start, tokens, valid, ids.device)
        if seen is not None:
            full, sliding = self._network.seen_masks(start, seen, positions)
        angles = self._angles(start, tokens, positions)
        x = self.embed(ids)
        for index, (layer, kind) in enumerate(zip(self._layers, self.config.layers, strict=True)):
            queries, keys, values = layer.project(x, *angles[kind.layer_type])
            keys, values = cache.write(index, keys, values)
            mask = sliding if kind.is_sliding else full
            out = layer.layer.self_attn.attend(queries, keys, values, mask, causal=mask is None and tokens > 1)
            x = layer.finish(x, out, layer.encoder_scalar)
        cache.length += tokens
        cache.padding = valid
        return self._norm(x)

    def _encode_on_cpu(self, ids: Tensor, cache: Cache, positions: Tensor | None, seen: Tensor | None) -> Tensor:
        start, tokens = cache.length, ids.shape[1]
        added = _pass_tokens(tokens) - tokens if CAN_PACK and len(ids) == 1 else 0
        ids = F.pad(ids, (0, added))
        positions = None if positions is None else F.pad(positions, (0, added))
        angles = self._angles(start, tokens + added, positions)
        upto = _multiple(start + tokens + added)
        full = sliding = None
        if seen is not None:
            full, sliding = (self._bias(mask, added, upto) for mask in self._network.seen_masks(start, seen, positions))
        x = self.embed(ids)
        for index, (layer, kind) in enumerate(zip(self._layers, self.config.layers, strict=True)):
            queries, keys, values = layer.project(x, *angles[kind.layer_type])
            cache.write(index, keys, values)
            keys, values = cache.layer(index, upto)
            bias = sliding if kind.is_sliding else full
            if bias is not None:
                out = biased_attention(queries, keys, values, bias)
            else:
                window = self.config.sliding_window if kind.is_sliding else upto
                out = causal_attention(queries, keys, values, start, window)
            x = layer.finish(x, out, layer.encoder_scalar)
        cache.length += tokens
        return self._norm(x[:, :tokens])

    def _bias(self, allowed: Tensor, added: int, upto: int) -> Tensor:
        """What to add to scores [T + added, upto] for a mask [1, 1, T, N]; added queries see the first key."""
        allowed = F.pad(allowed[0, 0], (0, upto - allowed.shape[3], 0, added))
        allowed[len(allowed) - added :, 0] = True
        return torch.zeros(allowed.shape, dtype=self._products).masked_fill_(~allowed, -torch.inf)

    @torch.inference_mode()
    def decode(
        self, canvas: Tensor, cache: Cache, *, expected: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """See `Network.decode`. The canvas' keys and values are written after the cached ones; the cache keeps its
        length."""
        if self.has_static_steps and positions is None and cache.padding is None:
            return self._static_step(canvas, cache)(canvas, expected, cache.length)
        if canvas.device.type != "cpu":
            return self._decode(canvas, cache, expected, positions)
        with THREADS.measured(canvas.numel()):
            return self._decode(canvas, cache, expected, positions)

    def _decode(self, canvas: Tensor, cache: Cache, expected: Tensor | None, positions: Tensor | None) -> Tensor:
        length = canvas.shape[1]
        angles = self._angles(cache.length, length, positions)
        x = self._mix(self.embed(canvas), expected)
        window_start = max(0, cache.length - (self.config.sliding_window - 1))
        end = cache.length + length
        in_multiples = canvas.device.type == "cpu" and cache.padding is None and length > FEW_QUERIES
        for index, (layer, kind) in enumerate(zip(self._layers, self.config.layers, strict=True)):
            queries, keys, values = layer.project(x, *angles[kind.layer_type])
            keys, values = cache.write(index, keys, values)
            start = window_start if kind.is_sliding else 0
            if in_multiples:
                out = attention_between(queries, *cache.layer(index, _multiple(end)), start, end)
            else:
                allowed = padding_mask(cache.padding, start, length)
                out = attention(queries, keys[:, :, start:], values[:, :, start:], allowed)
            x = layer.finish(x, out, layer.decoder_scalar)
        return self._norm(x)

    def _static_step(self, canvas: Tensor, cache: Cache) -> StaticStep:
        """The step for canvases of this size after this cache: made once, and anew when the cache's buffers move."""
        rows, size = len(canvas), _canvas_size(canvas.shape[1])
        if cache.origin is not None and cache.origin.length == cache.length:  # rows side by side after one prompt
            cache = cache.origin
            buffers = cache.reserve(rows * size)
        else:
            buffers = cache.reserve(size)
        steps = self._steps.setdefault(cache, {})
        if any(not step.is_at(buffers) for step in steps.values()):
            steps.clear()  # what was recorded would keep the old buffers
        step = steps.pop((rows, size), None) or StaticStep(self, rows, size, buffers)
        steps[rows, size] = step  # latest last
        while len(steps) > GRAPHS:
            del steps[next(iter(steps))]
        return step

    def graph_pool(self) -> Any:
        """The memory of the graphs that are recorded: they run one after the other, so one place does for all."""
        steps = (step for of_cache in self._steps.values() for step in of_cache.values())
        return next((step.graph.pool() for step in steps if step.graph is not None), None)

    def logits(self, hidden: Tensor) -> Tensor:
        """See `Network.logits`."""
        rows, shape = hidden.reshape(-1, hidden.shape[-1]), hidden.shape[:-1]
        count = len(rows)
        if self._head is None:
            scores = vocabulary.scores(rows, self._network.embed_tokens.weight, self._cap)
            return scores.view(*shape, self.config.vocab_size)
        if CAN_PACK:
            rows = F.pad(rows, (0, 0, 0, _pass_tokens(count) - count))
        with THREADS.chosen(count):
            found = self._head(rows)[:count].view(*shape, self.config.vocab_size)
            return found if self._cap is None else found.mul_(self._cap)

    def mean_embedding(self, probabilities: Tensor) -> Tensor:
        """See `Network.mean_embedding`."""
        if self._mean is None:
            mean = vocabulary.mean(probabilities.flatten(0, -2), self._network.embed_tokens.weight)
            return mean.to(self._embedding_scale.dtype).mul_(self._embedding_scale).view(*probabilities.shape[:-1], -1)
        with THREADS.chosen(probabilities.shape[:-1].numel()):
            mean = self._mean(probabilities.to(self._embedding_scale.dtype))
            return mean.to(self._embedding_scale.dtype).mul_(self._embedding_scale)

    def embed(self, ids: Tensor) -> Tensor:
        """See `Network.embed`."""
        return F.embedding(ids, self._network.embed_tokens.weight).mul_(self._embedding_scale)

    def _mix(self, embedded: Tensor, expected: Tensor | None) -> Tensor:
        if not self._has_signal:
            return embedded
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
    """A decoder step whose shapes and addresses depend neither on the prompt's length nor, up to its size, on that of
    the canvas: on a GPU it is recorded once and replayed as a CUDA graph, which costs one launch instead of thousands.

    The canvas goes to given places of the whole cache buffers, and masks say what of them is seen. Rows that share a
    prompt are side by side in its buffers, so that it need not be copied for each. Positions that fill a canvas up are
    seen by no other. In a first step nothing is expected: a signal of zeros, which the network maps to zeros. Elsewhere
    the same runs without a graph, for tests.
    """

    def __init__(self, network: ServedNetwork, rows: int, size: int, buffers: list[tuple[Tensor, Tensor]]) -> None:
        known, _, capacity, _ = buffers[0][0].shape
        device = network.device
        self._network, self._buffers = network, buffers
        self._side_by_side = known < rows
        self._canvas = torch.zeros(rows, size, dtype=torch.int64, device=device)
        self._expected = torch.zeros_like(network.embed(self._canvas))
        beside = rows if self._side_by_side else 1
        self._offsets = torch.arange(beside * size, device=device)
        self._places, self._every_place = self._offsets.clone(), torch.arange(capacity, device=device)
        self._first_places = self._offsets[::size].view(beside, 1, 1, 1)
        self._tables = network._angles(0, capacity, None)
        shape = (beside, 1, 1, capacity)
        self._seen = {kind: torch.ones(shape, dtype=torch.bool, device=device) for kind in self._tables}
        self.graph: torch.cuda.CUDAGraph | None = None
        self._hidden: Tensor | None = None

    def is_at(self, buffers: list[tuple[Tensor, Tensor]]) -> bool:
        """Whether these are the cache's buffers that it reads and writes."""
        pairs = zip(self._buffers, buffers, strict=True)
        return all(own is other for each in pairs for own, other in zip(*each, strict=True))

    def __call__(self, canvas: Tensor, expected: Tensor | None, length: int) -> Tensor:
        """See `ServedNetwork.decode`; `length` is the number of tokens in the cache. The result is overwritten by no
        later step."""
        used = canvas.shape[1]
        self._canvas[:, :used] = canvas
        self._expected[:, :used] = 0 if expected is None else expected
        torch.add(self._offsets, length, out=self._places)
        for kind, seen in self._seen.items():
            window = self._network.config.sliding_window if kind == "sliding_attention" else length + 1
            of_prompt = (self._every_place >= length - (window - 1)) & (self._every_place < length)
            of_row = self._every_place - (self._first_places + length)
            seen.copy_(of_prompt | ((of_row >= 0) & (of_row < used)))
        if canvas.device.type != "cuda":
            return self._run()[:, :used]
        if self.graph is None:
            self._record()
        cast(torch.cuda.CUDAGraph, self.graph).replay()
        return cast(Tensor, self._hidden)[:, :used].clone()

    def _record(self) -> None:
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            self._run()  # libraries set themselves up in a first run, which cannot be recorded
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._network.graph_pool()):
            self._hidden = self._run()
        self.graph = graph

    def _run(self) -> Tensor:
        network, positions = self._network, self._places[: self._canvas.shape[1]]
        angles = {kind: (cos[:, :, positions], sin[:, :, positions]) for kind, (cos, sin) in self._tables.items()}
        x = network._mix(network.embed(self._canvas), self._expected)
        for layer, kind, (keys, values) in zip(network._layers, network.config.layers, self._buffers, strict=True):
            queries, new_keys, new_values = layer.project(x, *angles[kind.layer_type])
            keys.index_copy_(2, self._places, self._beside(new_keys))
            values.index_copy_(2, self._places, self._beside(new_values.to(values.dtype)))
            seen = keys.expand(len(queries), -1, -1, -1), values.expand(len(queries), -1, -1, -1)
            out = attention(queries, *seen, self._seen[kind.layer_type])
            x = layer.finish(x, out, layer.decoder_scalar)
        return network._norm(x)

    def _beside(self, new: Tensor) -> Tensor:
        """Keys or values [B, K, T, C] as the buffers hold them: [1, K, B * T, C] where rows are side by side."""
        return new.transpose(0, 1).flatten(1, 2)[None] if self._side_by_side else new


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


def attention_between(queries: Tensor, keys: Tensor, values: Tensor, start: int, end: int) -> Tensor:
    """Attention with a scale of one of queries [B, H, T, C] that all see keys and values [B, K, N, C] from `start` to
    `end` -> [B, H, T, C]. For CPUs."""
    batch, heads, tokens, size = queries.shape
    first = start - start % KEYS_MULTIPLE
    asked = queries.reshape(batch * keys.shape[1], -1, size)
    scores = asked @ keys[:, :, first:].flatten(0, 1).transpose(1, 2)
    scores[..., : start - first] = -torch.inf
    scores[..., end - first :] = -torch.inf
    return (scores.softmax(-1) @ values[:, :, first:].flatten(0, 1)).view(batch, heads, tokens, size)


def biased_attention(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """Attention with a scale of one of queries [B, H, T, C] to keys and values [B, K, N, C], `bias` [T, N] being added
    to the scores -> [B, H, T, C]. For CPUs."""
    batch, heads, tokens, size = queries.shape
    kv_heads = keys.shape[1]
    asked = queries.reshape(batch, kv_heads, -1, size)
    if tokens <= FEW_QUERIES:
        repeated = None if bias is None else bias.repeat(heads // kv_heads, 1)
        out = F.scaled_dot_product_attention(asked, keys, values, attn_mask=repeated, scale=1.0)
    else:
        scores = asked.flatten(0, 1) @ keys.flatten(0, 1).transpose(1, 2)
        if bias is not None:
            scores.view(batch, heads, tokens, -1).add_(bias)
        out = scores.softmax(-1) @ values.flatten(0, 1)
    return out.view(batch, heads, tokens, size)


def causal_attention(queries: Tensor, keys: Tensor, values: Tensor, before: int, window: int) -> Tensor:
    """Attention with a scale of one, for CPUs: each of T tokens after `before` others sees itself and the `window` - 1
    tokens before it.

    Queries [B, H, T, C], keys and values [B, K, N, C] -> [B, H, T, C]. Keys after the T tokens are ignored.
    """
    outputs = []
    for chunk in torch.split(queries, QUERY_CHUNK, dim=2):
        rows = chunk.shape[2]
        first, end = max(0, before - window + 1), before + rows
        if rows > FEW_QUERIES:
            first, end = first // KEYS_MULTIPLE * KEYS_MULTIPLE, _multiple(end)
        bias = None if rows == 1 else _causal_bias(rows, before - first, end - first, window, queries.dtype)
        outputs.append(biased_attention(chunk, keys[:, :, first:end], values[:, :, first:end], bias))
        before += rows
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)


def _causal_bias(rows: int, before: int, keys: int, window: int, dtype: torch.dtype) -> Tensor:
    """The bias of the attention scores of `rows` tokens after `before` others, [rows, keys]: zero for a token itself
    and the `window` - 1 before it, -inf for all other keys."""
    room = max(1024, 1 << (keys + rows - 1).bit_length())
    return _diagonals(rows, room, window, dtype)[:, room - before : room - before + keys]


@lru_cache(maxsize=64)
def _diagonals(rows: int, room: int, window: int, dtype: torch.dtype) -> Tensor:
    """Of the scores of so many tokens, [rows, 2 * room], if the first one is at `room`: each pass takes its part."""
    query, key = torch.arange(room, room + rows)[:, None], torch.arange(2 * room)
    hidden = (key > query) | (key <= query - window)
    return torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf)


def _pass_tokens(tokens: int) -> int:
    """See `PASS_TOKENS`."""
    most = PASS_TOKENS[-1]
    return PASS_TOKENS[bisect_left(PASS_TOKENS, tokens)] if tokens <= most else -(-tokens // most) * most


def _canvas_size(positions: int) -> int:
    """See `CANVAS_SIZES`."""
    largest = CANVAS_SIZES[-1]
    return next((size for size in CANVAS_SIZES if size >= positions), -(-positions // largest) * largest)


def _multiple(keys: int) -> int:
    """See `KEYS_MULTIPLE`."""
    return -(-keys // KEYS_MULTIPLE) * KEYS_MULTIPLE
