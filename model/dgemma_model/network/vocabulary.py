"""Products with the embeddings of all tokens on a GPU: scores of hidden states, and means under probabilities.

A step of 256 positions has 67 million scores for a vocabulary of 262,144: 268 MB in float32. The products are taken for
a part of the vocabulary at a time, so that their bfloat16 operands and results take little in addition. Each embedding
is still read once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
from torch import Tensor

TOKENS = 1 << 16
"""Tokens of a part."""
READ_AT_ONCE = 1 << 23
"""Most scores that `decoding.sampler` reads together; one float32 copy of them is made."""


def scores(rows: Tensor, embeddings: Tensor, cap: float | None) -> Tensor:
    """Scores, softcapped where there is a cap, of hidden states [N, D] by embeddings [V, D]: float32 [N, V]."""
    found = torch.empty(len(rows), len(embeddings), dtype=torch.float32, device=rows.device)
    for place, part in zip(torch.split(found, TOKENS, 1), torch.split(embeddings, TOKENS), strict=True):
        place.copy_(F.linear(rows, part))
    return found if cap is None else found.div_(cap).tanh_().mul_(cap)


def mean(probabilities: Tensor, embeddings: Tensor) -> Tensor:
    """The mean of embeddings [V, D] under float32 probabilities [N, V]: float32 [N, D]."""
    found = torch.zeros(len(probabilities), embeddings.shape[1], dtype=torch.float32, device=probabilities.device)
    for shares, part in zip(torch.split(probabilities, TOKENS, 1), torch.split(embeddings, TOKENS), strict=True):
        found += shares.to(part.dtype) @ part
    return found


def working_bytes(positions: int, vocabulary: int, size: int) -> int:
    """Most bytes that the scores of a step take, where operands of products have `size` bytes each."""
    return positions * vocabulary * 4 + max(positions * min(TOKENS, vocabulary) * size, READ_AT_ONCE * 4)
