"""Notebooks. To the model, all cells of a notebook in one language are one text. To the editor and to Python, each cell
is a document of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from dgemma_lsp.documents.documents import Documents
from dgemma_lsp.documents.edits import Snapshot, Surroundings
from dgemma_lsp.documents.masking import masked
from dgemma_lsp.documents.text import Text
from dgemma_model.source.syntax import LastTree


class Cell(NamedTuple):
    """One cell of a notebook: the uri of its document, and whether it is code rather than prose."""

    uri: str
    is_code: bool


@dataclass
class _Notebook:
    cells: list[Cell]
    last_tree: LastTree = field(default_factory=LastTree)
    """Of the cells as one text."""


class SeenNotebook(NamedTuple):
    """What the model is to see of a cell: its notebook, with the cell's cursor."""

    snapshot: Snapshot
    surroundings: Surroundings
    last_tree: LastTree


class Notebooks:
    """Which cells, in their order, each open notebook has."""

    def __init__(self) -> None:
        self._open: dict[str, _Notebook] = {}

    def open(self, notebook: str, cells: Sequence[Cell]) -> None:
        """Take a notebook in, with all of its cells: clients count those of prose, too."""
        self._open[notebook] = _Notebook(list(cells))

    def replace_cells(self, notebook: str, start: int, count: int, cells: Sequence[Cell]) -> None:
        """Put `cells` in place of `count` of them; numbers outside are moved to the nearest end."""
        if notebook in self._open:
            self._open[notebook].cells[start : start + max(count, 0)] = cells

    def update(self, notebook: str, cell: Cell) -> None:
        """A cell may have become code, or prose."""
        if notebook in self._open:
            cells = self._open[notebook].cells
            cells[:] = [cell if cell.uri == other.uri else other for other in cells]

    def close(self, notebook: str) -> list[str]:
        """Forget a notebook; the uris of its cells."""
        closed = self._open.pop(notebook, None)
        return [cell.uri for cell in closed.cells] if closed is not None else []

    def notebook_of(self, uri: str) -> str | None:
        """The notebook of a cell's document, or None for any other document."""
        cells = ((notebook, cell) for notebook, found in self._open.items() for cell in found.cells)
        return next((notebook for notebook, cell in cells if cell.uri == uri), None)

    def around(self, snapshot: Snapshot, surroundings: Surroundings, documents: Documents) -> SeenNotebook | None:
        """What the model is to see of a cell with code: all such cells of its notebook in the same language, as one
        document, the others without what looks secret. None for any other document.

        `surroundings` are the cell's own; other cells are then no longer other documents.
        """
        notebook = self._open.get(self.notebook_of(snapshot.uri) or "")
        if notebook is None or Cell(snapshot.uri, True) not in notebook.cells:
            return None
        above: list[str] = []
        below: list[str] = []
        part = above
        for uri in (cell.uri for cell in notebook.cells if cell.is_code):
            document = documents.get(uri)
            if uri == snapshot.uri:
                part = below
            elif document is not None and document.language == snapshot.language:
                part.append(masked(document.text))
        before = "".join(_ended(text) for text in above)
        after = "".join(_ended(text) for text in below)
        own = snapshot.source
        uris = {cell.uri for cell in notebook.cells}
        return SeenNotebook(
            replace(
                snapshot,
                source=Text(before + (_ended(str(own)) + after if after else str(own))),
                offset=snapshot.offset + len(before),
            ),
            replace(
                surroundings,
                edited_at=tuple(at + len(before) for at in surroundings.edited_at),
                others=tuple(other for other in surroundings.others if other.uri not in uris),
            ),
            notebook.last_tree,
        )


def _ended(text: str) -> str:
    """A cell's text with a line break at its end."""
    return text if text.endswith(("\n", "\r")) else text + "\n"
