"""Verified fills: lossless speculative decoding.

The text is exactly what the causal head writes token by token; with a `copy_weight`, copies are mixed into its
probabilities. Drafts only change how many passes that takes. A pass reads the last written token and a draft after it.
Tokens of the draft are kept as long as the head agrees; at the first disagreement the head's own token is taken
(Leviathan et al., arXiv 2211.17192, with greedy choices).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dgemma_model.decoding.causal import LikelyTexts
from dgemma_model.decoding.constraint import ids_in_line
from dgemma_model.decoding.drafting import GOOD_RATE, Drafter, worthwhile
from dgemma_model.decoding.end_probe import EndProbe
from dgemma_model.decoding.fill_end import FillEnd
from dgemma_model.decoding.plan import FillPlan
from dgemma_model.decoding.prompt_cache import OpenPrompt, common_length
from dgemma_model.decoding.stopping import is_looping
from dgemma_model.network.threads import THREADS
from dgemma_model.project.copy_model import CopyModel
from dgemma_model.request import Check, Draft, DraftedBy, DraftToken


@torch.inference_mode()
def fill(
    opened: OpenPrompt,
    plan: FillPlan,
    start: Callable[[], tuple[CopyModel, Sequence[Drafter]]],
    end: FillEnd | None = None,
    probe: EndProbe | None = None,
    beside: TextsBeside | None = None,
) -> Iterator[Draft]:
    """Yield a draft after each pass; the last one is complete.

    A beginning of the prompt is cached. `start` makes a new copy model, and drafters that may read it. `end` and
    `probe` end texts that do not end by themselves. The first pass reads the texts of `beside`, too. A text that begins
    with the line below the hole is written once more, with another first token.
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
        for draft in _written(opened, text, drafters, plan.token_cost, passes, beside if avoided is None else None):
            yield draft
            passes = draft.step
        if beside is not None and (said := text.log_probabilities()):
            beside.likely.known[draft.text] = torch.tensor(said)
        if not text.repeats_suffix or avoided is not None:
            return
        avoided = text.first
        opened.rewind_before_last()


class TextsBeside(NamedTuple):
    """Texts that the first pass of a fill reads as branches after the prompt."""

    likely: LikelyTexts
    """Knows them after that pass; and what was written, once that is done, where its end was read, too."""
    texts: Sequence[str]
    are_drafts: bool = True
    """Whether what the head agrees on with one of them is written at once."""


def _written(
    opened: OpenPrompt,
    text: CausalText,
    drafters: Sequence[Drafter],
    token_cost: float,
    passes: int,
    beside: TextsBeside | None,
) -> Iterator[Draft]:
    """Write `text` after the prompt; `passes` were made before."""
    cached, prompt = opened.cached, opened.prompt
    pending = prompt.ids[len(cached.ids) :]
    others = list(beside.texts) if beside is not None else []
    while not text.is_finished:
        below = text.asked
        read, by, rate = _best(drafters, text, token_cost, len(below))
        if rate < GOOD_RATE:
            for drafter in drafters:
                for tokens in drafter.passes(text):
                    passes += 1
                    yield replace(text.draft(passes), tokens=(text.shown + tokens,), check=Check())
            read, by, _ = _best(drafters, text, token_cost, len(below))
        read = read[: text.room]
        before = len(text.ids)
        drafted_by: DraftedBy = "line below" if by is None else by.name
        logits_below: Tensor | None = None
        if beside is not None and others:
            rows = [read, *map(beside.likely.row, others)]
            logits, tree = cached.append_tree(pending, rows)
            beside.likely.learn(others, logits, tree.paths[1:])
            others = []
            best = _agreeing(logits, tree.paths, rows, beside.likely) if beside.are_drafts else 0
            if best:
                read, by, drafted_by = text.worth_reading(rows[best]), None, "similar line"
            logits = logits[tree.paths[best][: len(read) + 1]]
        elif below and read:
            logits, tree = cached.append_tree(pending, [read, below])
            logits_below, logits = logits[tree.paths[1]], logits[tree.paths[0]]
            if int(logits[0].argmax()) != read[0]:
                logits, read, by, drafted_by = logits_below, below, None, "line below"
        else:
            read = read or below
            logits = cached.append([*pending, *read], last=len(read) + 1)
        passes += 1
        agreed = text.take(logits, read, drafted_by, logits_below)
        for drafter in drafters:
            drafter.checked(len(text.ids) - before, agreed if drafter is by else None)
        kept = common_length(cached.ids[len(prompt.ids) :], text.ids[:-1])
        cached.crop(len(prompt.ids) + kept)
        pending = text.ids[kept:]
        yield text.draft(passes)


