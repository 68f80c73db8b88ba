"""A memory of the text outside the prompt, the rest of the file and other files: what followed the same tokens there,
and which of its lines stands between lines like those around the hole. No torch.

Projects repeat themselves as files do, and a small model gains most from being told (nested cache n-gram models:
Hellendoorn & Devanbu 2017; figures in log/archive.md).
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from functools import lru_cache

from dgemma_model.prompt.tokenizer import Tokenizer

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


class IndexedText:
    """Some whole lines of a text: where each pair of tokens stands in them, and each word.

    Lines are counted without blank ones.
    """

    def __init__(self, text: str, ids: list[int], lines: Sequence[int] = ()) -> None:
        """`lines` are the numbers of the lines that the tokens are on, a line break being on the line behind it."""
        self.text, self.ids, self.lines = text, ids, lines
        places: dict[tuple[int, int], list[int]] = {}
        for at in range(1, len(ids) - 1):
            places.setdefault((ids[at - 1], ids[at]), []).append(at)
        # Tuples, for there are hundreds of thousands, and the garbage collector looks at lists again and again.
        self._places = {pair: tuple(found) for pair, found in places.items()}
        self._lines = [line for line in map(str.strip, text.split("\n")) if line]
        lines_with: dict[str, list[int]] = {}
        for at, line in enumerate(self._lines):
            for word in words(line):
                lines_with.setdefault(word, []).append(at)
        self._lines_with = {word: tuple(found) for word, found in lines_with.items() if len(found) < COMMON_WORD}

    def places(self, pair: tuple[int, int]) -> Sequence[int]:
        """Where in `ids` the second of these tokens stands behind the first and before another one, in order."""
        found = self._places.get(pair, ())
        return found if len(found) <= PLACES else found[-PLACES:]

    def shared_words(self, above: str, below: str) -> Counter[int]:
        """How many words the lines above and below a line, by its number, share with those given.

        In an order that is the same in every process, for ties are settled by it.
        """
        shared = Counter[int]()
        for word in sorted(words(above)):
            shared.update(at + 1 for at in self._lines_with.get(word, ()))
        for word in sorted(words(below)):
            shared.update(at - 1 for at in self._lines_with.get(word, ()))
        return shared

    def lines_between(self, above: str, below: str) -> Iterator[tuple[str, str, str]]:
        """The lines whose neighbours share most words with `above` and `below`, each as (above it, itself, below it),
        all stripped."""
        lines = self._lines
        for at, _ in self.shared_words(above, below).most_common(CANDIDATES):
            if 0 < at < len(lines) - 1:
                yield lines[at - 1], lines[at], lines[at + 1]


def words(line: str) -> frozenset[str]:
    """The names and keywords in a line: they say where it belongs."""
    return frozenset(_WORD.findall(line))


class TextIndex:
    """The pieces of texts that were read, latest used last."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pieces: OrderedDict[str, IndexedText] = OrderedDict()
        self._split = lru_cache(maxsize=1024)(split)
        self._chars = 0

    def read(self, texts: Sequence[str], limit: int | None = None) -> list[IndexedText]:
        """The pieces of `texts`, the nearest of which are the last; of what was not read before, at most `limit` code
        points, the rest being left out this time."""
        found: list[IndexedText] = []
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

    def _piece(self, text: str) -> IndexedText:
        ids, lines, number = list[int](), list[int](), -1
        for line in _LINE.findall(text):
            number += not line.isspace()
            ids += (tokens := self._tokenizer.encode_by_line(line))
            lines += [number] * len(tokens)
        return IndexedText(text, ids, lines)


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
