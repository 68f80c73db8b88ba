"""Lines of the project whose neighbours are like those of the hole."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from typing import NamedTuple

from dgemma_model.project.text_index import IndexedText

_WORD = re.compile(r"\w+|\s+|[^\w\s]")


def lines_around(prefix: str, suffix: str) -> tuple[str, str]:
    """The lines above and below the cursor's line that are not blank, stripped; empty where there is none."""
    before, after = prefix.split("\n"), suffix.split("\n")
    above = next((line for line in reversed(before[:-1]) if line.strip()), "")
    return above.strip(), next((line for line in after[1:] if line.strip()), "").strip()


class SimilarLine(NamedTuple):
    """The text that another line has in the place of the hole."""

    text: str
    likeness: float
    """Likeness of that line's neighbours to those of the cursor's line, 0 to 2, and a little more if it is near."""


def similar_lines(prefix: str, suffix: str, project: Sequence[IndexedText] = (), count: int = 1) -> list[SimilarLine]:
    """Texts for the hole from lines near it or of the `project` whose neighbours are most like the cursor's.

    The most similar comes first, and none comes twice. Only lines that begin and end as the cursor's line does count.
    """
    before, after = prefix.split("\n"), suffix.split("\n")
    begun, ended = before[-1].lstrip(), after[0].rstrip()
    above, below = lines_around(prefix, suffix)
    found: dict[str, float] = {}

    def consider(over: str, line: str, under: str, nearness: float) -> None:
        rest = line[len(begun) : len(line) - len(ended)]
        if not line.startswith(begun) or not line.endswith(ended) or not rest:
            return
        least = found.get(rest, -1.0)
        if len(found) >= count:
            least = max(least, min(found.values()))
        if _at_most(over, above) + _at_most(under, below) + nearness > least:
            likeness = _similarity(over, above) + _similarity(under, below) + nearness
            if likeness > least:
                found[rest] = likeness
        if len(found) > count:
            del found[min(found, key=found.__getitem__)]

    for lines in (before[:-1], after[1:]):
        stripped = ["", *map(str.strip, lines), ""]
        for at in range(len(lines), 0, -1):
            consider(stripped[at - 1], stripped[at], stripped[at + 1], 0.01 + 0.01 * at / len(lines))
    for over, line, under in _lines_between(tuple(project), above, below):
        consider(over, line, under, 0.0)
    return sorted((SimilarLine(*each) for each in found.items()), key=lambda each: -each.likeness)


@lru_cache(maxsize=4)
def _lines_between(pieces: tuple[IndexedText, ...], above: str, below: str) -> list[tuple[str, str, str]]:
    """The lines of all pieces, the nearest piece first. Cached, because every keystroke in a line asks the same."""
    return [found for piece in reversed(pieces) for found in piece.lines_between(above, below)]


@lru_cache(maxsize=1 << 14)
def _similarity(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b, autojunk=False).ratio() if a and b else 0.0


def _at_most(a: str, b: str) -> float:
    """An upper bound of `_similarity`, from the lengths alone."""
    return 2 * min(len(a), len(b)) / (len(a) + len(b)) if a and b else 0.0


def most_similar_line(prefix: str, suffix: str, project: Sequence[IndexedText] = ()) -> str:
    """The first of `similar_lines`, or an empty text."""
    found = similar_lines(prefix, suffix, project)
    return found[0].text if found else ""
