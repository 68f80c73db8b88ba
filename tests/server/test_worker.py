from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import pytest_asyncio

from dgemma_lsp.documents.edits import Edit, NoSuggestion, Snapshot, Suggestion
from dgemma_lsp.documents.text import Text
from dgemma_lsp.server.worker import Answer, Lane, Steps, Worker

pytestmark = pytest.mark.asyncio(loop_scope="function")

TIMEOUT_S = 10.0
"""How long a lost answer may keep a test waiting; no test depends on it otherwise."""


def answer(number: int) -> Suggestion:
    return Suggestion(Snapshot("file:///a.py", 1, "python", Text(""), 0), Edit(0, 0, "x" * number), 0.0, number)


class Model:
    """Counts what is done with it, and waits at each step until it may go on."""

    def __init__(self) -> None:
        self.threads: set[threading.Thread] = set()
        self.steps_taken = 0
        self.closed = 0
        self._standing = threading.Semaphore(0)
        self._go_on = threading.Semaphore(0)

    def counting(self, steps: int) -> Callable[[Model], Steps]:
        """A job that answers 1, 2, 3, ... and takes `steps` steps."""

        def run(model: Model) -> Steps:
            model.threads.add(threading.current_thread())
            try:
                for number in range(1, steps + 1):
                    model.steps_taken += 1
                    yield answer(number)
            finally:
                model.closed += 1

        return run

    def held(self, steps: int) -> Callable[[Model], Steps]:
        """The same, but it waits before each step for `let_go_on`."""

        def run(model: Model) -> Steps:
            for value in self.counting(steps)(model):
                self._standing.release()
                assert self._go_on.acquire(timeout=TIMEOUT_S)
                yield value

        return run

    async def standing(self) -> None:
        """Return when a held job has come to its next step."""
        assert await asyncio.to_thread(self._standing.acquire, timeout=TIMEOUT_S)

    def let_go_on(self, steps: int = 1) -> None:
        self._go_on.release(steps)


@pytest.fixture
def model() -> Model:
    return Model()


@pytest_asyncio.fixture(loop_scope="function")
async def worker(model: Model) -> AsyncIterator[Worker[Model]]:
    worker: Worker[Model] = Worker()
    await worker.start(lambda: model)
    yield worker
    model.let_go_on(1000)
    assert worker.stop(TIMEOUT_S)


def keystroke(
    worker: Worker[Model], steps: Callable[[Model], Steps], document: str = "a", **options: float | None
) -> asyncio.Task[Answer]:
    return asyncio.create_task(worker.run(steps, lane=Lane.KEYSTROKE, document=document, **options))


def command(worker: Worker[Model], steps: Callable[[Model], Steps], document: str = "a") -> asyncio.Task[Answer]:
    return asyncio.create_task(worker.run(steps, lane=Lane.COMMAND, document=document))


def background(worker: Worker[Model], steps: Callable[[Model], Steps], document: str = "a") -> asyncio.Task[Answer]:
    return asyncio.create_task(worker.run(steps, lane=Lane.BACKGROUND, document=document))


async def test_the_last_value_is_the_answer_and_one_thread_does_the_work(worker: Worker[Model], model: Model) -> None:
    answers = [await keystroke(worker, model.counting(3)) for _ in range(3)]
    assert answers == [answer(3)] * 3
    assert [thread.name for thread in model.threads] == ["model"]
    assert all(thread.daemon for thread in model.threads)


async def test_newest_wins_and_every_other_is_settled(worker: Worker[Model], model: Model) -> None:
    tasks = [keystroke(worker, model.held(3))]
    await model.standing()
    tasks += [keystroke(worker, model.counting(n)) for n in range(1, 20)]
    # All but the last are answered while the model is still at the first step of the first.
    assert await asyncio.gather(*tasks[:-1]) == [NoSuggestion.SUPERSEDED] * 19
    assert not tasks[-1].done()
    model.let_go_on()
    assert await tasks[-1] == answer(19)
    assert model.steps_taken == 1 + 19  # the first stopped after its step, eighteen never began


async def test_documents_do_not_replace_each_other(worker: Worker[Model], model: Model) -> None:
    first = keystroke(worker, model.held(1), "a")
    await model.standing()
    second = keystroke(worker, model.counting(2), "b")
    model.let_go_on()
    assert (await first, await second) == (answer(1), answer(2))


async def test_a_keystroke_never_replaces_a_command(worker: Worker[Model], model: Model) -> None:
    running = command(worker, model.held(2))
    await model.standing()
    waiting = command(worker, model.counting(3))
    typed = keystroke(worker, model.counting(4))
    model.let_go_on(2)
    assert (await running, await waiting, await typed) == (answer(2), answer(3), answer(4))


