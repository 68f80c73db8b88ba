r"""Our own text store: what the editor's documents contain, exact to the character.

Positions are LSP's: a line and a column in the units that client and server agreed on. Only `\n`, `\r\n` and
`\r` end a line, whatever Python's `splitlines` thinks of form feeds. Offsets, as everywhere, are code points.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

from dgemma_lsp.documents.edits import NO_SURROUNDINGS, Snapshot, Surroundings
from dgemma_lsp.documents.text import Text
from dgemma_model.request import Readable
from dgemma_model.source import bounded, syntax
from dgemma_model.source.syntax import LastTree, SyntaxTree

logger = logging.getLogger(__name__)

Encoding = Literal["utf-8", "utf-16", "utf-32"]

PARSED_CHARS = 36_000
"""Longer documents are parsed around the cursor only: to parse costs time in proportion, even with little to do."""
_AROUND_CHARS = 12_288
"""How much of such a document is parsed at least, before the cursor and after it."""
MAX_PARSED_CHARS = 1_000_000
"""Longer documents are never parsed as a whole: that takes a fifth of a second and more."""

_DELETED_CHARS = 2_000
"""A longer deletion is not remembered: nobody expects it to be suggested again."""
_APART_CHARS = 1_000
"""Edits nearer to each other than that count as one place, and"""
_EDITS_KEPT = 4
"""so many places are remembered."""
_OTHERS_KEPT = 4
"""Other open documents among a snapshot's surroundings."""

_OUTERMOST = re.compile(r"^[^\W\d]|^[@<\[{]", re.MULTILINE)
"""The beginning of a line that is likely to be at the outermost level."""
_UNIT_BYTES = {"utf-8": 1, "utf-16": 2, "utf-32": 4}


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
    """One open document."""

    def __init__(self, uri: str, language: str, version: int | None, text: str) -> None:
        self.uri = uri
        self.language = language
        self.version = version
        self.source = Text(text)
        self.last_tree = LastTree()
        """For the model's thread; see `parsed`."""
        self.deleted = ""
        self.edited_at: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """The whole text, which is a copy."""
        return str(self.source)

    def snapshot(self, offset: int) -> Snapshot:
        """The document at this moment, with the cursor at `offset`."""
        return Snapshot(self.uri, self.version, self.language, self.source, offset)

    def change(self, change: TextChange, encoding: Encoding) -> None:
        """Apply one change; positions outside the text are moved to its nearest end."""
        if change.range is None:
            self.source = Text(change.text)
            self.deleted, self.edited_at = "", ()
            return
        start, end = sorted(self.offset_at(position, encoding) for position in change.range)
        self._remember(start, end, change.text)
        self.source = self.source.replaced(start, end, change.text)

    def _remember(self, start: int, end: int, text: str) -> None:
        """What was deleted here in a row, and the latest places of edits, each far from the others."""
        last = self.edited_at[0] if self.edited_at else -1
        if text or end - start > _DELETED_CHARS:
            self.deleted = ""
        elif end == last:  # backwards, key by key
            self.deleted = self.source[start:end] + self.deleted
        else:
            self.deleted = (self.deleted if start == last else "") + self.source[start:end]
        moved = (at if at < end else at + start - end + len(text) for at in self.edited_at)
        here = start + len(text)
        self.edited_at = (here, *(at for at in moved if abs(at - here) > _APART_CHARS))[:_EDITS_KEPT]

    def offset_at(self, position: Position, encoding: Encoding) -> int:
        """Code points before `position`; a position outside the text is moved to its nearest end."""
        if position.line >= self.source.line_count:
            return len(self.source)
        start = self.source.line_start(position.line)
        content = self.source[start : self.source.line_start(position.line + 1)].rstrip("\r\n")
        return start + _code_points(content, position.character, encoding)


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
        self._open[uri] = self._open.pop(uri)  # the last edited one is last

    def close(self, uri: str) -> None:
        """Forget a document; one that is not open is none to forget."""
        self._open.pop(uri, None)

    @property
    def uris(self) -> Collection[str]:
        """Of all that are open."""
        return self._open.keys()

    def get(self, uri: str) -> Document | None:
        """The document as it is now, or None if it is not open."""
        return self._open.get(uri)

    def snapshot(self, uri: str, position: Position) -> Snapshot | None:
        """The document at this moment, or None if it is not open."""
        document = self._open.get(uri)
        return None if document is None else document.snapshot(document.offset_at(position, self.encoding))

    def surroundings(self, snapshot: Snapshot) -> Surroundings:
        """What is known of the edits around a snapshot of this moment, and of the other open documents."""
        document = self._open.get(snapshot.uri)
        if document is None:
            return NO_SURROUNDINGS
        here = document.edited_at[:1] == (snapshot.offset,)
        return Surroundings(
            deleted=document.deleted if here else "",
            edited_at=tuple(at for at in document.edited_at if abs(at - snapshot.offset) > _APART_CHARS),
            others=tuple(self._others(document)),
        )

    def last_tree(self, uri: str) -> LastTree:
        """Where `parsed` finds the tree that it last made of a document; an empty one for a document not open."""
        document = self._open.get(uri)
        return LastTree() if document is None else document.last_tree

    def _others(self, asked: Document) -> Iterator[Snapshot]:
        """The other open documents that may be worth knowing, the last edited first."""
        others = (other for other in reversed(self._open.values()) if other is not asked)
        for other in islice((other for other in others if other.language == asked.language), _OTHERS_KEPT):
            yield other.snapshot(other.edited_at[0] if other.edited_at else 0)


class ParsedSnapshot(NamedTuple):
    """A snapshot and its syntax tree."""

    snapshot: Snapshot
    tree: SyntaxTree | None
    """That of the text around the cursor, or of all text. None for a language without a grammar, and for a text that
    takes too long to parse."""


