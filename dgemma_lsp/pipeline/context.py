"""What a fill is shown: the text around the cursor, with functions and classes kept whole, and text of the project.

Context notes come before the prefix, the most relevant last: imports, headers of scopes that were cut off, signatures
of what is used, recent edits. A prompt that changes must be encoded again, so notes should change seldom while the user
types. Therefore the names to look up are taken up to the last point of a coarse grid.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from dgemma_lsp.documents import documents
from dgemma_lsp.documents.documents import ParsedSnapshot
from dgemma_lsp.documents.edits import NO_SURROUNDINGS, Snapshot, Surroundings
from dgemma_lsp.documents.text import Text
from dgemma_lsp.pipeline.insertion import LINE_BREAK
from dgemma_model.request import Excerpt
from dgemma_model.source import outline, syntax
from dgemma_model.source.excerpt import ExcerptBudget, cut
from dgemma_model.source.outline import Signature

BUDGET = ExcerptBudget()

REACH = 60_000
"""How far from what is shown at the cursor a document may be copied from, in code points."""
_HEAD_CHARS = 8_192
"""Where imports are looked for in a document that is not parsed as a whole."""
_EDIT_LINES = 3
"""Lines shown before and after the place of an edit."""
_NAME = re.compile(r"[^\W\d]\w{2,}")

Span = tuple[int, int]
"""Start and end of a part of a document, in code points."""


@dataclass(frozen=True, slots=True)
class View:
    """What a fill is shown of a document and of the project around it.

    Each character of the document outside the holes is in the excerpt or in the project text, and only once. Further
    than `REACH` from the excerpt it may be in neither. Line breaks are `\\n`, whatever the document has.
    """

    excerpt: Excerpt
    project_text: tuple[str, ...]
    """Text to copy from, outside the excerpt: files near the document, other open documents, and the rest of this one;
    the nearest last. The strings stay the same objects as long as the text does, so that each is indexed once."""
    shown: tuple[Span, ...]
    """Where the excerpt's text is in the document, in the order of the excerpt: the document's own context notes, then
    what is before, between and after the holes. Notes from other documents have no place here."""


@dataclass(frozen=True, slots=True)
class ContextNote:
    """`document[start:end]`, whole lines without the last line break, shown before the prefix."""

    document: Snapshot
    start: int
    end: int

    @property
    def text(self) -> str:
        """What it says."""
        return self.document.source[self.start : self.end]

    def beside(self, window: Span) -> ContextNote:
        """What of it is before `window`, or else after it."""
        left, right = window
        if self.start < left:
            return _lines(self.document, self.start, min(self.end, left))
        return _lines(self.document, max(self.start, right), self.end)

    def overlaps(self, other: ContextNote) -> bool:
        """Whether both show some of the same text."""
        return self.document is other.document and self.start < other.end and other.start < self.end


def view(
    parsed: ParsedSnapshot,
    holes: Sequence[Span] | None = None,
    budget: ExcerptBudget = BUDGET,
    surroundings: Surroundings = NO_SURROUNDINGS,
) -> View:
    """What a fill of `holes` is shown of a document and its surroundings.

    `holes` are disjoint (start, end) offsets in ascending order; without them there is one, at the cursor. What is in
    them is not shown. A language without a grammar is plain text: the same cut, but no scopes to keep whole.
    """
    snapshot, tree = parsed
    holes = holes or [(snapshot.offset, snapshot.offset)]
    source = snapshot.source
    scopes = syntax.scope_starts(tree, holes[0][0]) if tree else ()
    near = cut(source, holes, budget, language=snapshot.language, scope_starts=scopes)
    first, last = holes[0][0], holes[-1][1]
    left = first - len(near.prefix)
    right = _outside_line_break(source, last + len(near.suffix))
    window = (left, right)
    candidates = _notes(parsed, surroundings, window, scopes, budget) if budget.further_chars else ()
    notes = _chosen(candidates, snapshot, window, budget.further_chars)[::-1]
    prefix = "".join(f"{note.text}\n" for note in notes) + source[left:first]
    own_notes = [(note.start, _after_line_break(source, note.end)) for note in notes if note.document is snapshot]
    edges = [left, *(offset for hole in holes for offset in hole), right]
    excerpt = replace(
        near,
        prefix=_line_feeds(prefix),
        suffix=_line_feeds(source[last:right]),
        between=tuple(map(_line_feeds, near.between)),
        file_name=PurePosixPath(unquote(urlsplit(snapshot.uri).path)).name,
    )
    project_text = (*surroundings.nearby, *_project_text(snapshot, surroundings.others, window, sorted(own_notes)))
    return View(excerpt, project_text, (*own_notes, *zip(edges[::2], edges[1::2], strict=True)))


def _after_line_break(source: Text, offset: int) -> int:
    """`offset`, or the end of the line break that begins there."""
    found = LINE_BREAK.match(source[offset : offset + 2])
    return offset + found.end() if found else offset


def _outside_line_break(source: Text, offset: int) -> int:
    """`offset`, or the end of the line break in the middle of which it is."""
    return offset + 1 if source[max(offset - 1, 0) : offset + 1] == "\r\n" else offset


def _project_text(snapshot: Snapshot, others: Sequence[Snapshot], window: Span, notes: Sequence[Span]) -> Iterator[str]:
    """The text of open documents outside the excerpt, which shows the `window` and the `notes`; the nearest last."""
    left, right = window
    for other in reversed(others):
        yield from (_line_feeds(piece) for _, piece in _pieces(other.source, other.offset, other.offset))
    pieces = list(_pieces(snapshot.source, left, right))
    for start, piece in reversed(pieces):
        if start + len(piece) > right:
            yield _without(piece[max(right - start, 0) :], max(start, right), notes)
    for start, piece in pieces:
        if start < left:
            yield _without(piece[: left - start], start, notes)


def _pieces(source: Text, left: int, right: int) -> Iterator[tuple[int, str]]:
    """The pieces of a text within `REACH` of `left` and `right`, each with where it starts."""
    start = 0
    for piece in source.pieces():
        end = start + len(piece)
        if start < right + REACH and end > left - REACH:
            yield start, piece
        start = end


def _without(text: str, start: int, spans: Sequence[Span]) -> str:
    """`text`, which is at `start` in its document, without these parts of the document; its lines end in `\\n`."""
    kept, at = list[str](), start
    for span_start, span_end in spans:
        if span_start < start + len(text) and span_end > at:
            kept.append(text[at - start : max(span_start - start, 0)])
            at = span_end
    return "".join(map(_line_feeds, (*kept, text[at - start :])))


def _chosen(notes: Iterable[ContextNote], snapshot: Snapshot, window: Span, limit: int) -> list[ContextNote]:
    """The notes that fit into `limit` code points, first come, first served; none twice.

    Of the document itself, a note shows only what neither the `window` around the holes nor an earlier note does.
    """
    taken = dict[str, ContextNote]()
    for note in notes:
        if note.document is snapshot:
            note = note.beside(window)
            if any(note.overlaps(other) for other in taken.values()):
                continue
        if 0 < note.end - note.start < limit and note.text not in taken:
            taken[note.text] = note
            limit -= note.end - note.start + 1
    return list(taken.values())


def _notes(
    parsed: ParsedSnapshot, surroundings: Surroundings, window: Span, scopes: Sequence[int], budget: ExcerptBudget
) -> Iterator[ContextNote]:
    """Candidates for context notes, the most relevant first. The excerpt shows the `window` anyway."""
    (snapshot, tree), (left, right) = parsed, window
    source = snapshot.source
    if tree is None:
        return
    for start in reversed(scopes):
        if start < left:
            yield ContextNote(snapshot, start, start + len(outline.signature_at(tree, start)))
    is_head = tree.start == 0
    for start, end in outline.imports(tree) if is_head else _imports_of(snapshot.language, source[:_HEAD_CHARS]):
        if end <= left:
            yield _lines(snapshot, start, end)
    used = _names_used(source, left, snapshot.offset, right, budget.prefix_chars // 4)
    own = _notes_of(outline.signatures(tree), snapshot, used)
    yield from (note for note in own if not left <= note.start < right)
    for other in surroundings.others:
        there = _signatures_in(other.language, tuple(other.source.pieces()), other.offset)
        yield from _notes_of(there, other, used)
    for at in surroundings.edited_at:
        if not left <= at < right:
            yield _lines_around(snapshot, at)
    for other in surroundings.others:
        if other.offset:
            yield _lines_around(other, other.offset)


def _notes_of(signatures: Iterable[Signature], document: Snapshot, used: Container[str]) -> Iterator[ContextNote]:
    """The signatures of the document's definitions whose names are `used`."""
    for signature in signatures:
        if signature.name in used:
            yield ContextNote(document, signature.start, signature.start + len(signature.text))


