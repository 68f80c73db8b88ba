"""A task of `fill --batch` or a case of `eval`: the document that an editor would have open, and how it is filled."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import accumulate

from dgemma_lsp.documents.documents import ParsedSnapshot, parsed
from dgemma_lsp.documents.edits import Snapshot
from dgemma_lsp.documents.text import Text
from dgemma_lsp.pipeline.context import Span
from dgemma_lsp.pipeline.fill_kind import ends_with_line
from dgemma_lsp.pipeline.infiller import InfillerLike
from dgemma_model.request import Draft, FillRequest

_LINE_END = re.compile(r"\r\n?|\n")
TASK_TOKENS = 256
"""Most tokens of a task of several lines: all that is missing is wanted, and nobody knows how much that is."""


def opened(parts: Sequence[str], language: str) -> tuple[ParsedSnapshot, list[Span]]:
    """The parsed document that holds `parts` with a hole after each but the last, its cursor in the first hole, and
    where all its holes are."""
    holes = [(at, at) for at in accumulate(map(len, parts[:-1]))]
    name = "case.py" if language == "python" else "case"
    return parsed(Snapshot(f"file:///{name}", None, language, Text("".join(parts)), holes[0][0])), holes


def task_ends_with_line(prefix: str, suffix: str, language: str) -> bool | None:
    """Whether a fill between `prefix` and `suffix` ends with its line: no if the syntax expects a block, yes at the end
    of a line that was begun. None where only the text can tell: on a line of its own, or before other code."""
    (snapshot, tree), _ = opened((prefix, suffix), language)
    if not ends_with_line(tree, snapshot.source, snapshot.offset):
        return False
    return True if _LINE_END.split(prefix)[-1].strip() and not _has_more(suffix) else None


def fill_task(infiller: InfillerLike, ask: Callable[[bool], FillRequest], one_line: bool | None) -> Draft:
    """The finished fill of a task. `ask` makes the request to fill it up to the end of the line, or as far as the text
    goes.

    If `one_line` is None, the engine finds where the text ends. If that is the end of the line, it is filled once more
    as the server fills a line, where the writer chooses among several texts; unless the time is limited.
    """
    request = ask(bool(one_line))
    *_, draft = infiller.fill(request)
    is_line = bool(draft.text.strip()) and not _has_more(request.excerpt.suffix) and "\n" not in draft.text
    if one_line is None and is_line and request.budget_ms is None:
        *_, draft = infiller.fill(ask(True))
    return draft


def _has_more(suffix: str) -> bool:
    """Whether more than blanks is behind the hole, on its line."""
    return bool(_LINE_END.split(suffix, maxsplit=1)[0].strip())