def _agreeing(
    logits: Tensor, paths: Sequence[Sequence[int]], rows: Sequence[Sequence[int]], likely: LikelyTexts
) -> int:
    """Which of `rows` begins with most tokens that are the likeliest ones by `logits` [N, V] along its path, but for
    those that healing constrains."""
    likeliest = logits.argmax(-1).tolist()

    def agreed(at: int) -> int:
        row, path, healed = rows[at], paths[at], likely.healed(rows[at])
        return healed + common_length(row[healed:], [likeliest[node] for node in path[healed:]])

    return max(range(len(rows)), key=agreed)


def _limit(opened: OpenPrompt, plan: FillPlan) -> int:
    return min(plan.max_tokens, opened.cached.room(opened.prompt.ids) - len(opened.prompt.forced))


def _best(
    drafters: Sequence[Drafter], text: CausalText, token_cost: float, others: int
) -> tuple[list[int], Drafter | None, float]:
    """What the next pass should check beside `others`, tokens that it reads anyway; whose proposal it is; and the
    tokens that the pass will probably write by its cost. The first of equals."""
    best: tuple[list[int], Drafter | None, float] = [], None, 0.0
    for drafter in drafters:
        ids, likely = drafter.at_hand()
        ids = text.worth_reading(ids)
        count, rate = worthwhile(likely[: len(ids)], token_cost, others)
        if count and rate > best[2]:
            best = ids[:count], drafter, rate
    return best


