"""What every network is to the rest of the program: token ids in, scores out.

One implementation a family of checkpoints; all share the cache. Shapes: B rows, T new tokens, L canvas positions, D
hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dgemma_model.network.cache import Cache


class CodeNetwork(Protocol):
    """A network that reads text causally, and a canvas in both directions, over the same weights."""

    @property
    def vocab_size(self) -> int:
        """V: `logits` scores the ids 0 to V - 1, and `encode` takes no others."""

    @property
    def context_length(self) -> int:
        """The most positions, of prompt and fill together, that it was made for."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""

    def encode(
        self,
        ids: Tensor,
        cache: Cache,
        *,
        positions: Tensor | None = None,
        padding: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> Tensor:
        """Causal pass over new tokens; appends their keys and values to `cache`.

        `ids` [B, T] int64; `positions` [1 or B, T] int64, counting on from the cache by default; `padding` [B, T]
        bool, True at real tokens; `seen` [T, cached + T] bool, where there is no padding: which tokens each new one
        sees, instead of all before it (the branches of a tree). Returns the last hidden states, [B, T, D].
        """

    def decode(
        self, canvas: Tensor, cache: Cache, *, expected: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """Bidirectional pass over a canvas after the cached prompt, which stays as it is.

        `canvas` [B, L] int64; `expected` [B, L, D]: `mean_embedding` of the previous step's probabilities, None in the
        first; a network without self-conditioning ignores it. `positions` [1 or B, L], counting on from the cache by
        default. Returns the last hidden states, [B, L, D].
        """

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> float32 scores over the vocabulary, [..., V]."""

    def embed(self, ids: Tensor) -> Tensor:
        """The embeddings of `ids` [...], as the first layer reads them: [..., D]."""

    def mean_embedding(self, probabilities: Tensor) -> Tensor:
        """The mean of all tokens' embeddings under `probabilities` [..., V]: [..., D]."""


class Proposal(NamedTuple):
    """Tokens that may come next; empty if there is no proposal."""

    ids: Sequence[int] = ()
    probabilities: Sequence[float] = ()
    """Of each token, that it is right if all before it are."""
    others: Sequence[Sequence[tuple[int, float]]] = ()
    """Of each place, other tokens that may come there if all of `ids` before it are right, with their probabilities."""


class DrafterNetwork(Protocol):
    """A small network that drafts what another one, the writer, says next."""

    def draft(self, cache: Cache, token: int) -> Proposal:
        """What the writer may say after `token`, the one after all that is in its `cache`."""