async def test_the_same_question_in_the_same_place_replaces_the_earlier_one(
    worker: Worker[Model], model: Model
) -> None:
    def ask(steps: int, place: object = "here", document: str = "a", lane: Lane = Lane.COMMAND) -> asyncio.Task[Answer]:
        held = model.held(steps) if steps == 9 else model.counting(steps)
        return asyncio.create_task(worker.run(held, lane=lane, document=document, place=place))

    running = ask(9)
    await model.standing()
    others = [ask(1, "there"), ask(2, "here", "b"), ask(3, None), ask(4, None)]
    many = [ask(5) for _ in range(40)]
    typed = keystroke(worker, model.counting(6))
    assert await running is NoSuggestion.SUPERSEDED
    assert await asyncio.gather(*many[:-1]) == [NoSuggestion.SUPERSEDED] * 39
    assert sum(map(len, worker._queue.values())) == len(others) + 2  # the others do not wait for their turn
    model.let_go_on()
    assert await asyncio.gather(*others, many[-1], typed) == [answer(n) for n in range(1, 7)]
    assert model.steps_taken == 1 + sum(range(1, 7))
    watched = ask(9, "watch", lane=Lane.BACKGROUND)
    await model.standing()
    again = ask(2, "watch", lane=Lane.BACKGROUND)
    assert await watched is NoSuggestion.SUPERSEDED
    model.let_go_on()
    assert await again == answer(2)
    assert worker._newest == {}


async def test_who_is_cancelled_waits_no_longer(worker: Worker[Model], model: Model) -> None:
    running = command(worker, model.held(1))
    await model.standing()
    waiting = [command(worker, model.counting(1)) for _ in range(20)]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert not any(worker._queue.values())
    model.let_go_on()
    assert await running == answer(1)
    assert model.steps_taken == 1


async def test_a_document_that_is_closed_wants_nothing(worker: Worker[Model], model: Model) -> None:
    running = command(worker, model.held(1), "b")
    await model.standing()
    waiting = [asyncio.create_task(worker.run(model.counting(1), lane=lane, document="a", place=lane)) for lane in Lane]
    await asyncio.sleep(0)
    worker.forget("a")
    reasons = dict(zip(Lane, await asyncio.gather(*waiting), strict=True))
    assert reasons.pop(Lane.KEYSTROKE) is NoSuggestion.SUPERSEDED
    assert set(reasons.values()) == {NoSuggestion.STALE}
    model.let_go_on()
    assert await running == answer(1)
    assert model.steps_taken == 1


async def test_a_command_replaces_the_keystroke_of_its_document(worker: Worker[Model], model: Model) -> None:
    typed = keystroke(worker, model.held(5))
    await model.standing()
    asked = command(worker, model.counting(1))
    assert await typed is NoSuggestion.SUPERSEDED
    model.let_go_on()
    assert await asked == answer(1)


async def test_commands_go_first_and_background_work_last(worker: Worker[Model], model: Model) -> None:
    order: list[str] = []

    def noting(name: str) -> Callable[[Model], Steps]:
        def run(_: Model) -> Steps:
            order.append(name)
            yield answer(1)

        return run

    first = keystroke(worker, model.held(1), "first")
    await model.standing()
    waiting = [
        keystroke(worker, noting("keystroke a"), "a"),
        keystroke(worker, noting("keystroke b"), "b"),
        command(worker, noting("command c"), "c"),
        command(worker, noting("command d"), "d"),
        background(worker, noting("background"), "a"),
    ]
    await asyncio.sleep(0)  # let each of them queue
    model.let_go_on()
    await asyncio.gather(first, *waiting)
    assert order == ["command c", "command d", "keystroke a", "keystroke b", "background"]


async def test_background_work_is_dropped_when_anybody_asks(worker: Worker[Model], model: Model) -> None:
    running = background(worker, model.held(100), "a")
    await model.standing()
    waiting = background(worker, model.counting(1), "b")
    await asyncio.sleep(0)
    asked = keystroke(worker, model.counting(2), "c")
    assert await running is NoSuggestion.SUPERSEDED
    assert await waiting is NoSuggestion.SUPERSEDED
    model.let_go_on()
    assert await asked == answer(2)
    assert model.steps_taken == 1 + 2


async def test_cancelling_stops_the_work_after_its_step(worker: Worker[Model], model: Model) -> None:
    task = keystroke(worker, model.held(100))
    await model.standing()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    model.let_go_on()
    assert await keystroke(worker, model.counting(1)) == answer(1)
    assert (model.steps_taken, model.closed) == (2, 2)


