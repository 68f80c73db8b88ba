"""A memory of the text outside the prompt, the rest of the file and other files: what followed the same tokens there,
and which of its lines stands between lines like those around the hole. No torch.

Projects repeat themselves as files do, and a small model gains most from being told (nested cache n-gram models:
Hellendoorn & Devanbu 2017; figures in LOG.md).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache

from dgemma_model.tokenizer import Tokenizer

PIECE_CHARS = 8_000
"""Texts are taken in so many code points at a time, so that a change costs as much as the piece it is in."""
MOST_CHARS = 2_000_000
"""Code points that are remembered; the pieces that were not asked for longest go first."""
PLACES = 64
"""Most places of a pair of tokens that are looked at in a piece, the latest."""
COMMON_WORD = 20
"""A word on so many lines of a piece says nothing about where a line belongs."""
CANDIDATES = 3
"""Lines of a piece that are worth a closer look."""

_LINE = re.compile(r"\n+[^\n]*|[^\n]+")
_WORD = re.compile(r"[^\W\d]\w+")


class Piece:
    """Some whole lines of a text: where each pair of tokens stands in them, and each word.

    Lines are counted without blank ones.
    """

    def __init__(self, text: str, ids: list[int], line_starts: Sequence[int] = ()) -> None:
        """`line_starts` are where in `ids` the lines begin, with the line breaks before them."""
        self.text, self.ids = text, ids
        self._line_starts = line_starts
        self._places: dict[tuple[int, int], list[int]] = {}
        for at in range(1, len(ids)):
            self._places.setdefault((ids[at - 1], ids[at]), []).append(at)

    def places(self, before_last: int, last: int) -> list[int]:
        """Where in `ids` the second of these tokens stands behind the first, in order."""
        return self._places.get((before_last, last), [])[-PLACES:]

    def line_of(self, at: int) -> int:
        """Number of the line that the token at `ids[at]` is on."""
        return bisect_right(self._line_starts, at) - 1

    def shared_words(self, above: str, below: str) -> Counter[int]:
        """How many words the lines above and below a line, by its number, share with those given."""
        _, lines_with = self._lines
        shared = Counter[int]()
        for word in words(above):
            shared.update(at + 1 for at in lines_with.get(word, ()))
        for word in words(below):
            shared.update(at - 1 for at in lines_with.get(word, ()))
        return shared

    def lines_between(self, above: str, below: str) -> Iterator[tuple[str, str, str]]:
        """The lines whose neighbours share most words with `above` and `below`, each as (above it, itself, below it),
        all stripped."""
        lines, _ = self._lines
        for at, _ in self.shared_words(above, below).most_common(CANDIDATES):
            if 0 < at < len(lines) - 1:
                yield lines[at - 1], lines[at], lines[at + 1]

    @cached_property
    def _lines(self) -> tuple[list[str], dict[str, list[int]]]:
        lines = [line for line in map(str.strip, self.text.split("\n")) if line]
        lines_with: dict[str, list[int]] = {}
        for at, line in enumerate(lines):
            for word in words(line):
                lines_with.setdefault(word, []).append(at)
        return lines, {word: places for word, places in lines_with.items() if len(places) < COMMON_WORD}


def words(line: str) -> frozenset[str]:
    """The names and keywords in a line: they say where it belongs."""
    return frozenset(_WORD.findall(line))


class Elsewhere:
    """The pieces of texts that were read, latest used last."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pieces: OrderedDict[str, Piece] = OrderedDict()
        self._split = lru_cache(maxsize=1024)(split)
        self._chars = 0

    def read(self, texts: Sequence[str], limit: int | None = None) -> list[Piece]:
        """The pieces of `texts`, the nearest of which are the last; of what was not read before, at most `limit` code
        points, the rest being left out this time."""
        found: list[Piece] = []
        for text in reversed(texts):
            for part in reversed(self._split(text)):
                piece = self._pieces.get(part)
                if piece is None:
                    if limit is not None:
                        limit -= len(part)
                        if limit < 0:
                            continue
                    piece = self._pieces[part] = self._piece(part)
                    self._chars += len(part)
                self._pieces.move_to_end(part)
                found.append(piece)
        while self._chars > MOST_CHARS:
            forgotten, _ = self._pieces.popitem(last=False)
            self._chars -= len(forgotten)
        return found[::-1]

    def _piece(self, text: str) -> Piece:
        ids, line_starts = list[int](), list[int]()
        for line in _LINE.findall(text):
            if not line.isspace():
                line_starts.append(len(ids))
            ids += self._tokenizer.encode_by_line(line)
        return Piece(text, ids, line_starts)


def split(text: str) -> tuple[str, ...]:
    """`text` in pieces of whole lines, as far as lines are shorter than `PIECE_CHARS`."""
    parts, at = [], 0
    while at < len(text):
        end = at + PIECE_CHARS
        if end < len(text):
            end = text.rfind("\n", at + 1, end) if text.rfind("\n", at + 1, end) > at else end
        parts.append(text[at:end])
        at = end
    return tuple(parts)
