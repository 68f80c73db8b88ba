"""Verified fills: lossless speculative decoding.

The text is exactly what the causal head writes token by token; with a `copy_weight`, copies are mixed into its
probabilities. Drafts only change how many passes that takes. A pass reads the last written token, and drafts after it,
as branches. Tokens of a draft are kept as long as the head agrees; at the first disagreement the head's own token is
taken (Leviathan et al., arXiv 2211.17192, with greedy choices).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from dgemma_model.decoding.causal import NextTokens, TextLikelihoods
from dgemma_model.decoding.constraint import ids_in_line
from dgemma_model.decoding.drafting import GOOD_RATE, Branch, Drafter, worth_checking
from dgemma_model.decoding.end_probe import EndProbe, EndSearch
from dgemma_model.decoding.fill_end import FillEnd
from dgemma_model.decoding.plan import FillPlan
from dgemma_model.decoding.prompt_cache import CachedPrompt, OpenPrompt, common_length
from dgemma_model.decoding.stopping import is_looping
from dgemma_model.network.passes.log_probabilities import to_log_probabilities
from dgemma_model.project.copy_model import CopyModel
from dgemma_model.request import Check, Draft, DraftedBy, DraftToken

Scores = Sequence[NDArray[np.float32]]
"""Log-probabilities of the next token after some places of a text, [V] each."""


@torch.inference_mode()
def fill(
    opened: OpenPrompt,
    plan: FillPlan,
    start: Callable[[], tuple[CopyModel, Sequence[Drafter]]],
    end: FillEnd | None = None,
    probe: EndProbe | None = None,
    branches: BranchTexts | None = None,
) -> Iterator[Draft]:
    """Write the only hole; yield a draft after each pass. The last draft is the fill.

    A beginning of the prompt is cached. `start` makes a new copy model, and drafters that may follow it. `end` and
    `probe` end texts of checkpoints that do not end them. The first pass also reads the texts of `branches`. If the
    text begins with the line below the hole, it is written once more with another first token.
    """
    passes, avoided = 0, None
    while True:
        copy_model, drafters = start()
        limit = _limit(opened, plan)
        text = CausalText(
            opened,
            copy_model,
            limit=limit,
            one_line=plan.one_line,
            end=end,
            probe=probe,
            avoided=avoided,
            alternative=plan.alternative,
        )
        for draft in _written(opened, text, drafters, plan.token_cost, passes, branches if avoided is None else None):
            yield draft
            passes = draft.step
        if branches is not None and (log_probabilities := text.log_probabilities()):
            branches.likelihoods.known[draft.text] = torch.tensor(log_probabilities)
        if not text.repeats_suffix or avoided is not None:
            return
        avoided = text.first
        opened.rewind_before_last()


class BranchTexts(NamedTuple):
    """Texts that the first pass of a fill reads as branches after the prompt, beside its own draft."""

    likelihoods: TextLikelihoods
    """Has their likelihoods after that pass. Has that of the written text after the fill, if the fill read its end."""
    texts: Sequence[str]
    are_drafts: bool = True
    """Whether they count as drafts: the tokens on which the head agrees with one of them are written at once."""


def _written(
    opened: OpenPrompt,
    text: CausalText,
    drafters: Sequence[Drafter],
    token_cost: float,
    passes: int,
    branches: BranchTexts | None,
) -> Iterator[Draft]:
    """Write `text` after the prompt; yield a draft after each pass. `passes` were made before."""
    cached, prompt = opened.cached, opened.prompt
    pending = prompt.ids[len(cached.ids) :]
    while not text.is_finished:
        below = len(text.to_read)
        proposed, rate = worth_checking(drafters, text.worth_reading, token_cost, below)
        if rate < GOOD_RATE:
            for drafter in drafters:
                for tokens in drafter.draft_anew(text):
                    passes += 1
                    yield replace(text.draft(passes), tokens=(text.shown + tokens,), check=Check())
            proposed, _ = worth_checking(drafters, text.worth_reading, token_cost, below)
        before = len(text.ids)
        agreed = _pass(cached, pending, text, proposed, branches)
        passes, branches = passes + 1, None
        for drafter in drafters:
            counts = [count for by, count in agreed if by is drafter]
            drafter.checked(len(text.ids) - before, max(counts, default=None))
        kept = common_length(cached.ids[len(prompt.ids) :], text.ids[:-1])
        cached.crop(len(prompt.ids) + kept)
        pending = text.ids[kept:]
        yield text.draft(passes)


class _Row(NamedTuple):
    """Tokens that a pass reads after what is written."""

    ids: list[int]
    name: DraftedBy
    drafter: Drafter | None = None


def _pass(
    cached: CachedPrompt,
    pending: Sequence[int],
    text: CausalText,
    proposed: Sequence[Branch],
    branches: BranchTexts | None,
) -> list[tuple[Drafter | None, int]]:
    """Read `pending`, and after it what is proposed, the line below where that must be read, and the texts of
    `branches`. Write what the head says, as far as it agrees with one of these, and a token more. Returns who proposed
    each of them, and with how many of its tokens the head agreed. In the first pass of a fill with `branches`, tokens
    that healing constrains count as agreed on."""
    rows = [_Row(ids[: text.room], drafter.name, drafter) for ids, drafter in proposed]
    below = len(rows)
    if text.to_read:
        rows.append(_Row(text.to_read, "line below"))
    if not rows:
        rows.append(_Row([], "line below"))
    beside = [] if branches is None else [*map(branches.likelihoods.row, branches.texts)]
    if len(rows) == 1 and not beside:
        row = rows[0]
        logits = cached.append([*pending, *row.ids], last=len(row.ids) + 1)
        said = NextTokens(logits, text.vocabulary).along(range(len(logits)))
        return [(row.drafter, text.take(said, row.ids, row.name))]
    logits, tree = cached.append_tree(pending, [*(row.ids for row in rows), *beside])
    healed = [0] * len(rows)
    if branches is not None:
        branches.likelihoods.learn(branches.texts, to_log_probabilities(logits), tree.paths[len(rows) :])
        if branches.are_drafts:
            rows += [_Row(ids, "similar line") for ids in beside]
        healed = [branches.likelihoods.healed_count(row.ids) for row in rows]
    next_tokens = NextTokens(logits, text.vocabulary)
    agreed = [
        next((at for at in range(count, len(row.ids)) if next_tokens.likeliest(path[at]) != row.ids[at]), len(row.ids))
        for row, path, count in zip(rows, tree.paths, healed, strict=False)
    ]
    best = agreed.index(max(agreed)) if any(agreed) or not text.to_read else below
    cached.keep_row(tree, best)
    row = rows[best]
    read = text.worth_reading(row.ids) if row.name == "similar line" else row.ids
    after_below = next_tokens.along(tree.paths[below]) if text.to_read else None
    agreed[best] = text.take(next_tokens.along(tree.paths[best][: len(read) + 1]), read, row.name, after_below)
    return [(row.drafter, count) for row, count in zip(rows, agreed, strict=True)]


def _limit(opened: OpenPrompt, plan: FillPlan) -> int:
    return min(plan.max_tokens, opened.cached.room(opened.prompt.ids) - len(opened.prompt.forced))


class CausalText:
    """The text of one hole as far as the causal head has written it, and whether it has ended."""

    def __init__(
        self,
        opened: OpenPrompt,
        copy_model: CopyModel,
        *,
        limit: int,
        one_line: bool,
        end: FillEnd | None = None,
        probe: EndProbe | None = None,
        alternative: int = 0,
        avoided: int | None = None,
    ) -> None:
        """`avoided` is a token that must not be the first one that was not forced."""
        prompt, vocabulary = opened.prompt, opened.vocabulary
        self.limit = limit
        """Most tokens that may be written beyond the forced ones, end-of-text included."""
        self.ids: list[int] = []
        """Grows only."""
        self._read = 0, ""
        """The number of `ids` whose text was read last, and that text."""
        self.forced = prompt.forced
        self._healed = len(prompt.forced)
        """The number of healed bytes."""
        self.is_indent_settled = prompt.is_indent_settled
        self._bytes = 0
        self.written = 0
        """Number of tokens that were not forced, end-of-text included."""
        self.shown: tuple[DraftToken, ...] = ()
        self._opened, self._copy_model = opened, copy_model
        self.vocabulary, self._tokenizer = vocabulary, vocabulary.tokenizer
        self._one_line = one_line
        self._end_set = frozenset(vocabulary.ends_of(one_line=one_line))
        self._ends = np.array(sorted(self._end_set))
        self._end, self._cut = end, None if end is None else end.cut("")
        """The length of the text in code points once `end` or `probe` has ended it; None before."""
        self._probe, self._avoided, self._alternative = probe, avoided, alternative
        self.to_read: list[int] = []
        """Tokens that the next pass must read as its draft before the probe can tell whether the text ends here."""
        self.first: int | None = None
        """The first token that was not forced."""
        self.check = Check()
        """What the latest pass checked."""
        self._scores = list[tuple[int, float]]()
        """Of each token that was not forced: its end in the text, in bytes, and its log-probability, in nats."""
        self._search = EndSearch()
        self._ended = False
        self._has_newline = False

    @property
    def is_finished(self) -> bool:
        """Whether nothing more is to be written."""
        return self._ended or self._cut is not None or self._is_cut_off() or (self._one_line and self._has_newline)

    def _is_cut_off(self) -> bool:
        return self.written >= self.limit or is_looping(self.ids)

    @property
    def repeats_suffix(self) -> bool:
        """Whether the text ended because it began with the line below the hole."""
        return self._cut == 0 and self.first is not None and self._end is not None and self._end.repeats(self._text())

    @property
    def room(self) -> int:
        """How many more tokens may come, at most."""
        return self.limit - self.written + len(self.forced)

    def worth_reading(self, ids: Sequence[int]) -> list[int]:
        """The part of a proposal that is worth a pass: as much as there is room for. In a fill of one line, nothing
        from the end of the line on; that the line ends is known from the logits of the token before. In a fill of
        several lines, nothing after a place where the line below must be read first."""
        token_bytes, within = self._tokenizer.token_bytes, self.room
        breaks = (at for at, token in enumerate(ids[:within]) if b"\n" in token_bytes[token])
        if self._one_line:
            ends = (at for at, token in enumerate(ids) if token in self._end_set)
            within = min(within, next(ends, within), next(breaks, within))
        elif self._probe is not None:
            texts = ((at + 1, self._opened.read([*self.ids, *ids[: at + 1]])[0]) for at in breaks)
            within = next((end for end, text in texts if self._probe.draft(text)), within)
        return list(ids[:within])

    def take(self, said: Scores, drafted: list[int], by: DraftedBy, below: Scores | None = None) -> int:
        """Write the next token, and further ones as long as they agree with `drafted`. Returns how many agreed.

        `said` are log-probabilities after the last written token and after each token that `by` drafted. `below` are
        those after the last written token and after each of `to_read`, if that is not what was drafted. They may change
        in place. Writing stops early where the probe ends the text, or where it needs a draft of its own first.
        """
        shown = len(self.shown)
        agreed, accepted = self._take(said, drafted, by, said if below is None else below)
        texts = tuple(self._tokenizer.decode([token]) for token in drafted)
        self.check = Check(texts, by if drafted else None, accepted, len(self.shown) - shown)
        return agreed

    def _take(self, said: Scores, drafted: list[int], by: DraftedBy, below: Scores) -> tuple[int, int]:
        """See `take`. Also returns how many drafted tokens were written, one that ended the text included."""
        to_read = self.to_read
        for place, row in enumerate(said):
            if self._probe is not None and self.written:
                found = self._probe.odds(self._text(), *(([row], []) if place else (below, to_read)))
                self._cut = None if found is None else self._search.end(*found)
                if self._cut is not None:
                    return place, place
            if not self.written and (self._avoided is not None or self._alternative):
                self._forbid_beginnings(row)
            ending = float(np.logaddexp.reduce(row[self._ends])) if len(self._ends) > 1 else -math.inf
            token, log_probability = self._choose(row.item, int(row.argmax()), ending)
            is_drafted = place < len(drafted) and token == drafted[place]
            self._write(token, log_probability, by if is_drafted else None)
            if self._is_cut_off() and not self._ended and self._cut is None:
                self._cut = self._search.likeliest
            if self.is_finished or self.to_read or not is_drafted:
                return place, place + is_drafted
        return len(drafted), len(drafted)

    def _choose(self, own_log_probability: Callable[[int], float], best: int, ending: float) -> tuple[int, float]:
        """The next token and its log-probability in nats, by the head's distribution mixed with that of copies.

        `own_log_probability` gives the head's for a token, and `best` is its likeliest token. `ending` is the
        log-probability that the fill ends: all tokens that end it count as one, end-of-text.
        """
        end, ends, best_value = self.vocabulary.end_id, frozenset[int](), own_log_probability(best)
        allowed: Sequence[int] | None = None
        if self.forced:
            allowed = self._allowed()
            best = max(allowed, key=own_log_probability)
            best_value = own_log_probability(best)
        elif len(self._ends) > 1:
            ends = self._end_set
            if best in ends or ending > best_value:
                best, best_value = end, ending

        def own(token: int) -> float:
            return ending if token == end and ends else own_log_probability(token)

        share, copied = self._copy_model.predict(best_value, own, allowed)
        if not share:
            return best, best_value
        mixed = {best: math.exp(best_value) * (1 - share)}
        for token, count in copied.items():
            if token == self._avoided and not self.written:
                continue
            mixed[token] = share * count + math.exp(own(token)) * (1 - share)
        token = max(mixed, key=mixed.__getitem__)
        return token, math.log(mixed[token]) if mixed[token] else -math.inf

    def _forbid_beginnings(self, log_probabilities: NDArray[np.float32]) -> None:
        """Set those of first tokens that are not wanted to -inf: [V], in place."""
        if self._avoided is not None:
            log_probabilities[self._avoided] = -np.inf
        token_bytes = self._tokenizer.token_bytes
        allowed = [token for token in self._allowed() if len(token_bytes[token]) > len(self.forced)]
        for _ in range(self._alternative):
            if not self.forced:
                log_probabilities[log_probabilities.argmax()] = -np.inf
            elif allowed:
                log_probabilities[max(allowed, key=log_probabilities.item)] = -np.inf

    def _allowed(self) -> Sequence[int]:
        return ids_in_line(self._tokenizer, self.forced, is_indent_settled=self.is_indent_settled)

    def _write(self, token: int, log_probability: float, by: DraftedBy | None) -> None:
        data = self._tokenizer.token_bytes[token]
        is_free = len(self.forced) < len(data) or not self.forced  # forced tokens tell nothing of the fill
        if is_free:
            self._scores.append((self._bytes + len(data), log_probability))
            self.first = token if self.first is None else self.first
            self.written += 1
        self._bytes += len(data)
        if not self.forced and token in self.vocabulary.ends:
            self._ended = True
            if self._end is not None and self._end.repeats(self._text()):
                self._cut = 0
            return
        beyond_forced = data[len(self.forced) :]
        self.forced = self.forced[len(data) :]
        self._has_newline = self._has_newline or b"\n" in beyond_forced
        self.ids.append(token)
        self._copy_model.append(token)
        if is_free:
            confidence = min(1.0, math.exp(log_probability))
            self.shown += (DraftToken(beyond_forced.decode("utf-8", "replace"), confidence, True, by),)
        if is_free and self._end is not None:
            self._cut = self._end.cut(self._text())
        if is_free and self._probe is not None:
            self.to_read = self._probe.draft(self._text())[: self.room]

    def log_probabilities(self) -> list[float]:
        """Of the tokens that were not forced and of the end, in nats; empty if the model did not end the text."""
        return [value for _, value in self._scores] if self._ended and self._cut is None else []

    def _text(self) -> str:
        if self._read[0] != len(self.ids):
            self._read = len(self.ids), self._opened.read(self.ids)[0]
        return self._read[1]

    def draft(self, passes: int) -> Draft:
        """The fill as it is now. Its score is the mean log-probability of the tokens that were not forced."""
        cut = self._search.likely if self._cut is None and not self._ended else self._cut
        text = self._text()[:cut]
        text = text.split("\n", 1)[0] if self._one_line else text
        kept = [value for end, value in self._scores if cut is None or end <= self._healed + len(text.encode())]
        return Draft(
            (text,),
            passes,
            complete=self._ended or cut is not None or (self._one_line and self._has_newline),
            score=sum(kept) / len(kept) if kept else -math.inf,
            tokens=(self.shown,),
            check=self.check,
        )
