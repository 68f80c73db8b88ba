"""Which tokens may be written: first those of the healed text, then all but special ones. End-of-text is allowed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dgemma_model.prompt.format import FillVocabulary
from dgemma_model.prompt.tokenizer import Tokenizer


class Constraint:
    """Restricts logits, position by position, to texts that begin with the healed text. For `is_indent_settled` see
    `EncodedPrompt`."""

    def __init__(self, vocabulary: FillVocabulary, forced: bytes, *, is_indent_settled: bool = False) -> None:
        self._tokenizer, self._forced = vocabulary.tokenizer, forced
        self._is_indent_settled = is_indent_settled
        self._never = vocabulary.never

    def apply(self, logits: Tensor) -> Tensor:
        """Change logits [B, L, V] in place: -inf for special tokens, and certainty along the healed text. Position 0
        begins the fill."""
        logits[..., self._never] = -torch.inf
        logits[..., self._tokenizer.vocab_size :] = -torch.inf  # a network may know more ids than its tokenizer
        for row in logits if self._forced else ():
            remaining, position = self._forced, 0
            while remaining and position < len(row):
                allowed = ids_in_line(self._tokenizer, remaining, is_indent_settled=self._is_indent_settled)
                token = best_allowed(row[position], allowed)
                row[position] = -torch.inf
                row[position, token] = 0.0
                remaining = remaining[len(self._tokenizer.token_bytes[token]) :]
                position += 1
        return logits


def ids_in_line(tokenizer: Tokenizer, forced: bytes, *, is_indent_settled: bool) -> Sequence[int]:
    """The ids that may come next while `forced` is not written yet: those that begin it or go beyond it. If it is a
    settled indentation, ids that add blanks to it are left out."""
    return tokenizer.ids_without_blanks(forced) if is_indent_settled else tokenizer.ids_starting(forced)


def best_allowed(logits: Tensor, allowed: Sequence[int]) -> int:
    """The most likely of the `allowed` ids; `logits` is [V]."""
    candidates = torch.tensor(allowed, device=logits.device)
    return int(candidates[logits[candidates].argmax()])


def remaining_forced(forced: bytes, ids: list[int], tokenizer: Tokenizer) -> bytes:
    """The part of the healed text that is left after `ids`."""
    return forced[sum(len(tokenizer.token_bytes[i]) for i in ids) :]
