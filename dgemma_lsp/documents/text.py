r"""A long text that is cheap to edit: immutable, in pieces of whole lines.

An edit makes a new text, which shares every piece that it does not touch. So a keystroke costs the same in any file,
and the old text stays valid. Only `\n`, `\r\n` and `\r` end a line, although Python's `splitlines` has further line
ends. No piece ends inside a line break. Offsets are code points.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import NamedTuple

_PIECE_CHARS = 4096
_LINE_BREAK = re.compile(r"\r\n|\n|\r")
_SURROGATE = re.compile("[\ud800-\udfff]")


class _Piece(NamedTuple):
    text: str
    breaks: int
    """Line breaks in it."""


class Text:
    """The text. Slices are plain strings; so is the whole of it, `str(text)`, which costs a copy."""

    __slots__ = ("_breaks", "_pieces", "_starts", "_whole")

    def __init__(self, text: str = "") -> None:
        self._set(_cut(_joined(text)))

    def _set(self, pieces: Iterable[_Piece]) -> None:
        self._pieces = list(pieces)
        self._starts = [0, *accumulate(len(piece.text) for piece in self._pieces)]
        self._breaks = [0, *accumulate(piece.breaks for piece in self._pieces)]
        self._whole: str | None = None

    def __len__(self) -> int:
        return self._starts[-1]

    def __str__(self) -> str:
        if self._whole is None:
            self._whole = "".join(piece.text for piece in self._pieces)
        return self._whole

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Text):
            return NotImplemented
        return self is other or self._pieces == other._pieces or (len(self) == len(other) and str(self) == str(other))

    __hash__ = None  # type: ignore[assignment]

    def __getitem__(self, part: slice) -> str:
        start, end, _ = part.indices(len(self))
        if start >= end:
            return ""
        first = self._piece_at(start)
        base = self._starts[first]
        if end <= self._starts[first + 1]:
            return self._pieces[first].text[start - base : end - base]
        last = self._piece_at(end - 1)
        return "".join(piece.text for piece in self._pieces[first : last + 1])[start - base : end - base]

    def pieces(self) -> Iterator[str]:
        """The text, cut between lines."""
        return (piece.text for piece in self._pieces)

    @property
    def line_count(self) -> int:
        """Lines; one more than line breaks."""
        return self._breaks[-1] + 1

    def line_start(self, line: int) -> int:
        """Offset of the first code point of a line, counted from 0; the end of the text for one that is not there."""
        if line >= self.line_count:
            return len(self)
        if line <= 0:
            return 0
        at = bisect_right(self._breaks, line - 1) - 1  # the piece that has the line break before it
        seen = self._breaks[at]
        for found in _LINE_BREAK.finditer(self._pieces[at].text):
            seen += 1
            if seen == line:
                return self._starts[at] + found.end()
        raise AssertionError("a piece has fewer line breaks than it says")

    def line_at(self, offset: int) -> int:
        """The line of an offset; between the two halves of a line break it is still the line that these end."""
        at = self._piece_at(offset)
        text, within = self._pieces[at].text if self._pieces else "", offset - self._starts[at]
        breaks = sum(found.end() <= within for found in _LINE_BREAK.finditer(text, 0, within + 1))
        return self._breaks[at] + breaks

    def replaced(self, start: int, end: int, new: str) -> Text:
        """The text with `new` in the place of `[start:end]`."""
        if not self._pieces:
            return Text(new)
        first, last = self._piece_at(start), self._piece_at(end)
        if first > 0 and start == self._starts[first] and self._pieces[first - 1].text.endswith("\r"):
            first -= 1  # what follows may begin with "\n": then the two are one line break
        before, after = self._starts[first], self._starts[last + 1]
        middle = _joined(self[before:start] + new + self[end:after])
        while last + 1 < len(self._pieces) and not _can_end(middle, self._pieces[last + 1].text):
            last += 1
            middle = _joined(middle + self._pieces[last].text)
        text = Text.__new__(Text)
        text._set([*self._pieces[:first], *_cut(middle), *self._pieces[last + 1 :]])
        return text

    def difference(self, other: Text) -> tuple[int, int, int]:
        """Where the two differ, as (start, end, other_end): `self[start:end]` corresponds to `other[start:other_end]`.

        The stretch holds the whole difference, but is not the smallest one: it grows to whole pieces.
        """
        ours, theirs = self._pieces, other._pieces
        most = min(len(ours), len(theirs))
        head = next((at for at in range(most) if ours[at] is not theirs[at]), most)
        tail = next((at for at in range(most - head) if ours[-1 - at] is not theirs[-1 - at]), most - head)
        return self._starts[head], self._starts[len(ours) - tail], other._starts[len(theirs) - tail]

    def _piece_at(self, offset: int) -> int:
        """The piece that holds the code point at `offset`; the last one for the end of the text."""
        return min(bisect_right(self._starts, offset) - 1, max(len(self._pieces) - 1, 0))


def _joined(text: str) -> str:
    """Join halves of one character that two edits brought."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass") if _SURROGATE.search(text) else text


def _can_end(text: str, following: str) -> bool:
    """Whether a piece may end between `text` and `following`. Small pieces may not, so that there are few pieces."""
    inside_break = text.endswith("\r") and following.startswith("\n")
    return len(text) >= _PIECE_CHARS // 2 and text.endswith(("\r", "\n")) and not inside_break


def _cut(text: str) -> list[_Piece]:
    pieces, start = [], 0
    while start < len(text):
        found = _LINE_BREAK.search(text, start + _PIECE_CHARS)
        end = found.end() if found else len(text)
        part = text[start:end]
        pieces.append(_Piece(part, part.count("\n") + part.count("\r") - part.count("\r\n")))
        start = end
    return pieces
