"""Drafters propose tokens for the next pass to check.

A token is accepted only if the causal head would have written it. So drafts change how many passes a fill takes, and
never its text. Proposals are branches of a tree of tokens, of which a pass reads what is worth its cost.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch

from dgemma_model.checkpoint.contract import Checkpoint
from dgemma_model.decoding.constraint import Constraint
from dgemma_model.decoding.plan import FillPlan
from dgemma_model.decoding.prompt_cache import OpenPrompt
from dgemma_model.decoding.sampler import Sampling, denoise
from dgemma_model.network.contract import DrafterNetwork, Proposal
from dgemma_model.project.copy_model import PromptCopies
from dgemma_model.request import DraftedBy, DraftToken

GOOD_RATE = 2.2
"""No new draft is made if a pass with a ready proposal should write at least so many tokens, divided by its cost."""
SECOND_CHOICE = 0.5
"""Where proposals part, the less likely token is right half as often as its drafter says (log/drafts.md)."""
COPY_RIGHT = (0.0, 0.31, 0.45, 0.57, 0.7, 0.74, 0.78, 0.82, 0.88, 0.9, 0.92, 0.94, 0.975)
"""The probability that a copied token is right if all before it are, by the number of last tokens that match at the
place copied from. Fitted to texts of the default checkpoint (log/drafts.md)."""
WORTHWHILE_GAIN = 2
"""A new canvas is denoised only if the latest one saved so many tokens: a canvas costs a pass."""
MISSES = 2
"""After so many passes in a row that agreed with nothing of a canvas, the rest of it is dropped."""
LEAST_GAIN = 0.15
"""The trained drafter is asked only while its drafts save so many tokens on average: one costs a tenth of a pass."""
GAIN_SHARE, GAIN_FORGOTTEN = 0.05, 0.001
"""The weight of the latest draft in that average; and what each pass without a draft adds to it, so that the drafter
is tried again after some eight passes."""


class TextSoFar(Protocol):
    """A fill as far as it is written."""

    ids: list[int]
    forced: bytes
    """Healed bytes that are not written yet."""
    is_indent_settled: bool

    @property
    def room(self) -> int:
        """How many more tokens may come, at most."""


class Drafter(Protocol):
    """Proposes what may come next in a fill."""

    @property
    def name(self) -> DraftedBy:
        """The name that is shown to people who watch the fill."""

    def proposal(self) -> Proposal:
        """The proposal that is ready now, without a further pass."""

    def draft_anew(self, text: TextSoFar) -> Iterator[tuple[DraftToken, ...]]:
        """Make a new draft, if none is left and the latest ones have paid.

        Yields after each pass of the writer's network that this takes, with the canvas to show. The last token of
        `text` is not cached yet.
        """

    def checked(self, written: int, agreed: int | None) -> None:
        """Take note of a pass: how many tokens it wrote, and how many of this drafter's proposal the head agreed with.

        `agreed` is None if the pass did not check a proposal of this drafter.
        """


class CopyDrafter:
    """Proposes what followed the same tokens in the prompt or the project ("prompt lookup")."""

    name: DraftedBy = "copies"

    def __init__(self, copies: PromptCopies) -> None:
        """The copy model tells `copies` of each token that is written."""
        self._copies = copies

    def proposal(self) -> Proposal:
        """See `Drafter`."""
        match, ids = self._copies.continuation()
        return Proposal(ids, [COPY_RIGHT[min(match, len(COPY_RIGHT) - 1)]] * len(ids))

    def draft_anew(self, text: TextSoFar) -> Iterator[tuple[DraftToken, ...]]:
        """Nothing: copies need no pass."""
        return iter(())

    def checked(self, written: int, agreed: int | None) -> None:
        """Nothing: the probability of a copy depends on its match only."""


@dataclass
class CanvasDrafter:
    """Proposes the text of a canvas that the same network has denoised after the text so far.

    A canvas costs a pass or more, so a new one is made only if the latest saved more than it cost. After a disagreement
    the rest of the canvas is proposed again, which costs nothing.
    """

    checkpoint: Checkpoint
    opened: OpenPrompt
    sampling: Sampling
    draft_steps: int
    name: DraftedBy = "canvas"
    _ids: tuple[int, ...] = ()
    """What is left of the latest canvas."""
    _probabilities: tuple[float, ...] = ()
    _pays: bool = True
    _gain: int = 0
    """Tokens that the latest canvas saved."""
    _misses: int = 0
    """Latest passes in a row that agreed with nothing of it."""
    _all_agreed: bool = False
    """Whether the latest pass agreed with all of it; then the next canvas is wider."""

    def proposal(self) -> Proposal:
        """See `Drafter`: what is left of the latest canvas."""
        return Proposal(self._ids, self._probabilities)

    def draft_anew(self, text: TextSoFar) -> Iterator[tuple[DraftToken, ...]]:
        """See `Drafter`."""
        if not (self._pays and text.ids and text.room > 1):
            return
        if self._ids:
            return
        vocabulary, noise, generator = self.opened.vocabulary, self.sampling.noise, self.sampling.generator
        widths = sorted(self.checkpoint.policy.canvas_lengths)
        width = min(widths[1:2] or widths) if self._all_agreed else widths[0]
        width = min(width, text.room + 2)
        canvas = noise.draw((1, width), generator)
        canvas[0, 0] = text.ids[-1]
        pinned = torch.zeros_like(canvas, dtype=torch.bool)
        pinned[0, 0] = True
        constraint = Constraint(vocabulary, text.forced, is_indent_settled=text.is_indent_settled)
        config = replace(self.sampling.config, max_denoising_steps=self.draft_steps)
        self._gain = self._misses = 0
        network, cache = self.checkpoint.network, self.opened.cached.cache
        for step in denoise(network, cache, canvas, pinned, config, noise, generator, constraint.apply):
            drafted, confidence = step.best[0, 1:].tolist(), step.confidence[0, 1:].tolist()
            end = next((at for at, token in enumerate(drafted) if token in vocabulary.ends), len(drafted))
            self._ids, self._probabilities = tuple(drafted[:end]), tuple(confidence[:end])
            tokenizer = vocabulary.tokenizer
            yield tuple(DraftToken(tokenizer.decode([i]), c, False) for i, c in zip(drafted, confidence, strict=True))
        self._pays = False  # until it has saved enough

    def checked(self, written: int, agreed: int | None) -> None:
        """See `Drafter`."""
        if agreed is not None and self._ids:
            self._gain += agreed
            self._misses = 0 if agreed else self._misses + 1
            self._all_agreed = agreed == len(self._ids)
            self._pays = self._pays or self._gain >= WORTHWHILE_GAIN
        kept = slice(written, None) if self._misses < MISSES else slice(0)
        self._ids, self._probabilities = self._ids[kept], self._probabilities[kept]


@dataclass
class TrainedDrafter:
    """Proposes what a small trained network (`DrafterNetwork`) denoises in one step from the writer's states.

    A draft costs a tenth of a pass, so there is a new one after each pass. Where drafts have saved little lately, the
    network is tried now and then only.
    """

    network: DrafterNetwork
    opened: OpenPrompt
    name: DraftedBy = "drafter"
    _drafted: Proposal | None = None

    def proposal(self) -> Proposal:
        """See `Drafter`."""
        return self._drafted or Proposal()

    def draft_anew(self, text: TextSoFar) -> Iterator[tuple[DraftToken, ...]]:
        """See `Drafter`: takes no pass of the writer's network."""
        cached = self.opened.cached
        if text.ids and not text.forced and text.room > 1:
            if cached.draft_gain >= LEAST_GAIN:
                self._drafted = self.network.draft(cached.cache, text.ids[-1])
            else:
                cached.draft_gain += GAIN_FORGOTTEN
        return iter(())

    def checked(self, written: int, agreed: int | None) -> None:
        """See `Drafter`."""
        if self._drafted is not None:
            cached = self.opened.cached
            cached.draft_gain += GAIN_SHARE * ((agreed or 0) - cached.draft_gain)
        self._drafted = None


