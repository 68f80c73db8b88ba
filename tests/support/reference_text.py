"""What a document's text must be after random edits, computed the slow and obvious way: character by character."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

PIECES = [
    *("a", "b c", "  ", "()", "def f(x):", "\t", "\x00"),
    *("\n", "\r\n", "\r", "\n\n", "\r\r\n", "\n\r", "x\ny\r\nz\rw"),
    *("\f", "\v", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029", "a\fb"),
    *("é", "ß", "€", "字", "\U0001f600", "👩‍👩‍👧", "e\u0301", "\ufeff"),
    *("\ud83d", "\ude00", "\ud800"),  # halves of characters: some clients cut strings there
]
ENCODINGS = ("utf-8", "utf-16", "utf-32")


@dataclass(frozen=True)
class RandomEdit:
    """One change, as LSP has it: positions, or None for the whole text."""

    start: tuple[int, int] | None
    end: tuple[int, int] | None
    text: str

    def lsp(self) -> dict[str, object]:
        if self.start is None or self.end is None:
            return {"text": self.text}
        start, end = ({"line": line, "character": column} for line, column in (self.start, self.end))
        return {"range": {"start": start, "end": end}, "text": self.text}


def random_edits(seed: int, count: int, encoding: str) -> Iterator[tuple[RandomEdit, str]]:
    """`count` edits of a document that begins empty, each with the text that it leads to."""
    chance = random.Random(seed)
    text = ""
    for _ in range(count):
        inserted = "".join(chance.choices(PIECES, k=chance.choice((0, 1, 1, 1, 2, 5))))
        if chance.random() < 0.02:
            edit = RandomEdit(None, None, inserted)
            text = joined(inserted)
        else:
            offsets = sorted(chance.randint(0, len(text)) for _ in range(2))
            if chance.random() < 0.6 and len(text) < 200:
                offsets[1] = offsets[0]
            start, end = sorted(shaken(position_of(text, offset, encoding), chance) for offset in offsets)
            edit = RandomEdit(start, end, inserted)
            first, last = offset_of(text, start, encoding), offset_of(text, end, encoding)
            text = joined(text[:first] + inserted + text[last:])
        yield edit, text


def shaken(position: tuple[int, int], chance: random.Random) -> tuple[int, int]:
    """Mostly the same position; sometimes one that no text has, or that lies inside a character."""
    line, column = position
    match chance.randrange(12):
        case 0:
            return line, column + 1
        case 1:
            return line, column + 1000
        case 2:
            return line + 1000, column
        case _:
            return position


def offset_of(text: str, position: tuple[int, int], encoding: str) -> int:
    """Walk to the position's line, then along it for as long as whole characters fit."""
    line, column = position
    index = 0
    for _ in range(line):
        while index < len(text) and text[index] not in "\r\n":
            index += 1
        if index == len(text):
            return index
        index += 2 if text[index : index + 2] == "\r\n" else 1
    while index < len(text) and text[index] not in "\r\n" and column >= width(text[index], encoding):
        column -= width(text[index], encoding)
        index += 1
    return index


def position_of(text: str, offset: int, encoding: str) -> tuple[int, int]:
    """Count line breaks and what follows the last one; between `\\r` and `\\n` is before both."""
    line = column = index = 0
    while index < offset:
        if text[index : index + 2] == "\r\n" and offset == index + 1:
            break
        if text[index] in "\r\n":
            index += 2 if text[index : index + 2] == "\r\n" else 1
            line, column = line + 1, 0
        else:
            column += width(text[index], encoding)
            index += 1
    return line, column


def width(character: str, encoding: str) -> int:
    """Units that one code point takes."""
    code = ord(character)
    match encoding:
        case "utf-8":
            return 1 + (code > 0x7F) + (code > 0x7FF) + (code > 0xFFFF)
        case "utf-16":
            return 1 + (code > 0xFFFF)
        case _:
            return 1


def joined(text: str) -> str:
    """Two surrogates side by side become the character that they are halves of."""

    def join(pair: re.Match[str]) -> str:
        high, low = pair[0]
        return chr(0x10000 + ((ord(high) - 0xD800) << 10) + ord(low) - 0xDC00)

    return re.sub("[\ud800-\udbff][\udc00-\udfff]", join, text)
