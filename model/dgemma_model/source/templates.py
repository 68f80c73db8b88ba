"""Templates of code that can be asked for at a place: a block, a docstring, annotations, arguments, try/except."""

from __future__ import annotations

import re

from tree_sitter import Node

from dgemma_model.source import syntax
from dgemma_model.source.blocks import block_expected
from dgemma_model.source.fill_sites import (
    HoleContent,
    Site,
    byte_at,
    code_points,
    colon_of,
    deeper,
    definition_at,
    enclosing,
    field_text,
    indent_unit,
    indentation,
    is_string,
    line_end,
    line_start,
    node_at,
    site_between,
    statements_in,
    text_of,
    trimmed,
    undecorated,
)
from dgemma_model.source.syntax import SyntaxTree


def due_block(tree: SyntaxTree, offset: int) -> Site | None:
    """The block that is due at a blank line with the cursor in it, for instance below a lone docstring."""
    data = tree.data
    start = line_start(data, byte_at(tree, offset))
    end = line_end(data, start)
    if data[start:end].strip() or not block_expected(tree, code_points(tree, end)):
        return None
    last = len(data[:start].rstrip()) - 1
    docstring = next((node for node in syntax.upwards(tree, node_at(tree, last)) if is_string(node)), None)
    if docstring is None:
        return None
    return site_between(tree, start, end, (indentation(data, docstring.start_byte), ""), (HoleContent.BLOCK,))


def empty_arguments(tree: SyntaxTree, offset: int) -> Site | None:
    """The hole in the empty argument list of a call whose parentheses the cursor touches."""
    byte = byte_at(tree, offset)
    for at in (byte, byte - 1, byte + 1):
        node = node_at(tree, at)
        arguments = node.parent if node is not None and node.type in "()" else node
        if arguments is not None and arguments.type == "argument_list" and arguments.child_count == 2:
            opening, closing = arguments.children
            if arguments.start_byte <= byte <= arguments.end_byte and not arguments.has_error:
                return site_between(tree, opening.end_byte, closing.start_byte, ("", ""), (HoleContent.EXPRESSION,))
    return None


def missing_docstring(tree: SyntaxTree, offset: int) -> Site | None:
    """The docstring that the function or class lacks whose header the cursor is in."""
    definition = definition_at(tree, offset)
    body = definition and definition.child_by_field_name("body")
    if definition is None or body is None:
        return None
    colon = colon_of(definition)
    first = body.named_children[0] if body.named_children else None
    if colon is None or (first is not None and (is_string(first) or first.start_point[0] == colon.start_point[0])):
        return None
    data, at = tree.data, line_end(tree.data, colon.end_byte)
    indent = indentation(data, first.start_byte) if first is not None else deeper(data, definition.start_byte)
    return site_between(tree, at, at, (f'\n{indent}"""', '"""'), (HoleContent.PROSE,))


def missing_annotations(tree: SyntaxTree, offset: int) -> tuple[Site, ...]:
    """A hole for each parameter and result without a type, of the function whose header the cursor is in."""
    function = definition_at(tree, offset)
    parameters = function and function.child_by_field_name("parameters")
    if function is None or parameters is None or parameters.has_error:
        return ()
    sites = []
    for number, parameter in enumerate(parameters.named_children):
        name = parameter.child_by_field_name("name") if parameter.type == "default_parameter" else parameter
        if name is None or parameter.type not in ("identifier", "default_parameter", *_SPLATS):
            continue
        if number == 0 and name.text in (b"self", b"cls") and enclosing(function, "class_definition"):
            continue
        value = parameter.child_by_field_name("value")
        if value is None:
            sites.append(site_between(tree, name.end_byte, name.end_byte, (": ", ""), (HoleContent.TYPE,)))
        else:
            sites.append(site_between(tree, name.end_byte, value.start_byte, (": ", " = "), (HoleContent.TYPE,)))
    if function.child_by_field_name("return_type") is None:
        at = parameters.end_byte
        sites.append(site_between(tree, at, at, (" -> ", ""), (HoleContent.TYPE,)))
    return tuple(sites)


