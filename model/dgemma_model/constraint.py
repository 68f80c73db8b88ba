"""What may be said: the healed text first, then anything but special tokens other than end-of-text."""

from __future__ import annotations

import torch
from torch import Tensor

from dgemma_model.tokenizer import Tokenizer


class Constraint:
    """Keeps a canvas in line with the healed text that must come first, position by position.

    `first` is the position on the canvas at which that text begins.
    """

    def __init__(self, tokenizer: Tokenizer, forced: bytes, first: int = 0) -> None:
        self._tokenizer, self._forced, self._first = tokenizer, forced, first
        self._never = sorted(tokenizer.special_ids - {tokenizer.end_id})

    def apply(self, logits: Tensor) -> Tensor:
        """[B, L, V] -> the same with -inf for special tokens, and certainty along the healed text."""
        logits[..., self._never] = -torch.inf
        logits[..., self._tokenizer.vocab_size :] = -torch.inf  # a network may know more ids than its tokenizer
        for row in logits if self._forced else ():
            remaining, position = self._forced, self._first
            while remaining and position < len(row):
                token = best_allowed(row[position], self._tokenizer.ids_starting(remaining))
                row[position] = -torch.inf
                row[position, token] = 0.0
                remaining = remaining[len(self._tokenizer.token_bytes[token]) :]
                position += 1
        return logits


def best_allowed(logits: Tensor, allowed: list[int]) -> int:
    """The most likely of the `allowed` ids; `logits` is [V]."""
    candidates = torch.tensor(allowed, device=logits.device)
    return int(candidates[logits[candidates].argmax()])


def remaining_forced(forced: bytes, ids: list[int], tokenizer: Tokenizer) -> bytes:
    """What of the healed text is still to be said behind `ids`."""
    return forced[sum(len(tokenizer.token_bytes[i]) for i in ids) :]
