"""Watched fills: for people who want to see how a suggestion comes about, each draft is shown on its way to the
pipeline.

A watched fill is the same fill as that of a suggestion. Of a fill that is written, each pass shows what was drafted,
how much of it the writer accepted, and what it put instead. Of a fill that is denoised, each step shows the canvas.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from itertools import takewhile

from dgemma_lsp.documents.edits import Snapshot
from dgemma_lsp.pipeline.infiller import InfillerLike
from dgemma_model.request import Check, Draft, DraftToken, FillRequest


@dataclass(frozen=True, slots=True)
class WatchedInfiller:
    """An infiller that calls `show` with each new draft of `infiller`, and then yields it.

    `steps`, `budget_ms` and `denoise` are what the viewer asked for; they replace those of every request.
    """

    infiller: InfillerLike
    show: Callable[[Draft], None]
    steps: int | None = None
    budget_ms: float | None = None
    denoise: bool = False
    """See `FillRequest`; `steps` is its `max_denoising_steps`."""

    @property
    def name(self) -> str:
        """See `InfillerLike`."""
        return self.infiller.name

    @property
    def device(self) -> str:
        """See `InfillerLike`."""
        return self.infiller.device

    @property
    def languages(self) -> frozenset[str] | None:
        """See `InfillerLike`."""
        return self.infiller.languages

    @property
    def prompt_tokens(self) -> int:
        """See `InfillerLike`."""
        return self.infiller.prompt_tokens

    @property
    def uses_project_text(self) -> bool:
        """See `InfillerLike`."""
        return self.infiller.uses_project_text

    reviewer = None
    """Only fills are watched."""

    @property
    def sends_text(self) -> bool:
        """See `InfillerLike`."""
        return self.infiller.sends_text

    @property
    def threshold(self) -> float:
        """See `InfillerLike`."""
        return self.infiller.threshold

    def fill(self, request: FillRequest) -> Iterator[Draft]:
        """See `InfillerLike`."""
        asked_for = replace(request, max_denoising_steps=self.steps, budget_ms=self.budget_ms, denoise=self.denoise)
        shown = None
        for draft in self.infiller.fill(asked_for):
            if draft is not shown:  # an engine yields the latest draft again while nothing arrives
                self.show(draft)
            shown = draft
            yield draft


class TokenState(Enum):
    """What became of a token. The values are sent to clients. The first four are of fills that are written."""

    DRAFTED = "drafted"
    """A drafter proposed it, and the writer agreed."""
    WRITTEN = "written"
    """The writer put it itself."""
    REFUSED = "refused"
    """A drafter proposed it in this pass, and the writer put another token."""
    CHOSEN = "chosen"
    """Text that the judge chose instead of the written one."""
    ACCEPTED = "accepted"
    """On a canvas: accepted in this step or before."""
    REVISED = "revised"
    """On a canvas: accepted after another token had been accepted at this position."""
    RENOISED = "renoised"
    """On a canvas: noise again at a position that had an accepted token."""
    NOISE = "noise"
    """On a canvas: not accepted yet."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What is shown of the first hole after one pass: the written and the refused tokens, or the canvas."""

    step: int
    ms: float
    """Milliseconds since the latest draft, or since the fill began, without the time for showing."""
    done: bool
    tokens: tuple[DraftToken, ...]
    states: tuple[TokenState, ...]
    """One for each token."""
    check: Check | None = None
    """What the pass checked; None if the fill is denoised, or if the frame before shows the same pass."""
    pass_start: int = 0
    """The index in `tokens` of the first token that this pass wrote or refused."""


def before_cursor(snapshot: Snapshot) -> str:
    """The last `_BEFORE_CHARS` code points before the cursor: the first token of a canvas may repeat some of them."""
    return snapshot.source[max(0, snapshot.offset - _BEFORE_CHARS) : snapshot.offset]


_BEFORE_CHARS = 200


