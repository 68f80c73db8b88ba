"""tree-sitter, and nothing else's: trees, scopes, error counts, in every language that has a row. No torch.

Offsets given and returned are code points of the document; tree-sitter's own, UTF-8 bytes, stay inside this file
and `outline` (`named_nodes` apart).
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import cache

import tree_sitter

from dgemma_model.request import Readable
from dgemma_model.source import bounded, languages
from dgemma_model.source.language_row import Language

logger = logging.getLogger(__name__)

_LONG_STRINGS = (b'"""', b"'''", b"`")
"""Quotes of strings that run over line breaks."""
_COMMENT_ENDS = (b"*/", b"-->", b"]]", b"\n=end", b"\n")
"""What closes a comment; any other runs to the end of its line."""
_CONTINUATION = bytes(range(0x80, 0xC0))
_CLOSERS = frozenset(")]}")
_LONE_RETURN = re.compile(rb"\r(?!\n)")


@dataclass(frozen=True, slots=True)
class SyntaxTree:
    """The tree of a document, or of a stretch of it, and that text's bytes (UTF-8; lone surrogates as
    `surrogatepass` writes them). A carriage return that ends a line alone is a line feed in them: to tree-sitter it
    would end none."""

    row: Language
    data: bytes
    tree: tree_sitter.Tree
    start: int = 0
    """Where in the document the stretch begins, in code points."""


class CursorKind(Enum):
    """What a cursor is in."""

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


def parse(
    language: str, text: str, start: int = 0, *, like: SyntaxTree | None = None, limit_s: float = bounded.PARSE_S
) -> SyntaxTree | None:
    """The tree of `text`, which begins `start` code points into its document; None for a language without a grammar,
    and for a text that takes more than `limit_s` of CPU time to parse.

    `like` is the tree of a similar text: what the two have in common at both ends is not parsed again.
    """
    row = languages.row_of(language)
    grammar = grammar_of(row) if row else None
    if row is None or grammar is None:
        return None
    data = _encoded(text)
    if like is not None and like.row is row:
        if like.data == data and like.start == start:
            return like
        head = _common_length(like.data, data)
        tail = _common_length(like.data[head:][::-1], data[head:][::-1])
        return _reparsed(like, head, len(like.data) - tail, data, len(data) - tail, start, limit_s)
    tree = bounded.parse(grammar, data, limit_s=limit_s)
    return None if tree is None else SyntaxTree(row, data, tree, start)


def has_grammar_for(language: str) -> bool:
    """Whether texts in the language have trees, unless they take too long to parse. Loads the grammar."""
    row = languages.row_of(language)
    return row is not None and has_grammar(row)


class LastTree:
    """Remembers the tree last made of a document, so that the next one costs what has changed. One thread at a time
    may use it; the trees it gives never change."""

    def __init__(self) -> None:
        self._tree: SyntaxTree | None = None
        self._too_long: int | None = None
        self._asked: Readable | None = None
        """The text whose part was asked about last, of which so much is before and after that part:"""
        self._around: tuple[int, int] | None = None
        self._grown: tuple[int, int] | None = None
        """What part grew to, as far as from both ends of the text."""

    def update(self, language: str, text: str, start: int) -> SyntaxTree | None:
        """As `parse`; a text that took too long is not tried again until it has become shorter."""
        if self._too_long is not None and len(text) >= self._too_long:
            return None
        last = self._tree if self._tree is not None and self._tree.start == start else None
        self._tree = parse(language, text, start, like=last)
        self._too_long = len(text) if self._tree is None and has_grammar_for(language) else None
        return self._tree

    def part_outside_strings(
        self, language: str, text: Readable, start: int, end: int, *, is_known: Callable[[Readable], bool]
    ) -> tuple[int, int] | None:
        """`[start:end]`, grown to whole strings and comments: such a part of `text` parses as in the whole. None where
        the whole takes too long to parse.

        Asks the tree of the whole text, and again only when the text outside the part has changed: `is_known` says of
        the text that was asked about last whether it is the same there.
        """
        around = start, len(text) - end
        if self._asked is None or self._around != around or not is_known(self._asked):
            whole = parse(language, text[:])
            self._around, self._grown = around, None
            if whole is not None:
                left, right = _around_string(whole, start), _around_string(whole, end)
                self._grown = left[0] if left else start, len(text) - (right[1] if right else end)
        self._asked = text
        return (self._grown[0], len(text) - self._grown[1]) if self._grown else None


def spliced(tree: SyntaxTree, start: int, end: int, new_text: str) -> SyntaxTree | None:
    """The tree after the document's `[start:end]` has become `new_text`; reuses what the edit does not touch. None
    where that takes too long to parse."""
    first, last = byte_offset(tree, start), byte_offset(tree, end)
    new = new_text.encode("utf-8", "surrogatepass")
    data = _with_line_feeds(tree.data[:first] + new + tree.data[last:])
    return _reparsed(tree, first, last, data, first + len(new), tree.start)


def error_count_after(tree: SyntaxTree, start: int, end: int, new_text: str) -> float:
    """`error_count` of `spliced`; infinity where that takes too long to parse."""
    after = spliced(tree, start, end, new_text)
    return float("inf") if after is None else error_count(after)


def _reparsed(
    old: SyntaxTree, first: int, last: int, data: bytes, new_last: int, start: int, limit_s: float = bounded.PARSE_S
) -> SyntaxTree | None:
    """The tree of `data`, which has the bytes `[first:new_last]` where the old one's text has `[first:last]`."""
    grammar = grammar_of(old.row)
    assert grammar is not None  # there is a tree
    tree = bounded.parse(
        grammar, data, bounded.edited(old.tree, old.data, data, first, last, new_last), limit_s=limit_s
    )
    return None if tree is None else SyntaxTree(old.row, data, tree, start)


def _encoded(text: str) -> bytes:
    return _with_line_feeds(text.encode("utf-8", "surrogatepass"))


def _with_line_feeds(data: bytes) -> bytes:
    """With a line feed for each carriage return that ends a line alone."""
    return _LONE_RETURN.sub(b"\n", data) if data.count(b"\r") != data.count(b"\r\n") else data


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
    return sum(1 for _ in damage(tree))


def unclosed_count(tree: SyntaxTree) -> int:
    """How many of the places that do not parse are closing brackets that the end of the text lacks."""
    end = len(tree.data.rstrip())
    return sum(1 for node, _ in damage(tree) if node.is_missing and node.start_byte >= end and node.type in _CLOSERS)


def is_damaged_from(tree: SyntaxTree, start: int, end: int) -> bool:
    """Whether there is an error that begins on the lines of the two offsets, or on the line after them. Errors that
    began on an earlier line do not count, such as a bracket that is not closed yet."""
    data = tree.data
    first, last = line_start(data, byte_offset(tree, start)), line_end(data, byte_offset(tree, end))
    last = line_end(data, min(last + 1, len(data)))
    return any(
        first <= (parent if node.is_missing and parent is not None else node).start_byte <= last
        for node, parent in damage(tree)
    )


def kind_at(tree: SyntaxTree, offset: int) -> CursorKind:
    """What the cursor at `offset` is in; code inside an f-string is code."""
    row = tree.row
    byte = byte_offset(tree, offset)
    for node in upwards(tree, _node_before(tree, byte)):
        if node.type in row.comments and node.start_byte < byte and not _is_over(node, byte):
            return CursorKind.COMMENT
        if node.type in row.interpolations and byte < node.end_byte:
            return CursorKind.CODE
        if node.type in row.strings and _between_quotes(node, byte):
            return CursorKind.STRING
    return CursorKind.CODE if _unclosed_quote(tree, byte) is None else CursorKind.STRING


def _around_string(tree: SyntaxTree, offset: int) -> tuple[int, int] | None:
    """Start and end of the lines of the outermost string or comment around `offset`; to the end of the text for a
    string that is never closed."""
    byte, data = byte_offset(tree, offset), tree.data
    around = list(upwards(tree, tree.tree.root_node.descendant_for_byte_range(byte, byte)))
    for node in reversed(around):
        if node.type in tree.row.strings | tree.row.comments and node.start_byte < byte < node.end_byte:
            return code_point(tree, line_start(data, node.start_byte)), code_point(tree, line_end(data, node.end_byte))
    quote = _unclosed_quote(tree, byte)
    return None if quote is None else (code_point(tree, line_start(data, quote)), code_point(tree, len(data)))


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
    line = line_start(data, byte)
    column = min(indent_at(data, line), byte - line)
    around: list[tuple[int, int, bool]] = []  # indentation, line start, whether the tree is certain
    for node in reversed(list(upwards(tree, code_before(tree, byte)))):
        for opener in _scope_openers(node, byte, tree.row):
            start = line_start(data, opener.start_byte)
            indent, holds = indent_at(data, start), opener.end_byte > byte or tree.row.is_flat
            if start < line and (indent < column or holds) and start not in (known for _, known, _ in around):
                around = [outer for outer in around if outer[0] < indent or outer[2]]
                around.append((indent, start, holds))
    return [code_point(tree, start) for _, start, _ in around]


def damage(tree: SyntaxTree) -> Iterator[tuple[tree_sitter.Node, tree_sitter.Node | None]]:
    """Every ERROR and MISSING node with its parent, in the order of the text; steps over what is sound.

    A token that is missing may have no node (a line break in Python): then it is the node that lacks it.
    """
    cursor = tree.tree.walk()
    around: list[tree_sitter.Node] = []  # to ask a node for its parent takes a walk from the root
    while True:
        node = cursor.node
        broken = node is not None and node.has_error
        if node is not None and broken and (node.is_error or not any(child.has_error for child in node.children)):
            yield node, around[-1] if around else None
        if node is not None and broken and cursor.goto_first_child():
            around.append(node)
            continue
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent():
                return
            around.pop()


def upwards(tree: SyntaxTree, node: tree_sitter.Node | None) -> Iterator[tree_sitter.Node]:
    """`node` and all that it is in, innermost first."""
    path: list[tree_sitter.Node] = []
    at = tree.tree.root_node if node is not None else None
    while node is not None and at is not None:
        path.append(at)
        at = at.child_with_descendant(node) if at != node else None
    return reversed(path)


def _node_before(tree: SyntaxTree, byte: int) -> tree_sitter.Node | None:
    """The smallest node that holds the byte before `byte`."""
    return tree.tree.root_node.descendant_for_byte_range(max(byte - 1, 0), byte)


def code_before(tree: SyntaxTree, byte: int) -> tree_sitter.Node | None:
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


def _unclosed_quote(tree: SyntaxTree, byte: int) -> int | None:
    """The byte at which a string was opened before `byte` and never closed: its text parses as code, or not at all."""
    for error, _ in damage(tree):
        if error.start_byte >= byte:
            break
        for quote in error.children:
            if quote.type not in tree.row.string_starts or quote.end_byte > byte:
                continue
            if (quote.text or b"").endswith(_LONG_STRINGS) or tree.data.find(b"\n", quote.end_byte, byte) < 0:
                return quote.start_byte
    return None


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


def line_start(data: bytes, byte: int) -> int:
    return max(data.rfind(b"\n", 0, byte), data.rfind(b"\r", 0, byte)) + 1


def line_end(data: bytes, byte: int) -> int:
    return min((at for at in (data.find(b"\n", byte), data.find(b"\r", byte)) if at >= 0), default=len(data))


def indent_at(data: bytes, start: int) -> int:
    """Blank bytes at the beginning of the line that starts at `start`."""
    line = data[start : line_end(data, start)]
    return len(line) - len(line.lstrip())
