"""A drafter by the compiled passes: a whole draft in one call."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int64

import torch
from torch import Tensor

from dgemma_model.network.cache import Cache
from dgemma_model.network.int8 import Int8Weights
from dgemma_model.network.passes.blocks import GROUP
from dgemma_model.network.passes.native import NativePasses, can_run
from dgemma_model.network.passes.structures import Draft, Drafter
from dgemma_model.network.qwen2_config import Qwen2Config
from dgemma_model.network.state_drafter import DrafterConfig

PUBLISHED = {"input_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
"""What the norms of a drafter's layers are called in a Qwen2 network."""


class NativeDrafter(NativePasses):
    """See `state_drafter_served.DrafterPasses`. Its layers are those of a Qwen2 network whose tokens all see each
    other, and which goes on after keys and values of the writer."""

    def __init__(self, config: DrafterConfig, weights: Int8Weights) -> None:
        """`weights` are `state_drafter_served.DrafterTensors`."""
        laid_out = weights.blocks
        tensors = {
            name: weights.tensors[name] for name in weights.tensors if name.removesuffix(".weight") not in laid_out
        }
        named = dict(tensors)
        for its, published in PUBLISHED.items():
            named |= {name.replace(its, published): tensor for name, tensor in tensors.items() if its in name}
        super().__init__(as_qwen2(config), named, laid_out)
        self._keys_of = config.keys_of
        states = len(config.states_before) + 1
        self._joined, self._pairs = torch.empty((states + 1) * config.hidden_size), torch.empty(config.vocab_size)
        self._widest = max(self._widest, config.vocab_size)
        self._longest = max(self._longest, len(self._joined), config.pair_rank)
        self._drafter = Drafter(
            *(ctypes.pointer(self._network), states),
            self._pointer(torch.stack([tensors[f"state_norms.{at}.weight"] for at in range(states)])),
            *(self._pointer(tensors["places"]), *(self._matrix(named, laid_out, name) for name in ("fuse", "after"))),
            *(self._pointer(tensors["before.weight"]), self._pointer(tensors["before.scale"])),
        )

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
        length, buffers = angles[0].shape[1], cache.reserve(angles[0].shape[1])
        x, states, embedded = torch.empty(1, length, states.shape[1]), states.contiguous(), embedded.contiguous()
        seen = torch.ones(1, length, cache.length + length, dtype=torch.bool)
        described, _held = self._described(x, [buffers[of] for of in self._keys_of], cache.length, angles, seen)
        chosen, likely = (c_int64 * (length * choices))(), (c_float * (length * choices))()
        draft = Draft(
            *(ctypes.pointer(self._drafter), described, states.data_ptr(), embedded.data_ptr()),
            *(before, least, choices, self._joined.data_ptr(), self._pairs.data_ptr()),
            *(ctypes.addressof(chosen), 0, ctypes.addressof(likely)),
        )
        self._library.call("dgemma_draft", draft)
        found = list(zip(chosen, likely, strict=True))
        return [found[at : at + choices] for at in range(0, draft.count * choices, choices)]


def can_draft(config: DrafterConfig) -> bool:
    """Whether the compiled passes take a drafter of these sizes."""
    return config.pair_rank % GROUP == 0 and can_run(as_qwen2(config))


def as_qwen2(config: DrafterConfig) -> Qwen2Config:
    """The shape of a drafter's layers and head."""
    return Qwen2Config(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=len(config.keys_of),
        num_attention_heads=config.num_attention_heads,
        num_key_value_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        tie_word_embeddings=False,
        rms_norm_eps=config.rms_norm_eps,
    )
