"""When a canvas is done. A stop rule is a small frozen object with one method.

Rules look at the positions of holes only. Pinned text and the end-of-text after a fill are certain from the start, and
would make any canvas look finished.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dgemma_model.decoding.sampler import CanvasStep


class StopRule(Protocol):
    """Decides after each step, from the steps so far (latest last), whether every canvas of the batch is done."""

    def should_stop(self, steps: Sequence[CanvasStep], holes: Tensor) -> bool:
        """`holes` is [B, L] bool, True at the positions that are to be filled."""
        ...


@dataclass(frozen=True, slots=True)
class StableAndConfident:
    """The published rule: the draft stayed the same for `stability_threshold` steps, and its mean entropy is below
    `confidence_threshold` nats."""

    stability_threshold: int
    confidence_threshold: float

    def should_stop(self, steps: Sequence[CanvasStep], holes: Tensor) -> bool:
        """See `StopRule`."""
        if len(steps) <= self.stability_threshold:
            return False
        latest = steps[-1]
        for earlier in steps[-1 - self.stability_threshold : -1]:
            if bool(((earlier.best != latest.best) & holes).any()):
                return False
        mean_entropy = (latest.entropy * holes).sum(-1) / holes.sum(-1).clamp(min=1)
        return bool((mean_entropy < self.confidence_threshold).all())


@dataclass(frozen=True, slots=True)
class NothingLeft:
    """Every position of every hole was accepted: another step could only repeat the draft."""

    def should_stop(self, steps: Sequence[CanvasStep], holes: Tensor) -> bool:
        """See `StopRule`."""
        return bool(torch.where(holes, steps[-1].accepted, True).all())


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Stops as soon as one of `rules` does."""

    rules: tuple[StopRule, ...]

    def should_stop(self, steps: Sequence[CanvasStep], holes: Tensor) -> bool:
        """See `StopRule`."""
        return any(rule.should_stop(steps, holes) for rule in self.rules)


LOOP_TOKENS, LOOP_PERIOD, LOOP_ROUNDS = 24, 8, 4
"""A loop: at least the last 24 tokens repeat a period of at most 8 tokens, at least 4 times."""


def is_looping(ids: Sequence[int]) -> bool:
    """Whether the text ends in a loop, which small models do not leave by themselves."""
    for period in range(1, LOOP_PERIOD + 1):
        size = max(LOOP_TOKENS, period * LOOP_ROUNDS)
        tail = ids[-size:]
        if len(tail) == size and tail[period:] == tail[:-period]:
            return True
    return False
