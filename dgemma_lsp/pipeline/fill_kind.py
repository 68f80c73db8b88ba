"""What to fill at a cursor, decided from the syntax there alone."""

from __future__ import annotations

from enum import Enum

from dgemma_lsp.documents.edits import NoSuggestion
from dgemma_model.request import Readable
from dgemma_model.source import syntax
from dgemma_model.source.blocks import block_expected
from dgemma_model.source.syntax import CursorKind, SyntaxTree


class FillKind(Enum):
    """How far a fill may go."""

    EXPRESSION = "up to what follows on the line"
    LINE = "to the end of the line"
    BLOCK = "the body of the header before"

    @property
    def one_line(self) -> bool:
        """Whether it ends with its line."""
        return self is not FillKind.BLOCK


def fill_kind(
    tree: SyntaxTree | None, text: Readable, offset: int, *, comments: bool = False, strings: bool = False
) -> FillKind | NoSuggestion:
    """What to fill in `text` at `offset`, or why nothing.

    `tree` is that of the text around the cursor, None for plain text; `comments` and `strings` say whether these are
    filled, too. Nothing is filled in the middle of a finished word or name.
    """
    if syntax.inside_word(text, offset):
        return NoSuggestion.IN_WORD
    rest = _rest_of_line(text, offset)
    if tree is None:
        return FillKind.EXPRESSION if rest.strip() else FillKind.LINE
    kind = syntax.kind_at(tree, offset)
    if kind is CursorKind.COMMENT and not comments:
        return NoSuggestion.IN_COMMENT
    if kind is CursorKind.STRING and not strings:
        return NoSuggestion.IN_STRING
    if kind is CursorKind.CODE and syntax.inside_identifier(tree, offset):
        return NoSuggestion.IN_WORD
    if rest.strip():
        return FillKind.EXPRESSION
    return FillKind.BLOCK if kind is CursorKind.CODE and block_expected(tree, offset) else FillKind.LINE


def ends_with_line(tree: SyntaxTree | None, text: Readable, offset: int) -> bool:
    """Whether an asked-for fill at `offset` ends with its line. Inside a word nothing is filled unasked, and the syntax
    does not tell; where a fill ends there, the engine finds out."""
    return fill_kind(tree, text, offset, comments=True, strings=True) not in (FillKind.BLOCK, NoSuggestion.IN_WORD)


def _rest_of_line(text: Readable, offset: int) -> str:
    """As much of it as matters."""
    return text[offset : offset + 1000].replace("\r", "\n").partition("\n")[0]
