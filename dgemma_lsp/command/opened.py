"""A task of `fill --batch` or a case of `eval`, as the document that an editor would have open."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from dgemma_lsp.documents.documents import ParsedSnapshot, parsed
from dgemma_lsp.documents.edits import Snapshot
from dgemma_lsp.documents.text import Text
from dgemma_lsp.pipeline.context import Span
from dgemma_lsp.pipeline.fill_kind import ends_with_line

TASK_TOKENS = 256
"""Most tokens of a task of several lines: all that is missing is wanted, and nobody knows how much that is."""


def opened(parts: Sequence[str], language: str) -> tuple[ParsedSnapshot, list[Span]]:
    """The parsed document that holds `parts` with a hole after each but the last, its cursor in the first hole, and
    where all its holes are."""
    holes = [(at, at) for at in accumulate(map(len, parts[:-1]))]
    name = "case.py" if language == "python" else "case"
    return parsed(Snapshot(f"file:///{name}", None, language, Text("".join(parts)), holes[0][0])), holes


def task_ends_with_line(prefix: str, suffix: str, language: str) -> bool:
    """Whether the server would end a fill between `prefix` and `suffix` with its line."""
    (snapshot, tree), _ = opened((prefix, suffix), language)
    return ends_with_line(tree, snapshot.source, snapshot.offset)
