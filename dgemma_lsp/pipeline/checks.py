"""Reasons to refuse an edit: syntax in place, Python's own compiler, names that are defined nowhere."""

from __future__ import annotations

from collections.abc import Callable

from dgemma_lsp.documents.documents import ParsedSnapshot
from dgemma_lsp.documents.edits import Edit, NoSuggestion
from dgemma_lsp.documents.text import Text
from dgemma_model.source import python_parser, syntax
from dgemma_model.source.nearby import nearby
from dgemma_model.source.repeated_arguments import repeats_argument
from dgemma_model.source.syntax import CursorKind, SyntaxTree
from dgemma_model.source.undefined_names import unresolved

_NAMES_CHARS = 100_000
"""Names are looked for in texts up to this long."""


_NOTEBOOK_CELL = "vscode-notebook-cell:"
"""Names in such a document come from other cells, which the client need not have shown."""


_NEIGHBOUR_LINES = 4
"""How far away the nearest line with code may be,"""
_NEIGHBOUR_CHARS = 400
"""and how long."""


def _objections(
    parsed: ParsedSnapshot, *, names: bool, invoked: bool, in_notebook: bool = False
) -> Callable[[Edit], NoSuggestion | None]:
    """A function that gives the reason to refuse an edit at the cursor, or None.

    The edited text may have as many errors as the text has now, which may be broken at the cursor. But it may have no
    more errors than a dummy expression here would give; blocks that the end of the text leaves open are no errors of
    the edit. An edit that nobody asked for must also leave its own lines without errors, in Python, and may not turn
    the code below into a comment or a string. With `names`, each name in it must be defined in the text, if the text is
    short enough to look through. Without a tree every edit passes.
    """
    snapshot, whole = parsed
    if whole is None:
        return lambda edit: None
    tree = nearby(whole, snapshot.offset)
    source, offset = snapshot.source, snapshot.offset
    tolerated: float = syntax.error_count(tree)
    if tolerated and snapshot.language == "python":
        tree, source = _without_broken_neighbours(tree, source, offset)
        tolerated = syntax.error_count(tree)
    unclosed = 0
    if tolerated and snapshot.language != "python":
        unclosed = _unclosed(tree, offset)
    if tolerated:
        tolerated = min(tolerated, syntax.error_count_after(tree, offset, offset, tree.row.stand_in))
    python = snapshot.language == "python" and syntax.kind_at(tree, offset) is CursorKind.CODE
    whole_lines = python and not invoked  # in other languages half a file often does not parse
    below = None if invoked else _code_below(tree, source, offset)
    in_notebook = in_notebook or snapshot.uri.startswith(_NOTEBOOK_CELL)
    names = names and not invoked and not in_notebook and len(snapshot.source) <= _NAMES_CHARS

    def objection(edit: Edit) -> NoSuggestion | None:
        edited = syntax.spliced(tree, edit.start, edit.end, edit.new_text)
        if edited is None:
            return NoSuggestion.UNPARSEABLE
        errors = syntax.error_count(edited)
        if not errors == syntax.unclosed_count(edited) <= unclosed if unclosed else errors > tolerated:
            return NoSuggestion.UNPARSEABLE
        end = edit.start + len(edit.new_text)
        if below is not None and syntax.kind_at(edited, below + end - edit.end) is not CursorKind.CODE:
            return NoSuggestion.UNPARSEABLE
        if whole_lines and errors and (_opens(edit.new_text) or syntax.is_damaged_from(edited, edit.start, end)):
            return NoSuggestion.UNPARSEABLE
        if python and python_parser.python_rejects(
            *(source, edit.start, edit.end, edit.new_text),
            may_be_newer=not errors,
            may_be_half=invoked,
            in_notebook=in_notebook,
        ):
            return NoSuggestion.UNPARSEABLE
        if repeats_argument(edited, edit.start, end):
            return NoSuggestion.UNPARSEABLE
        if names and unresolved(edited, edit.start, end, snapshot.source.pieces()):
            return NoSuggestion.UNRESOLVED
        return None

    return objection


