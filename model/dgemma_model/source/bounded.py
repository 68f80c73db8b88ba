"""tree-sitter's parser with a time limit: some short texts take it minutes, and the parser can be stopped. No torch."""

from __future__ import annotations

import logging
import time
from functools import partial

import tree_sitter

logger = logging.getLogger(__name__)

PARSE_S = 0.5
"""CPU time that a parse may take, in seconds: one of 1,000,000 characters of ordinary code takes a third of it."""
_READ_BYTES = 65_536
"""Bytes that the parser reads at a time; it can only be stopped while it reads a text in parts."""
_NODE_BYTES = 1_024
"""Bytes that a node of the tree reads at a time of its own text, which mostly is a name: more would only be copied."""


def parse(
    grammar: tree_sitter.Language,
    data: bytes,
    old: tree_sitter.Tree | None = None,
    *,
    limit_s: float = PARSE_S,
) -> tree_sitter.Tree | None:
    """The tree of `data` (UTF-8); None, and a line in the log, where that takes more than `limit_s` of CPU time.

    `old` is an edited tree (`edited`), of which the new one keeps what has not changed. Where that takes long in
    itself, as it does between thousands of comments, the text is parsed anew.
    """
    tree = _stopped_after(grammar, data, old, limit_s / 4) if old is not None else None
    tree = tree or _stopped_after(grammar, data, None, limit_s)
    if tree is None:
        logger.warning("no syntax tree: parsing %d bytes takes more than %g s", len(data), limit_s)
    return tree


def _stopped_after(
    grammar: tree_sitter.Language, data: bytes, old: tree_sitter.Tree | None, limit_s: float
) -> tree_sitter.Tree | None:
    end = time.thread_time() + limit_s
    source = _Source(data)
    parsed = partial(
        tree_sitter.Parser(grammar).parse,
        source.read,
        progress_callback=lambda offset, has_error: time.thread_time() > end,
    )
    try:
        return parsed() if old is None else parsed(old)  # to give it None is an error
    except ValueError:  # so the parser says that it was stopped
        return None
    finally:
        source.give_back()


class _Source:
    """A text that is read in parts: by the parser, and afterwards by the nodes of its tree.

    py-tree-sitter 0.26 never gives back what the parser has read, so that each parse would leave a copy of its text.
    The parser therefore gets views, which hold nothing once they are released; nodes take bytes only.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._lent: list[memoryview] | None = []

    def read(self, offset: int, point: object) -> bytes | memoryview:
        """Some of the text from a byte on."""
        if self._lent is None:
            return self._data[offset : offset + _NODE_BYTES]
        self._lent.append(memoryview(self._data)[offset : offset + _READ_BYTES])
        return self._lent[-1]

    def give_back(self) -> None:
        """The text is parsed."""
        for view in self._lent or ():
            view.release()
        self._lent = None


def edited(
    tree: tree_sitter.Tree, before: bytes, after: bytes, start: int, old_end: int, new_end: int
) -> tree_sitter.Tree:
    """A copy of the tree of `before`, told that `before[start:old_end]` has become `after[start:new_end]`."""
    copy = tree.copy()
    points = _point(before, start), _point(before, old_end), _point(after, new_end)
    copy.edit(start, old_end, new_end, *points)
    return copy


def _point(data: bytes, byte: int) -> tuple[int, int]:
    """tree-sitter's row and byte column."""
    return data.count(b"\n", 0, byte), byte - (data.rfind(b"\n", 0, byte) + 1)
