"""The encoder as a causal language model over the same weights: how likely a text is in a hole, exactly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dgemma_model.canvas import Prompt
from dgemma_model.prompt_cache import CachedPrompt
from dgemma_model.request import Candidate, Draft, DraftToken, FillRequest, InfillError
from dgemma_model.tokenizer import Tokenizer


@torch.inference_mode()
def next_token_logits(cached: CachedPrompt, ids: list[int], rows: Sequence[Sequence[int]]) -> list[Tensor]:
    """Logits [len(row) + 1, V] of what follows the prompt `ids` and each token of each row, from one pass.

    The rows are a batch over one cache, of which at least all but the last of `ids` must be there; it stays as it is.

    Raises:
        InfillError: a row is longer than the model's context has room for.
    """
    cache = cached.cache.repeated(len(rows), len(ids) - 1)
    longest = max(map(len, rows))
    if longest > cached.room(ids):
        raise InfillError(f"a text has {longest} tokens, the model's context has room for {cached.room(ids)}")
    batch = [[ids[-1], *row, *[ids[-1]] * (longest - len(row))] for row in rows]  # what follows a row cannot matter
    hidden = cached.network.encode(torch.tensor(batch, device=cached.device), cache)
    return [cached.network.logits(hidden[number, : len(row) + 1]) for number, row in enumerate(rows)]


def fill_log_probabilities(
    cached: CachedPrompt, prompt: Prompt, texts: Sequence[str], tokenizer: Tokenizer, *, one_line: bool = False
) -> list[Tensor]:
    """Log-probabilities, in nats, of each text's tokens and of its end behind the prompt; what healing forces does not
    count.

    The end is end-of-text, or with `one_line` a line break as well.
    """
    healed = prompt.forced.decode("utf-8", "replace")
    rows = [tokenizer.encode_by_line(healed + text) for text in texts]
    ends = [tokenizer.end_id, *(tokenizer.ids_starting(b"\n") if one_line else [])]
    found = []
    for row, logits in zip(rows, next_token_logits(cached, prompt.ids, rows), strict=True):
        sizes = itertools.accumulate(len(tokenizer.token_bytes[i]) for i in row)
        forced = sum(size <= len(prompt.forced) for size in sizes)
        log_probabilities = logits.log_softmax(-1)
        said = log_probabilities[torch.arange(forced, len(row)), torch.tensor(row[forced:], dtype=torch.int64)]
        found.append(torch.cat((said, log_probabilities[-1, ends].logsumexp(0, keepdim=True))))
    return found


def ranked(
    cached: CachedPrompt,
    prompt: Prompt,
    draft: Draft,
    others: Sequence[str],
    request: FillRequest,
    tokenizer: Tokenizer,
) -> Draft:
    """The likeliest, as a whole, of a finished draft of one hole and `others`; with the best of all as `candidates`
    where the request wants several."""
    texts = list(dict.fromkeys([draft.text, *filter(None, others)]))
    if len(texts) == 1 and request.candidates == 1:
        return draft
    read = fill_log_probabilities(cached, prompt, texts, tokenizer, one_line=request.one_line)
    likelihoods = [float(found.sum()) for found in read]
    order = sorted(range(len(texts)), key=lambda number: -likelihoods[number])
    if request.candidates > 1:
        found = tuple(Candidate(texts[number], likelihoods[number]) for number in order[: request.candidates])
        draft = replace(draft, candidates=found)
    best = order[0]
    if best == 0:
        return draft
    score = float(read[best].mean())
    shown = (DraftToken(texts[best], math.exp(score), settled=True),)
    return replace(draft, texts=(texts[best],), complete=True, score=score, tokens=(shown,))
