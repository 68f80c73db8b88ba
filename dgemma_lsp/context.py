"""What is worth knowing at the cursor: the text around it, its functions and classes kept whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from dgemma_lsp.edits import Snapshot
from dgemma_model import syntax
from dgemma_model.excerpt import ExcerptBudget, cut
from dgemma_model.request import Excerpt

BUDGET = ExcerptBudget()


def excerpt(snapshot: Snapshot, holes: Sequence[tuple[int, int]] | None = None) -> Excerpt:
    """What the model will see of `snapshot`, with `\\n` at the end of every line.

    `holes` are disjoint (start, end) offsets in ascending order; without them there is one, at the cursor.
    A language without a grammar is plain text: the same cut, but no scopes to keep whole.
    """
    holes = holes or [(snapshot.offset, snapshot.offset)]
    scopes = syntax.scope_starts(snapshot.tree, holes[0][0]) if snapshot.tree else ()
    seen = cut(snapshot.text, holes, BUDGET, language=snapshot.language, scope_starts=scopes)
    return Excerpt(
        prefix=_line_feeds(seen.prefix),
        suffix=_line_feeds(seen.suffix),
        between=tuple(_line_feeds(text) for text in seen.between),
        language=seen.language,
        file_name=PurePosixPath(unquote(urlsplit(snapshot.uri).path)).name,
    )


def _line_feeds(text: str) -> str:
    """The model has only ever seen files whose lines end in a line feed."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
