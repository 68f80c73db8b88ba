"""Drafters propose tokens for the next pass to check.

A token is accepted only if the causal head would have written it. So drafts change how many passes a fill takes, and
never its text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch

from dgemma_model.checkpoint.contract import Checkpoint
from dgemma_model.decoding.constraint import Constraint
from dgemma_model.decoding.plan import FillPlan
from dgemma_model.decoding.prompt_cache import OpenPrompt
from dgemma_model.decoding.sampler import Sampling, denoise
from dgemma_model.network.contract import DrafterNetwork
from dgemma_model.project.copy_model import PromptCopies
from dgemma_model.request import DraftedBy, DraftToken

GOOD_RATE = 1.4
"""Tokens that a pass is expected to write with what is at hand, by its cost, from which no further draft is made."""
COPY_RIGHT = (0.0, 0.31, 0.45, 0.57, 0.7, 0.74, 0.78, 0.82, 0.88, 0.9, 0.92, 0.94, 0.975)
"""The probability that a copied token is right if all before it are, by how many of the last tokens match; fitted to
what the default checkpoint writes (log/drafts.md)."""
WORTHWHILE_GAIN = 2
"""Tokens that a denoised draft must have saved for another one to be made; a draft costs a pass."""
MISSES = 2
"""After so many passes that agreed with nothing of a denoised draft, the rest of it is dropped."""
LEAST_GAIN = 0.15
"""Tokens that a draft must have saved on average for the next one to be made; it costs a tenth of a pass."""
GAIN_SHARE, GAIN_FORGOTTEN = 0.05, 0.001
"""What the latest draft counts in that average; and how much it rises at each pass without one, so that one is tried
again after eight of these."""


class Proposal(NamedTuple):
    """Tokens that may come next."""

    ids: Sequence[int] = ()
    likely: Sequence[float] = ()
    """Of each, the probability that it is right if all before it are."""


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
        """Who it is to those who watch."""

    def at_hand(self) -> Proposal:
        """The proposal that it has now, without a pass; without ids if it has none."""

    def passes(self, text: TextSoFar) -> Iterator[tuple[DraftToken, ...]]:
        """Make a new draft, if none is left and drafts have paid lately. Yields what to show after each pass of the
        writer's network that this takes. The last token of `text` is not cached yet."""

    def checked(self, written: int, agreed: int | None) -> None:
        """Learn from a pass: how many tokens it wrote, and how many of them agreed with this drafter's proposal (None
        if another drafter's proposal was checked)."""


class CopyDrafter:
    """Proposes what followed the same tokens in the prompt or the project ("prompt lookup")."""

    name: DraftedBy = "copies"

    def __init__(self, copies: PromptCopies) -> None:
        """`copies` follow what is written by themselves."""
        self._copies = copies

    def at_hand(self) -> Proposal:
        """See `Drafter`."""
        match, ids = self._copies.continuation()
        return Proposal(ids, [COPY_RIGHT[min(match, len(COPY_RIGHT) - 1)]] * len(ids))

    def passes(self, text: TextSoFar) -> Iterator[tuple[DraftToken, ...]]:
        """Nothing: copies need no pass."""
        return iter(())

    def checked(self, written: int, agreed: int | None) -> None:
        """Nothing: a copy is judged by its match."""


