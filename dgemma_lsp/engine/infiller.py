"""`InfillerLike` over HTTP: fills by a model that an engine serves.

What an engine writes is not trusted. It is cut where the hole ends, by the same rules as the text of a model in this
process, and goes through the same clean-up and checks.
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
from dgemma_lsp.engine.errors import EngineError, plain_line
from dgemma_lsp.engine.health import Health
from dgemma_lsp.engine.interfaces import AnswerPart, ServedModel, answer_part, question
from dgemma_lsp.engine.outage import Outage
from dgemma_model.decoding.fill_end import FillEnd
from dgemma_model.decoding.time_budget import within_budget
from dgemma_model.request import Check, Draft, DraftToken, Excerpt, FillRequest, InfillError, check

PROMPT_TOKENS = 1024
"""Most tokens of an excerpt that is sent; half of the engine's context if that is less."""
THRESHOLD = -0.4
"""The mean log-probability of a token, in nats, below which nothing is shown unasked (log/engine.md)."""
_SLOW_S = 1.0
"""An engine counts as slow if it has sent nothing for so many seconds when a request is given up."""
_FOUND_S = 60.0
"""Seconds after which an engine is asked again what it serves, since it may have been restarted."""
_MOST_CHARS_A_TOKEN = 64
"""An answer with more code points for each token that was asked for is refused."""
_AFTER_TEXT = re.compile(r"<\|[a-z_]+\|?>|<[a-z_]+\|>|^ {0,3}```", re.MULTILINE)
"""What ends a fill wherever it occurs: a marker, or the fence that closes a chat's code block."""


class EngineInfiller:
    """See `InfillerLike`. All of it is for one thread. The engine need not run when this is made."""

    languages: frozenset[str] | None = None
    uses_project_text = False
    sends_text = True
    reviewer = None

    def __init__(
        self,
        address: Address,
        token: str | None = None,
        health_changed: Callable[[Health], None] = lambda health: None,
        *,
        connection: Connection | None = None,
        outage: Outage | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`health_changed` is called on the thread that fills; `clock` tells seconds."""
        self.address = address
        self._connection = connection or Connection(address, token)
        self._outage = outage or Outage()
        self._clock = clock
        self._health_changed = health_changed
        self._health: Health | None = None
        self._model: ServedModel | None = None
        self._found_at = 0.0
        self._says_scores = True

    @property
    def name(self) -> str:
        """The name of the model that the engine serves, without its publisher."""
        return plain_line(self._model.name.rpartition("/")[2]) if self._model else "an engine"

    @property
    def device(self) -> str:
        """The address that text goes to."""
        return self.address.url

    @property
    def threshold(self) -> float:
        """See `InfillerLike`. Without log-probabilities there is no threshold: whatever passes the checks is shown."""
        return THRESHOLD if self._says_scores else -math.inf

    @property
    def prompt_tokens(self) -> int:
        """See `InfillerLike`."""
        context = self._model.context_tokens if self._model else None
        return min(PROMPT_TOKENS, context // 2) if context else PROMPT_TOKENS

    def check_health(self) -> Health:
        """Ask the engine now what it serves."""
        try:
            for _ in self._found():
                pass
        except EngineError as error:
            self._failed(error)
        assert self._health is not None
        return self._health

    def fill(self, request: FillRequest) -> Iterator[Draft]:
        """Yield a draft after every part of the answer that arrives.

        While nothing arrives, the latest draft is yielded again. Before the first part, drafts are empty and their
        `step` is 0. If the caller stops early, the request is ended at the engine.

        Raises:
            EngineError: the engine does not fill; its `reason` says why.
            InfillError: the request makes no sense, or asks for denoising.
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
        """Fill the holes from left to right. The prompt of each has the earlier fills, and nothing for later holes."""
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
            for _ in self._found():  # it may serve another model now
                yield nothing
            yield from self._written(request)

    def _found(self) -> Waiting[None]:
        """Ask the engine what it serves, and remember it."""
        self._model = None
        self._model = yield from discover(self._connection, self.address)
        self._found_at = self._clock()
        self._tell(self._well)

    def _written(self, request: FillRequest) -> Iterator[Draft]:
        """The fill of the only hole, by one request to the engine."""
        assert self._model is not None
        asked = question(self._model, request)
        text = _AnswerText(request, asked.healed)
        started, draft = self._clock(), text.draft()
        answer = self._connection.stream(asked.path, asked.body)
        try:
            for events in answer:
                for event in events:
                    text.add(answer_part(self._model.interface, event))
                if text.tokens:  # the first event of a chat has none, and may come alone
                    self._says_scores = bool(text.log_probabilities)
                if events and not draft.step and text.step:
                    self._outage.recovered()
                    self._tell(self._well)
                draft = text.draft(len(draft.tokens[0])) if events else draft
                if text.is_over:
                    break
                yield draft
            else:
                raise EngineError(
                    NoSuggestion.ENGINE_BROKE_OFF, f"{self.address.url} ended its answer before the answer's end"
                )
            if text.has_ended:
                next(answer, None)  # reads to the end of the stream, so that the connection can be used again
        except GeneratorExit:
            if not draft.step and (waited_s := self._clock() - started) >= _SLOW_S:
                slow = f"{self.address.url} is slow: no word of an answer within {waited_s:.1f} s"
                self._tell(Health(NoSuggestion.ENGINE_SLOW, slow))
            raise
        finally:
            answer.close()
        yield replace(draft, done=True)

    @property
    def _well(self) -> Health:
        interface = self._model.interface if self._model else ""
        return Health(None, f"{self.name} at {self.address.url}, asked by {interface}")

    def _failed(self, error: EngineError) -> None:
        self._model = None
        self._outage.failed(error)
        self._tell(Health(error.reason, str(error)))

    def _tell(self, health: Health) -> None:
        if health != self._health:
            self._health = health
            self._health_changed(health)


class _AnswerText:
    """The text of an answer so far, and where it ends."""

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
        """Whether the engine has sent its last part."""
        self._complete = False
        self._cut: int | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more belongs to the fill."""
        return self.has_ended or self._cut is not None

    def add(self, part: AnswerPart) -> None:
        """Take the next part.

        Raises:
            EngineError: the text is much longer than was asked for.
        """
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
            self._cut = 0  # the answer does not begin with the healed text
            return
        text = self._raw[len(self._healed) :]
        ends = [found.start() for found in [_AFTER_TEXT.search(text)] if found]
        if (end := self._end.cut(text + "\n" if self._complete else text)) is not None:
            ends.append(end)
        if self._one_line and "\n" in text:
            ends.append(text.index("\n"))
        self._cut = min(ends, default=None)

    def draft(self, known: int = 0) -> Draft:
        """The fill so far. `known` of its tokens were in the draft before."""
        text = self._raw[len(self._healed) :][: self._cut]
        numbers = self.log_probabilities
        score = sum(numbers) / len(numbers) if numbers else -math.inf
        complete = self._cut is not None or self._complete
        new = Check(written=len(self.tokens) - known) if self.step else None
        return Draft((text,), self.step, complete=complete, score=score, tokens=(tuple(self.tokens),), check=new)


def _joined(done: list[Draft], hole: int) -> Draft:
    """The draft of a fill of several holes while number `hole` is filled."""
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
    """Mask once more what looks like a secret, wherever it came from: this text leaves the process."""
    parts = map(masking.masked, (excerpt.prefix, *excerpt.between, excerpt.suffix))
    prefix, *between, suffix = parts
    return replace(excerpt, prefix=prefix, between=tuple(between), suffix=suffix)
