"""Undefined names in Python code: a suggestion uses them, and neither it nor the file can define them. No torch.

In doubt a name counts as defined. So does a name that occurs anywhere in the file as a word of its own, and any name if
names may come from other places: star imports, `exec`, `globals()`, or a fragment that neither imports nor defines
anything.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterable
from functools import lru_cache

import tree_sitter

from dgemma_model.source.outline import name_nodes
from dgemma_model.source.syntax import SyntaxTree

_BUILTIN = frozenset(dir(builtins)) | {"reveal_type", "WindowsError"}
_FROM_NOWHERE = re.compile(
    r"import\s*\(?\s*\*|\b(?:exec|globals|locals|vars)\s*\(|^\s*[%!]\w",  # the last are of notebooks
    re.MULTILINE,
)
_WHOLE_FILE = re.compile(r"^[ \t]*(?:import|from|def|class|async)\b", re.MULTILINE)
"""What a file has that is no fragment of one."""

_BINDING_FIELDS = {
    ("assignment", "left"),
    ("for_statement", "left"),
    ("for_in_clause", "left"),
    ("named_expression", "name"),
    ("function_definition", "name"),
    ("class_definition", "name"),
    ("default_parameter", "name"),
    ("typed_default_parameter", "name"),
    ("type_alias_statement", "left"),
}
_BINDING_PARENTS = {
    *("parameters", "lambda_parameters", "typed_parameter", "list_splat_pattern", "dictionary_splat_pattern"),
    *("dotted_name", "aliased_import", "global_statement", "nonlocal_statement", "as_pattern_target"),
    *("case_pattern", "case_clause", "keyword_pattern", "splat_pattern", "class_pattern", "dict_pattern"),
    "type_parameter",
}
_PATTERNS = frozenset({"pattern_list", "tuple_pattern", "list_pattern", "list_splat_pattern"})
_NO_NAMES = {("attribute", "attribute"), ("keyword_argument", "name")}


def unresolved(tree: SyntaxTree, start: int, end: int, pieces: Iterable[str]) -> frozenset[str]:
    """Names that `[start:end]` of the document uses and that are certainly defined nowhere.

    `tree` is that of the text with a suggestion in it, which fills `[start:end]`; `pieces` are the whole text without
    the suggestion, cut between lines. Empty for other languages.
    """
    if tree.row.name != "python":
        return frozenset()
    used, bound = set(), set()
    for node in name_nodes(tree, start, end):
        name = tree.data[node.start_byte : node.end_byte].decode("utf-8", "replace")
        if is_bound(node):
            bound.add(name)
        elif not _is_no_name(node):
            used.add(name)
    missing = {name for name in used - bound - _BUILTIN if not (name.startswith("__") and name.endswith("__"))}
    if not missing:
        return frozenset()
    is_fragment = True
    for piece in pieces:
        missing -= {name for name in missing if name in piece and re.search(rf"(?<![\w.]){name}(?!\w)", piece)}
        from_nowhere, is_whole = _signs(piece)
        if not missing or from_nowhere:
            return frozenset()
        is_fragment = is_fragment and not is_whole
    return frozenset() if is_fragment else frozenset(missing)


@lru_cache(maxsize=128)
def _signs(piece: str) -> tuple[bool, bool]:
    """Whether names may come from nowhere in a piece of a file, and whether the file is no fragment."""
    piece = piece.replace("\r", "\n")
    return _FROM_NOWHERE.search(piece) is not None, _WHOLE_FILE.search(piece) is not None


def is_bound(name: tree_sitter.Node) -> bool:
    """Whether this occurrence gives the name its meaning: by an assignment, a definition, an import, ..."""
    node = name
    while (parent := node.parent) is not None:
        field = _field(parent, node)
        if (parent.type, field) in _BINDING_FIELDS or parent.type in _BINDING_PARENTS:
            return True
        if parent.type not in _PATTERNS:
            return False
        node = parent
    return False


def _is_no_name(name: tree_sitter.Node) -> bool:
    parent = name.parent
    return parent is not None and ((parent.type, _field(parent, name)) in _NO_NAMES or parent.is_error)


def _field(parent: tree_sitter.Node, child: tree_sitter.Node) -> str | None:
    index = next((at for at, other in enumerate(parent.children) if other == child), None)
    return None if index is None else parent.field_name_for_child(index)
