"""A singly linked list, as a history of pages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass
class Link:
    """One value, and what follows it."""

    value: str
    next: Link | None = None


class Chain:
    """Values in order; adding to the front and iterating are cheap."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self.head: Link | None = None
        for value in reversed(list(values)):
            self.push(value)

    def push(self, value: str) -> None:
        """Put a value in front."""
        self.head = Link(value, self.head)  # hole

    def pop(self) -> str:
        """Remove and return the first value."""
        if self.head is None:
            raise IndexError("pop from an empty chain")
        value = self.head.value
        self.head = self.head.next  # hole
        return value

    def __iter__(self) -> Iterator[str]:
        link = self.head
        while link is not None:  # hole: 3 lines
            yield link.value
            link = link.next

    def __len__(self) -> int:
        return sum(1 for _ in self)  # hole

    def reverse(self) -> None:
        """Turn the chain round in place."""
        before: Link | None = None
        link = self.head
        while link is not None:
            link.next, before, link = before, link, link.next  # hole
        self.head = before

    def drop(self, unwanted: str) -> int:
        """Remove every such value; returns how many there were."""
        kept = [value for value in self if value != unwanted]
        dropped = len(self) - len(kept)
        self.head = Chain(kept).head
        return dropped


# ---- tests
chain = Chain("abc")
assert list(chain) == ["a", "b", "c"] and len(chain) == 3
chain.push("z")
assert chain.pop() == "z" and chain.pop() == "a"
assert list(chain) == ["b", "c"]
chain = Chain("abca")
chain.reverse()
assert list(chain) == ["a", "c", "b", "a"]
assert chain.drop("a") == 2 and list(chain) == ["c", "b"]
assert list(Chain()) == [] and len(Chain()) == 0
try:
    Chain().pop()
except IndexError:
    pass
else:
    raise AssertionError("no error")
