"""The encoder read as a causal language model: exact log-probabilities of texts in a hole."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dgemma_model.decoding.plan import FillPlan
from dgemma_model.decoding.prompt_cache import CachedPrompt, OpenPrompt, TokenTree
from dgemma_model.network.passes.log_probabilities import to_log_probabilities
from dgemma_model.prompt.format import FillVocabulary
from dgemma_model.request import Candidate, Check, Draft, DraftToken


@torch.inference_mode()
def next_token_logits(
    cached: CachedPrompt, ids: list[int], rows: Sequence[Sequence[int]]
) -> tuple[Tensor, list[list[int]]]:
    """Next-token logits after the prompt `ids` and after each token of each row, by one pass.

    Returns the logits [N, V] of N distinct places, and for each row the indices [len(row) + 1] of its places among
    them. All but the last of `ids` must be cached; the cache is the same afterwards.

    Raises:
        InfillError: the rows are longer than the model's context has room for.
    """
    tree, kept = TokenTree(ids[-1], rows), cached.cache.length
    try:
        return cached.tree_logits([], tree, seen=len(ids) - 1), tree.paths
    finally:
        cached.cache.crop(kept)


class NextTokens:
    """What may come next after each place of a pass.

    Log-probabilities are made from logits where they are asked for, because most places of a pass follow a drafted
    token that is not written.
    """

    def __init__(self, logits: Tensor, vocabulary: FillVocabulary) -> None:
        """`logits` [N, V] of N places. They are changed in place."""
        self._logits, self._size = logits, vocabulary.tokenizer.vocab_size
        self._never = vocabulary.never
        self._found: dict[int, NDArray[np.float32]] = {}

    def likeliest(self, place: int) -> int:
        """The likeliest token; it may be one that no fill may have, as long as `log_probabilities` was not called."""
        row = self._found.get(place)
        return int((self._logits[place, : self._size].cpu().numpy() if row is None else row).argmax())

    def log_probabilities(self, place: int) -> NDArray[np.float32]:
        """Of the tokenizer's tokens, [V]; -inf where no fill may have one. The same array each time. It is in numpy,
        where single numbers are read faster than in torch."""
        if place not in self._found:
            row = to_log_probabilities(self._logits[place : place + 1])[0, : self._size].cpu().numpy()
            row[self._never] = -np.inf
            self._found[place] = row
        return self._found[place]

    def along(self, path: Sequence[int]) -> AlongPath:
        """The log-probabilities at the places of a path, one after the other."""
        return AlongPath(self, path)


class AlongPath(Sequence[NDArray[np.float32]]):
    """See `NextTokens.along`."""

    def __init__(self, tokens: NextTokens, path: Sequence[int]) -> None:
        self._tokens, self._path = tokens, path

    def __len__(self) -> int:
        return len(self._path)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        return map(self._tokens.log_probabilities, self._path)  # unlike that of `Sequence`, it hides no IndexError

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return AlongPath(self._tokens, self._path[at])
        return self._tokens.log_probabilities(self._path[at])


class TextLikelihoods:
    """Log-probabilities of texts in a hole, each with the end after it, by the causal head.

    The end is an end-of-text token; with `one_line`, a line break ends the text as well. Tokens that token healing
    forces are certain and do not count.
    """

    def __init__(self, opened: OpenPrompt, *, one_line: bool = False) -> None:
        self._opened = opened
        self._ends = list(opened.vocabulary.ends_of(one_line=one_line))
        self.known: dict[str, Tensor] = {}
        """For each text that was read, the log-probabilities of its n counted tokens and of its end: [n + 1], nats."""

    def row(self, text: str) -> list[int]:
        """The token ids of the healed piece and `text`."""
        healed = self._opened.prompt.forced.decode("utf-8", "replace")
        return self._opened.vocabulary.tokenizer.encode_by_line(healed + text)

    def forced_count(self, row: Sequence[int]) -> int:
        """How many first tokens of a row only repeat the healed piece."""
        return sum(end <= len(self._opened.prompt.forced) for end in self._ends_of_tokens(row))

    def healed_count(self, row: Sequence[int]) -> int:
        """How many first tokens of a row have at least a byte of the healed piece."""
        starts = [0, *self._ends_of_tokens(row)][: len(row)]
        return sum(start < len(self._opened.prompt.forced) for start in starts)

    def _ends_of_tokens(self, row: Sequence[int]) -> Iterator[int]:
        token_bytes = self._opened.vocabulary.tokenizer.token_bytes
        return itertools.accumulate(len(token_bytes[token]) for token in row)

    def read(self, texts: Sequence[str]) -> None:
        """Fill `known` for all of these texts, by at most one pass.

        All but the last token of the prompt must be cached. The cache is the same afterwards.

        Raises:
            InfillError: a text is longer than the model's context has room for.
        """
        if unread := [text for text in texts if text not in self.known]:
            logits, paths = next_token_logits(self._opened.cached, self._opened.prompt.ids, [*map(self.row, unread)])
            self.learn(unread, to_log_probabilities(logits), paths)

    def learn(self, texts: Sequence[str], log_probabilities: Tensor, paths: Sequence[Sequence[int]]) -> None:
        """Fill `known` for texts from the log-probabilities [N, V] of a pass that read them; `paths` are those of
        `TokenTree`."""
        for text, path in zip(texts, paths, strict=True):
            row = self.row(text)
            forced = self.forced_count(row)
            own = log_probabilities[path[forced:-1], row[forced:]]
            end = log_probabilities[path[-1], self._ends].logsumexp(0, keepdim=True)
            self.known[text] = torch.cat((own, end))


def fill_log_probabilities(opened: OpenPrompt, texts: Sequence[str], *, one_line: bool = False) -> list[Tensor]:
    """For each text, what `TextLikelihoods.known` has of it, by one pass."""
    likelihoods = TextLikelihoods(opened, one_line=one_line)
    likelihoods.read(texts)
    return [likelihoods.known[text] for text in texts]


def ranked(opened: OpenPrompt, plan: FillPlan, draft: Draft, others: Sequence[str]) -> Draft:
    """The finished `draft` of one hole with the likeliest text among its own and `others` by the causal head; and with
    `candidates` if the plan wants several."""
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