class CausalText:
    """What the causal head has written so far."""

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
        """`avoided` is a token that its free text does not begin with."""
        prompt, vocabulary = opened.prompt, opened.vocabulary
        self.limit = limit
        """Most tokens that are not forced, end-of-text included."""
        self.ids: list[int] = []
        self.forced = prompt.forced
        self._healed = len(prompt.forced)
        """The number of healed bytes."""
        self.is_indent_settled = prompt.is_indent_settled
        self._bytes = 0
        self.written = 0
        """Number of tokens that were not forced, end-of-text included."""
        self.shown: tuple[DraftToken, ...] = ()
        self._opened, self._copy_model = opened, copy_model
        self._vocabulary, self._tokenizer = vocabulary, vocabulary.tokenizer
        self._one_line = one_line
        self._ends = list(vocabulary.ends_of(one_line=one_line))
        self._end_set = frozenset(self._ends)
        self._end, self._cut = end, None if end is None else end.cut("")
        """Where the text ends by the rules of `end`, or as `probe` says, once it has come there."""
        self._probe, self._avoided, self._alternative = probe, avoided, alternative
        self.asked: list[int] = []
        """The tokens that must be read after the text before the probe is asked again whether it ends."""
        self.first: int | None = None
        """The first token that was not forced."""
        self.check = Check()
        """What the latest pass checked."""
        self._said = list[tuple[int, float]]()
        """Of each token that was not forced: where it ends, in bytes, and its log-probability."""
        self._ended = False
        self._has_newline = False

    @property
    def is_finished(self) -> bool:
        """Whether nothing more is to be written."""
        cut = self.written >= self.limit or (self._one_line and self._has_newline)
        return self._ended or cut or self._cut is not None or is_looping(self.ids)

    @property
    def repeats_suffix(self) -> bool:
        """Whether the text ended because it began with the line below the hole."""
        return self._cut == 0 and self.first is not None and self._end is not None and self._end.repeats(self._text())

    @property
    def room(self) -> int:
        """How many more tokens may come, at most."""
        return self.limit - self.written + len(self.forced)

    def worth_reading(self, ids: Sequence[int]) -> list[int]:
        """The beginning of a proposal: as much as there is room for. Of a line, nothing from its end on, which is
        read off the token before. Of several lines, nothing after a place where the line below must be read first."""
        token_bytes, within = self._tokenizer.token_bytes, self.room
        breaks = (at for at, token in enumerate(ids[:within]) if b"\n" in token_bytes[token])
        if self._one_line:
            ends = (at for at, token in enumerate(ids) if token in self._end_set)
            within = min(within, next(ends, within), next(breaks, within))
        elif self._probe is not None:
            texts = ((at + 1, self._opened.read([*self.ids, *ids[: at + 1]])[0]) for at in breaks)
            within = next((end for end, text in texts if self._probe.draft(text)), within)
        return list(ids[:within])

    def take(self, logits: Tensor, drafted: list[int], by: DraftedBy, below: Tensor | None = None) -> int:
        """Write the next token, and further ones as long as the draft agrees; returns how many tokens it agreed on.
        Nothing is written after a place where the probe ends the text, or where it must read first.

        `logits` [len(drafted) + 1, V] are those after the last written token and after each token that `by` drafted.
        `below` [len(asked) + 1, V] are those after the last written token and after each of `asked`, where that is not
        what was drafted.
        """
        shown = len(self.shown)
        agreed, accepted = self._take(logits, drafted, by, logits if below is None else below)
        texts = tuple(self._tokenizer.decode([token]) for token in drafted)
        self.check = Check(texts, by if drafted else None, accepted, len(self.shown) - shown)
        return agreed

    def _take(self, logits: Tensor, drafted: list[int], by: DraftedBy, below: Tensor) -> tuple[int, int]:
        """See `take`; also how many tokens of the draft were written, the last one included."""
        said, asked = self._scores(logits), self.asked
        said_below = self._scores(below) if asked and below is not logits else said
        likeliest = said.argmax(1).tolist()
        ending = np.logaddexp.reduce(said[:, self._ends], axis=1).tolist() if len(self._ends) > 1 else None
        for place, spoken in enumerate(said):
            if self._probe is not None and self.written:
                first, read = (said[place:], []) if place else (said_below, asked)
                self._cut = self._probe.cut(self._text(), first, read)
                if self._cut is not None:
                    return place, place
            if not self.written and (self._avoided is not None or self._alternative):
                self._forbid_beginnings(spoken)
                likeliest[place] = int(spoken.argmax())
            token, log_probability = self._choose(spoken.item, likeliest[place], ending[place] if ending else -math.inf)
            is_drafted = place < len(drafted) and token == drafted[place]
            self._write(token, log_probability, by if is_drafted else None)
            if self.is_finished or self.asked or not is_drafted:
                return place, place + is_drafted
        return len(drafted), len(drafted)

    def _scores(self, logits: Tensor) -> NDArray[np.float32]:
        """The log-probabilities [n, V] that logits give to the tokenizer's tokens, in an array that is fast to read one
        by one."""
        with THREADS.chosen(len(logits)):
            scores = logits.log_softmax(-1)
        said: NDArray[np.float32] = scores[:, : self._tokenizer.vocab_size].cpu().numpy()
        said[:, self._vocabulary.never] = -np.inf
        return said

    def _choose(self, spoken: Callable[[int], float], best: int, ending: float) -> tuple[int, float]:
        """The next token and its log-probability: the head's distribution, mixed with what copies suggest.

        `spoken` gives the head's log-probability of a token, and `best` is its likeliest token. `ending` is the
        log-probability that the fill ends: all tokens that end it count as one, end-of-text.
        """
        end, ends, best_value = self._vocabulary.end_id, frozenset[int](), spoken(best)
        allowed: Sequence[int] | None = None
        if self.forced:
            allowed = self._allowed()
            best = max(allowed, key=spoken)
            best_value = spoken(best)
        elif len(self._ends) > 1:
            ends = self._end_set
            if best in ends or ending > best_value:
                best, best_value = end, ending

        def own(token: int) -> float:
            return ending if token == end and ends else spoken(token)

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

    def _forbid_beginnings(self, spoken: NDArray[np.float32]) -> None:
        """Make the first tokens that are not wanted impossible."""
        if self._avoided is not None:
            spoken[self._avoided] = -np.inf
        token_bytes = self._tokenizer.token_bytes
        allowed = [token for token in self._allowed() if len(token_bytes[token]) > len(self.forced)]
        for _ in range(self._alternative):
            if not self.forced:
                spoken[spoken.argmax()] = -np.inf
            elif allowed:
                spoken[max(allowed, key=spoken.item)] = -np.inf

    def _allowed(self) -> Sequence[int]:
        return ids_in_line(self._tokenizer, self.forced, is_indent_settled=self.is_indent_settled)

    def _write(self, token: int, log_probability: float, by: DraftedBy | None) -> None:
        data = self._tokenizer.token_bytes[token]
        is_free = len(self.forced) < len(data) or not self.forced  # what was forced says nothing about the fill
        if is_free:
            self._said.append((self._bytes + len(data), log_probability))
            self.first = token if self.first is None else self.first
            self.written += 1
        self._bytes += len(data)
        if not self.forced and token in self._vocabulary.ends:
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
            self.asked = self._probe.draft(self._text())[: self.room]

    def log_probabilities(self) -> list[float]:
        """Of the tokens that were not forced and of the end; empty where the text was cut before it came to an end."""
        return [value for _, value in self._said] if self._ended and self._cut is None else []

    def _text(self) -> str:
        return self._opened.read(self.ids)[0]

    def draft(self, passes: int) -> Draft:
        """What would be inserted now; its score is the mean log-probability of the free tokens."""
        text = self._text()
        text = text if self._cut is None else text[: self._cut]
        text = text.split("\n", 1)[0] if self._one_line else text
        said = [value for end, value in self._said if self._cut is None or end <= self._healed + len(text.encode())]
        return Draft(
            (text,),
            passes,
            complete=self._ended or self._cut is not None or (self._one_line and self._has_newline),
            score=sum(said) / len(said) if said else -math.inf,
            tokens=(self.shown,),
            check=self.check,
        )
