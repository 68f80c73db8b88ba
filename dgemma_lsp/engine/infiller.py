"""The face of a model that an engine serves: `InfillerLike` over HTTP.

What an engine writes is data. It is cut where the hole ends, by the same rules as the text of a model in this process,
and goes through the same clean-up and checks.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from dgemma_lsp.documents import masking
from dgemma_lsp.documents.edits import NoSuggestion
from dgemma_lsp.engine.address import Address
from dgemma_lsp.engine.connection import Connection, StaleConnectionError, Waiting
from dgemma_lsp.engine.discovery import discover
from dgemma_lsp.engine.errors import EngineError, plain
from dgemma_lsp.engine.health import Health
from dgemma_lsp.engine.interfaces import Model, Piece, piece, question
from dgemma_lsp.engine.outage import Outage
from dgemma_model.decoding.fill_end import FillEnd
from dgemma_model.decoding.time_budget import within_budget
from dgemma_model.request import Check, Draft, DraftToken, Excerpt, FillRequest, InfillError, check

PROMPT_TOKENS = 1024
"""How many tokens of context an engine is sent; less where its own context is short."""
THRESHOLD = -0.4
"""The mean log-probability of a token, in nats, under which nothing is shown unasked."""
_SLOW_S = 1.0
"""An engine is called slow where somebody has stopped waiting after so long, with no word of an answer."""
_FOUND_S = 60.0
"""After so long an engine is asked again what it serves: it may have been started anew."""
_MOST_CHARS_A_TOKEN = 64
_AFTER_TEXT = re.compile(r"<\|[a-z_]+\|?>|<[a-z_]+\|>|^ {0,3}```", re.MULTILINE)
"""What ends a text wherever it is written: markers, and the fence of a chat's block of code."""


