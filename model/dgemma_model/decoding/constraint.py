"""What may be said: the healed text first, then anything but special tokens other than end-of-text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dgemma_model.prompt.format import FillVocabulary
from dgemma_model.prompt.tokenizer import Tokenizer


class Constraint:
    """Keeps what is to be written in line with the healed text that must come first, position by position; for
    `is_indent_settled` see `EncodedPrompt`."""

    def __init__(self, vocabulary: FillVocabulary, forced: bytes, *, is_indent_settled: bool = False) -> None:
        self._tokenizer, self._forced = vocabulary.tokenizer, forced
        self._is_indent_settled = is_indent_settled
        self._never = vocabulary.never

    def apply(self, logits: Tensor) -> Tensor:
        """[B, L, V], the first of which begins the fill -> the same with -inf for special tokens, and certainty along
        the healed text."""
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
    """The ids that may come while `forced` is still to be said: those that begin it, or go beyond it, but not with
    more blanks where it is an indentation that is settled."""
    ids = tokenizer.ids_starting(forced)
    if not is_indent_settled:
        return ids
    return [i for i in ids if not tokenizer.token_bytes[i][len(forced) :][:1].isspace()] or ids


def best_allowed(logits: Tensor, allowed: Sequence[int]) -> int:
    """The most likely of the `allowed` ids; `logits` is [V]."""
    candidates = torch.tensor(allowed, device=logits.device)
    return int(candidates[logits[candidates].argmax()])


def remaining_forced(forced: bytes, ids: list[int], tokenizer: Tokenizer) -> bytes:
    """What of the healed text is still to be said behind `ids`."""
    return forced[sum(len(tokenizer.token_bytes[i]) for i in ids) :]
