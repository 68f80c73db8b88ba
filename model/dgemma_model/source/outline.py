"""What other code needs to know of a file: its imports, the signatures of its definitions, its names. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache

import tree_sitter

from dgemma_model.source.language_row import Language
from dgemma_model.source.syntax import SyntaxTree, byte_offset, code_point, grammar_of

_SIGNATURE_CHARS = 300
_DEPTH = 4
"""How deep definitions are looked for; deeper ones are no business of other files."""
_KNOWN_NODES = 1024
_KNOWN_BYTES = 4096
"""So many nodes, each this long at most, are remembered with the signatures in them."""
_known: dict[tuple[str, str, bytes], list[tuple[str, str, int]]] = {}
_NAME_FIELDS = ("name", "declarator", "field", "method")
_INNER = ("function", "method", "constructor")
"""Parts of the kinds of scopes whose inside is nobody else's business."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A definition without its body."""

    name: str
    text: str
    start: int
    """Where it begins in the document, in code points."""


def imports(tree: SyntaxTree) -> list[tuple[int, int]]:
    """The file's own imports as (start, end), in the order of the text."""
    found = (node for node in tree.tree.root_node.children if node.type in tree.row.imports)
    return [(code_point(tree, node.start_byte), code_point(tree, node.end_byte)) for node in found]


@lru_cache(maxsize=16)
def signatures(tree: SyntaxTree) -> tuple[Signature, ...]:
    """Every definition that other code could use, in the order of the text."""
    return tuple(found for node in tree.tree.root_node.named_children for found in _outermost(tree, node))


def _outermost(tree: SyntaxTree, node: tree_sitter.Node) -> Iterator[Signature]:
    """The signatures in a child of the root: from key to key nearly all of them are as they were."""
    key = (tree.row.name, node.type, tree.data[node.start_byte : node.end_byte])
    start = code_point(tree, node.start_byte)
    known = _known.get(key)
    if known is None:
        known = [(one.name, one.text, one.start - start) for one in _signatures(tree, node, _DEPTH)]
        if len(key[2]) <= _KNOWN_BYTES:
            if len(_known) >= _KNOWN_NODES:
                _known.clear()
            _known[key] = known
    for name, text, at in known:
        yield Signature(name, text, start + at)


def signature_at(tree: SyntaxTree, start: int) -> str:
    """The header of the scope that begins in the line at `start`, or just that line."""
    byte = byte_offset(tree, start)
    line = tree.data[byte : byte + 4 * _SIGNATURE_CHARS].split(b"\n", 1)[0]
    byte += len(line) - len(line.lstrip())
    node = tree.tree.root_node.descendant_for_byte_range(byte, byte)
    while node is not None and node.start_byte == byte:
        if node.type in tree.row.scopes:
            return (line[: len(line) - len(line.lstrip())]).decode() + _header(tree, node)
        node = node.parent
    return line.decode("utf-8", "replace")


def name_nodes(tree: SyntaxTree, start: int, end: int) -> list[tree_sitter.Node]:
    """The nodes of the names that overlap the document's `[start:end]`."""
    query = _identifiers(tree.row)
    if query is None or start >= end:
        return []
    cursor = tree_sitter.QueryCursor(query)
    cursor.set_byte_range(byte_offset(tree, start), byte_offset(tree, end))
    return cursor.captures(tree.tree.root_node).get("name", [])


@cache
def _identifiers(row: Language) -> tree_sitter.Query | None:
    grammar = grammar_of(row)
    if grammar is None or not row.identifiers:
        return None
    return tree_sitter.Query(grammar, "".join(f"({kind}) @name " for kind in sorted(row.identifiers)))


def _signatures(tree: SyntaxTree, node: tree_sitter.Node, depth: int) -> Iterator[Signature]:
    """Those of `node` itself and of what is in it."""
    is_scope, is_signature = node.type in tree.row.scopes, node.type in tree.row.signatures
    name = _name(tree, node, depth=_DEPTH if is_signature else 0) if is_scope or is_signature else ""
    if name:
        yield Signature(name, _header(tree, node), code_point(tree, node.start_byte))
    if depth and not is_signature and not (is_scope and any(part in node.type for part in _INNER)):
        for child in node.named_children:
            yield from _signatures(tree, child, depth - 1)


def _name(tree: SyntaxTree, node: tree_sitter.Node, depth: int) -> str:
    """The name that `node` defines, by the fields of its grammar; if these have none, the first one in it that is
    `depth` levels down at most."""
    if node.type in tree.row.identifiers:
        return tree.data[node.start_byte : node.end_byte].decode("utf-8", "replace")
    for part in (node.child_by_field_name(field) for field in _NAME_FIELDS):
        if part is not None and (name := _name(tree, part, depth)):
            return name
    if depth:
        for child in node.named_children:
            if not child.type.endswith("_type") and (name := _name(tree, child, depth - 1)):
                return name
    named = node.child_by_field_name("type")  # of an `impl`
    return _name(tree, named, depth) if named is not None else ""


def _header(tree: SyntaxTree, node: tree_sitter.Node) -> str:
    """The text of a definition before its body; its first line if it has no body."""
    body = node.child_by_field_name("body")
    if body is None:
        body = next((child for child in node.children if child.type in tree.row.blocks), None)
    text = tree.data[node.start_byte : node.end_byte if body is None else body.start_byte].decode("utf-8", "replace")
    if body is None:
        text = text.partition("\n")[0]
    return text[:_SIGNATURE_CHARS].rstrip().removesuffix("{").rstrip()
