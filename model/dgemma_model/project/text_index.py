"""An index of project text: the rest of the file and other files. No torch.

It answers what followed the same tokens there, and which lines have neighbours like those of the hole. Projects repeat
themselves as files do, and a small model gains most from that (nested cache n-gram models: Hellendoorn & Devanbu 2017;
figures in log/archive.md).
"""

from __future__ import annotations

import itertools
import re
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from functools import lru_cache

from dgemma_model.prompt.tokenizer import Tokenizer

PIECE_CHARS = 8_000
"""Code points of a piece. Texts are indexed in pieces, so that a change costs one piece."""
MOST_CHARS = 2_000_000
"""Code points that are kept; the least recently used pieces are dropped first."""
PLACES = 64
"""Most places of a pair of tokens in a piece that are looked at; the last ones are taken."""
COMMON_WORD = 20
"""A word on so many lines of a piece is ignored: it does not tell where a line belongs."""
CANDIDATES = 3
"""Lines of a piece that are worth a closer look."""

_LINE = re.compile(r"\n+[^\n]*|[^\n]+")
_WORD = re.compile(r"[^\W\d]\w+")


class IndexedText:
    """Some whole lines of a text, with the places of each pair of tokens and of each word.

    Blank lines are not counted.
    """

    def __init__(self, text: str, ids: list[int], lines: Sequence[int] = ()) -> None:
        """`lines` has the line number of each token; a line break belongs to the line that it begins."""
        self.text, self.ids, self.lines = text, ids, lines
        places: dict[tuple[int, int], list[int]] = {}
        for at in range(1, len(ids) - 1):
            places.setdefault((ids[at - 1], ids[at]), []).append(at)
        # Tuples: there are hundreds of thousands, and the garbage collector would look at lists again and again.
        self._places = {pair: tuple(found) for pair, found in places.items()}
        self._lines = [line for line in map(str.strip, text.split("\n")) if line]
        lines_with: dict[str, list[int]] = {}
        for at, line in enumerate(self._lines):
            for word in words(line):
                lines_with.setdefault(word, []).append(at)
        self._lines_with = {word: tuple(found) for word, found in lines_with.items() if len(found) < COMMON_WORD}

    def places(self, pair: tuple[int, int]) -> Sequence[int]:
        """The indices in `ids` of the second token of `pair` directly after the first, if a further token follows; in
        order."""
        found = self._places.get(pair, ())
        return found if len(found) <= PLACES else found[-PLACES:]

    def shared_words(self, above: str, below: str) -> Counter[int]:
        """From a line's number to how many words its neighbours share with `above` and `below`.

        The order is the same in every process, because it settles ties.
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
    """The names and keywords in a line; they tell where it belongs."""
    return frozenset(_WORD.findall(line))


class TextIndex:
    """Indexed pieces of texts, the latest used last."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pieces: OrderedDict[str, IndexedText] = OrderedDict()
        self._split = lru_cache(maxsize=1024)(split)
        self._chars = 0

    def read(self, texts: Sequence[str], limit: int | None = None) -> list[IndexedText]:
        """The indexed pieces of `texts`, the nearest last. At most `limit` code points are indexed anew; other new
        pieces are left out this time."""
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
        """`text` in the tokens that a prompt has of it, or else copies would not fit behind the prompt's tokens."""
        tokenizer, lines = self._tokenizer, _LINE.findall(text)
        if tokenizer.cuts_at_lines:
            ids = [token for line in lines for token in tokenizer.encode_by_line(line)]
        else:  # a token may hold the end of a line and the line break after it
            ids = tokenizer.encode(text)
        numbers = [count - 1 for count in itertools.accumulate(not line.isspace() for line in lines)]
        ends = list(itertools.accumulate(len(line.encode("utf-8", "replace")) for line in lines))
        starts = itertools.accumulate((len(tokenizer.token_bytes[token]) for token in ids[:-1]), initial=0)
        return IndexedText(text, ids, [numbers[min(bisect_right(ends, start), len(ends) - 1)] for start in starts])


def split(text: str) -> tuple[str, ...]:
    """`text` in pieces of whole lines; a line longer than `PIECE_CHARS` is cut."""
    parts, at = [], 0
    while at < len(text):
        end = at + PIECE_CHARS
        if end < len(text):
            end = text.rfind("\n", at + 1, end) if text.rfind("\n", at + 1, end) > at else end
        parts.append(text[at:end])
        at = end
    return tuple(parts)
