"""A watched fill: each draft is shown on its way to the pipeline, with what became of each token."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum

from dgemma_lsp.documents.edits import Snapshot
from dgemma_lsp.pipeline.infiller import InfillerLike
from dgemma_model.request import Draft, DraftToken, FillRequest


@dataclass(frozen=True, slots=True)
class Watched:
    """An infiller that passes each draft to `show` on its way to the pipeline, and fills as the viewer asked."""

    infiller: InfillerLike
    show: Callable[[Draft], None]
    steps: int | None = None
    budget_ms: float | None = None
    verify: bool | None = None
    """See `FillRequest`; False shows denoising where the checkpoint would only check drafts."""

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

    @property
    def threshold(self) -> float:
        """See `InfillerLike`."""
        return self.infiller.threshold

    def fill(self, request: FillRequest) -> Iterator[Draft]:
        """See `InfillerLike`."""
        verify = request.verify if self.verify is None else self.verify
        wished = replace(request, max_denoising_steps=self.steps, budget_ms=self.budget_ms, verify=verify)
        for draft in self.infiller.fill(wished):
            self.show(draft)
            yield draft


class TokenState(Enum):
    """What became of a position of the canvas; the values travel to clients."""

    ACCEPTED = "accepted"
    REVISED = "revised"
    """Accepted, after another token had been accepted there."""
    RENOISED = "renoised"
    """Noise again, after it had been accepted."""
    NOISE = "noise"


@dataclass(frozen=True, slots=True)
class Frame:
    """The canvas of the first hole after one step."""

    step: int
    ms: float
    """Since the frame before, or since the fill began."""
    done: bool
    tokens: tuple[DraftToken, ...]
    states: tuple[TokenState, ...]
    """One for each token."""


def before_cursor(snapshot: Snapshot) -> str:
    """The text before the cursor, as far as the first token of a canvas may repeat it."""
    return snapshot.source[max(0, snapshot.offset - _BEFORE_CHARS) : snapshot.offset]


_BEFORE_CHARS = 200


class Frames:
    """Makes frames of the drafts of one fill, in order; drafts without a canvas are left out."""

    def __init__(
        self, show: Callable[[Frame], None], before: str = "", clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """`before` is the text before the cursor; `clock` tells seconds. The time that `show` takes counts for no
        step."""
        self._show, self._before, self._clock = show, before, clock
        self._last = clock()
        self._accepted: dict[int, str] = {}
        """What was accepted last, by position."""
        self._revised = set[int]()

    def see(self, draft: Draft) -> None:
        """Take a draft."""
        now = self._clock()
        tokens = draft.tokens[0] if draft.tokens else ()
        if tokens:
            states = [self._state(at, token) for at, token in enumerate(tokens)]
            places = tuple(_without(self._healed(draft), zip(tokens, states, strict=True)))
            shown, became = tuple(token for token, _ in places), tuple(state for _, state in places)
            self._show(Frame(draft.step, 1000 * (now - self._last), draft.done, shown, became))
        self._last = self._clock()

    def _healed(self, draft: Draft) -> int:
        """How many characters at the beginning of the canvas repeat the text before the cursor, because of token
        healing."""
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


def _without(count: int, places: Iterable[tuple[DraftToken, TokenState]]) -> Iterator[tuple[DraftToken, TokenState]]:
    """Positions of a canvas without its first `count` characters."""
    for token, state in places:
        rest = token.text[count:]
        if rest or not token.text:  # without a text it ends the hole
            yield replace(token, text=rest), state
        count = max(0, count - len(token.text))
