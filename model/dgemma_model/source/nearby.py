"""A part of a tree that is as good as the whole for judging an edit. No torch."""

from __future__ import annotations

from collections.abc import Iterator

from dgemma_model.source import bounded
from dgemma_model.source.syntax import (
    SyntaxTree,
    byte_offset,
    code_point,
    error_count,
    grammar_of,
    line_end,
    line_start,
)


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
    found = bounded.parse(grammar, data)
    smaller = SyntaxTree(tree.row, data, found, start) if found is not None else tree
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
                line, after = line_start(tree.data, start), line_end(tree.data, end)
                if not tree.data[line:start].strip() and not tree.data[end:after].strip():
                    yield start, end
