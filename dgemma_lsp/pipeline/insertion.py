"""The text around a cursor, as far as the clean-up rules need it."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from dgemma_model.request import Readable


@dataclass(frozen=True, slots=True)
class Place:
    """The text around a suggestion's place."""

    offset: int
    before: str
    """The cursor's line up to the cursor."""
    after: str
    """The rest of the cursor's line, without its line break."""
    above: str
    """The nearest line above that is not blank."""
    below: tuple[str, ...]
    """The lines below that are not blank, without trailing blanks."""
    newline: str
    indent: str
    """One level of indentation."""
    one_line: bool
    """Only one line may be inserted."""
    deleted: str = ""
    """What the user has just deleted here, with nothing done since."""


def place_at(source: Readable, offset: int, *, one_line: bool, deleted: str = "") -> Place:
    """The place of a cursor at `offset`. If text follows on its line, only one line may be inserted."""
    first = max(0, offset - _READ_CHARS)
    text = source[first : offset + _READ_CHARS]
    offset -= first
    start = max(text.rfind("\n", 0, offset), text.rfind("\r", 0, offset)) + 1
    line_break = LINE_BREAK.search(text, offset)
    end = line_break.start() if line_break else len(text)
    above = lines(text[max(0, start - _NEAR_CHARS) : start])
    below = lines(text[end : end + _NEAR_CHARS])
    after = text[offset:end]
    here = [text[start:offset] + "_"] if text.startswith("\t", start, offset) else []  # which spaces need not be meant
    return Place(
        offset=first + offset,
        before=text[start:offset],
        after=after,
        above=next((line for line in reversed(above) if line.strip()), ""),
        below=tuple(line.rstrip() for line in below if line.strip()),
        newline=newline(text, start, line_break),
        indent=indent_unit([*above, *here, *below]),
        one_line=one_line or bool(after.strip()),
        deleted=deleted,
    )


LINE_BREAK = re.compile(r"\r\n|\n|\r")


_NEAR_CHARS = 4000
"""How far above and below the cursor lines are looked at."""


_READ_CHARS = 64_000
"""How far the cursor's line and those lines are read at all."""


def lines(text: str) -> list[str]:
    return LINE_BREAK.split(text)


def newline(text: str, start: int, line_break: re.Match[str] | None) -> str:
    """The line break that ends the cursor's line, or for the last line the one before it."""
    before = text[max(0, start - 2) : start]
    found = line_break or LINE_BREAK.search(before if before.endswith("\r\n") else before[-1:])
    return found[0] if found else "\n"


def indent_unit(lines: list[str]) -> str:
    """A tab if most of the indented lines begin with one, else the commonest step inwards between lines."""
    blanks = [leading_blanks(line) for line in lines if line.strip()]
    indented = [blank for blank in blanks if blank]
    if sum(blank[0] == "\t" for blank in indented) * 2 > len(indented):
        return "\t"
    steps = Counter(len(deeper) - len(blank) for blank, deeper in pairwise(blanks) if len(deeper) > len(blank))
    return " " * (steps.most_common(1)[0][0] if steps else 4)


def leading_blanks(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))]
