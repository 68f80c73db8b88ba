"""Placeholders in a file: `...`, `pass`, empty bodies and TODO comments where code is yet to be written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from tree_sitter import Node

from dgemma_model.source import syntax
from dgemma_model.source.blocks import block_expected
from dgemma_model.source.fill_sites import (
    VALUE_PARENTS,
    HoleContent,
    Site,
    code_points,
    colon_line,
    deeper,
    enclosing,
    indentation,
    is_idle,
    is_string,
    line_end,
    line_offset,
    line_start,
    next_line,
    node_at,
    site_between,
)
from dgemma_model.source.syntax import SyntaxTree


@dataclass(frozen=True, slots=True)
class Placeholder:
    """A place in the text where code is yet to be written."""

    site: Site
    label: str
    """What it is, for people."""
    first_line: int
    last_line: int
    """The lines, from 0, on which a cursor means it."""
    unfinished: bool
    """It is certainly unfinished, so *Fill all holes in this file* includes it."""


_CANDIDATE = re.compile(
    rb"\bpass\b|\.\.\.|\braise[ \t]+NotImplementedError\b|\b(?:TODO|FIXME)\b|:(?=[ \t]*(?:#[^\r\n]*)?(?:\r?\n|\r|\Z))"
)


_DECLARES = re.compile(rb"abstractmethod|overload")
_OVERLOADS = re.compile(rb"\boverload\b")


def placeholders(tree: SyntaxTree, first_line: int = 0, last_line: int | None = None) -> Iterator[Placeholder]:
    """Every placeholder that a cursor on one of the given lines would mean, in the order of the text."""
    data = tree.data
    start = line_offset(data, max(first_line - 1, 0))  # a blank line may belong to the header above it
    end = len(data) if last_line is None else line_offset(data, last_line + 1)
    for found in _CANDIDATE.finditer(data, start, end):
        placeholder = _placeholder(tree, found)
        if placeholder is None or placeholder.last_line < first_line:
            continue
        if last_line is None or placeholder.first_line <= last_line:
            yield placeholder


def _placeholder(tree: SyntaxTree, found: re.Match[bytes]) -> Placeholder | None:
    node = node_at(tree, found.start())
    if node is None:
        return None
    if found[0] in (b"TODO", b"FIXME"):
        return _todo(tree, node) if "comment" in node.type else None
    if tree.row.name != "python" or "comment" in node.type or "string" in node.type:
        return None
    if found[0] == b":":
        return _empty_body(tree, node)
    statement = next((around for around in syntax.upwards(tree, node) if around.type.endswith("_statement")), None)
    if found[0] == b"..." and (node.parent is None or node.parent.type in VALUE_PARENTS):
        site = site_between(tree, node.start_byte, node.end_byte, ("", ""), (HoleContent.EXPRESSION,))
        lines = node.start_point[0]
        return Placeholder(site, "...", lines, lines, unfinished=False) if node.type == "ellipsis" else None
    if statement is None or not is_idle(statement):
        return None
    return _idle_body(tree, statement, found[0].decode().partition(" ")[0])


def _idle_body(tree: SyntaxTree, statement: Node, label: str) -> Placeholder | None:
    """A statement that holds the place of a block, together with the block's header if it is on the same line."""
    block = statement.parent
    if block is None or block.type != "block":
        return None
    others = [node for node in block.named_children if node != statement and not is_string(node)]
    if any(node.type != "comment" for node in others) or statement.has_error:
        return None
    header = block.parent
    assert header is not None  # a block is never a root
    if _has_decorator(tree, header, _OVERLOADS):
        return None
    start, pieces = statement.start_byte, ("", "")
    if header.start_point[0] == statement.start_point[0] or colon_line(header, block) == statement.start_point[0]:
        indent = deeper(tree.data, header.start_byte)
        start, pieces = len(tree.data[:start].rstrip()), (f"\n{indent}", "")
    name = "raise NotImplementedError" if label == "raise" else label
    site = site_between(tree, start, statement.end_byte, pieces, (HoleContent.BLOCK,))
    unfinished = header.type == "function_definition" and not _is_declaration(tree, header)
    return Placeholder(site, name, statement.start_point[0], statement.end_point[0], unfinished)


def _empty_body(tree: SyntaxTree, colon: Node) -> Placeholder | None:
    """The block that is due after a header's colon, below comments that belong to it."""
    data = tree.data
    start = end = line_end(data, colon.end_byte)
    indent = deeper(data, colon.start_byte)
    first_row = last_row = colon.start_point[0]
    while (following := next_line(data, end)) is not None:
        line = data[slice(*following)]
        comment = line.lstrip().startswith(b"#") and len(line) - len(line.lstrip()) >= len(indent)
        blank = bool(line) and not line.strip()  # made for the body, where an empty line only separates
        if not comment and not blank:
            break
        end, last_row = following[1], last_row + 1
        if blank:
            break
        start = end
    if colon.type != ":" or not block_expected(tree, code_points(tree, end)):
        return None
    if colon.parent is not None and _has_decorator(tree, colon.parent, _OVERLOADS):
        return None
    site = site_between(tree, start, end, (f"\n{indent}", ""), (HoleContent.BLOCK,))
    return Placeholder(site, "empty body", first_row, last_row, unfinished=True)


def _todo(tree: SyntaxTree, comment: Node) -> Placeholder | None:
    """The code that a comment on lines of its own asks for, below it."""
    data = tree.data
    start = line_start(data, comment.start_byte)
    if data[start : comment.start_byte].strip():
        return None
    at, row = line_end(data, comment.end_byte), comment.end_point[0]
    while (following := next_line(data, at)) is not None:
        node = node_at(tree, following[0] + len(indentation(data, following[0]).encode()))
        if node is None or "comment" not in node.type or node.start_byte < following[0]:
            break
        at, row = following[1], row + 1
    below = next_line(data, at)
    if below is not None and re.match(rb"\s*(?:pass|\.\.\.|raise NotImplementedError)\b", data[below[0] : below[1]]):
        return None  # that one is the hole
    if at == line_end(data, comment.end_byte) and b"*/" in data[comment.start_byte : comment.end_byte]:
        at = comment.end_byte
    indent = indentation(data, comment.start_byte)
    site = site_between(tree, at, at, (f"\n{indent}", ""), (HoleContent.BLOCK,))
    return Placeholder(site, "TODO", comment.start_point[0], row, unfinished=False)


def _is_declaration(tree: SyntaxTree, function: Node) -> bool:
    """Whether a function is meant to have no body: abstract, overloaded, in a protocol, or for type checkers."""
    if _has_decorator(tree, function, _DECLARES) or _is_for_checkers(function):
        return True
    around = enclosing(function, "class_definition")
    bases = around and around.child_by_field_name("superclasses")
    return bool(bases and b"Protocol" in (bases.text or b""))


def _has_decorator(tree: SyntaxTree, function: Node, pattern: re.Pattern[bytes]) -> bool:
    wrapper = function.parent
    decorated = wrapper is not None and wrapper.type == "decorated_definition"
    return bool(decorated and wrapper and pattern.search(tree.data, wrapper.start_byte, function.start_byte))


def _is_for_checkers(function: Node) -> bool:
    """Whether a definition is under `if TYPE_CHECKING:`."""
    around = function.parent
    while around is not None:
        condition = around.child_by_field_name("condition") if around.type == "if_statement" else None
        if condition is not None and (condition.text or b"").endswith(b"TYPE_CHECKING"):
            return True
        around = around.parent
    return False
