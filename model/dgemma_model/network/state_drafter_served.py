"""A drafter as it is served: what `state_drafter.StateDrafter` drafts for one text, over int8 products.

For CPUs. Shapes as in `state_drafter`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

from dgemma_model.network.cache import Cache
from dgemma_model.network.contract import Proposal
from dgemma_model.network.int8 import Int8Weights, quantised_rows
from dgemma_model.network.passes.native_drafter import NativeDrafter, can_draft
from dgemma_model.network.passes.torch_drafter import TorchDrafter
from dgemma_model.network.qwen2_served import ServedQwen2
from dgemma_model.network.qwen2_weights import Layout
from dgemma_model.network.state_drafter import FIRST, DrafterConfig, StateDrafter
from dgemma_model.network.threads import THREADS

IDS, HEAD = "ids", "lm_head"
BEFORE = "before"
"""The only matrix that is looked up and not multiplied."""
DRAFTED = 4
"""Tokens of a draft, at most: later ones have hardly ever been worth a pass's time (log/drafts.md)."""
CHOICES = 3
"""Tokens for each place of a draft (log/drafts.md)."""
LEAST_CHANCE = 0.1
"""A draft ends where it is right so seldom."""


class DrafterPasses(Protocol):
    """One implementation for each way to multiply."""

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
        """Denoise a canvas of L tokens: of each position the `choices` likeliest places in the drafter's vocabulary,
        and their probabilities if the likeliest of each position before are right; no more positions where the
        probability of all the likeliest together is below `least`.

        `states` [S, D] are those of the last cached token and `embedded` [D] is the token after it. `angles` are those
        of the canvas, [1, L, C] each, as `passes.contract.Passes` takes them. `before` is the place of the token
        before the canvas, N where the vocabulary does not have it. What the buffers of `cache` hold after its last
        token may change.
        """


class ServedStateDrafter:
    """Drafts what a writer says next."""

    def __init__(self, config: DrafterConfig, weights: Int8Weights, writer: ServedQwen2) -> None:
        """`weights` are `DrafterTensors`. `writer` is what the drafter was trained with."""
        self.config = config
        self.writer = writer.keeping_states(config.states_before)
        """The writer, keeping the states that the drafter reads."""
        self._ids = weights.tensors[IDS].tolist()
        self._index = {token: index for index, token in enumerate(self._ids)}
        is_native = weights.products == torch.int8 and can_draft(config)
        self._passes: DrafterPasses = NativeDrafter(config, weights) if is_native else TorchDrafter(config, weights)

    @torch.inference_mode()
    def draft(self, cache: Cache, token: int) -> Proposal:
        """See `DrafterNetwork`; at most `DRAFTED` ids."""
        anchor, length = cache.length - 1, min(self.config.canvas, DRAFTED)
        states = self.writer.latest_states(cache, anchor)
        if states is None:
            return Proposal()
        with THREADS.chosen(length):
            states = states.float()
            embedded = self.writer.embed(torch.tensor([token]))[0]
            angles = self.writer.angles(anchor + FIRST, length)
            before = self._index.get(token, self.config.vocab_size)
            found = self._passes.draft(states, embedded, cache, angles, before, LEAST_CHANCE, CHOICES)
        choices = [[(self._ids[index], likely) for index, likely in position] for position in found]
        ids, probabilities = zip(*(position[0] for position in choices), strict=True)
        return Proposal(ids, probabilities, [position[1:] for position in choices])


class DrafterTensors(Mapping[str, Tensor]):
    """A drafter's tensors, and as `lm_head` the writer's rows of the drafter's tokens: `weight` int8 [N, D] and `scale`
    float32 [N]. The rows are gathered when they are asked for."""

    def __init__(self, stored: Mapping[str, Tensor], writer: ServedQwen2) -> None:
        """`stored` as `served_weights` gives them."""
        self._stored, self._writer = stored, writer

    def __getitem__(self, name: str) -> Tensor:
        if name not in (f"{HEAD}.weight", f"{HEAD}.scale"):
            return self._stored[name]
        whole = self._writer.weights.tensors[f"{self._writer.head_name}.{name.removeprefix(f'{HEAD}.')}"]
        return whole[self._stored[IDS].long()]

    def __iter__(self) -> Iterator[str]:
        yield from self._stored
        yield from (f"{HEAD}.weight", f"{HEAD}.scale")

    def __len__(self) -> int:
        return len(self._stored) + 2


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


def product_shapes(config: DrafterConfig) -> dict[str, tuple[int, int]]:
    """The matrices of `DrafterTensors` that are multiplied: [out, in] by name."""
    size, inner, states = config.hidden_size, config.intermediate_size, len(config.states_before) + 1
    queries, keys = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
    shapes = {"fuse": (size, (states + 1) * size), "after": (config.vocab_size, config.pair_rank)}
    for at in range(len(config.keys_of)):
        shapes |= {f"layers.{at}.qkv": (queries + 2 * keys, size), f"layers.{at}.out": (size, queries)}
        shapes |= {f"layers.{at}.gate_up": (2 * inner, size), f"layers.{at}.down": (size, inner)}
    return shapes | {HEAD: (config.vocab_size, size)}


def served_layout(config: DrafterConfig) -> Layout:
    """The dtype and shape of each of `served_weights`.

    They are reckoned: torch's modules without memory take 70 MB of a process.
    """
    size, rank = config.hidden_size, config.pair_rank
    layout: Layout = {IDS: (torch.int32, (config.vocab_size,)), "places": (torch.float32, (config.canvas, size))}
    norms = ["norm", *(f"state_norms.{at}" for at in range(len(config.states_before) + 1))]
    matrices = product_shapes(config) | {BEFORE: (config.vocab_size + 1, rank)}
    del matrices[HEAD]
    for at in range(len(config.keys_of)):
        norms += [f"layers.{at}.input_norm", f"layers.{at}.mlp_norm"]
        layout[f"layers.{at}.qkv.bias"] = torch.float32, matrices[f"layers.{at}.qkv"][:1]
    for name, shape in matrices.items():
        layout |= {f"{name}.weight": (torch.int8, shape), f"{name}.scale": (torch.float32, shape[:1])}
    return layout | {f"{name}.weight": (torch.float32, (size,)) for name in norms}
