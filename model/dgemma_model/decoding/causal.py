"""The encoder as a causal language model over the same weights: how likely a text is in a hole, exactly."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dgemma_model.decoding.plan import FillPlan
from dgemma_model.decoding.prompt_cache import CachedPrompt, OpenPrompt, TokenTree
from dgemma_model.request import Candidate, Check, Draft, DraftToken


@torch.inference_mode()
def next_token_logits(
    cached: CachedPrompt, ids: list[int], rows: Sequence[Sequence[int]]
) -> tuple[Tensor, list[list[int]]]:
    """Next-token logits [N, V] after the prompt `ids` and after each token of each row, from one pass. Also, for each
    row, the indices of its logits, [len(row) + 1]. All but the last of `ids` must be cached; the cache stays as it is.

    Raises:
        InfillError: the rows are longer than the model's context has room for.
    """
    tree, kept = TokenTree(ids[-1], rows), cached.cache.length
    try:
        return cached.tree_logits([], tree, seen=len(ids) - 1), tree.paths
    finally:
        cached.cache.crop(kept)


class LikelyTexts:
    """How likely the causal head finds texts in a hole, each with its end.

    The end is end-of-text, or with `one_line` a line break as well. Tokens that healing forces do not count.
    """

    def __init__(self, opened: OpenPrompt, *, one_line: bool = False) -> None:
        self._opened = opened
        self._ends = list(opened.vocabulary.ends_of(one_line=one_line))
        self.known: dict[str, Tensor] = {}
        """Log-probabilities, in nats, of the tokens of each text that was read and of its end, [n + 1]."""

    def row(self, text: str) -> list[int]:
        """The tokens of a text, those that healing forces included."""
        healed = self._opened.prompt.forced.decode("utf-8", "replace")
        return self._opened.vocabulary.tokenizer.encode_by_line(healed + text)

    def forced(self, row: Sequence[int]) -> int:
        """How many tokens of a row healing forces."""
        return sum(end <= len(self._opened.prompt.forced) for end in self._ends_of_tokens(row))

    def healed(self, row: Sequence[int]) -> int:
        """How many tokens of a row healing forces or constrains."""
        starts = [0, *self._ends_of_tokens(row)][: len(row)]
        return sum(start < len(self._opened.prompt.forced) for start in starts)

    def _ends_of_tokens(self, row: Sequence[int]) -> Iterator[int]:
        token_bytes = self._opened.vocabulary.tokenizer.token_bytes
        return itertools.accumulate(len(token_bytes[token]) for token in row)

    def read(self, texts: Sequence[str]) -> None:
        """Know all of these, from one pass if any is not known. All but the last token of the prompt must be cached;
        the cache stays as it is."""
        if unread := [text for text in texts if text not in self.known]:
            logits, paths = next_token_logits(self._opened.cached, self._opened.prompt.ids, [*map(self.row, unread)])
            self.learn(unread, logits, paths)

    def learn(self, texts: Sequence[str], logits: Tensor, paths: Sequence[Sequence[int]]) -> None:
        """Know texts from the logits [N, V] of a pass; `paths` are those of `TokenTree`."""
        norms = logits.logsumexp(-1)
        for text, path in zip(texts, paths, strict=True):
            row = self.row(text)
            forced = self.forced(row)
            said = logits[path[forced:-1], row[forced:]]
            end = logits[path[-1], self._ends].logsumexp(0, keepdim=True)
            self.known[text] = torch.cat((said, end)) - norms[path[forced:]]


def fill_log_probabilities(opened: OpenPrompt, texts: Sequence[str], *, one_line: bool = False) -> list[Tensor]:
    """Log-probabilities, in nats, of each text's tokens and of its end after the prompt; see `LikelyTexts`."""
    likely = LikelyTexts(opened, one_line=one_line)
    likely.read(texts)
    return [likely.known[text] for text in texts]


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
