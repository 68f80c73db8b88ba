"""The shape of a tree, without its positions: for comparing two texts."""

from __future__ import annotations

from collections.abc import Iterator

from dgemma_model.source.syntax import SyntaxTree


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


def structure(tree: SyntaxTree) -> list[tuple[int, str]]:
    """What the text says, whatever its layout: depth and kind of each node in order, and the text of those without
    children. Comments are left out, and quotes are all the same."""
    found: list[tuple[int, str]] = []
    cursor, depth, read = tree.tree.walk(), 0, 0

    def say(text: bytes) -> None:
        if said := text.strip(b" \t\r\n\f\\"):
            found.append((depth, said.decode("utf-8", "replace").replace("'", '"')))

    while True:
        node = cursor.node
        assert node is not None
        if node.type in tree.row.comments:
            read = node.end_byte
        elif node.child_count:
            found.append((depth, node.type))
            depth += cursor.goto_first_child()
            continue
        else:
            say(tree.data[read : node.start_byte])  # text that is no node's: in strings with escapes, and in errors
            found.append((depth, node.type))
            say(tree.data[node.start_byte : node.end_byte])
            read = node.end_byte
        while not cursor.goto_next_sibling():
            if not cursor.goto_parent():
                say(tree.data[read:])
                return found
            depth -= 1