def mends_nothing(parsed: ParsedSnapshot, edit: Edit) -> bool:
    """Whether an edit at the cursor leaves a text as broken as a dummy expression would, although it goes on below.

    Often the right text is what the lines below need, such as the header of a function or a closing bracket; but it may
    also be the first of several lines. Not of Python, where checks are stricter, and not of plain text.
    """
    snapshot, whole = parsed
    if whole is None or snapshot.language == "python":
        return False
    tree, offset = nearby(whole, snapshot.offset), snapshot.offset
    if not syntax.error_count(tree) or _code_below(tree, snapshot.source, offset) is None or _unclosed(tree, offset):
        return False
    edited = syntax.spliced(tree, edit.start, edit.end, edit.new_text)
    dummy = syntax.error_count_after(tree, offset, offset, tree.row.stand_in)
    return edited is None or 0 < dummy <= syntax.error_count(edited)


def _code_below(tree: SyntaxTree, source: Text, offset: int) -> int | None:
    """Where the code on the nearest lines below the cursor's begins; None where there is no code."""
    line = source.line_at(offset)
    content = (_content(source, line + distance) for distance in range(1, _NEIGHBOUR_LINES + 1))
    start = next((start for start, end in content if start < end), None)
    is_code = start is not None and syntax.kind_at(tree, start) is CursorKind.CODE
    return start if is_code else None


def _unclosed(tree: SyntaxTree, offset: int) -> int:
    """How many blocks the text leaves open at its end, as it does while someone writes there; 0 where anything else is
    wrong. It is seen once there is an expression at the cursor, or a statement: before that the grammar may take all of
    them for one error."""
    tried = (syntax.spliced(tree, offset, offset, tree.row.stand_in + end) for end in ("", ";"))
    counts = [(syntax.error_count(found), syntax.unclosed_count(found)) for found in tried if found is not None]
    return max((unclosed for errors, unclosed in counts if errors == unclosed), default=0)


def _without_broken_neighbours(tree: SyntaxTree, source: Text, offset: int) -> tuple[SyntaxTree, Text]:
    """The same tree and text, with the nearest lines above and below as comments if they do not parse, whatever the
    cursor's line says. A suggestion is not to blame for their errors. Offsets stay the same."""
    line = source.line_at(offset)
    start, end = _content(source, line)
    column = (start if start < end else offset) - source.line_start(line)
    neutral = syntax.spliced(tree, start, end, "_".ljust(end - start)) if start < end else tree
    for step in (-1, 1):
        near = (_content(source, line + step * distance) for distance in range(1, _NEIGHBOUR_LINES + 1))
        first, last = next(((first, last) for first, last in near if first < last), (0, 0))
        is_far = max(abs(first - offset), last - first) > _NEIGHBOUR_CHARS
        is_begun = step < 0 and _opens(source[first:last])  # the cursor's line goes on with it
        is_outside = step > 0 and first - source.line_start(source.line_at(first)) < column
        if first == last or neutral is None or is_far or is_begun or is_outside:
            continue
        comment = "#".ljust(last - first)
        without = syntax.spliced(neutral, first, last, comment)
        commented = syntax.spliced(tree, first, last, comment)
        if without is not None and commented and syntax.error_count(without) < syntax.error_count(neutral):
            neutral, tree, source = without, commented, source.replaced(first, last, comment)
    return tree, source


def _content(source: Text, line: int) -> tuple[int, int]:
    """Where the visible part of a line begins and ends; of no length where there is none, or only a comment."""
    start, end = (source.line_start(line), source.line_start(line + 1)) if line >= 0 else (0, 0)
    text = source[start:end]
    content = text.strip()
    start += len(text) - len(text.lstrip()) if content else 0
    return start, start if content.startswith("#") else start + len(content)


def _opens(text: str) -> bool:
    """Whether it leaves a bracket open."""
    return sum(map(text.count, "([{")) > sum(map(text.count, ")]}"))
