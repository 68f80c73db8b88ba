"""Context managers for measuring and for temporary changes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any


class Stopwatch:
    """Adds up the time spent in its `with` blocks."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started: float | None = None
        self.total = 0.0

    def __enter__(self) -> "Stopwatch":
        if self._started is not None:
            raise RuntimeError("the stopwatch is running already")
        self._started = self._clock()
        return self  # hole

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._started is not None
        self.total += self._clock() - self._started  # hole
        self._started = None


@contextmanager
def patched(target: dict[str, Any], **changes: Any) -> Iterator[dict[str, Any]]:
    """Values of a dictionary for the length of a block; afterwards all is as before, whatever happened."""
    missing = object()
    before = {key: target.get(key, missing) for key in changes}
    target.update(changes)
    try:
        yield target  # hole
    finally:
        for key, value in before.items():  # hole: 5 lines
            if value is missing:
                del target[key]
            else:
                target[key] = value


# ---- tests
ticks = iter([1.0, 3.5, 10.0, 10.5])
watch = Stopwatch(lambda: next(ticks))
with watch as same:
    assert same is watch
with watch:
    pass
assert watch.total == 3.0
settings = {"debug": False}
try:
    with patched(settings, debug=True, level=3) as inner:
        assert inner == {"debug": True, "level": 3}
        raise KeyError("boom")
except KeyError:
    pass
assert settings == {"debug": False}
