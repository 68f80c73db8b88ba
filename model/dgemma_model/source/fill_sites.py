"""Places in a file that can be filled or rewritten on request: placeholders, templates, and the unit around a span.

A place is a `Site`: a span of the present text, and the text with holes that replaces it. Offsets in arguments and
results are code points; tree-sitter's bytes are used inside only. Templates know Python. Everything else works in every
language that has a grammar. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from tree_sitter import Node

from dgemma_model.source import syntax
from dgemma_model.source.syntax import SyntaxTree


class HoleContent(Enum):
    """What a hole may be filled with."""

    BLOCK = auto()
    """Statements, on one line or several."""
    LINE = auto()
    """Anything on one line."""
    EXPRESSION = auto()
    """One expression on one line."""
    TYPE = auto()
    """A type, as annotations and `except` name it."""
    PROSE = auto()
    """A sentence inside a docstring."""


@dataclass(frozen=True, slots=True)
class Site:
    """`text[start:end]` is to become `pieces[0] HOLE pieces[1] HOLE ... pieces[-1]`; line breaks in it are `\\n`."""

    start: int
    end: int
    pieces: tuple[str, ...]
    holes: tuple[HoleContent, ...]
    """One fewer than there are pieces."""


_INDENTED = re.compile(rb"^([ \t]*)\S[^\r\n]*:[ \t]*\r?\n\1([ \t]+)\S", re.MULTILINE)
VALUE_PARENTS = frozenset(
    {"assignment", "return_statement", "argument_list", "keyword_argument", "binary_operator", "pair", "list", "tuple"}
)
_DEFINITIONS = ("function_definition", "class_definition")
_MAX_UNIT_LINES = 24
"""A longer stretch is not rewritten as one."""


def unit_around(tree: SyntaxTree, start: int, end: int) -> tuple[int, int]:
    """The simple statement or sound expression around a span, or else the lines that it touches, without their
    indentation."""
    data = tree.data
    first, last = trimmed(data, byte_at(tree, start), byte_at(tree, end))
    for node in syntax.upwards(tree, tree.tree.root_node.named_descendant_for_byte_range(first, last)):
        if node.type in ("block", "module", "ERROR") or node.type.endswith(("_definition", "_clause", "body")):
            break
        lines = node.end_point[0] - node.start_point[0]
        simple = node.type.endswith(("_statement", "_declaration")) and not _has_block(node)
        if simple and not node.has_error and lines < _MAX_UNIT_LINES:
            return code_points(tree, node.start_byte), code_points(tree, node.end_byte)
    first, last = trimmed(data, line_start(data, first), line_end(data, last))
    if first == last:  # an empty line: then the unit is the line above
        last = len(data[:first].rstrip())
        first, last = trimmed(data, line_start(data, last), last)
    return code_points(tree, first), code_points(tree, last)


def selected_unit(tree: SyntaxTree, start: int, end: int) -> tuple[int, int] | None:
    """What a selection means: its visible part, grown to whole words; None where there is nothing or too much."""
    data = tree.data
    first, last = trimmed(data, byte_at(tree, start), byte_at(tree, end))
    if first >= last or data.count(b"\n", first, last) >= _MAX_UNIT_LINES:
        return None
    for edge in (first, last):
        node = node_at(tree, edge)
        if node is not None and node.start_byte < edge < node.end_byte and not node.children:
            first, last = min(first, node.start_byte), max(last, node.end_byte)
    return code_points(tree, first), code_points(tree, last)


def errors_within(tree: SyntaxTree, start: int, end: int) -> bool:
    """Whether something between the two offsets does not parse."""
    first, last = byte_at(tree, start), byte_at(tree, end)
    return any(node.start_byte <= last and node.end_byte >= first for node, _ in syntax.damage(tree))


def does_nothing(language: str, text: str) -> bool:
    """Whether statements only hold a place: `pass`, `...`, `raise NotImplementedError`, strings, comments, or none."""
    if not text.strip():
        return True
    tree = syntax.parse(language, _dedented(text)) if language == "python" else None
    if tree is None:
        return text.strip() in ("...", ";", "{}")
    return all(is_idle(node) for node in tree.tree.root_node.named_children)


def is_expression(text: str) -> bool:
    """Whether `text` is one Python expression on one line."""
    return _expression(text) is not None


def is_type(text: str) -> bool:
    """Whether `text` names a Python type."""
    node = _expression(text)
    kinds = {"identifier", "attribute", "subscript", "none", "string", "generic_type"}
    if node is not None and node.type == "binary_operator":
        operator = node.child_by_field_name("operator")
        sides = (node.child_by_field_name("left"), node.child_by_field_name("right"))
        return operator is not None and operator.type == "|" and all(side and is_type(text_of(side)) for side in sides)
    return node is not None and node.type in kinds


def indent_unit(tree: SyntaxTree) -> str:
    """One level of the file's indentation, by its first indented block; four spaces where there is none."""
    found = _INDENTED.search(tree.data)
    return found[2].decode() if found else "    "


def is_idle(node: Node) -> bool:
    if node.type in ("pass_statement", "comment") or is_string(node):
        return True
    if node.type == "expression_statement":
        return all(child.type == "ellipsis" for child in node.named_children)
    return node.type == "raise_statement" and text_of(node).removeprefix("raise").strip().startswith(
        "NotImplementedError"
    )


def is_string(node: Node) -> bool:
    return node.type == "expression_statement" and all(child.type == "string" for child in node.named_children)