class Frames:
    """Turns the drafts of one fill into frames, in order. A draft without tokens and without a new check is left
    out."""

    def __init__(
        self, show: Callable[[Frame], None], before: str = "", clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """`before` is the text before the cursor; `clock` tells seconds. `show` is called with each frame."""
        self._show, self._before, self._clock = show, before, clock
        self._last = clock()
        self._step = 0
        self._accepted: dict[int, str] = {}
        """The token that was accepted last at each position of the canvas."""
        self._revised = set[int]()

    def see(self, draft: Draft) -> None:
        """Take the next draft."""
        now = self._clock()
        tokens = draft.tokens[0] if draft.tokens else ()
        check = draft.check if draft.step > self._step else None
        if tokens or check is not None:
            places, new = (self._canvas(draft), 0) if draft.check is None else _written(draft, check)
            shown, became = tuple(token for token, _ in places), tuple(state for _, state in places)
            self._show(Frame(draft.step, 1000 * (now - self._last), draft.done, shown, became, check, new))
            self._step = draft.step
        self._last = self._clock()

    def _canvas(self, draft: Draft) -> list[ShownToken]:
        tokens = draft.tokens[0]
        states = [self._state(at, token) for at, token in enumerate(tokens)]
        return list(_without(self._healed(draft), zip(tokens, states, strict=True)))

    def _healed(self, draft: Draft) -> int:
        """How many characters at the beginning of the canvas are the healed piece, which is before the cursor
        already."""
        said = "".join(token.text for token in draft.tokens[0])
        at = said.find(draft.text)
        return at if at > 0 and self._before.endswith(said[:at]) else 0

    def _state(self, at: int, token: DraftToken) -> TokenState:
        before = self._accepted.get(at)
        if not token.settled:
            return TokenState.NOISE if before is None else TokenState.RENOISED
        if before is not None and before != token.text:
            self._revised.add(at)
        self._accepted[at] = token.text
        return TokenState.REVISED if at in self._revised else TokenState.ACCEPTED


ShownToken = tuple[DraftToken, TokenState]


def _written(draft: Draft, check: Check | None) -> tuple[list[ShownToken], int]:
    """The written tokens up to the end of the text, and the index of the first one of this pass.

    The tokens that the pass refused are right before the one that the writer put instead.
    """
    tokens, length = draft.tokens[0], len(draft.text)
    before = len(tokens) - (0 if check is None else check.written)
    accepted = sum(1 for _ in takewhile(lambda token: token.drafted_by is not None, tokens[before:]))
    found = list[ShownToken]()
    new = 0
    for at in range(len(tokens) + 1):
        new = len(found) if at == before else new
        found += _refused(check) if at == before + accepted else ()
        for token in tokens[at : at + 1]:
            inside = token.text[: max(0, length)] if token.settled else token.text
            length -= len(token.text)
            found += [(replace(token, text=inside), _state_of(token))] if inside else ()
    if draft.complete:
        found.append((DraftToken("", 1.0, True), TokenState.WRITTEN))
    return found, new


def _refused(check: Check | None) -> list[ShownToken]:
    if check is None:
        return []
    refused = check.drafted[check.accepted :]
    return [(DraftToken(text, 0.0, False, check.drafted_by), TokenState.REFUSED) for text in refused]


def _state_of(token: DraftToken) -> TokenState:
    if not token.settled:
        return TokenState.NOISE
    if token.drafted_by is None:
        return TokenState.WRITTEN
    return TokenState.CHOSEN if token.drafted_by == "judge" else TokenState.DRAFTED


def _without(count: int, places: Iterable[ShownToken]) -> Iterator[ShownToken]:
    """The positions of a canvas without its first `count` characters."""
    for token, state in places:
        rest = token.text[count:]
        if rest or not token.text:  # a token without text ends the hole
            yield replace(token, text=rest), state
        count = max(0, count - len(token.text))
