"""Which tokens may be written: first those of the healed text, then all but special ones. End-of-text is allowed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dgemma_model.prompt.format import FillVocabulary
from dgemma_model.prompt.tokenizer import Tokenizer


class Constraint:
    """Restricts logits, position by position, to texts that begin with the healed text. For `is_indent_settled` see
    `EncodedPrompt`.

    What it needs is on the device after the first use. From then on the host waits for nothing: which token follows the
    healed text is found there, too.
    """

    def __init__(self, vocabulary: FillVocabulary, forced: bytes, *, is_indent_settled: bool = False) -> None:
        self._tokenizer, self._forced = vocabulary.tokenizer, forced
        self._is_indent_settled = is_indent_settled
        self._never = torch.tensor(vocabulary.never, dtype=torch.int64)
        self._allowed = torch.empty(0)
        """bool [bytes, V]: which ids may come next where so many bytes of the healed text are written."""
        self._sizes = torch.empty(0)
        """int64 [V]: the bytes of each id that may come; others have none."""

    def apply(self, logits: Tensor) -> Tensor:
        """Change logits [B, L, V] in place: -inf for special tokens, and certainty along the healed text. Position 0
        begins the fill."""
        if self._never.device != logits.device:
            self._never = self._never.to(logits.device)
        logits.index_fill_(-1, self._never, -torch.inf)
        logits[..., self._tokenizer.vocab_size :] = -torch.inf  # a network may know more ids than its tokenizer
        if self._forced:
            self._follow(logits)
        return logits

    def _follow(self, logits: Tensor) -> None:
        """Make the tokens certain that write the healed text: at each position the likeliest one that continues it."""
        if not self._sizes.numel():
            self._prepare(logits.shape[-1], logits.device)
        whole = len(self._forced)
        written = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        for position in range(min(whole, logits.shape[1])):  # a token writes a byte or more
            at, is_open = logits[:, position], (written < whole)[:, None]
            allowed = self._allowed[written.clamp(max=whole - 1)]
            token = at.masked_fill(~allowed, -torch.inf).argmax(-1, keepdim=True)
            certain = torch.full_like(at, -torch.inf).scatter_(-1, token, 0.0)
            at.copy_(torch.where(is_open, certain, at))
            written += self._sizes[token[:, 0]]

    def _prepare(self, vocabulary: int, device: torch.device) -> None:
        allowed = torch.zeros(len(self._forced), vocabulary, dtype=torch.bool)
        sizes = torch.zeros(vocabulary, dtype=torch.int64)
        for start, row in enumerate(allowed):
            ids = ids_in_line(self._tokenizer, self._forced[start:], is_indent_settled=self._is_indent_settled)
            chosen = torch.tensor(ids, dtype=torch.int64)
            row[chosen] = True
            sizes[chosen] = torch.tensor([len(self._tokenizer.token_bytes[i]) for i in ids])
        self._allowed, self._sizes = allowed.to(device), sizes.to(device)


def ids_in_line(tokenizer: Tokenizer, forced: bytes, *, is_indent_settled: bool) -> Sequence[int]:
    """The ids that may come next while `forced` is not written yet: those that begin it or go beyond it. If it is a
    settled indentation, ids that add blanks to it are left out."""
    return tokenizer.ids_without_blanks(forced) if is_indent_settled else tokenizer.ids_starting(forced)


def remaining_forced(forced: bytes, ids: list[int], tokenizer: Tokenizer) -> bytes:
    """The part of the healed text that is left after `ids`."""
    return forced[sum(len(tokenizer.token_bytes[i]) for i in ids) :]