def definition_at(tree: SyntaxTree, offset: int) -> Node | None:
    """The function or class in whose header the cursor is: from its first line to its colon."""
    byte = byte_at(tree, offset)
    at = line_start(tree.data, byte) + len(indentation(tree.data, byte).encode())
    for node in syntax.upwards(tree, node_at(tree, max(byte, at))):
        if node.type in _DEFINITIONS:
            colon = colon_of(node)
            inside = colon is not None and byte <= line_end(tree.data, colon.end_byte)
            return node if inside and not node.is_error else None
    return None


def colon_of(definition: Node) -> Node | None:
    return next((child for child in definition.children if child.type == ":"), None)


def statements_in(tree: SyntaxTree, first: int, last: int) -> list[Node]:
    """The whole statements of one block that a span of bytes touches."""
    for node in syntax.upwards(tree, tree.tree.root_node.descendant_for_byte_range(first, last)):
        if node.type in ("block", "module"):
            return [child for child in node.named_children if child.start_byte < last and child.end_byte > first]
    return []


def _has_block(node: Node) -> bool:
    return any(child.type in ("block", "statement_block", "body") for child in node.children)


def undecorated(node: Node) -> Node:
    definition = node.child_by_field_name("definition")
    return definition if definition is not None else node


def enclosing(node: Node, kind: str) -> Node | None:
    """What `node` is a direct member of, if it is of that kind."""
    around = node.parent
    while around is not None:
        if around.type == kind:
            return around
        if around.type in _DEFINITIONS:
            return None
        around = around.parent
    return None


def _expression(text: str) -> Node | None:
    if not text.strip() or "\n" in text or "\r" in text:
        return None
    tree = syntax.parse("python", text.strip())
    statements: Sequence[Node] = tree.tree.root_node.named_children if tree is not None else ()
    if len(statements) != 1 or tree is None or tree.tree.root_node.has_error:
        return None
    statement = statements[0]
    if statement.type != "expression_statement" or statement.child_count != 1:
        return None
    node = statement.children[0]
    return None if node.type in ("assignment", "augmented_assignment") else node


def _dedented(text: str) -> str:
    """Statements as a text of their own. Their first line has no indentation yet; further lines lose theirs."""
    first, newline, rest = text.partition("\n")
    depths = [len(line) - len(line.lstrip()) for line in rest.split("\n") if line.strip()]
    depth = min(depths, default=0)
    return first.lstrip() + newline + "\n".join(line[depth:] for line in rest.split("\n"))


def site_between(
    tree: SyntaxTree, start: int, end: int, pieces: tuple[str, ...], holes: tuple[HoleContent, ...]
) -> Site:
    return Site(code_points(tree, start), code_points(tree, end), pieces, holes)


def node_at(tree: SyntaxTree, byte: int) -> Node | None:
    """The smallest node that contains `byte`."""
    byte = max(byte, 0)
    return tree.tree.root_node.descendant_for_byte_range(byte, min(byte + 1, len(tree.data)))


def field_text(node: Node, field: str) -> bytes | None:
    child = node.child_by_field_name(field)
    return child.text if child is not None else None


def text_of(node: Node) -> str:
    return (node.text or b"").decode("utf-8", "replace")


def trimmed(data: bytes, first: int, last: int) -> tuple[int, int]:
    """The visible part of a span; its beginning where nothing is visible."""
    span = data[first:last]
    first += len(span) - len(span.lstrip())
    return first, max(first, first + len(span.strip()))


def next_line(data: bytes, end: int) -> tuple[int, int] | None:
    """Start and end of the line after the one that ends at `end`."""
    if end >= len(data):
        return None
    start = end + (2 if data.startswith(b"\r\n", end) else 1)
    return start, line_end(data, start)


def line_start(data: bytes, byte: int) -> int:
    return max(data.rfind(b"\n", 0, byte), data.rfind(b"\r", 0, byte)) + 1


def line_end(data: bytes, byte: int) -> int:
    return min((at for at in (data.find(b"\n", byte), data.find(b"\r", byte)) if at >= 0), default=len(data))


def line_offset(data: bytes, row: int) -> int:
    """Where a row begins, as tree-sitter counts rows; the end of the text for one below it."""
    at = 0
    for _ in range(row):
        at = data.find(b"\n", at) + 1
        if at == 0:
            return len(data)
    return at


def indentation(data: bytes, byte: int) -> str:
    """The blanks at the beginning of the line of `byte`."""
    start = line_start(data, byte)
    line = data[start : line_end(data, start)]
    return line[: len(line) - len(line.lstrip(b" \t"))].decode()


def deeper(data: bytes, byte: int) -> str:
    """One level more than the indentation of the line of `byte`."""
    found = _INDENTED.search(data)
    return indentation(data, byte) + (found[2].decode() if found else "    ")


def byte_at(tree: SyntaxTree, offset: int) -> int:
    if tree.data.isascii():
        return min(max(offset, 0), len(tree.data))
    text = tree.data.decode("utf-8", "surrogatepass")
    return len(text[: max(offset, 0)].encode("utf-8", "surrogatepass"))


def code_points(tree: SyntaxTree, byte: int) -> int:
    return byte if tree.data.isascii() else len(tree.data[:byte].decode("utf-8", "surrogatepass"))


def colon_line(header: Node, block: Node) -> int:
    colons = [child for child in header.children if child.type == ":" and child.end_byte <= block.start_byte]
    return colons[-1].start_point[0] if colons else -1