def _cost(tokens: int, token_cost: float) -> float:
    """The cost of a pass that checks so many tokens; that of a pass that checks none is 1. The first token is free."""
    return 1 + token_cost * max(0, tokens - 1)


def drafters_for(
    plan: FillPlan, checkpoint: Checkpoint, opened: OpenPrompt, sampling: Sampling, copies: PromptCopies
) -> list[Drafter]:
    """The drafters that a plan asks for; none if it writes token by token. `copies` belong to the fill's copy model."""
    found: list[Drafter] = []
    if plan.drafting in ("copied", "both"):
        found.append(CopyDrafter(copies))
    if plan.drafting in ("denoised", "both") and checkpoint.drafter is not None:
        found.append(TrainedDrafter(checkpoint.drafter, opened))
    elif plan.drafting in ("denoised", "both"):
        found.append(CanvasDrafter(checkpoint, opened, sampling, plan.draft_steps))
    return found


def _rows(proposal: Proposal) -> Iterator[tuple[Sequence[int], Sequence[float]]]:
    """The texts of a proposal, with the probabilities of their tokens."""
    ids, probabilities, others = proposal
    yield ids, probabilities
    for place, choices in enumerate(others):
        for token, probability in choices:
            yield [*ids[:place], token], [*probabilities[:place], probability]


