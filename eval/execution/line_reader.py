"""Reading text files line by line, with a look ahead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TextIO


class LineReader:
    """Lines of a file without their ends; `number` is that of the line last read."""

    def __init__(self, source: TextIO) -> None:
        self._source = source
        self._waiting: str | None = None
        self.number = 0

    def peek(self) -> str | None:
        """The next line, which stays unread; nothing at the end."""
        if self._waiting is None:
            line = self._source.readline()  # hole: 2 lines
            self._waiting = line.rstrip("\n") if line else None
        return self._waiting

    def read(self) -> str:
        """The next line; raises `EOFError` at the end."""
        line = self.peek()
        if line is None:  # hole: 2 lines
            raise EOFError(f"no line after line {self.number}")
        self._waiting = None
        self.number += 1  # hole
        return line

    def skip_blank(self) -> None:
        """Go on to the next line with something in it."""
        while self.peek() is not None and not self.peek().strip():
            self.read()


def paragraphs(source: TextIO) -> Iterator[str]:
    """Blocks of lines between blank ones, each joined by blanks."""
    reader = LineReader(source)
    reader.skip_blank()
    while reader.peek() is not None:
        lines = []
        while reader.peek():
            lines.append(reader.read().strip())
        yield " ".join(lines)  # hole: 2 lines
        reader.skip_blank()


# ---- tests
from io import StringIO  # noqa: E402

reader = LineReader(StringIO("one\n\nthree"))
assert reader.peek() == "one" and reader.number == 0
assert [reader.read(), reader.read(), reader.read()] == ["one", "", "three"] and reader.number == 3
assert reader.peek() is None
try:
    reader.read()
except EOFError:
    assert reader.number == 3
else:
    raise AssertionError("no error")
assert list(paragraphs(StringIO("\n a\nb\n\n\nc\n"))) == ["a b", "c"]
assert list(paragraphs(StringIO(""))) == []