def parsed(snapshot: Snapshot, last: LastTree | None = None) -> ParsedSnapshot:
    """The snapshot with the tree of the text around its cursor, none where that takes too long (`bounded.PARSE_S`).

    `last` remembers the tree that was made before of the same document, and is left with this one. The tree then takes
    the time of what has changed. Without one it takes about 0.2 ms per 1,000 characters: not for the event loop.
    """
    source, last = snapshot.source, last or LastTree()
    start, end = _stretch(source, snapshot.offset)
    part: tuple[int, int] | None = (start, end)
    if _may_be_in_string(source, start) or _may_be_in_string(source, end):

        def is_known(before: Readable) -> bool:
            if not isinstance(before, Text):
                return False
            first, _, last_changed = before.difference(source)
            return start <= first and last_changed <= end

        part = last.part_outside_strings(snapshot.language, source, start, end, is_known=is_known)
    tree = last.update(snapshot.language, source[part[0] : part[1]], part[0]) if part else None
    return ParsedSnapshot(snapshot, tree)


_QUOTES = ('"""', "'''", "`")
_BRACKETS = (("/*", "*/"), ("<!--", "-->"), ("[[", "]]"), ("=begin", "=end"))
"""What long strings and comments begin and end with, in whatever language."""


def _may_be_in_string(source: Text, offset: int) -> bool:
    """Whether a string or comment of several lines may be open at `offset`: only then is the whole text parsed, which
    takes time and a copy of it. Counts what opens and closes such ones."""
    quotes, opened, at = [0] * len(_QUOTES), [0] * len(_BRACKETS), 0
    for piece in source.pieces():
        text = piece if at + len(piece) <= offset else piece[: offset - at]
        for number, quote in enumerate(_QUOTES):
            quotes[number] += text.count(quote)
        for number, (opening, closing) in enumerate(_BRACKETS):
            opened[number] += text.count(opening) - text.count(closing)
        at += len(piece)
        if at >= offset:
            break
    return any(count % 2 for count in quotes) or any(opened)


def parsed_whole(
    snapshot: Snapshot, like: SyntaxTree | None = None, *, limit_s: float = bounded.PARSE_S
) -> ParsedSnapshot:
    """The snapshot with the tree of all its text, for what must not overlook anything; none of a very long one, and
    none where it takes more than `limit_s` of CPU time.

    `like` is an earlier tree of the document: then this one takes the time of what has changed.
    """
    if len(snapshot.source) > MAX_PARSED_CHARS:
        return ParsedSnapshot(snapshot, None)
    return ParsedSnapshot(snapshot, syntax.parse(snapshot.language, snapshot.text, like=like, limit_s=limit_s))


def is_too_complex(parsed: ParsedSnapshot) -> bool:
    """Whether there is no tree because it would have taken too long to parse."""
    return parsed.tree is None and syntax.has_grammar_for(parsed.snapshot.language)


def _stretch(source: Text, offset: int) -> tuple[int, int]:
    """What is parsed for a cursor at `offset`. Both ends are sticky: typing moves them far or not at all."""
    length, grid = len(source), _AROUND_CHARS // 2
    if length <= PARSED_CHARS:
        return 0, length
    start = max(offset - _AROUND_CHARS, 0) // grid * grid
    end = length - max(length - offset - _AROUND_CHARS, 0) // grid * grid
    above = list(_OUTERMOST.finditer(source[max(start - _AROUND_CHARS, 0) : start]))
    below = _OUTERMOST.search(source[end : end + _AROUND_CHARS], 1)
    if above:
        start = max(start - _AROUND_CHARS, 0) + above[-1].start()
    return start, end + below.start() if below else end


def position_at(text: Text | str, offset: int, encoding: Encoding) -> Position:
    """The position of a code point offset in `text`; inverse of `Document.offset_at`."""
    source = Text(text) if isinstance(text, str) else text
    line = source.line_at(offset)
    return Position(line, _units(source[source.line_start(line) : offset], encoding))


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


_KEPT = 16
"""Documents whose tree is kept."""


_AT_ONCE_CHARS = 20_000
"""A text up to this long is parsed on the event loop, in a few milliseconds; a longer one on another thread."""
_AT_ONCE_S = 0.05
"""CPU time that the event loop spends on a parse; a longer one is moved to another thread, too."""


class Trees:
    """The latest tree of all of each document's text. For the event loop's thread."""

    def __init__(self) -> None:
        self._latest: OrderedDict[str, SyntaxTree | None] = OrderedDict()
        self._too_long: dict[str, int] = {}
        """Lengths of texts that took too long; none is tried again until it has become shorter."""

    def __len__(self) -> int:
        return len(self._latest)

    async def parsed(self, snapshot: Snapshot) -> ParsedSnapshot:
        """The snapshot with the syntax tree of all its text; without one where that is very long, or takes very long
        to parse."""
        latest, length = self._latest.get(snapshot.uri), len(snapshot.source)
        done = ParsedSnapshot(snapshot, None)
        if length >= self._too_long.get(snapshot.uri, length + 1):
            return done
        if latest is not None or length <= _AT_ONCE_CHARS:
            done = parsed_whole(snapshot, latest, limit_s=_AT_ONCE_S)
        if is_too_complex(done):
            done = await asyncio.to_thread(parsed_whole, snapshot)
        self.forget(snapshot.uri)
        self._latest[snapshot.uri] = done.tree
        if is_too_complex(done):
            self._too_long[snapshot.uri] = length
        while len(self._latest) > _KEPT:
            self.forget(next(iter(self._latest)))
        return done

    def forget(self, uri: str) -> None:
        """Drop a document's tree."""
        self._latest.pop(uri, None)
        self._too_long.pop(uri, None)
