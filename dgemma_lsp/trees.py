"""Each document's last syntax tree, so that the next one costs what has changed and not the whole text."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from dgemma_lsp.documents import parsed_whole
from dgemma_lsp.edits import Snapshot
from dgemma_model.syntax import SyntaxTree

_KEPT = 16
"""Documents whose tree is kept."""
_AT_ONCE_CHARS = 20_000
"""A text up to this long is parsed in a few milliseconds; a longer one elsewhere, while the loop goes on."""


class Trees:
    """The latest tree of all of each document's text. For the event loop's thread."""

    def __init__(self) -> None:
        self._latest: OrderedDict[str, SyntaxTree | None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._latest)

    async def parsed(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot with the syntax tree of all its text; without one where that is very long."""
        latest = self._latest.get(snapshot.uri)
        if latest is not None or len(snapshot.source) <= _AT_ONCE_CHARS:
            done = parsed_whole(snapshot, latest)
        else:
            done = await asyncio.to_thread(parsed_whole, snapshot)
        self._latest[snapshot.uri] = done.tree
        self._latest.move_to_end(snapshot.uri)
        while len(self._latest) > _KEPT:
            self._latest.popitem(last=False)
        return done

    def forget(self, uri: str) -> None:
        """Drop a document's tree."""
        self._latest.pop(uri, None)
