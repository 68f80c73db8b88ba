"""tree-sitter, and nothing else's: languages, trees, scopes, error counts. No torch.

Offsets given and returned are code points of the text; tree-sitter's own, UTF-8 bytes, stay inside this file
(`named_nodes` apart).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import tree_sitter
import tree_sitter_python


@dataclass(frozen=True, slots=True)
class Grammar:
    """What has to be known of a language: its grammar, and what that calls the things asked about below."""

    language: tree_sitter.Language
    comments: frozenset[str]
    """Node kinds of comments; they run to the end of their line."""
    strings: frozenset[str]
    """Node kinds of string literals."""
    string_start: str
    """Kind of the token that opens a string; all that is left of a string that is never closed."""
    interpolations: frozenset[str]
    """Node kinds of code inside a string."""
    scopes: frozenset[str]
    """Node kinds worth keeping whole: functions and classes."""
    scope_wrappers: frozenset[str]
    """Node kinds of a scope together with what belongs to it: decorators."""
    scope_prefixes: frozenset[str]
    """Node kinds that may stand before such a scope: decorators again, each on its own."""
    scope_keywords: frozenset[str]
    """Tokens that open a scope; all that is left of one whose header does not parse."""
    block_opener: str
    """The last token of a header that a block follows."""
    block_keywords: frozenset[str]
    """First tokens of such headers."""


GRAMMARS: dict[str, Grammar] = {
    "python": Grammar(
        language=tree_sitter.Language(tree_sitter_python.language()),
        comments=frozenset({"comment"}),
        strings=frozenset({"string"}),
        string_start="string_start",
        interpolations=frozenset({"interpolation"}),
        scopes=frozenset({"function_definition", "class_definition"}),
        scope_wrappers=frozenset({"decorated_definition"}),
        scope_prefixes=frozenset({"decorator"}),
        scope_keywords=frozenset({"def", "class"}),
        block_opener=":",
        block_keywords=frozenset(
            {"async", "case", "class", "def", "elif", "else", "except", "finally"}
            | {"for", "if", "match", "try", "while", "with"}
        ),
    )
}
"""One row per language, by the identifier that LSP clients send."""

LANGUAGES: dict[str, tree_sitter.Language] = {name: row.language for name, row in GRAMMARS.items()}
"""Language identifier as LSP clients send it, to its grammar."""

_CONTINUATION = bytes(range(0x80, 0xC0))


@dataclass(frozen=True, slots=True)
class SyntaxTree:
    """The tree of one text, and the text's bytes (UTF-8; lone surrogates as `surrogatepass` writes them)."""

    language: str
    data: bytes
    tree: tree_sitter.Tree


class CursorKind(Enum):
    """What a cursor stands in."""

    CODE = "code"
    COMMENT = "comment"
    STRING = "string"


def parse(language: str, text: str) -> SyntaxTree | None:
    """The tree of `text`, or None for a language without a grammar."""
    grammar = LANGUAGES.get(language)
    if grammar is None:
        return None
    data = text.encode("utf-8", "surrogatepass")
    return SyntaxTree(language, data, tree_sitter.Parser(grammar).parse(data))


def spliced(tree: SyntaxTree, start: int, end: int, new_text: str) -> SyntaxTree:
    """The tree after `text[start:end]` has become `new_text`; reuses what the edit does not touch."""
    first, last = _byte_offset(tree.data, start), _byte_offset(tree.data, end)
    new = new_text.encode("utf-8", "surrogatepass")
    data = tree.data[:first] + new + tree.data[last:]
    edited = tree.tree.copy()
    edited.edit(
        first, last, first + len(new),
        _point(tree.data, first), _point(tree.data, last), _point(data, first + len(new)),
    )  # fmt: skip
    return SyntaxTree(tree.language, data, tree_sitter.Parser(LANGUAGES[tree.language]).parse(data, edited))


def named_nodes(tree: SyntaxTree) -> Iterator[tuple[str, int, int]]:
    """Every named node as (kind, start byte, end byte), outermost first."""
    cursor = tree.tree.walk()
    while True:
        node = cursor.node
        if node is not None and node.is_named:
            yield node.type, node.start_byte, node.end_byte
        if cursor.goto_first_child() or cursor.goto_next_sibling():
            continue
        while True:
            if not cursor.goto_parent():
                return
            if cursor.goto_next_sibling():
                break


def error_count(tree: SyntaxTree) -> int:
    """Number of places that do not parse: what tree-sitter calls errors, and what it misses."""
    return sum(1 for _ in _damage(tree))


