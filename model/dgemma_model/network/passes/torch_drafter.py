"""A drafter in operations of torch: where there are no compiled passes, and for other dtypes than int8.

For CPUs. Shapes as in `state_drafter`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
from torch import Tensor

from dgemma_model.network.cache import Cache
from dgemma_model.network.diffusion_gemma import RMSNorm
from dgemma_model.network.int8 import Int8Weights
from dgemma_model.network.kernels import Norm
from dgemma_model.network.passes.torch_passes import attention, kept_dtype
from dgemma_model.network.state_drafter import DrafterConfig


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


class TorchDrafter:
    """See `state_drafter_served.DrafterPasses`."""

    def __init__(self, config: DrafterConfig, weights: Int8Weights) -> None:
        """`weights` are `state_drafter_served.DrafterTensors`."""
        self._keys_of = config.keys_of
        tensors, states = weights.tensors, len(config.states_before) + 1
        self._state_norms = [_norm(config, tensors[f"state_norms.{at}.weight"]) for at in range(states)]
        self._fuse = weights.product("fuse")
        self._places = tensors["places"].float()
        self._layers = [ServedDrafterLayer(config, weights, f"layers.{at}.") for at in range(len(config.keys_of))]
        self._norm = _norm(config, tensors["norm.weight"])
        self._head = weights.product("lm_head")
        self._before = tensors["before.weight"] * tensors["before.scale"][:, None]
        self._after = tensors["after.weight"] * tensors["after.scale"][:, None]

    def draft(
        self,
        states: Tensor,
        embedded: Tensor,
        cache: Cache,
        angles: tuple[Tensor, Tensor],
        before: int,
        least: float,
        choices: int,
    ) -> list[list[tuple[int, float]]]:
        """See `DrafterPasses`."""
        normed = [norm(state) for norm, state in zip(self._state_norms, states, strict=True)]
        cos, sin = (part[0, :, None] for part in angles)
        x = self._fuse(torch.cat((*normed, embedded))[None]) + states[-2] + self._places[: len(cos)]
        for layer, of in zip(self._layers, self._keys_of, strict=True):
            x = layer(x, cos, sin, *cache.layer(of))
        found, chance = list[list[tuple[int, float]]](), 1.0
        for row in self._head(self._norm(x)):
            if chance < least:
                break
            said = torch.addmv(row, self._after, self._before[before])
            likely, chosen = said.softmax(0).topk(choices)
            found.append(list(zip(chosen.tolist(), likely.tolist(), strict=True)))
            before, chance = found[-1][0][0], chance * found[-1][0][1]
        return found


def _norm(config: DrafterConfig, weight: Tensor) -> Norm:
    norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
    norm.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
    return Norm(norm)
