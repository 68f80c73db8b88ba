"""What `qwen2_served` asks of the layers and the head of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from dgemma_model.network.cache import Cache


class Passes(Protocol):
    """One implementation for each way to multiply. Shapes as in `CodeNetwork`; C is the size of a head."""

    @property
    def token_cost(self) -> float:
        """What each token after the first two adds to a short pass, as a share of a pass over one
        (log/compiled-passes.md)."""

    def run(
        self,
        x: Tensor,
        cache: Cache,
        angles: tuple[Tensor, Tensor],
        allowed: Tensor | None,
        kept: Sequence[int] = (),
    ) -> tuple[Tensor, list[Tensor]]:
        """The layers and the last norm over new tokens: embeddings [B, T, D] -> hidden states, both float32. Also the
        residual stream before each of the layers `kept`, [B, T, D] each.

        Keys and values are written after the cached ones; the cache's length stays as it is. `angles` are cosines and
        sines [1 or B, T, C]: the second half of a head times the sines goes to the first, so these are negative there.
        `allowed` [1 or B, T, cached + T] bool says which keys each token sees; None: itself, and all before it.
        """

    def scores(self, hidden: Tensor) -> Tensor:
        """The head: [R, D] -> float32 scores of the ids that the tokenizer has, [R, V]."""