def kind_at(tree: SyntaxTree, offset: int) -> CursorKind:
    """What the cursor at `offset` stands in; code inside an f-string is code."""
    grammar = GRAMMARS[tree.language]
    byte = _byte_offset(tree.data, offset)
    for node in _upwards(_node_before(tree, byte)):
        if node.type in grammar.comments and node.start_byte < byte:
            return CursorKind.COMMENT
        if node.type in grammar.interpolations and byte < node.end_byte:
            return CursorKind.CODE
        if node.type in grammar.strings and _between_quotes(node, byte):
            return CursorKind.STRING
    return CursorKind.STRING if _after_unclosed_quote(tree, byte) else CursorKind.CODE


def inside_word(text: str, offset: int) -> bool:
    """Whether a word goes on to the left and to the right of the cursor, in any language."""
    neighbours = text[max(offset - 1, 0) : offset + 1]
    return offset > 0 and len(neighbours) == 2 and all(c.isalnum() or c == "_" for c in neighbours)


def scope_starts(tree: SyntaxTree, offset: int) -> list[int]:
    """Starts of the lines above that begin the functions and classes around `offset`, outermost first.

    A decorated one begins with its first decorator. Where nothing of a scope follows the cursor, the
    indentation of the cursor's line tells whether it is still inside: a block ends where indentation does.
    """
    data = tree.data
    byte = _byte_offset(data, offset)
    line = _line_start(data, byte)
    column = min(_indent(data, line), byte - line)
    around: list[tuple[int, int]] = []  # (indentation, line start)
    for node in reversed(list(_upwards(_code_before(tree, byte)))):
        for opener in _scope_openers(node, byte, GRAMMARS[tree.language]):
            start = _line_start(data, opener.start_byte)
            indent = _indent(data, start)
            if start < line and (indent < column or opener.end_byte > byte):
                around = [outer for outer in around if outer[0] < indent]
                around.append((indent, start))
    return [_code_points(data, start) for _, start in around]


def block_expected(tree: SyntaxTree, offset: int) -> bool:
    """Whether a block is due at `offset`: its header stands before, with nothing but a docstring between.

    False where something follows on the line, and where the block has lines already.
    """
    grammar = GRAMMARS[tree.language]
    data = tree.data
    byte = _byte_offset(data, offset)
    if data[byte : _line_end(data, byte)].strip():
        return False
    opener = _code_before(tree, byte)
    if opener is not None and opener.parent is not None and opener.parent.type in grammar.strings:
        opener = _code_before(tree, opener.parent.start_byte)  # what stands before a docstring
    if opener is None or opener.parent is None or opener.type != grammar.block_opener:
        return False
    if _code_before(tree, _line_end(data, opener.end_byte)) != opener:
        return False
    header = opener.parent.start_byte
    if opener.parent.is_error:
        header = _line_start(data, opener.start_byte)
    indent = _indent(data, _line_start(data, header))
    keyword = tree.tree.root_node.descendant_for_byte_range(header, header)
    return keyword is not None and keyword.type in grammar.block_keywords and _next_indent(data, byte) <= indent


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
        if node is None or node.type not in GRAMMARS[tree.language].comments:
            return node
        byte = node.start_byte
    return None


def _between_quotes(string: tree_sitter.Node, byte: int) -> bool:
    first, last = string.children[0], string.children[-1]
    return first.end_byte <= byte <= last.start_byte


def _after_unclosed_quote(tree: SyntaxTree, byte: int) -> bool:
    """Whether a string was opened before `byte` and never closed: its text parses as code, or not at all."""
    kind = GRAMMARS[tree.language].string_start
    for error in _damage(tree):
        if error.start_byte >= byte:
            break
        for quote in error.children:
            if quote.type == kind and quote.end_byte <= byte:
                text = quote.text or b""
                if text.endswith((b'"""', b"'''")) or b"\n" not in tree.data[quote.end_byte : byte]:
                    return True
    return False


def _scope_openers(node: tree_sitter.Node, byte: int, grammar: Grammar) -> Iterator[tree_sitter.Node]:
    """`node` if it is a scope; if it is damage, what before `byte` would have opened one."""
    if node.type in grammar.scopes:
        wrapped = node.parent is not None and node.parent.type in grammar.scope_wrappers
        yield node.parent if wrapped and node.parent is not None else node
    elif node.is_error:
        wrapper: tree_sitter.Node | None = None
        for child in node.children:
            if child.start_byte >= byte:
                return
            if child.type in grammar.scope_keywords:
                yield wrapper or child
            wrapper = (wrapper or child) if child.type in grammar.scope_prefixes else None


def _byte_offset(data: bytes, offset: int) -> int:
    """The UTF-8 byte at which code point number `offset` begins."""
    if data.isascii():
        return offset
    return len(data.decode("utf-8", "surrogatepass")[:offset].encode("utf-8", "surrogatepass"))


def _code_points(data: bytes, byte: int) -> int:
    """How many code points begin before `byte`."""
    return byte if data.isascii() else len(data[:byte].translate(None, _CONTINUATION))


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
