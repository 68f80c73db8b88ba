"""tree-sitter, and nothing else's: trees, scopes, error counts, in every language that has a row. No torch.

Offsets given and returned are code points of the document; tree-sitter's own, UTF-8 bytes, stay inside this file
and `outline` (`named_nodes` apart).
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache

import tree_sitter

from dgemma_model.request import Readable
from dgemma_model.source import languages
from dgemma_model.source.language_row import Language

logger = logging.getLogger(__name__)

_LONG_STRINGS = (b'"""', b"'''", b"`")
"""Quotes of strings that run over line breaks."""
_COMMENT_ENDS = (b"*/", b"-->", b"]]", b"\n=end", b"\n")
"""What closes a comment; any other runs to the end of its line."""
_CLOSERS = frozenset({"end", "}", ")", "]"})
_CONTINUATION = bytes(range(0x80, 0xC0))


@dataclass(frozen=True, slots=True)
class SyntaxTree:
    """The tree of a document, or of a stretch of it, and that text's bytes (UTF-8; lone surrogates as
    `surrogatepass` writes them)."""

    row: Language
    data: bytes
    tree: tree_sitter.Tree
    start: int = 0
    """Where in the document the stretch begins, in code points."""


class CursorKind(Enum):
    """What a cursor stands in."""

    CODE = "code"
    COMMENT = "comment"
    STRING = "string"


@cache
def grammar_of(row: Language) -> tree_sitter.Language | None:
    """The grammar, loaded when it is first needed; None, and a line in the log, where it cannot be."""
    try:
        return tree_sitter.Language(getattr(importlib.import_module(row.module), row.function)())
    except (ImportError, OSError, AttributeError, ValueError) as error:
        logger.warning("no syntax trees for %s, its grammar %s cannot be used: %s", row.name, row.package, error)
        return None


def has_grammar(row: Language) -> bool:
    """Whether the language's grammar is there and works. Loads it."""
    return grammar_of(row) is not None


def parse(language: str, text: str, start: int = 0, *, like: SyntaxTree | None = None) -> SyntaxTree | None:
    """The tree of `text`, which begins `start` code points into its document; None for a language without a grammar.

    `like` is the tree of a similar text: what the two have in common at both ends is not parsed again.
    """
    row = languages.row_of(language)
    grammar = grammar_of(row) if row else None
    if row is None or grammar is None:
        return None
    data = text.encode("utf-8", "surrogatepass")
    if like is None or like.row is not row:
        return SyntaxTree(row, data, tree_sitter.Parser(grammar).parse(data), start)
    if like.data == data and like.start == start:
        return like
    head = _common_length(like.data, data)
    tail = _common_length(like.data[head:][::-1], data[head:][::-1])
    return _reparsed(like, head, len(like.data) - tail, data, len(data) - tail, start)


class LastTree:
    """Remembers the tree last made of a document, so that the next one costs what has changed. One thread at a time
    may use it; the trees it gives never change."""

    def __init__(self) -> None:
        self._tree: SyntaxTree | None = None

    def update(self, language: str, text: str, start: int) -> SyntaxTree | None:
        """As `parse`."""
        last = self._tree if self._tree is not None and self._tree.start == start else None
        self._tree = parse(language, text, start, like=last)
        return self._tree


def spliced(tree: SyntaxTree, start: int, end: int, new_text: str) -> SyntaxTree:
    """The tree after the document's `[start:end]` has become `new_text`; reuses what the edit does not touch."""
    first, last = byte_offset(tree, start), byte_offset(tree, end)
    new = new_text.encode("utf-8", "surrogatepass")
    data = tree.data[:first] + new + tree.data[last:]
    return _reparsed(tree, first, last, data, first + len(new), tree.start)


def nearby(tree: SyntaxTree, offset: int, reach: int = 1024) -> SyntaxTree:
    """A smaller tree, in which edits near `offset` can be judged as in the whole one: without the functions and classes
    that are sound and more than `reach` bytes away.

    What an edit costs in a large tree depends on the text: in many a Python file next to nothing can be reused.
    Offsets within `reach` mean the same in both trees.
    """
    byte = byte_offset(tree, offset)
    grammar = grammar_of(tree.row)
    left_out = sorted(_far_scopes(tree, byte - reach, byte + reach)) if len(tree.data) > 4 * reach else []
    if not left_out or grammar is None:
        return tree
    kept = zip([0, *(end for _, end in left_out)], [*(start for start, _ in left_out), len(tree.data)], strict=True)
    data = b"".join(tree.data[start:end] for start, end in kept)
    start = tree.start + sum(code_point(tree, b) - code_point(tree, a) for a, b in left_out if b <= byte)
    smaller = SyntaxTree(tree.row, data, tree_sitter.Parser(grammar).parse(data), start)
    return tree if error_count(smaller) > error_count(tree) else smaller


def _far_scopes(tree: SyntaxTree, first: int, last: int) -> Iterator[tuple[int, int]]:
    """The bytes of sound scopes that begin and end with lines and lie outside `[first:last]`; none inside another."""
    kinds = tree.row.scopes | tree.row.scope_wrappers
    around = [tree.tree.root_node]
    while around:
        for node in around.pop().children:
            start, end = node.start_byte, node.end_byte
            if end >= first and start <= last:
                if start < first or end > last:
                    around.append(node)
            elif node.type in kinds and not node.has_error:
                line, line_end = _line_start(tree.data, start), _line_end(tree.data, end)
                if not tree.data[line:start].strip() and not tree.data[end:line_end].strip():
                    yield start, end


def _reparsed(old: SyntaxTree, first: int, last: int, data: bytes, new_last: int, start: int) -> SyntaxTree:
    """The tree of `data`, which has the bytes `[first:new_last]` where the old one's text has `[first:last]`."""
    grammar = grammar_of(old.row)
    assert grammar is not None  # there is a tree
    edited = old.tree.copy()
    edited.edit(
        first, last, new_last,
        _point(old.data, first), _point(old.data, last), _point(data, new_last),
    )  # fmt: skip
    return SyntaxTree(old.row, data, tree_sitter.Parser(grammar).parse(data, edited), start)


def _common_length(a: bytes, b: bytes) -> int:
    """How many bytes at their beginnings are the same."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def error_count(tree: SyntaxTree) -> int:
    """Number of places that do not parse: what tree-sitter calls errors, and what it misses."""
    return sum(1 for _ in _damage(tree))


def is_damaged_from(tree: SyntaxTree, start: int, end: int) -> bool:
    """Whether something does not parse that begins on the lines of the two offsets, or on the line behind them: not
    what has been broken since an earlier line, such as a bracket that is still to be closed."""
    data = tree.data
    first, last = _line_start(data, byte_offset(tree, start)), _line_end(data, byte_offset(tree, end))
    last = _line_end(data, min(last + 1, len(data)))
    for node in _damage(tree):
        at = node
        if node.is_missing and node.parent is not None:
            at = node.parent
        if first <= at.start_byte <= last:
            return True
    return False


def kind_at(tree: SyntaxTree, offset: int) -> CursorKind:
    """What the cursor at `offset` stands in; code inside an f-string is code."""
    row = tree.row
    byte = byte_offset(tree, offset)
    for node in _upwards(_node_before(tree, byte)):
        if node.type in row.comments and node.start_byte < byte and not _is_over(node, byte):
            return CursorKind.COMMENT
        if node.type in row.interpolations and byte < node.end_byte:
            return CursorKind.CODE
        if node.type in row.strings and _between_quotes(node, byte):
            return CursorKind.STRING
    return CursorKind.STRING if _after_unclosed_quote(tree, byte) else CursorKind.CODE


def inside_identifier(tree: SyntaxTree, offset: int) -> bool:
    """Whether a name of the language goes on to both sides of `offset`: in CSS, `-` is part of one."""
    byte = byte_offset(tree, offset)
    node = _node_before(tree, byte)
    return node is not None and node.type in tree.row.identifiers and node.start_byte < byte < node.end_byte


def inside_word(text: Readable, offset: int) -> bool:
    """Whether a word goes on to the left and to the right of the cursor, in any language."""
    neighbours = text[max(offset - 1, 0) : offset + 1]
    return offset > 0 and len(neighbours) == 2 and all(c.isalnum() or c == "_" for c in neighbours)


def scope_starts(tree: SyntaxTree, offset: int) -> list[int]:
    """Starts of the lines above that begin the functions and classes around `offset`, outermost first.

    A decorated one begins with its first decorator. Where nothing of a scope follows the cursor, the
    indentation of the cursor's line tells whether it is still inside: a block ends where indentation does.
    """
    data = tree.data
    byte = byte_offset(tree, offset)
    line = _line_start(data, byte)
    column = min(_indent(data, line), byte - line)
    around: list[tuple[int, int, bool]] = []  # indentation, line start, whether the tree is certain
    for node in reversed(list(_upwards(_code_before(tree, byte)))):
        for opener in _scope_openers(node, byte, tree.row):
            start = _line_start(data, opener.start_byte)
            indent, holds = _indent(data, start), opener.end_byte > byte or tree.row.is_flat
            if start < line and (indent < column or holds) and start not in (known for _, known, _ in around):
                around = [outer for outer in around if outer[0] < indent or outer[2]]
                around.append((indent, start, holds))
    return [code_point(tree, start) for _, start, _ in around]


def block_expected(tree: SyntaxTree, offset: int) -> bool:
    """Whether a block is due at `offset`: its header stands before, with nothing but a docstring between.

    False where something follows on the line, and where the block has lines already.
    """
    data = tree.data
    byte = byte_offset(tree, offset)
    if data[byte : _line_end(data, byte)].strip():
        return False
    opener = _code_before(tree, byte)
    string = opener.parent if opener is not None and tree.row.docstrings else None
    if string is not None and string.type in tree.row.strings:
        opener = _code_before(tree, string.start_byte)  # what stands before a docstring
    if opener is None or opener.parent is None:
        return False
    if _code_before(tree, _line_end(data, opener.end_byte)) != opener:
        return False
    header = _header_start(tree, opener)
    return header is not None and _next_indent(data, byte) <= _indent(data, _line_start(data, header))


def _header_start(tree: SyntaxTree, last: tree_sitter.Node) -> int | None:
    """Where the header begins that ends in the token `last`, in bytes; None if that ends no header."""
    row, parent = tree.row, last.parent
    assert parent is not None
    if row.block_openers:
        if last.type not in row.block_openers:
            return None
    elif last.type in _CLOSERS and parent.type not in row.blocks and not parent.type.endswith("parameters"):
        return None
    if parent.type in row.blocks:
        return (parent.parent or parent).start_byte
    line = _line_start(tree.data, last.start_byte)
    line += _indent(tree.data, line)
    header = parent.start_byte if row.block_openers and not parent.is_error else line
    for start in (header, line):
        keyword = tree.tree.root_node.descendant_for_byte_range(start, start)
        if keyword is not None and keyword.type in row.block_keywords:
            return start
    if parent.is_error and last.type == "{" and tree.data[line : last.start_byte].rstrip().endswith((b")", b"=>")):
        return line
    return None


def _damage(tree: SyntaxTree) -> Iterator[tree_sitter.Node]:
    """Every ERROR and MISSING node, in the order of the text; steps over what is sound.

    A token that is missing may have no node (a line break in Python): then it is the node that lacks it.
    """
    cursor = tree.tree.walk()
    while True:
        node = cursor.node
        broken = node is not None and node.has_error
        if node is not None and broken and (node.is_error or not any(child.has_error for child in node.children)):
            yield node
        if (broken and cursor.goto_first_child()) or cursor.goto_next_sibling():
            continue
        while True:
            if not cursor.goto_parent():
                return
            if cursor.goto_next_sibling():
                break


def _upwards(node: tree_sitter.Node | None) -> Iterator[tree_sitter.Node]:
    """`node` and all that it stands in, innermost first."""
    while node is not None:
        yield node
        node = node.parent


def _node_before(tree: SyntaxTree, byte: int) -> tree_sitter.Node | None:
    """The smallest node that holds the byte before `byte`."""
    return tree.tree.root_node.descendant_for_byte_range(max(byte - 1, 0), byte)


def _code_before(tree: SyntaxTree, byte: int) -> tree_sitter.Node | None:
    """The last token before `byte` that is no comment, or None at the beginning of the text."""
    while byte := len(tree.data[:byte].rstrip()):
        node = _node_before(tree, byte)
        if node is None or node.type not in tree.row.comments:
            return node
        byte = node.start_byte
    return None


def _between_quotes(string: tree_sitter.Node, byte: int) -> bool:
    """Whether `byte` is inside a string: after its opening token and before its closing one, if it has such."""
    if string.child_count < 2 or string.children[0].is_named != string.children[-1].is_named:
        return string.start_byte < byte < string.end_byte
    return string.children[0].end_byte <= byte <= string.children[-1].start_byte


def _is_over(comment: tree_sitter.Node, byte: int) -> bool:
    return byte >= comment.end_byte and (comment.text or b"").endswith(_COMMENT_ENDS)


def _after_unclosed_quote(tree: SyntaxTree, byte: int) -> bool:
    """Whether a string was opened before `byte` and never closed: its text parses as code, or not at all."""
    for error in _damage(tree):
        if error.start_byte >= byte:
            break
        for quote in error.children:
            is_open = quote.type in tree.row.string_starts and quote.end_byte <= byte
            goes_on = (quote.text or b"").endswith(_LONG_STRINGS) or b"\n" not in tree.data[quote.end_byte : byte]
            if is_open and goes_on:
                return True
    return False


def _scope_openers(node: tree_sitter.Node, byte: int, row: Language) -> Iterator[tree_sitter.Node]:
    """`node` if it is a scope; if it is damage, what before `byte` would have opened one."""
    if node.type in row.scopes:
        wrapped = node.parent is not None and node.parent.type in row.scope_wrappers
        yield node.parent if wrapped and node.parent is not None else node
    elif node.is_error:
        wrapper: tree_sitter.Node | None = None
        for child in node.children:
            if child.start_byte >= byte:
                return
            if child.type in row.scope_keywords:
                yield wrapper or child
            wrapper = (wrapper or child) if child.type in row.scope_prefixes else None


def byte_offset(tree: SyntaxTree, offset: int) -> int:
    """The UTF-8 byte at which the document's code point number `offset` begins; the nearest end if it is outside."""
    within = max(offset - tree.start, 0)
    if tree.data.isascii():
        return min(within, len(tree.data))
    return len(tree.data.decode("utf-8", "surrogatepass")[:within].encode("utf-8", "surrogatepass"))


def code_point(tree: SyntaxTree, byte: int) -> int:
    """The document's code point that begins at `byte`."""
    count = byte if tree.data.isascii() else len(tree.data[:byte].translate(None, _CONTINUATION))
    return tree.start + count


def _point(data: bytes, byte: int) -> tuple[int, int]:
    """tree-sitter's row and byte column; its rows end at line feeds only."""
    return data.count(b"\n", 0, byte), byte - (data.rfind(b"\n", 0, byte) + 1)


def _line_start(data: bytes, byte: int) -> int:
    return max(data.rfind(b"\n", 0, byte), data.rfind(b"\r", 0, byte)) + 1


def _line_end(data: bytes, byte: int) -> int:
    return min((at for at in (data.find(b"\n", byte), data.find(b"\r", byte)) if at >= 0), default=len(data))


def _indent(data: bytes, line_start: int) -> int:
    """Blank bytes at the beginning of a line."""
    line = data[line_start : _line_end(data, line_start)]
    return len(line) - len(line.lstrip())


def _next_indent(data: bytes, byte: int) -> int:
    """Indentation of the first line after the one of `byte` that is not blank; -1 if there is none."""
    rest = data[_line_end(data, byte) :]
    text_at = len(rest) - len(rest.lstrip())
    return text_at - _line_start(rest, text_at) if text_at < len(rest) else -1
