r"""Our own text store: what the editor's documents contain, exact to the character.

Positions are LSP's: a line and a column in the units that client and server agreed on. Only `\n`, `\r\n` and
`\r` end a line, whatever Python's `splitlines` thinks of form feeds. Offsets, as everywhere, are code points.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from dgemma_lsp.edits import Snapshot
from dgemma_model import syntax

logger = logging.getLogger(__name__)

Encoding = Literal["utf-8", "utf-16", "utf-32"]

MAX_PARSED_CHARS = 1_000_000
"""Longer documents have no tree: parsing one from scratch takes a fifth of a second and more."""

_UNIT_BYTES = {"utf-8": 1, "utf-16": 2, "utf-32": 4}
_SURROGATE = re.compile("[\ud800-\udfff]")


class Position(NamedTuple):
    """A place in a document, both counted from 0; `character` in units of the agreed encoding."""

    line: int
    character: int


@dataclass(frozen=True, slots=True)
class TextChange:
    """`text` replaces what is between the two positions of `range`, or everything where that is None."""

    text: str
    range: tuple[Position, Position] | None = None


class Document:
    """One open document, as a list of lines, so that an edit costs the lines it touches."""

    def __init__(self, uri: str, language: str, version: int | None, text: str) -> None:
        self.uri = uri
        self.language = language
        self.version = version
        self._lines = split_lines(text)
        self._text: str | None = None

    @property
    def text(self) -> str:
        """The whole text. Joined when it is asked for, then kept until the next change."""
        if self._text is None:
            self._text = "".join(self._lines)
        return self._text

    def change(self, change: TextChange, encoding: Encoding) -> None:
        """Apply one change; positions outside the text are moved to its nearest end."""
        self._text = None
        if change.range is None:
            self._lines = split_lines(change.text)
            return
        (first, start), (last, end) = sorted(self._locate(position, encoding) for position in change.range)
        head, tail = self._lines[first][:start], self._lines[last][end:]
        if not head and first > 0 and self._lines[first - 1].endswith("\r"):
            first -= 1  # what follows may begin with "\n": then the two are one line break
            head = self._lines[first]
        lines = split_lines(head + change.text + tail)
        if last + 1 < len(self._lines):
            lines.pop()  # nothing stands after the final line break but the line that follows anyway
        self._lines[first : last + 1] = lines

    def offset_at(self, position: Position, encoding: Encoding) -> int:
        """Code points before `position`; a position outside the text is moved to its nearest end."""
        line, column = self._locate(position, encoding)
        return sum(map(len, self._lines[:line])) + column

    def _locate(self, position: Position, encoding: Encoding) -> tuple[int, int]:
        """Line and column in code points: inside the text, before the line break, between characters."""
        if position.line >= len(self._lines):
            return len(self._lines) - 1, len(self._lines[-1])
        content = self._lines[position.line].rstrip("\r\n")
        return position.line, _code_points(content, position.character, encoding)


class Documents:
    """Every open document. For the event loop's thread only; other threads get snapshots."""

    def __init__(self, encoding: Encoding = "utf-16") -> None:
        self.encoding = encoding
        self._open: dict[str, Document] = {}

    def open(self, uri: str, language: str, version: int | None, text: str) -> None:
        """Take a document in, in place of one with the same uri."""
        self._open[uri] = Document(uri, language, version, text)

    def change(self, uri: str, version: int | None, changes: Sequence[TextChange]) -> None:
        """Apply `changes` in order. Changes to a document that is not open are logged and ignored."""
        document = self._open.get(uri)
        if document is None:
            logger.warning("ignored a change to a document that is not open")
            return
        for change in changes:
            document.change(change, self.encoding)
        document.version = version

    def close(self, uri: str) -> None:
        """Forget a document; one that is not open is none to forget."""
        self._open.pop(uri, None)

    def get(self, uri: str) -> Document | None:
        """The document as it is now, or None if it is not open."""
        return self._open.get(uri)

    def snapshot(self, uri: str, position: Position) -> Snapshot | None:
        """The document at this moment, without a tree (see `parsed`), or None if it is not open."""
        document = self._open.get(uri)
        if document is None:
            return None
        offset = document.offset_at(position, self.encoding)
        return Snapshot(uri, document.version, document.language, document.text, offset)


def parsed(snapshot: Snapshot) -> Snapshot:
    """The snapshot with its syntax tree. Takes about 0.2 ms per 1,000 characters: not for the event loop."""
    if len(snapshot.text) > MAX_PARSED_CHARS:
        return snapshot
    return replace(snapshot, tree=syntax.parse(snapshot.language, snapshot.text))


def split_lines(text: str) -> list[str]:
    """The lines of `text` with their line breaks. The last has none: it is empty after a final line break."""
    if _SURROGATE.search(text):  # two edits may bring the two halves of one character
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    lines = list(io.StringIO(text, newline=""))
    if not lines or lines[-1].endswith(("\r", "\n")):
        lines.append("")
    return lines


def position_at(text: str, offset: int, encoding: Encoding) -> Position:
    """The position of a code point offset in `text`; inverse of `Document.offset_at`."""
    breaks = text.count("\n", 0, offset) + text.count("\r", 0, offset) - text.count("\r\n", 0, offset)
    line_start = max(text.rfind("\n", 0, offset), text.rfind("\r", 0, offset)) + 1
    return Position(breaks, _units(text[line_start:offset], encoding))


def _units(text: str, encoding: Encoding) -> int:
    """Length of `text` in units of `encoding`."""
    if encoding == "utf-32" or text.isascii():
        return len(text)
    return len(_encode(text, encoding)) // _UNIT_BYTES[encoding]


def _code_points(content: str, units: int, encoding: Encoding) -> int:
    """How many whole characters of `content` lie within its first `units` units."""
    if encoding == "utf-32" or content.isascii():
        return min(units, len(content))
    data = _encode(content, encoding)
    end = min(units * _UNIT_BYTES[encoding], len(data))
    if encoding == "utf-8":
        while end < len(data) and data[end] & 0xC0 == 0x80:  # inside a sequence of bytes
            end -= 1
    elif 0 < end < len(data) and data[end - 1] & 0xFC == 0xD8 and data[end + 1] & 0xFC == 0xDC:
        end -= 2  # inside a surrogate pair
    return len(_decode(data[:end], encoding))


def _encode(text: str, encoding: Encoding) -> bytes:
    return text.encode("utf-16-le" if encoding == "utf-16" else encoding, "surrogatepass")


def _decode(data: bytes, encoding: Encoding) -> str:
    return data.decode("utf-16-le" if encoding == "utf-16" else encoding, "surrogatepass")