class EngineInfiller:
    """See `InfillerLike`. For one thread. It needs no engine to be there: each fill finds out anew."""

    languages: frozenset[str] | None = None
    uses_project_text = False
    sends_text = True

    def __init__(
        self,
        address: Address,
        token: str | None = None,
        heard: Callable[[Health], None] = lambda health: None,
        *,
        connection: Connection | None = None,
        outage: Outage | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`heard` is told, on the thread that fills, whenever the engine's health changes."""
        self.address = address
        self._connection = connection or Connection(address, token)
        self._outage = outage or Outage()
        self._clock = clock
        self._heard = heard
        self._health: Health | None = None
        self._model: Model | None = None
        self._found_at = 0.0
        self._says_scores = True

    @property
    def name(self) -> str:
        """The model that the engine serves."""
        return plain(self._model.name.rpartition("/")[2]) if self._model else "an engine"

    @property
    def device(self) -> str:
        """Where text goes."""
        return self.address.url

    @property
    def threshold(self) -> float:
        """See `InfillerLike`. An engine that says no log-probabilities has none: what passes the checks is shown."""
        return THRESHOLD if self._says_scores else -math.inf

    @property
    def prompt_tokens(self) -> int:
        """See `InfillerLike`."""
        context = self._model.context_tokens if self._model else None
        return min(PROMPT_TOKENS, context // 2) if context else PROMPT_TOKENS

    def look(self) -> Health:
        """Ask the engine what it serves, now."""
        try:
            for _ in self._found():
                pass
        except EngineError as error:
            self._failed(error)
        assert self._health is not None
        return self._health

    def fill(self, request: FillRequest) -> Iterator[Draft]:
        """Yield a draft after every part of the answer that arrives, and the latest again while nothing does; before
        the first one drafts are empty and their `step` is 0. To stop reading ends the request at the engine.

        Raises:
            EngineError: the engine does not fill; its `reason` says why.
            InfillError: the request makes no sense, or is for a network that denoises here.
        """
        check(request)
        if request.denoise:
            raise InfillError("an engine writes, and shows no canvas; name a checkpoint, or do not ask to denoise")
        self._outage.check()
        drafts = self._fill(request)
        if request.budget_ms is not None:
            drafts = within_budget(drafts, request.budget_ms, request.excerpt, self._clock)
        try:
            yield from drafts
        except EngineError as error:
            self._failed(error)
            raise

    def close(self) -> None:
        """Close all connections."""
        self._connection.close()

    def _fill(self, request: FillRequest) -> Iterator[Draft]:
        """Fill the holes from left to right. Earlier fills are text to later ones, and later holes are left out."""
        excerpt = request.excerpt
        if excerpt.hole_count == 1:
            yield from self._fill_one(request)
            return
        between = (*excerpt.between, "")
        done = [Draft(("",), 0, tokens=((),))] * excerpt.hole_count
        prefix = excerpt.prefix
        for hole in range(excerpt.hole_count):
            rest = "".join(between[hole:]) + excerpt.suffix
            one = replace(request, excerpt=replace(excerpt, prefix=prefix, suffix=rest, between=()), start=None)
            for done[hole] in self._fill_one(one):
                yield _joined(done, hole)
            prefix += done[hole].text + between[hole]

    def _fill_one(self, request: FillRequest) -> Iterator[Draft]:
        nothing = Draft(("",), 0, tokens=((),))
        if self._model is None or self._clock() - self._found_at > _FOUND_S:
            for _ in self._found():
                yield nothing
        request = replace(request, excerpt=_without_secrets(request.excerpt))
        try:
            yield from self._written(request)
        except StaleConnectionError:
            for _ in self._found():  # it may have another model now
                yield nothing
            yield from self._written(request)

    def _found(self) -> Waiting[None]:
        """Find out what the engine serves."""
        self._model = None
        self._model = yield from discover(self._connection, self.address)
        self._found_at = self._clock()
        self._say(self._well)

    def _written(self, request: FillRequest) -> Iterator[Draft]:
        """What the engine writes into the hole."""
        assert self._model is not None
        asked = question(self._model, request)
        text = _Text(request, asked.healed)
        started, draft = self._clock(), text.draft()
        answer = self._connection.stream(asked.path, asked.body)
        try:
            for events in answer:
                for event in events:
                    text.add(piece(self._model.interface, event))
                if text.tokens:  # the first event of a chat has none, and may come alone
                    self._says_scores = bool(text.log_probabilities)
                if events and not draft.step and text.step:
                    self._outage.ended()
                    self._say(self._well)
                draft = text.draft(len(draft.tokens[0])) if events else draft
                if text.is_over:
                    break
                yield draft
            else:
                raise EngineError(
                    NoSuggestion.ENGINE_BROKE_OFF, f"{self.address.url} ended its answer before the answer's end"
                )
            if text.has_ended:
                next(answer, None)  # with its end, the connection can be used again
        except GeneratorExit:
            if not draft.step and (waited_s := self._clock() - started) >= _SLOW_S:
                self._say(Health(False, f"{self.address.url} is slow: no word of an answer within {waited_s:.1f} s"))
            raise
        finally:
            answer.close()
        yield replace(draft, done=True)

    @property
    def _well(self) -> Health:
        interface = self._model.interface if self._model else ""
        return Health(True, f"{self.name} at {self.address.url}, asked by {interface}")

    def _failed(self, error: EngineError) -> None:
        self._model = None
        self._outage.failed(error)
        self._say(Health(False, str(error)))

    def _say(self, health: Health) -> None:
        if health != self._health:
            self._health = health
            self._heard(health)


class _Text:
    """What an engine has written into a hole so far."""

    def __init__(self, request: FillRequest, healed: str) -> None:
        excerpt = request.excerpt
        self._one_line, self._healed = request.one_line, healed
        self._end = FillEnd.of(excerpt.prefix, excerpt.suffix, one_line=request.one_line)
        self._most_chars = request.max_tokens * _MOST_CHARS_A_TOKEN
        self._raw = ""
        self.log_probabilities = list[float]()
        self.tokens = list[DraftToken]()
        self.step = 0
        self.has_ended = False
        """The engine has said so."""
        self._complete = False
        self._cut: int | None = None

    @property
    def is_over(self) -> bool:
        """Whether what comes now does not matter."""
        return self.has_ended or self._cut is not None

    def add(self, part: Piece) -> None:
        """Take what has arrived."""
        self.step += 1
        if self.is_over:
            self.has_ended |= part.ended
            return
        beyond_healed = part.text[max(0, len(self._healed) - len(self._raw)) :]
        self._raw += part.text
        self.log_probabilities += part.log_probabilities
        if beyond_healed:
            self.tokens.append(DraftToken(beyond_healed, math.exp(min(sum(part.log_probabilities), 0.0)), True))
        self.has_ended, self._complete = part.ended, part.complete
        if len(self._raw) > self._most_chars:
            raise EngineError(NoSuggestion.ENGINE_GARBAGE, "the engine's answer cannot be used: its text is too long")
        if not self._raw.startswith(self._healed[: len(self._raw)]):
            self._cut = 0  # it goes on in another way than with a blank
            return
        text = self._raw[len(self._healed) :]
        ends = [found.start() for found in [_AFTER_TEXT.search(text)] if found]
        if (end := self._end.cut(text + "\n" if self._complete else text)) is not None:
            ends.append(end)
        if self._one_line and "\n" in text:
            ends.append(text.index("\n"))
        self._cut = min(ends, default=None)

    def draft(self, known: int = 0) -> Draft:
        """The fill so far, of which `known` tokens were shown before."""
        text = self._raw[len(self._healed) :][: self._cut]
        numbers = self.log_probabilities
        score = sum(numbers) / len(numbers) if numbers else -math.inf
        complete = self._cut is not None or self._complete
        new = Check(written=len(self.tokens) - known) if self.step else None
        return Draft((text,), self.step, complete=complete, score=score, tokens=(tuple(self.tokens),), check=new)


def _joined(done: list[Draft], hole: int) -> Draft:
    """The state of a fill of several holes, of which `hole` is being filled."""
    return Draft(
        tuple(draft.text for draft in done),
        sum(draft.step for draft in done),
        done=all(draft.done for draft in done),
        complete=all(draft.complete for draft in done),
        score=sum(draft.score for draft in done[: hole + 1]) / (hole + 1),
        tokens=tuple(draft.tokens[0] for draft in done),
        check=done[hole].check,
    )


def _without_secrets(excerpt: Excerpt) -> Excerpt:
    """The last door: what looks secret in a text that is sent, whoever put it there."""
    parts = map(masking.masked, (excerpt.prefix, *excerpt.between, excerpt.suffix))
    prefix, *between, suffix = parts
    return replace(excerpt, prefix=prefix, between=tuple(between), suffix=suffix)
