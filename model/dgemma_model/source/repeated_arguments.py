"""Arguments by name that a call has twice, which no language allows; attributes and fields likewise. No torch."""

from __future__ import annotations

import tree_sitter

from dgemma_model.source.syntax import SyntaxTree, byte_offset

_NAME_FIELDS = ("name", "key", "field")
_NAMES = frozenset({"attribute_name", "property_identifier"})
"""What has no field for its name has it as the first child."""


def repeats_argument(tree: SyntaxTree, start: int, end: int) -> bool:
    """Whether what is between the two offsets of the document names an argument that its call has already."""
    first, last = byte_offset(tree, start), byte_offset(tree, end)
    around = [tree.tree.root_node] if tree.row.named_arguments else []
    while around:
        node = around.pop()
        if not node.is_error:
            seen = set[bytes]()
            repeated = set[bytes]()
            own = set[bytes]()
            for child in node.children:
                name = _name(child) if child.type in tree.row.named_arguments else None
                if name is not None:
                    (repeated if name in seen else seen).add(name)
                    if child.end_byte > first and child.start_byte < last:
                        own.add(name)
            if repeated & own:
                return True
        around += (child for child in node.children if child.end_byte > first and child.start_byte < last)
    return False


def _name(argument: tree_sitter.Node) -> bytes | None:
    for field in _NAME_FIELDS:
        if (name := argument.child_by_field_name(field)) is not None:
            return name.text
    only = argument.children[0] if argument.children else None
    return only.text if only is not None and only.type in _NAMES else None
