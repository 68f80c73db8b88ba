"""A drafter as it is served: what `state_drafter.StateDrafter` drafts for one text, over int8 products.

For CPUs. Shapes as in `state_drafter`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
from torch import Tensor

from dgemma_model.network.cache import Cache
from dgemma_model.network.diffusion_gemma import RMSNorm
from dgemma_model.network.int8 import Int8Product, Int8Weights, WideProduct, quantised_rows
from dgemma_model.network.kernels import Norm
from dgemma_model.network.packed import packed
from dgemma_model.network.passes.torch_passes import attention, kept_dtype
from dgemma_model.network.qwen2_served import ServedQwen2
from dgemma_model.network.qwen2_weights import Layout
from dgemma_model.network.state_drafter import DrafterConfig, StateDrafter, canvas_angles
from dgemma_model.network.threads import THREADS

IDS = "ids"
DRAFTED = 4
"""Tokens of a draft, at most: later ones have hardly ever been worth a pass's time (log/drafts.md)."""
LEAST_CHANCE = 0.1
"""A draft ends where it is right so seldom."""


class ServedDrafterLayer:
    """A layer over packed weights."""

    def __init__(self, config: DrafterConfig, weights: Int8Weights, prefix: str) -> None:
        self._kept = kept_dtype(weights.products)
        self.heads, self.kv_heads, self.head_dim = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        self._input_norm = _norm(config, weights.tensors[f"{prefix}input_norm.weight"])
        self._qkv = weights.product(f"{prefix}qkv")
        self._out = weights.product(f"{prefix}out")
        self._mlp_norm = _norm(config, weights.tensors[f"{prefix}mlp_norm.weight"])
        self._gate_up = weights.product(f"{prefix}gate_up")
        self._down = weights.product(f"{prefix}down")

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """A canvas [L, D], angles [L, 1, C] and the writer's keys and values [1, K, T, C] -> [L, D]."""
        joined = self._qkv(self._input_norm(x)).view(len(x), -1, self.head_dim)
        rotated = joined[:, : self.heads + self.kv_heads]
        half = rotated.roll(self.head_dim // 2, -1)
        rotated = (rotated * cos).addcmul_(half, sin).to(self._kept).transpose(0, 1)[None]
        own_values = joined[:, self.heads + self.kv_heads :].to(self._kept).transpose(0, 1)[None]
        seen = torch.cat((keys, rotated[:, self.heads :]), 2), torch.cat((values, own_values), 2)
        found = attention(rotated[:, : self.heads].contiguous(), *seen, None)
        x = x + self._out(found[0].transpose(0, 1).flatten(1).float())
        gate, up = self._gate_up(self._mlp_norm(x)).chunk(2, dim=-1)
        return x.add_(self._down(F.silu(gate).mul_(up)))


class ServedStateDrafter:
    """Drafts what a writer says next."""

    def __init__(self, config: DrafterConfig, weights: Int8Weights, writer: ServedQwen2) -> None:
        """`weights` as `served_weights` gives them. `writer` is what the drafter was trained with."""
        self.config = config
        self.writer = writer.keeping_states(config.states_before)
        """The writer, keeping the states that the drafter reads."""
        tensors = weights.tensors
        self._ids = tensors[IDS].long()
        self._index = {token: index for index, token in enumerate(self._ids.tolist())}
        states = len(config.states_before) + 1
        self._state_norms = [_norm(config, tensors[f"state_norms.{at}.weight"]) for at in range(states)]
        self._fuse = weights.product("fuse")
        self._places = tensors["places"].float()
        self._layers = [ServedDrafterLayer(config, weights, f"layers.{at}.") for at in range(len(config.keys_of))]
        self._norm = _norm(config, tensors["norm.weight"])
        rows, scale = writer.head_rows(self._ids)
        self._head: Int8Product | WideProduct
        if weights.products == torch.int8:
            self._head = Int8Product(packed(rows), scale)
        else:
            self._head = WideProduct(rows, scale, dtype=weights.products)
        self._before = tensors["before.weight"] * tensors["before.scale"][:, None]
        self._after = tensors["after.weight"] * tensors["after.scale"][:, None]

    @torch.inference_mode()
    def draft(self, cache: Cache, token: int) -> tuple[list[int], list[float]]:
        """See `DrafterNetwork`; at most `DRAFTED` ids."""
        anchor = cache.length - 1
        length = min(self.config.canvas, DRAFTED)
        with THREADS.chosen(length):
            states = self.writer.cached_states(cache, slice(anchor, anchor + 1))[0].float()
            normed = [norm(state) for norm, state in zip(self._state_norms, states, strict=True)]
            embedded = self.writer.embed(torch.tensor([token]))[0]
            x = self._fuse(torch.cat((*normed, embedded))[None]) + states[-2] + self._places[:length]
            cos, sin = canvas_angles(self.config, torch.tensor(anchor), length)
            half = sin.shape[-1] // 2
            cos, sin = cos[:, None], torch.cat((-sin[..., :half], sin[..., half:]), -1)[:, None]
            for layer, of in zip(self._layers, self.config.keys_of, strict=True):
                x = layer(x, cos, sin, *cache.layer(of))
            scores = self._head(self._norm(x))
            return self._chosen(scores, self._index.get(token, self.config.vocab_size))

    def _chosen(self, scores: Tensor, before: int) -> tuple[list[int], list[float]]:
        """The best token of each position, given the one before it, and its probability."""
        ids, likely, chance = list[int](), list[float](), 1.0
        for row in scores:
            if chance < LEAST_CHANCE:
                break
            said = torch.addmv(row, self._after, self._before[before])
            before = int(said.argmax())
            ids.append(int(self._ids[before]))
            likely.append(math.exp(float(said[before] - said.logsumexp(0))))
            chance *= likely[-1]
        return ids, likely


def served_weights(drafter: StateDrafter, ids: Tensor) -> dict[str, Tensor]:
    """A drafter's parameters as they are stored and served: matrices in int8; `ids` [N] are those of its vocabulary."""
    found = {IDS: ids.to(torch.int32)}
    with torch.no_grad():
        for name, value in drafter.state_dict().items():
            stem = name.removesuffix(".weight")
            if value.dim() == 2 and name != "places":
                found[f"{stem}.weight"], found[f"{stem}.scale"] = quantised_rows(value.float().cpu())
            else:
                found[name] = value.float().cpu().clone()
    return found


def served_layout(config: DrafterConfig) -> Layout:
    """The dtype and shape of each of `served_weights`."""
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in StateDrafter(config).state_dict().items()}
    layout: Layout = {IDS: (torch.int32, (config.vocab_size,))}
    for name, shape in shapes.items():
        stem = name.removesuffix(".weight")
        if len(shape) == 2 and name != "places":
            layout |= {f"{stem}.weight": (torch.int8, shape), f"{stem}.scale": (torch.float32, shape[:1])}
        else:
            layout[name] = torch.float32, shape
    return layout


def _norm(config: DrafterConfig, weight: Tensor) -> Norm:
    norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
    norm.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
    return Norm(norm)