class Branch(NamedTuple):
    """Tokens that a pass should check, and who proposes them."""

    ids: list[int]
    drafter: Drafter


def worth_checking(
    drafters: Sequence[Drafter], worth_reading: Callable[[Sequence[int]], list[int]], token_cost: float, others: int
) -> tuple[list[Branch], float]:
    """What a pass should check of the proposals, the likeliest first; and how many tokens the pass should write then,
    divided by its cost.

    Proposals are branches of a tree. Tokens of it are read as long as what they add is worth what they cost, the
    likeliest first. Tokens that several proposals begin with are as probable as the surest of them says. `token_cost`
    is `Passes.token_cost`. The pass also reads `others` further tokens in any case.
    """
    rows = [
        (drafter, tuple(worth_reading(ids)), probabilities)
        for drafter in drafters
        for ids, probabilities in _rows(drafter.proposal())
    ]
    probable: dict[tuple[int, ...], float] = {}
    for _, ids, probabilities in rows:
        for end, probability in enumerate(probabilities[: len(ids)], start=1):
            probable[ids[:end]] = max(probable.get(ids[:end], 0.0), probability)
    chances: dict[tuple[int, ...], float] = {(): 1.0}
    left = dict[tuple[int, ...], float]()
    for beginning in sorted(probable, key=lambda beginning: (len(beginning), -probable[beginning])):
        before, probability = beginning[:-1], probable[beginning]
        if before in left:  # another token is likelier there
            probability = min(SECOND_CHOICE * probability, left[before])
        left[before] = left.get(before, 1.0) - probability
        chances[beginning] = chances[before] * probability
    order = sorted(chances, key=lambda beginning: (-chances[beginning], len(beginning)))
    written = itertools.accumulate(chances[beginning] for beginning in order)
    rates = [expected / _cost(others + count, token_cost) for count, expected in enumerate(written)]
    rate = max(rates)
    read = set(order[: rates.index(rate) + 1])
    cut = [(ids[: sum(ids[:end] in read for end in range(1, len(ids) + 1))], drafter) for drafter, ids, _ in rows]
    found = dict[tuple[int, ...], Drafter]()
    for ids, drafter in cut:
        if ids and not any(other[: len(ids)] == ids for other, _ in cut if len(other) > len(ids)):
            found.setdefault(ids, drafter)
    likeliest = sorted(found, key=lambda ids: -sum(chances[ids[:end]] for end in range(1, len(ids) + 1)))
    return [Branch(list(ids), found[ids]) for ids in likeliest], rate
