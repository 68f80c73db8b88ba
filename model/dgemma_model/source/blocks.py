"""Where a block is due: after a header that has none yet, in every language that has a row. No torch."""

from __future__ import annotations

import tree_sitter

from dgemma_model.source.syntax import SyntaxTree, byte_offset, code_before, indent_at, line_end, line_start

_CLOSERS = frozenset({"end", "}", ")", "]"})


def block_expected(tree: SyntaxTree, offset: int) -> bool:
    """Whether a block is due at `offset`: its header comes before, with nothing but a docstring between.

    False if something follows on the line, or if the block has lines already.
    """
    data = tree.data
    byte = byte_offset(tree, offset)
    if data[byte : line_end(data, byte)].strip():
        return False
    opener = code_before(tree, byte)
    string = opener.parent if opener is not None and tree.row.docstrings else None
    if string is not None and string.type in tree.row.strings:
        opener = code_before(tree, string.start_byte)  # the token before the docstring
    if opener is None or opener.parent is None:
        return False
    if code_before(tree, line_end(data, opener.end_byte)) != opener:
        return False
    header = _header_start(tree, opener)
    return header is not None and _next_indent(data, byte) <= indent_at(data, line_start(data, header))


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
    line = line_start(tree.data, last.start_byte)
    line += indent_at(tree.data, line)
    header = parent.start_byte if row.block_openers and not parent.is_error else line
    for start in (header, line):
        keyword = tree.tree.root_node.descendant_for_byte_range(start, start)
        if keyword is not None and keyword.type in row.block_keywords:
            return start
    if parent.is_error and last.type == "{" and tree.data[line : last.start_byte].rstrip().endswith((b")", b"=>")):
        return line
    return None


def _next_indent(data: bytes, byte: int) -> int:
    """Indentation of the first line after the one of `byte` that is not blank; -1 if there is none."""
    rest = data[line_end(data, byte) :]
    text_at = len(rest) - len(rest.lstrip())
    return text_at - line_start(rest, text_at) if text_at < len(rest) else -1