@dataclass
class CanvasDrafter:
    """Proposes the text of one denoised canvas of the same network.

    A draft costs a pass or more, so another one is made only if the last one saved more than it cost. After a
    disagreement the rest of the draft is proposed again, which costs nothing.
    """

    checkpoint: Checkpoint
    opened: OpenPrompt
    sampling: Sampling
    draft_steps: int
    name: DraftedBy = "canvas"
    _left: tuple[int, ...] = ()
    _likely: tuple[float, ...] = ()
    _pays: bool = True
    _gain: int = 0
    _misses: int = 0
    _held_up: bool = False

    def at_hand(self) -> Proposal:
        """See `Drafter`: what is left of the latest draft."""
        return Proposal(self._left, self._likely)

    def passes(self, text: TextSoFar) -> Iterator[tuple[DraftToken, ...]]:
        """See `Drafter`."""
        if not (self._pays and text.ids and text.room > 1):
            return
        if self._left:
            return
        vocabulary, noise, generator = self.opened.vocabulary, self.sampling.noise, self.sampling.generator
        widths = sorted(self.checkpoint.policy.canvas_lengths)
        width = min(widths[1:2] or widths) if self._held_up else widths[0]
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
            self._left, self._likely = tuple(drafted[:end]), tuple(confidence[:end])
            tokenizer = vocabulary.tokenizer
            yield tuple(DraftToken(tokenizer.decode([i]), c, False) for i, c in zip(drafted, confidence, strict=True))
        self._pays = False  # until it has paid

    def checked(self, written: int, agreed: int | None) -> None:
        """See `Drafter`."""
        if agreed is not None and self._left:
            self._gain += agreed
            self._misses = 0 if agreed else self._misses + 1
            self._held_up = agreed == len(self._left)
            self._pays = self._pays or self._gain >= WORTHWHILE_GAIN
        kept = slice(written, None) if self._misses < MISSES else slice(0)
        self._left, self._likely = self._left[kept], self._likely[kept]


@dataclass
class StateDrafts:
    """Proposes what a drafter denoises from the writer's states, in one step: anew after each pass, because that costs
    a tenth of one. In a text where drafts have saved little lately, they are made now and then only.
    """

    network: DrafterNetwork
    opened: OpenPrompt
    name: DraftedBy = "drafter"
    _drafted: Proposal | None = None

    def at_hand(self) -> Proposal:
        """See `Drafter`."""
        return self._drafted or Proposal()

    def passes(self, text: TextSoFar) -> Iterator[tuple[DraftToken, ...]]:
        """See `Drafter`: none of the writer's passes is spent."""
        cached = self.opened.cached
        if text.ids and not text.forced and text.room > 1:
            if cached.draft_gain >= LEAST_GAIN:
                self._drafted = Proposal(*self.network.draft(cached.cache, text.ids[-1]))
            else:
                cached.draft_gain += GAIN_FORGOTTEN
        return iter(())

    def checked(self, written: int, agreed: int | None) -> None:
        """See `Drafter`."""
        if self._drafted is not None:
            cached = self.opened.cached
            cached.draft_gain += GAIN_SHARE * ((agreed or 0) - cached.draft_gain)
        self._drafted = None


def worthwhile(likely: Sequence[float], token_cost: float, others: int = 0) -> tuple[int, float]:
    """How many tokens of a proposal a pass should check beside `others`, which it reads anyway; and how many tokens it
    is then expected to write, by its cost.

    `likely` are those of the `Proposal`; `token_cost` is `Policy.token_cost`.
    """
    chance = expected = 1.0
    best = 0, 1 / _cost(others, token_cost)
    for count, probability in enumerate(likely, start=1):
        chance *= probability
        expected += chance
        rate = expected / _cost(others + count, token_cost)
        if rate > best[1]:
            best = count, rate
    return best


def _cost(tokens: int, token_cost: float) -> float:
    """Of a pass that checks so many tokens, by that of one that checks none; the first costs nothing."""
    return 1 + token_cost * max(0, tokens - 1)


def drafters_for(
    plan: FillPlan, checkpoint: Checkpoint, opened: OpenPrompt, sampling: Sampling, copies: PromptCopies
) -> list[Drafter]:
    """The drafters that a plan asks for; none for a fill that decodes token by token."""
    found: list[Drafter] = []
    if plan.drafting in ("copied", "both"):
        found.append(CopyDrafter(copies))
    if plan.drafting in ("denoised", "both") and checkpoint.drafter is not None:
        found.append(StateDrafts(checkpoint.drafter, opened))
    elif plan.drafting in ("denoised", "both"):
        found.append(CanvasDrafter(checkpoint, opened, sampling, plan.draft_steps))
    return found
