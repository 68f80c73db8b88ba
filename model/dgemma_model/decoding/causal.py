"""The encoder as a causal language model over the same weights: how likely a text is in a hole, exactly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dgemma_model.decoding.plan import FillPlan
from dgemma_model.decoding.prompt_cache import CachedPrompt, OpenPrompt
from dgemma_model.request import Candidate, Check, Draft, DraftToken, InfillError


@torch.inference_mode()
def next_token_logits(
    cached: CachedPrompt, ids: list[int], rows: Sequence[Sequence[int]]
) -> tuple[Tensor, list[list[int]]]:
    """Next-token logits [N, V] after the prompt `ids` and after each token of each row, from one pass. Also, for each
    row, the indices of its logits, [len(row) + 1].

    The rows are branches of a tree after the prompt: a common beginning is read once, and each token sees its own
    branch (Miao et al., arXiv 2305.09781). All but the last of `ids` must be cached; the cache stays as it is.

    Raises:
        InfillError: the rows are longer than the model's context has room for.
    """
    tokens, parents, paths = [ids[-1]], [-1], list[list[int]]()
    children: dict[tuple[int, int], int] = {}
    for row in rows:
        path = [0]
        for token in row:
            node = children.setdefault((path[-1], token), len(tokens))
            if node == len(tokens):
                tokens.append(token)
                parents.append(path[-1])
            path.append(node)
        paths.append(path)
    longest = max(map(len, rows))
    if longest > cached.room(ids):
        raise InfillError(f"a text has {longest} tokens, the model's context has room for {cached.room(ids)}")
    cache = cached.cache
    kept = cache.length
    depths = [0] * len(tokens)
    seen = torch.zeros(len(tokens), kept + len(tokens), dtype=torch.bool)
    seen[:, : len(ids) - 1] = True
    for node, parent in enumerate(parents):
        if node:
            seen[node] = seen[parent]
            depths[node] = depths[parent] + 1
        seen[node, kept + node] = True
    device = cached.device
    positions = torch.tensor([depths], device=device) + len(ids) - 1
    hidden = cached.network.encode(
        torch.tensor([tokens], device=device), cache, positions=positions, seen=seen.to(device)
    )[0]
    cache.crop(kept)
    return cached.network.logits(hidden), paths


def fill_log_probabilities(opened: OpenPrompt, texts: Sequence[str], *, one_line: bool = False) -> list[Tensor]:
    """Log-probabilities, in nats, of each text's tokens and of its end after the prompt.

    Tokens that healing forces are left out. The end is end-of-text, or with `one_line` a line break as well.
    """
    prompt, tokenizer = opened.prompt, opened.vocabulary.tokenizer
    healed = prompt.forced.decode("utf-8", "replace")
    rows = [tokenizer.encode_by_line(healed + text) for text in texts]
    ends = list(opened.vocabulary.ends_of(one_line=one_line))
    logits, paths = next_token_logits(opened.cached, prompt.ids, rows)
    log_probabilities = logits.log_softmax(-1)
    found = []
    for row, path in zip(rows, paths, strict=True):
        sizes = itertools.accumulate(len(tokenizer.token_bytes[i]) for i in row)
        forced = sum(size <= len(prompt.forced) for size in sizes)
        said = log_probabilities[path[forced:-1], row[forced:]]
        found.append(torch.cat((said, log_probabilities[path[-1], ends].logsumexp(0, keepdim=True))))
    return found


def ranked(opened: OpenPrompt, plan: FillPlan, draft: Draft, others: Sequence[str]) -> Draft:
    """The likeliest text among a finished draft of one hole and `others`; with the best ones as `candidates` if the
    plan wants several."""
    texts = list(dict.fromkeys([draft.text, *filter(None, others)]))
    if len(texts) == 1 and plan.candidates == 1:
        return draft
    read = fill_log_probabilities(opened, texts, one_line=plan.one_line)
    likelihoods = [float(found.sum()) for found in read]
    order = sorted(range(len(texts)), key=lambda number: -likelihoods[number])
    if plan.candidates > 1:
        found = tuple(Candidate(texts[number], likelihoods[number]) for number in order[: plan.candidates])
        draft = replace(draft, candidates=found)
    best = order[0]
    if best == 0:
        return draft
    score = float(read[best].mean())
    shown = (DraftToken(texts[best], math.exp(score), settled=True),)
    check = None if draft.check is None else Check()
    return replace(draft, texts=(texts[best],), complete=True, score=score, tokens=(shown,), check=check)