async def test_cancelling_while_waiting_for_something_newer(worker: Worker[Model], model: Model) -> None:
    task = keystroke(worker, model.counting(1), delay_s=3600.0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert model.steps_taken == 0


async def test_a_delayed_job_is_settled_as_soon_as_it_is_replaced(worker: Worker[Model], model: Model) -> None:
    first = keystroke(worker, model.counting(1), delay_s=3600.0)
    await asyncio.sleep(0)
    second = keystroke(worker, model.counting(2), delay_s=0.001)
    assert await asyncio.wait_for(first, TIMEOUT_S) is NoSuggestion.SUPERSEDED
    assert await second == answer(2)
    assert model.steps_taken == 2


async def test_a_budget_ends_with_the_latest_answer(worker: Worker[Model], model: Model) -> None:
    def forever(_: Model) -> Iterator[Answer]:
        number = 0
        while True:
            time.sleep(0.01)
            number += 1
            yield answer(number)

    def steps(model: Model) -> Steps:
        yield from forever(model)

    result = await asyncio.wait_for(keystroke(worker, steps, budget_s=0.05), TIMEOUT_S)
    assert isinstance(result, Suggestion)
    assert 1 <= result.steps <= 5


async def test_a_budget_that_ends_before_anything_is_there_says_so(worker: Worker[Model], model: Model) -> None:
    def steps(model: Model) -> Steps:
        yield NoSuggestion.EMPTY
        yield answer(1)

    assert await keystroke(worker, steps, budget_s=0.0) is NoSuggestion.OUT_OF_TIME


async def test_a_budget_of_nothing_is_one_step(worker: Worker[Model], model: Model) -> None:
    assert await keystroke(worker, model.counting(9), budget_s=0.0) == answer(1)


async def test_an_exception_reaches_the_caller_and_the_thread_lives_on(worker: Worker[Model], model: Model) -> None:
    def failing(_: Model) -> Steps:
        yield answer(1)
        raise ValueError("no such luck")

    with pytest.raises(ValueError, match="no such luck"):
        await keystroke(worker, failing)
    assert await keystroke(worker, model.counting(2)) == answer(2)


async def test_no_steps_are_no_suggestion(worker: Worker[Model], model: Model) -> None:
    assert await keystroke(worker, model.counting(0)) is NoSuggestion.EMPTY


async def test_while_the_model_loads_only_commands_wait(model: Model) -> None:
    loading = threading.Event()

    def load() -> Model:
        assert loading.wait(TIMEOUT_S)
        return model

    worker: Worker[Model] = Worker()
    loaded = worker.start(load)
    assert await keystroke(worker, model.counting(1)) is NoSuggestion.LOADING
    asked = command(worker, model.counting(2))
    await asyncio.sleep(0)
    loading.set()
    assert await asked == answer(2)
    assert await loaded is model
    assert worker.stop(TIMEOUT_S)


async def test_a_model_that_cannot_be_loaded_settles_everyone(model: Model) -> None:
    loading = threading.Event()

    def load() -> Model:
        assert loading.wait(TIMEOUT_S)
        raise ValueError("the weights are truncated")

    worker: Worker[Model] = Worker()
    loaded = worker.start(load)
    asked = command(worker, model.counting(2))
    await asyncio.sleep(0)
    loading.set()
    with pytest.raises(ValueError, match="truncated"):
        await loaded
    assert await asked is NoSuggestion.NO_MODEL
    assert await keystroke(worker, model.counting(1)) is NoSuggestion.NO_MODEL
    assert await command(worker, model.counting(1)) is NoSuggestion.NO_MODEL


class Panic(BaseException):
    """What a library written in Rust raises."""


async def test_a_panic_while_loading_settles_everyone() -> None:
    def load() -> Model:
        raise Panic("out of bounds")

    worker: Worker[Model] = Worker()
    with pytest.raises(RuntimeError, match="Panic: out of bounds"):
        await worker.start(load)
    assert await asyncio.wait_for(command(worker, Model().counting(1)), TIMEOUT_S) is NoSuggestion.NO_MODEL


async def test_a_panic_in_a_job_fails_that_job_alone(model: Model) -> None:
    def panics(model: Model) -> Steps:
        raise Panic("out of bounds")
        yield answer(1)

    worker: Worker[Model] = Worker()
    await worker.start(lambda: model)
    with pytest.raises(RuntimeError, match="Panic: out of bounds"):
        await asyncio.wait_for(command(worker, panics), TIMEOUT_S)
    assert await asyncio.wait_for(command(worker, model.counting(2)), TIMEOUT_S) == answer(2)
    assert worker.stop(TIMEOUT_S)


async def test_stopping_ends_the_running_job_after_its_step_and_settles_the_waiting(model: Model) -> None:
    worker: Worker[Model] = Worker()
    await worker.start(lambda: model)
    running = command(worker, model.held(100))
    await model.standing()
    waiting = command(worker, model.counting(1))
    await asyncio.sleep(0)
    assert not worker.stop(0.0)  # it is held at its step
    assert await waiting is NoSuggestion.CANCELLED
    model.let_go_on()
    assert worker.stop(TIMEOUT_S)
    assert await running == answer(1)
    assert model.steps_taken == 1


async def test_a_worker_that_never_started_stops_at_once() -> None:
    assert Worker[Model]().stop(0.0)
