"""Notebooks: the cells of one notebook, in one language, are one text to the model and documents of their own to the
editor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dgemma_lsp.documents.documents import Documents
from dgemma_lsp.documents.edits import Edit, Snapshot
from dgemma_lsp.documents.masking import masked
from dgemma_lsp.documents.text import Text


@dataclass(frozen=True, slots=True)
class Seen:
    """A snapshot as the model is to see it, and how its edits become edits of the document that was asked about."""

    snapshot: Snapshot
    shift: int = 0
    """Where the document begins in what is seen."""

    def edit_of(self, document: Snapshot, edit: Edit) -> Edit | None:
        """The edit in terms of the document, or None where it reaches beyond it."""
        start, end = edit.start - self.shift, edit.end - self.shift
        return replace(edit, start=start, end=end) if 0 <= start <= end <= len(document.source) else None


class Notebooks:
    """Which code cells, in their order, each open notebook has."""

    def __init__(self) -> None:
        self._cells: dict[str, list[str]] = {}

    def open(self, notebook: str, cells: Sequence[str]) -> None:
        """Take a notebook in, with the uris of its cells."""
        self._cells[notebook] = list(cells)

    def replace_cells(self, notebook: str, start: int, count: int, cells: Sequence[str]) -> None:
        """Put `cells` in place of `count` of them; numbers outside are moved to the nearest end."""
        if notebook in self._cells:
            self._cells[notebook][start : start + max(count, 0)] = cells

    def close(self, notebook: str) -> list[str]:
        """Forget a notebook; its cells."""
        return self._cells.pop(notebook, [])

    def notebook_of(self, cell: str) -> str | None:
        """The notebook of a cell, or None for any other document."""
        return next((notebook for notebook, cells in self._cells.items() if cell in cells), None)

    def seen(self, snapshot: Snapshot, documents: Documents) -> Seen:
        """What the model is to see of a document: of a cell, all cells of its notebook in the same language, the others
        without what looks secret."""
        notebook = self.notebook_of(snapshot.uri)
        if notebook is None:
            return Seen(snapshot)
        above: list[str] = []
        below: list[str] = []
        part = above
        for uri in self._cells[notebook]:
            document = documents.get(uri)
            if uri == snapshot.uri:
                part = below
            elif document is not None and document.language == snapshot.language:
                part.append(masked(document.text))
        before = "".join(_ended(text) for text in above)
        after = "".join(_ended(text) for text in below)
        own = snapshot.source
        whole = Text(before + (_ended(str(own)) + after if after else str(own)))
        joined = replace(
            snapshot,
            source=whole,
            offset=snapshot.offset + len(before),
            tree=None,
            edited_at=tuple(at + len(before) for at in snapshot.edited_at),
            others=tuple(other for other in snapshot.others if other.uri not in self._cells[notebook]),
        )
        return Seen(joined, len(before))


def _ended(text: str) -> str:
    """A cell's text with a line break at its end."""
    return text if text.endswith(("\n", "\r")) else text + "\n"
