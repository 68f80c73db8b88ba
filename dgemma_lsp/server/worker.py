"""The one thread that owns the model, and the deadlines of its work.

A job is a generator of ever better answers. To stop reading it stops the work. The newest keystroke of a document wins.
Whoever replaces or drops a job settles it, so that every request is answered. All methods are for the event loop's
thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable, Generator, Hashable
from enum import Enum, IntEnum, auto
from typing import Any, Generic, TypeVar

from dgemma_lsp.documents.edits import NoSuggestion, Suggestion

Model = TypeVar("Model")
Result = TypeVar("Result")
Answer = Suggestion | NoSuggestion
Steps = Generator[Result | NoSuggestion, None, None]
"""Yields the best answer so far after each pass."""


class Lane(IntEnum):
    """Who waits for the answer. The lowest lane runs first, and within a lane the oldest job."""

    COMMAND = 0
    """Asked for by the user; replaced only by the same question in the same place."""
    KEYSTROKE = 1
    """Replaced by any newer command or keystroke in the same document."""
    BACKGROUND = 2
    """Nobody waits."""


class _State(Enum):
    LOADING = auto()
    READY = auto()
    FAILED = auto()


class Worker(Generic[Model]):
    """Loads the model on its own thread, then runs one job at a time there."""

    def __init__(self) -> None:
        self._state = _State.LOADING
        self._newest: dict[str, dict[Hashable, _Job[Model]]] = {}
        """By document and place."""
        self._background: set[_Job[Model]] = set()
        self._queue: dict[Lane, dict[_Job[Model], None]] = {lane: {} for lane in Lane}
        """Who waits, the oldest first. What is settled is not in it."""
        self._changed = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None

    @property
    def started(self) -> bool:
        """Whether `start` was called."""
        return self._thread is not None

    @property
    def without_model(self) -> NoSuggestion | None:
        """Why there is no model; None if there is one."""
        reasons = {_State.LOADING: NoSuggestion.LOADING, _State.FAILED: NoSuggestion.NO_MODEL}
        return reasons.get(self._state)

    def start(self, load: Callable[[], Model]) -> asyncio.Future[Model]:
        """Start the thread, which calls `load` first; the future gets the model or the exception."""
        loop = asyncio.get_running_loop()
        loaded: asyncio.Future[Model] = loop.create_future()
        loaded.add_done_callback(self._loading_ended)
        self._thread = threading.Thread(target=self._work, args=(load, loop, loaded), name="model", daemon=True)
        self._thread.start()
        return loaded

    async def run(
        self,
        steps: Callable[[Model], Steps[Result]],
        *,
        lane: Lane,
        document: str,
        place: Hashable = None,
        delay_s: float = 0.0,
        budget_s: float | None = None,
    ) -> Result | NoSuggestion:
        """The last answer of `steps`, or the latest one when `budget_s` seconds of work have passed.

        Waits `delay_s` seconds for something newer, then queues. Only commands wait for the model to load. Background
        work is dropped as soon as there is any other request, in any document. A job with a `place` replaces the
        document's earlier job of that place, whether it waits or runs. Raises what `steps` raises. If the caller is
        cancelled, the work stops after its current step.
        """
        if lane is not Lane.BACKGROUND:
            self.supersede(document)
            self.drop_background()
        if lane is Lane.KEYSTROKE:
            place = Lane.KEYSTROKE
        if place is not None:
            self._replace(document, place)
        if (reason := self.without_model) and not (reason is NoSuggestion.LOADING and lane is Lane.COMMAND):
            return reason
        job = _Job(steps, lane, budget_s)
        if place is not None:
            self._newest.setdefault(document, {})[place] = job
        if lane is Lane.BACKGROUND:
            self._background.add(job)
        try:
            if delay_s > 0:
                await asyncio.wait([job.result], timeout=delay_s)
            if not job.result.done():
                with self._changed:
                    self._queue[lane][job] = None
                    self._changed.notify()
            answer: Result | NoSuggestion = await job.result  # to cancel the caller cancels this: the thread stops
            return answer
        finally:
            self._unqueue(job)
            self._background.discard(job)
            places = self._newest.get(document, {})
            if places.get(place) is job:
                del places[place]
            if not places:
                self._newest.pop(document, None)

    def supersede(self, document: str) -> None:
        """Settle the document's keystroke, if one is waiting or running."""
        self._replace(document, Lane.KEYSTROKE)

    def forget(self, document: str) -> None:
        """Settle all that can be replaced in a document: it is closed, or another."""
        for place in list(self._newest.get(document, ())):
            typed = place is Lane.KEYSTROKE
            self._replace(document, place, NoSuggestion.SUPERSEDED if typed else NoSuggestion.STALE)

    def drop_background(self) -> None:
        """Settle all that nobody waits for."""
        dropped, self._background = self._background, set()
        for job in dropped:
            self._drop(job)

    def _replace(self, document: str, place: Hashable, reason: NoSuggestion = NoSuggestion.SUPERSEDED) -> None:
        replaced = self._newest.get(document, {}).pop(place, None)
        if replaced is not None:
            self._drop(replaced, reason)

    def _drop(self, job: _Job[Model], reason: NoSuggestion = NoSuggestion.SUPERSEDED) -> None:
        self._unqueue(job)
        job.settle(reason)

    def _unqueue(self, job: _Job[Model]) -> None:
        with self._changed:
            self._queue[job.lane].pop(job, None)

    def _emptied(self) -> list[_Job[Model]]:
        """Empty the queue and return its jobs. The lock is held."""
        jobs = [job for waiting in self._queue.values() for job in waiting]
        for waiting in self._queue.values():
            waiting.clear()
        return jobs

    def stop(self, timeout_s: float) -> bool:
        """Ask the thread to end after its current step; whether it did within `timeout_s` seconds."""
        with self._changed:
            self._stopping = True
            dropped = self._emptied()
            self._changed.notify()
        for job in dropped:
            job.settle(NoSuggestion.CANCELLED)
        if self._thread is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _loading_ended(self, loaded: asyncio.Future[Model]) -> None:
        if not loaded.cancelled() and loaded.exception() is None:
            self._state = _State.READY
            return
        self._state = _State.FAILED
        with self._changed:
            waiting = self._emptied()
        for job in waiting:
            job.settle(NoSuggestion.NO_MODEL)

    def _work(self, load: Callable[[], Model], loop: asyncio.AbstractEventLoop, loaded: asyncio.Future[Model]) -> None:
        """The thread."""
        try:
            model = load()
        except BaseException as error:
            _call_on(loop, _settle, loaded, _as_exception(error))
            return
        _call_on(loop, _settle, loaded, model)
        while (job := self._next_job()) is not None:
            _call_on(loop, job.settle, job.run(model, lambda: self._stopping))

    def _next_job(self) -> _Job[Model] | None:
        """Wait for a job; None says that the thread shall end."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or any(self._queue.values()))
            if self._stopping:
                return None
            first = next(waiting for waiting in self._queue.values() if waiting)
            job = next(iter(first))
            del first[job]
            return job


class _Job(Generic[Model]):
    """What one caller of `Worker.run` waits for."""

    def __init__(self, steps: Callable[[Model], Steps[Any]], lane: Lane, budget_s: float | None) -> None:
        self.lane = lane
        self.result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._steps = steps
        self._budget_s = budget_s

    def settle(self, outcome: object) -> None:
        """Answer, unless it was answered before. For the event loop's thread."""
        _settle(self.result, outcome)

    def run(self, model: Model, stopping: Callable[[], bool]) -> object:
        """Do the work, unless the job is settled already. For the model's thread."""
        answer: object = NoSuggestion.EMPTY
        if self.result.done():
            return answer
        deadline = math.inf if self._budget_s is None else time.monotonic() + self._budget_s
        try:
            with contextlib.closing(self._steps(model)) as steps:
                for answer in steps:
                    if self.result.done() or stopping():
                        break
                    if time.monotonic() >= deadline:
                        return NoSuggestion.OUT_OF_TIME if answer is NoSuggestion.EMPTY else answer
        except BaseException as error:
            return _as_exception(error)
        return answer


def _as_exception(error: BaseException) -> Exception:
    """The error as an `Exception`. A panic in a Rust library is not one, and must not end the thread."""
    return error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__}: {error}")


def _settle(future: asyncio.Future[Any], outcome: object) -> None:
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _call_on(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *arguments: object) -> None:
    """Call on the loop's thread; does nothing if the loop is closed."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *arguments)
