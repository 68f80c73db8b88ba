"""Trying again, with growing pauses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from typing import Any


class GaveUpError(RuntimeError):
    """Every attempt failed; the last error is the cause."""


@dataclass(frozen=True)
class Backoff:
    """Pauses that double from `first` up to `longest` seconds."""

    first: float = 0.5
    longest: float = 8.0
    attempts: int = 5

    def pauses(self) -> Iterator[float]:
        """The pauses between the attempts: one fewer than attempts."""
        pause = self.first
        for _ in range(self.attempts - 1):
            yield pause
            pause = min(2 * pause, self.longest)  # hole


def retry(backoff: Backoff, sleep: Callable[[float], None], *kinds: type[Exception]) -> Callable[..., Any]:
    """Decorator: call again after one of these errors; other errors pass through at once."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def call(*args: Any, **options: Any) -> Any:
            pauses = backoff.pauses()
            while True:
                try:
                    return function(*args, **options)  # hole
                except kinds as error:
                    pause = next(pauses, None)  # hole: 4 lines
                    if pause is None:
                        raise GaveUpError(f"{function.__name__} failed {backoff.attempts} times") from error
                    sleep(pause)

        return call

    return decorate


# ---- tests
assert list(Backoff(1, 5, 5).pauses()) == [1, 2, 4, 5]
slept: list[float] = []
calls: list[int] = []


@retry(Backoff(1, 5, 4), slept.append, OSError, TimeoutError)
def flaky(good_from: int, kind: type[Exception] = OSError) -> int:
    calls.append(1)
    if len(calls) < good_from:
        raise kind("not yet")
    return len(calls)


assert flaky(3) == 3 and slept == [1, 2]
calls.clear()
slept.clear()
try:
    flaky(9)
except GaveUpError as error:
    assert isinstance(error.__cause__, OSError)
else:
    raise AssertionError("no error")
assert len(calls) == 4 and slept == [1, 2, 4]
calls.clear()
try:
    flaky(9, kind=KeyError)
except KeyError:
    slept.append(0)
assert slept == [1, 2, 4, 0]
assert len(calls) == 1
