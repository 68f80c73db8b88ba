"""Which tokens of an existing text the network disagrees with, from one noiseless pass over each canvas of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

from dgemma_model.checkpoint.contract import Checkpoint
from dgemma_model.decoding.constraint import Constraint
from dgemma_model.decoding.prompt_cache import CachedPrompt, OpenPrompt
from dgemma_model.request import Doubt

DOUBT_NATS = 2.0
"""How much likelier another token must be for a doubt: seven times and more."""


@torch.inference_mode()
def disagreement(checkpoint: Checkpoint, cached: CachedPrompt, canvas: Tensor) -> tuple[Tensor, Tensor]:
    """One noiseless pass over `canvas` [B, L] int64.

    Returns two tensors [B, L]: by how many nats the likeliest token of each position is likelier than the one there,
    float32 (0 if it is the same), and the id of that token, int64.
    """
    network = checkpoint.network
    logits = network.logits(network.decode(canvas, cached.cache))
    log_probabilities = Constraint(checkpoint.format.vocabulary, b"").apply(logits).log_softmax(-1)
    likeliest, best = log_probabilities.max(-1)
    return likeliest - log_probabilities.gather(-1, canvas[..., None])[..., 0], best


def doubts(checkpoint: Checkpoint, opened: OpenPrompt, span: str, min_nats: float) -> Iterator[Doubt]:
    """Yield the tokens of `span`, the text in the hole, for which another is `min_nats` likelier. All of the prompt is
    cached.

    A span longer than the widest canvas is reviewed in pieces, each with those before it as part of the prompt.
    """
    cached, prompt, tokenizer = opened.cached, opened.prompt, opened.vocabulary.tokenizer
    widths = sorted(checkpoint.policy.canvas_lengths)
    given = len(prompt.forced)
    ids = tokenizer.encode(prompt.forced.decode("utf-8", "replace") + span)
    data = b"".join(tokenizer.token_bytes[i] for i in ids)
    ends = [0, *itertools.accumulate(len(tokenizer.token_bytes[i]) for i in ids)]
    for first in range(0, len(ids), widths[-1]):
        piece = ids[first : first + widths[-1]]
        width = next(width for width in widths if width >= len(piece))
        canvas = torch.tensor([piece + [tokenizer.end_id] * (width - len(piece))], device=cached.device)
        nats, best = (values[0, : len(piece)].tolist() for values in disagreement(checkpoint, cached, canvas))
        for at, (strength, token) in enumerate(zip(nats, best, strict=True), start=first):
            start, end = ends[at], ends[at + 1]
            healed = data[start:given]
            instead = tokenizer.token_bytes[token]
            if strength < min_nats or end <= given or not instead.startswith(healed):
                continue
            before, upto = (_code_points(data[given : max(given, edge)]) for edge in (start, end))
            yield Doubt(before, upto, strength, instead[len(healed) :].decode("utf-8", "replace"))
        cached.append(piece, last=0)


def _code_points(data: bytes) -> int:
    """How many characters begin in UTF-8 `data`."""
    return sum(1 for value in data if value & 0xC0 != 0x80)
