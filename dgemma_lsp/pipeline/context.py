"""What is worth knowing at the cursor: the text around it, its functions and classes kept whole, and what is said
elsewhere.

What is said elsewhere (imports, headers of the scopes that were cut off, signatures of what is used, recent edits)
comes before the prefix, the most relevant last. It changes seldom while the user types, for a prompt that changes is
encoded anew: the names to look up are those up to the last point of a coarse grid.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from dgemma_lsp.documents.documents import parsed
from dgemma_lsp.documents.edits import Snapshot
from dgemma_lsp.documents.text import Text
from dgemma_model.request import Excerpt
from dgemma_model.source import outline, syntax
from dgemma_model.source.excerpt import ExcerptBudget, cut

BUDGET = ExcerptBudget()

_HEAD_CHARS = 8_192
"""Where imports are looked for in a document that is not parsed as a whole."""
_REACH = 60_000
"""How far from the cursor a document may be copied from, in code points."""
_EDIT_LINES = 3
"""Lines shown before and after the place of an edit."""
_NAME = re.compile(r"[^\W\d]\w{2,}")


@dataclass(frozen=True, slots=True)
class ContextNote:
    """Something said elsewhere: `text`, whole lines without the last line break, and why it is shown."""

    why: str
    text: str


def excerpt(
    snapshot: Snapshot, holes: Sequence[tuple[int, int]] | None = None, budget: ExcerptBudget = BUDGET
) -> Excerpt:
    """What the model will see of `snapshot`, with `\\n` at the end of every line.

    `holes` are disjoint (start, end) offsets in ascending order; without them there is one, at the cursor.
    A language without a grammar is plain text: the same cut, but no scopes to keep whole.
    """
    holes = holes or [(snapshot.offset, snapshot.offset)]
    scopes = syntax.scope_starts(snapshot.tree, holes[0][0]) if snapshot.tree else ()
    seen = cut(snapshot.source, holes, budget, language=snapshot.language, scope_starts=scopes)
    shown = (holes[0][0] - len(seen.prefix), holes[-1][1] + len(seen.suffix))
    further = [] if budget.further_chars == 0 else chosen(pieces(snapshot, shown, scopes, budget), budget.further_chars)
    prefix = "".join(f"{piece.text}\n" for piece in reversed(further)) + seen.prefix
    return Excerpt(
        prefix=_line_feeds(prefix),
        suffix=_line_feeds(seen.suffix),
        between=tuple(_line_feeds(text) for text in seen.between),
        language=seen.language,
        file_name=PurePosixPath(unquote(urlsplit(snapshot.uri).path)).name,
    )


def elsewhere(snapshot: Snapshot, seen: Excerpt) -> tuple[str, ...]:
    """What the model may copy from beside what it has `seen` at the cursor: files near the document, other open
    documents, and the rest of this one; the nearest last. The same strings as long as the text stays the same, so that
    each is read once."""
    left, right = snapshot.offset - len(seen.prefix), snapshot.offset + len(seen.suffix)
    before, after = list[str](), list[str]()
    start = 0
    for piece in snapshot.source.pieces():
        end = start + len(piece)
        if start < left and end > left - _REACH:
            before.append(piece[: left - start])
        if end > right and start < right + _REACH:
            after.append(piece[max(right - start, 0) :])
        start = end
    others = (piece for other in reversed(snapshot.others) for piece in _pieces_around(other))
    return (*snapshot.nearby, *map(_line_feeds, (*others, *reversed(after), *before)))


def _pieces_around(other: Snapshot) -> Iterator[str]:
    start = 0
    for piece in other.source.pieces():
        if start < other.offset + _REACH and start + len(piece) > other.offset - _REACH:
            yield piece
        start += len(piece)


def chosen(candidates: Iterator[ContextNote], limit: int) -> list[ContextNote]:
    """The candidates that fit into `limit` code points, first come, first served; none twice."""
    taken: dict[str, ContextNote] = {}
    for piece in candidates:
        if len(piece.text) < limit and piece.text not in taken:
            taken[piece.text] = piece
            limit -= len(piece.text) + 1
    return list(taken.values())


def pieces(
    snapshot: Snapshot, shown: tuple[int, int], scopes: Sequence[int], budget: ExcerptBudget
) -> Iterator[ContextNote]:
    """What could be said of the rest, the most relevant first. `shown` is what the excerpt has anyway."""
    left, right = shown
    source, tree = snapshot.source, snapshot.tree
    if tree is None:
        return
    for start in reversed(scopes):
        if start < left:
            yield ContextNote("header", outline.signature_at(tree, start))
    is_head = tree.start == 0
    for start, end in outline.imports(tree) if is_head else _imports_of(snapshot.language, source[:_HEAD_CHARS]):
        if end <= left:
            yield ContextNote("import", source[start:end].rstrip("\r\n"))
    used = _names_used(source, left, snapshot.offset, right, budget.prefix_chars // 4)
    for signature in outline.signatures(tree):
        if signature.name in used and not left <= signature.start < right:
            yield ContextNote("signature", signature.text)
    for other in snapshot.others:
        there = parsed(other).tree
        for signature in outline.signatures(there) if there else ():
            if signature.name in used:
                yield ContextNote("signature", signature.text)
    for at in snapshot.edited_at:
        if not left <= at < right:
            yield ContextNote("edit", _lines_around(source, at))
    for other in snapshot.others:
        if other.offset:
            yield ContextNote("edit", _lines_around(other.source, other.offset))


@lru_cache(maxsize=8)
def _imports_of(language: str, head: str) -> list[tuple[int, int]]:
    """Those at the head of a document, which few keystrokes change."""
    tree = syntax.parse(language, head)
    return outline.imports(tree) if tree is not None else []


def _names_used(source: Text, left: int, cursor: int, right: int, grid: int) -> frozenset[str]:
    """The names around the cursor, but for those typed since the last point of the grid."""
    before = source[left : max(cursor // grid * grid, left)]
    return frozenset(_NAME.findall(before)) | frozenset(_NAME.findall(source[cursor:right]))


def _lines_around(source: Text, offset: int) -> str:
    line = source.line_at(offset)
    start, end = source.line_start(max(line - _EDIT_LINES, 0)), source.line_start(line + _EDIT_LINES + 1)
    return source[start:end].rstrip("\r\n")


def _line_feeds(text: str) -> str:
    """The model has only ever seen files whose lines end in a line feed."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