def missing_arguments(tree: SyntaxTree, offset: int) -> Site | None:
    """A hole for each argument that the call at the cursor lacks, where the file defines what is called once."""
    around = syntax.upwards(tree, node_at(tree, byte_at(tree, offset)))
    call = next((node for node in around if node.type == "call"), None)
    called = call and call.child_by_field_name("function")
    arguments = call and call.child_by_field_name("arguments")
    if called is None or arguments is None or arguments.type != "argument_list" or arguments.has_error:
        return None
    required = _required_parameters(tree, called)
    given = arguments.named_children
    if any(argument.type in ("list_splat", "dictionary_splat", "ERROR") for argument in given):
        return None
    names = {field_text(argument, "name") for argument in given if argument.type == "keyword_argument"}
    positional = sum(argument.type not in ("keyword_argument", "comment") for argument in given)
    missing = [name for name in required[positional:] if name.encode() not in names]
    if not missing:
        return None
    *before, closing = arguments.children
    last = next(child for child in reversed(before) if child.type != "comment")
    joint = {"(": "", ",": " "}.get(last.type, ", ")
    pieces = [f"{joint}{missing[0]}=", *(f", {name}=" for name in missing[1:]), ""]
    end = last.end_byte if before[-1].type == "comment" else closing.start_byte
    return site_between(tree, last.end_byte, end, tuple(pieces), (HoleContent.EXPRESSION,) * len(missing))


def try_except(tree: SyntaxTree, start: int, end: int) -> Site | None:
    """The selected statements inside `try`, with holes for the exception's type and for what is done about it."""
    first, last = trimmed(tree.data, byte_at(tree, start), byte_at(tree, end))
    statements = statements_in(tree, first, last)
    if not statements or any(node.has_error or _spans_lines_in_string(node) for node in statements):
        return None
    if any(node.type == "future_import_statement" for node in statements):
        return None  # nothing but a docstring may be above it
    begin, finish = statements[0].start_byte, statements[-1].end_byte
    line = line_start(tree.data, begin)
    if tree.data[line:begin].strip() or tree.data[finish : line_end(tree.data, finish)].strip():
        return None
    indent, unit = indentation(tree.data, begin), indent_unit(tree)
    body = tree.data[begin:finish].decode("utf-8", "surrogatepass").replace("\r\n", "\n").replace("\r", "\n")
    deeper = "\n".join(unit + text if text.strip() else text for text in (indent + body).split("\n"))
    opening = f"try:\n{deeper}\n{indent}except "
    return site_between(tree, begin, finish, (opening, f":\n{indent}{unit}", ""), (HoleContent.TYPE, HoleContent.BLOCK))


_SPLATS = ("list_splat_pattern", "dictionary_splat_pattern")


def _required_parameters(tree: SyntaxTree, called: Node) -> list[str]:
    """Names of the parameters without a default of what is called; empty where that is not known for certain."""
    attribute = called.child_by_field_name("attribute") if called.type == "attribute" else None
    name = text_of(attribute or called)
    if not name.isidentifier():
        return []
    pattern = re.compile(rb"\b(?:def|class)[ \t]+" + re.escape(name.encode()) + rb"\b")
    nodes = [node_at(tree, found.end() - 1) for found in pattern.finditer(tree.data)]
    definitions = [node.parent for node in nodes if node is not None and node.parent is not None]
    if len(definitions) != 1:
        return []
    definition, bound = definitions[0], False
    if definition.type == "class_definition":
        body = definition.child_by_field_name("body")
        methods = [undecorated(node) for node in body.named_children] if body else []
        inits = [node for node in methods if field_text(node, "name") == b"__init__"]
        if len(inits) != 1:
            return []
        definition, bound = inits[0], True
    elif enclosing(definition, "class_definition"):
        bound = attribute is not None
    parameters = definition.child_by_field_name("parameters")
    required = []
    for parameter in parameters.named_children if parameters else []:
        name_node = parameter.named_children[0] if parameter.type == "typed_parameter" else parameter
        if name_node.type in (*_SPLATS, "keyword_separator", "positional_separator"):
            if name_node.type == "positional_separator":
                return []  # those before it have no names to call them by
            break  # what follows is keyword-only: rarely required
        if name_node.type == "identifier":
            required.append(text_of(name_node))
    return required[1:] if bound else required


def _spans_lines_in_string(node: Node) -> bool:
    around = [node]
    while around:
        part = around.pop()
        if part.type == "string" and part.start_point[0] != part.end_point[0]:
            return True
        around += part.children
    return False