@lru_cache(maxsize=16)
def _signatures_in(language: str, pieces: tuple[str, ...], offset: int) -> Sequence[Signature]:
    """The signatures around an offset of another document, which stays the same while the user types in this one."""
    tree = documents.parsed(Snapshot("", None, language, Text("".join(pieces)), offset)).tree
    return outline.signatures(tree) if tree is not None else ()


@lru_cache(maxsize=8)
def _imports_of(language: str, head: str) -> list[Span]:
    """The imports at the head of a document, which few keystrokes change."""
    tree = syntax.parse(language, head)
    return outline.imports(tree) if tree is not None else []


def _names_used(source: Text, left: int, cursor: int, right: int, grid: int) -> frozenset[str]:
    """The names around the cursor, without those typed since the last point of the grid."""
    before = source[left : max(cursor // grid * grid, left)]
    return frozenset(_NAME.findall(before)) | frozenset(_NAME.findall(source[cursor:right]))


def _lines_around(document: Snapshot, offset: int) -> ContextNote:
    source = document.source
    line = source.line_at(offset)
    return _lines(document, source.line_start(max(line - _EDIT_LINES, 0)), source.line_start(line + _EDIT_LINES + 1))


def _lines(document: Snapshot, start: int, end: int) -> ContextNote:
    """Without the line breaks at the end."""
    return ContextNote(document, start, start + len(document.source[start:end].rstrip("\r\n")))


def _line_feeds(text: str) -> str:
    """The same with line feeds at the ends of lines: the model knows no others."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
