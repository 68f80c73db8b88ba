"""Where a Python name is defined and used: enough to follow a rename, and to know when it cannot be followed. No torch.

Offsets are code points.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tree_sitter import Node

from dgemma_model.source.syntax import SyntaxTree
from dgemma_model.source.undefined_names import is_bound

_SCOPES = frozenset({"function_definition", "class_definition", "lambda", "module"})
_PARAMETERS = frozenset({"parameters", "lambda_parameters"})


def left_behind(tree: SyntaxTree, old: str, new: str) -> list[tuple[int, int]]:
    """The places that still have `old` although its definition has become `new`, in the order of the text.

    Empty if there is any doubt: `new` is defined in several scopes or more than once as a parameter or function,
    `old` is defined still, or something does not parse.
    """
    if not old.isidentifier() or not new.isidentifier() or old == new or tree.tree.root_node.has_error:
        return []
    definitions = [node for node in _occurrences(tree, new) if is_bound(node)]
    scopes = {_scope(node) for node in definitions}
    if len(scopes) != 1:
        return []
    scope = scopes.pop()
    if sum(map(_is_parameter, definitions)) > 1:
        return []
    old_nodes = [node for node in _occurrences(tree, old) if _is_inside(node, scope)]
    if any(is_bound(node) for node in old_nodes):
        return []
    if scope.type == "class_definition":
        sites = [node for node in old_nodes if _is_own_attribute(node)]
    else:
        sites = [node for node in old_nodes if not _is_attribute(node) and not _is_keyword(node)]
    if any(_is_parameter(node) for node in definitions):
        sites += [node for node in _occurrences(tree, old) if _is_keyword(node) and _called(node) == _name(scope)]
    return sorted((_code_points(tree, node.start_byte), _code_points(tree, node.end_byte)) for node in sites)


def collides(tree: SyntaxTree, old: str, new: str) -> bool:
    """Whether `new` means something already where `old` is defined, before anything is renamed: then the two would
    become one."""
    if not old.isidentifier() or not new.isidentifier():
        return False
    scopes = {_scope(node) for node in _occurrences(tree, old) if is_bound(node)}
    names = [node for node in _occurrences(tree, new) if not _is_keyword(node)]
    return any(
        _is_inside(node, scope) and (_is_own_attribute(node) if _is_attribute(node) else True)
        for node in names
        for scope in scopes
        if scope.type == "class_definition" or not _is_attribute(node)
    )


def _occurrences(tree: SyntaxTree, name: str) -> Iterator[Node]:
    for found in re.finditer(rb"\b" + re.escape(name.encode()) + rb"\b", tree.data):
        node = tree.tree.root_node.descendant_for_byte_range(*found.span())
        if node is not None and node.type == "identifier" and (node.start_byte, node.end_byte) == found.span():
            yield node


def _scope(definition: Node) -> Node:
    """The scope of a definition: for a parameter its function, for others the scope of its statement."""
    node = definition.parent
    if node is not None and node.type in ("function_definition", "class_definition"):
        node = node.parent  # its own name counts outside
    while node is not None and node.type not in _SCOPES:
        node = node.parent
    assert node is not None  # a sound tree's root is a module
    return node


def _is_inside(node: Node, scope: Node) -> bool:
    return scope.start_byte <= node.start_byte and node.end_byte <= scope.end_byte


def _is_attribute(node: Node) -> bool:
    parent = node.parent
    return parent is not None and parent.type == "attribute" and parent.child_by_field_name("attribute") == node


def _is_own_attribute(node: Node) -> bool:
    owner = node.parent.child_by_field_name("object") if _is_attribute(node) and node.parent else None
    return owner is not None and owner.text in (b"self", b"cls")


def _is_keyword(node: Node) -> bool:
    parent = node.parent
    return parent is not None and parent.type == "keyword_argument" and parent.child_by_field_name("name") == node


def _is_parameter(definition: Node) -> bool:
    around = definition.parent
    while around is not None and around.type not in _SCOPES:
        if around.type in _PARAMETERS:
            return True
        around = around.parent
    return False


def _called(keyword: Node) -> bytes | None:
    """The name of what is called with a keyword argument."""
    arguments = keyword.parent.parent if keyword.parent is not None else None
    call = arguments.parent if arguments is not None else None
    function = call.child_by_field_name("function") if call is not None else None
    if function is None:
        return None
    attribute = function.child_by_field_name("attribute") if function.type == "attribute" else None
    return (attribute or function).text


def _name(scope: Node) -> bytes | None:
    name = scope.child_by_field_name("name")
    return name.text if name is not None else None


def _code_points(tree: SyntaxTree, byte: int) -> int:
    return byte if tree.data.isascii() else len(tree.data[:byte].decode("utf-8", "surrogatepass"))
