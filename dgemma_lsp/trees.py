"""Each document's last syntax tree, so that the next one costs what has changed and not the whole text."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import replace

from dgemma_lsp.documents import MAX_PARSED_CHARS, parsed
from dgemma_lsp.edits import Snapshot, common_start
from dgemma_model import syntax

_KEPT = 16
"""Documents whose tree is kept."""
_AT_ONCE_CHARS = 20_000
"""A text up to this long is parsed in a few milliseconds; a longer one elsewhere, while the loop goes on."""


class Trees:
    """The latest parsed snapshot of each document. For the event loop's thread."""

    def __init__(self) -> None:
        self._latest: OrderedDict[str, Snapshot] = OrderedDict()

    def __len__(self) -> int:
        return len(self._latest)

    async def parsed(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot with its syntax tree."""
        latest = self._latest.get(snapshot.uri)
        if latest is not None and latest.language == snapshot.language and latest.tree is not None:
            done = _reparsed(latest, snapshot)
        elif len(snapshot.text) <= _AT_ONCE_CHARS:
            done = parsed(snapshot)
        else:
            done = await asyncio.to_thread(parsed, snapshot)
        self._latest[snapshot.uri] = done
        self._latest.move_to_end(snapshot.uri)
        while len(self._latest) > _KEPT:
            self._latest.popitem(last=False)
        return done

    def forget(self, uri: str) -> None:
        """Drop a document's tree."""
        self._latest.pop(uri, None)


def _reparsed(latest: Snapshot, snapshot: Snapshot) -> Snapshot:
    """The snapshot's tree from an earlier one of the same document."""
    tree, old, new = latest.tree, latest.text, snapshot.text
    if tree is None or len(new) > MAX_PARSED_CHARS:
        return snapshot
    if old == new:
        return replace(snapshot, tree=tree)
    start = common_start(old, new)
    tail = common_start(old[start:][::-1], new[start:][::-1])
    changed = syntax.spliced(tree, start, len(old) - tail, new[start : len(new) - tail])
    return replace(snapshot, tree=changed)
