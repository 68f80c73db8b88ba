"""What speaks against an edit: syntax in place, Python's own compiler, names that are defined nowhere."""

from __future__ import annotations

from collections.abc import Callable

from dgemma_lsp.documents.edits import Edit, NoSuggestion, Snapshot
from dgemma_model.source import python_parser, syntax
from dgemma_model.source.nearby import nearby
from dgemma_model.source.syntax import CursorKind
from dgemma_model.source.undefined_names import unresolved

_NAMES_CHARS = 100_000
"""Names are looked for in texts up to this long."""


_NOTEBOOK_CELL = "vscode-notebook-cell:"
"""Names in such a document come from other cells, which the client need not have shown."""


def _objections(snapshot: Snapshot, *, names: bool, invoked: bool) -> Callable[[Edit], NoSuggestion | None]:
    """What the syntax has against an edit at the cursor.

    The text may have as many errors as it has now, for it may well be broken there, but no more than with just any
    expression at the cursor. What nobody asked for must leave its own lines sound, in Python, and with `names`, those
    in it must mean something, where all of the text can be looked through. Without a tree every edit passes.
    """
    if snapshot.tree is None:
        return lambda edit: None
    tree = nearby(snapshot.tree, snapshot.offset)
    tolerated: float = syntax.error_count(tree)
    if tolerated:
        tolerated = min(tolerated, syntax.error_count_after(tree, snapshot.offset, snapshot.offset, tree.row.stand_in))
    python = snapshot.language == "python" and syntax.kind_at(tree, snapshot.offset) is CursorKind.CODE
    whole_lines = python and not invoked  # elsewhere half a file is often no file
    in_notebook = snapshot.uri.startswith(_NOTEBOOK_CELL)
    names = names and not invoked and not in_notebook and len(snapshot.source) <= _NAMES_CHARS

    def objection(edit: Edit) -> NoSuggestion | None:
        edited = syntax.spliced(tree, edit.start, edit.end, edit.new_text)
        if edited is None:
            return NoSuggestion.UNPARSEABLE
        errors = syntax.error_count(edited)
        if errors > tolerated:
            return NoSuggestion.UNPARSEABLE
        end = edit.start + len(edit.new_text)
        if whole_lines and errors and (_opens(edit.new_text) or syntax.is_damaged_from(edited, edit.start, end)):
            return NoSuggestion.UNPARSEABLE
        if python and python_parser.python_rejects(
            *(snapshot.source, edit.start, edit.end, edit.new_text),
            may_be_newer=not errors,
            may_be_half=invoked,
            in_notebook=in_notebook,
        ):
            return NoSuggestion.UNPARSEABLE
        if names and unresolved(edited, edit.start, end, snapshot.source.pieces()):
            return NoSuggestion.UNRESOLVED
        return None

    return objection


def _opens(text: str) -> bool:
    """Whether it leaves a bracket open."""
    return sum(map(text.count, "([{")) > sum(map(text.count, ")]}"))
