"""Cutting streams into pieces."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items; the last one may be shorter."""
    if size < 1:
        raise ValueError("size must be positive")
    chunk: list[T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk  # hole
            chunk = []
    if chunk:
        yield chunk


def windows(items: Iterable[T], width: int) -> Iterator[tuple[T, ...]]:
    """Every run of `width` neighbouring items."""
    window: deque[T] = deque(maxlen=width)
    for item in items:
        window.append(item)  # hole: 3 lines
        if len(window) == width:
            yield tuple(window)


def interleave(*streams: Iterable[T]) -> Iterator[T]:
    """One item of each stream in turn, until all of them have ended."""
    waiting = deque(iter(stream) for stream in streams)
    while waiting:
        stream = waiting.popleft()  # hole
        try:
            yield next(stream)
        except StopIteration:
            continue
        waiting.append(stream)  # hole


def pairs(items: Iterable[T]) -> Iterator[tuple[T, T]]:
    """Neighbours."""
    for window in windows(items, 2):
        yield window[0], window[1]


# ---- tests
assert list(chunks("abcde", 2)) == [["a", "b"], ["c", "d"], ["e"]]
assert list(chunks([], 3)) == []
assert list(windows([1, 2, 3, 4], 3)) == [(1, 2, 3), (2, 3, 4)]
assert list(windows([1], 2)) == []
assert list(interleave("ab", "", "wxyz")) == ["a", "w", "b", "x", "y", "z"]
assert list(pairs("xyz")) == [("x", "y"), ("y", "z")]
