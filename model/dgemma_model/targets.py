"""Places in a file that can be filled or rewritten on request: placeholders, templates, and the unit around a span.

A place is a `Site`: what stands there now, and what shall stand there instead, with holes in it. Offsets given and
returned are code points; bytes, tree-sitter's own, stay inside. Templates know Python; the rest works in every
language that has a grammar. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from tree_sitter import Node

from dgemma_model import syntax
from dgemma_model.syntax import SyntaxTree


class Hole(Enum):
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
    holes: tuple[Hole, ...]
    """One fewer than there are pieces."""


@dataclass(frozen=True, slots=True)
class Placeholder:
    """Something that stands for code that is yet to be written."""

    site: Site
    label: str
    """What it is, for people."""
    first_line: int
    last_line: int
    """The lines, from 0, on which a cursor means it."""
    unfinished: bool
    """Nobody leaves it like that, so that filling all of a file's placeholders includes it."""


_CANDIDATE = re.compile(
    rb"\bpass\b|\.\.\.|\braise[ \t]+NotImplementedError\b|\b(?:TODO|FIXME)\b|:(?=[ \t]*(?:#[^\r\n]*)?(?:\r?\n|\r|\Z))"
)
_INDENTED = re.compile(rb"^([ \t]*)\S[^\r\n]*:[ \t]*\r?\n\1([ \t]+)\S", re.MULTILINE)
_VALUE_PARENTS = frozenset(
    {"assignment", "return_statement", "argument_list", "keyword_argument", "binary_operator", "pair", "list", "tuple"}
)
_DEFINITIONS = ("function_definition", "class_definition")
_NOT_TO_FILL = re.compile(rb"abstractmethod|overload")
_MAX_UNIT_LINES = 24
"""A longer stretch is not rewritten as one."""


def placeholders(tree: SyntaxTree, first_line: int = 0, last_line: int | None = None) -> Iterator[Placeholder]:
    """Every placeholder that a cursor on one of the given lines would mean, in the order of the text."""
    data = tree.data
    start = _line_offset(data, max(first_line - 1, 0))  # a blank line may belong to the header above it
    end = len(data) if last_line is None else _line_offset(data, last_line + 1)
    for found in _CANDIDATE.finditer(data, start, end):
        placeholder = _placeholder(tree, found)
        if placeholder is None or placeholder.last_line < first_line:
            continue
        if last_line is None or placeholder.first_line <= last_line:
            yield placeholder


def due_block(tree: SyntaxTree, offset: int) -> Site | None:
    """The block that a blank line with the cursor in it stands for, below a docstring that is all there is."""
    data = tree.data
    start = _line_start(data, _byte(tree, offset))
    end = _line_end(data, start)
    if data[start:end].strip() or not syntax.block_expected(tree, _code_points(tree, end)):
        return None
    last = len(data[:start].rstrip()) - 1
    docstring = next((node for node in _upwards(_node_at(tree, last)) if _is_string(node)), None)
    if docstring is None:
        return None
    return _site(tree, start, end, (_indent(data, docstring.start_byte), ""), (Hole.BLOCK,))


def empty_arguments(tree: SyntaxTree, offset: int) -> Site | None:
    """The hole in the empty argument list of a call whose parentheses the cursor touches."""
    byte = _byte(tree, offset)
    for at in (byte, byte - 1, byte + 1):
        node = _node_at(tree, at)
        arguments = node.parent if node is not None and node.type in "()" else node
        if arguments is not None and arguments.type == "argument_list" and arguments.child_count == 2:
            opening, closing = arguments.children
            if arguments.start_byte <= byte <= arguments.end_byte and not arguments.has_error:
                return _site(tree, opening.end_byte, closing.start_byte, ("", ""), (Hole.EXPRESSION,))
    return None


def missing_docstring(tree: SyntaxTree, offset: int) -> Site | None:
    """The docstring that the function or class lacks whose header the cursor is in."""
    definition = _definition_at(tree, offset)
    body = definition and definition.child_by_field_name("body")
    if definition is None or body is None:
        return None
    colon = _colon(definition)
    first = body.named_children[0] if body.named_children else None
    if colon is None or (first is not None and (_is_string(first) or first.start_point[0] == colon.start_point[0])):
        return None
    data, at = tree.data, _line_end(tree.data, colon.end_byte)
    indent = _indent(data, first.start_byte) if first is not None else _deeper(data, definition.start_byte)
    return _site(tree, at, at, (f'\n{indent}"""', '"""'), (Hole.PROSE,))


def missing_annotations(tree: SyntaxTree, offset: int) -> tuple[Site, ...]:
    """A hole for each parameter and result without a type, of the function whose header the cursor is in."""
    function = _definition_at(tree, offset)
    parameters = function and function.child_by_field_name("parameters")
    if function is None or parameters is None or parameters.has_error:
        return ()
    sites = []
    for number, parameter in enumerate(parameters.named_children):
        name = parameter.child_by_field_name("name") if parameter.type == "default_parameter" else parameter
        if name is None or parameter.type not in ("identifier", "default_parameter", *_SPLATS):
            continue
        if number == 0 and name.text in (b"self", b"cls") and _enclosing(function, "class_definition"):
            continue
        value = parameter.child_by_field_name("value")
        if value is None:
            sites.append(_site(tree, name.end_byte, name.end_byte, (": ", ""), (Hole.TYPE,)))
        else:
            sites.append(_site(tree, name.end_byte, value.start_byte, (": ", " = "), (Hole.TYPE,)))
    if function.child_by_field_name("return_type") is None:
        at = parameters.end_byte
        sites.append(_site(tree, at, at, (" -> ", ""), (Hole.TYPE,)))
    return tuple(sites)


def missing_arguments(tree: SyntaxTree, offset: int) -> Site | None:
    """A hole for each argument that the call at the cursor lacks, where the file defines what is called once."""
    call = next((node for node in _upwards(_node_at(tree, _byte(tree, offset))) if node.type == "call"), None)
    called = call and call.child_by_field_name("function")
    arguments = call and call.child_by_field_name("arguments")
    if called is None or arguments is None or arguments.type != "argument_list" or arguments.has_error:
        return None
    required = _required_parameters(tree, called)
    given = arguments.named_children
    if any(argument.type in ("list_splat", "dictionary_splat", "ERROR") for argument in given):
        return None
    names = {_field_text(argument, "name") for argument in given if argument.type == "keyword_argument"}
    positional = sum(argument.type not in ("keyword_argument", "comment") for argument in given)
    missing = [name for name in required[positional:] if name.encode() not in names]
    if not missing:
        return None
    closing = arguments.children[-1]
    inside = tree.data[arguments.start_byte + 1 : closing.start_byte].rstrip()
    joint = "" if not inside else " " if inside.endswith(b",") else ", "
    pieces = [f"{joint}{missing[0]}=", *(f", {name}=" for name in missing[1:]), ""]
    at = arguments.start_byte + 1 + len(inside)
    return _site(tree, at, closing.start_byte, tuple(pieces), (Hole.EXPRESSION,) * len(missing))


def try_except(tree: SyntaxTree, start: int, end: int) -> Site | None:
    """The selected statements inside `try`, with holes for the exception's type and for what is done about it."""
    first, last = _trimmed(tree.data, _byte(tree, start), _byte(tree, end))
    statements = _statements(tree, first, last)
    if not statements or any(node.has_error or _spans_lines_in_string(node) for node in statements):
        return None
    begin, finish = statements[0].start_byte, statements[-1].end_byte
    line = _line_start(tree.data, begin)
    if tree.data[line:begin].strip() or tree.data[finish : _line_end(tree.data, finish)].strip():
        return None
    indent, unit = _indent(tree.data, begin), indent_unit(tree)
    body = tree.data[begin:finish].decode("utf-8", "surrogatepass").replace("\r\n", "\n").replace("\r", "\n")
    deeper = "\n".join(unit + text if text.strip() else text for text in (indent + body).split("\n"))
    opening = f"try:\n{deeper}\n{indent}except "
    return _site(tree, begin, finish, (opening, f":\n{indent}{unit}", ""), (Hole.TYPE, Hole.BLOCK))


def unit_around(tree: SyntaxTree, start: int, end: int) -> tuple[int, int]:
    """The simple statement or sound expression around a span, or else the lines that it touches, without their
    indentation."""
    data = tree.data
    first, last = _trimmed(data, _byte(tree, start), _byte(tree, end))
    for node in _upwards(tree.tree.root_node.named_descendant_for_byte_range(first, last)):
        if node.type in ("block", "module", "ERROR") or node.type.endswith(("_definition", "_clause", "body")):
            break
        lines = node.end_point[0] - node.start_point[0]
        simple = node.type.endswith(("_statement", "_declaration")) and not _has_block(node)
        if simple and not node.has_error and lines < _MAX_UNIT_LINES:
            return _code_points(tree, node.start_byte), _code_points(tree, node.end_byte)
    first, last = _trimmed(data, _line_start(data, first), _line_end(data, last))
    if first == last:  # what is missing is all that the line had: then it belongs to what stands above
        last = len(data[:first].rstrip())
        first, last = _trimmed(data, _line_start(data, last), last)
    return _code_points(tree, first), _code_points(tree, last)


def selected_unit(tree: SyntaxTree, start: int, end: int) -> tuple[int, int] | None:
    """What a selection means: its visible part, grown to whole words; None where there is nothing or too much."""
    data = tree.data
    first, last = _trimmed(data, _byte(tree, start), _byte(tree, end))
    if first >= last or data.count(b"\n", first, last) >= _MAX_UNIT_LINES:
        return None
    for edge in (first, last):
        node = _node_at(tree, edge)
        if node is not None and node.start_byte < edge < node.end_byte and not node.children:
            first, last = min(first, node.start_byte), max(last, node.end_byte)
    return _code_points(tree, first), _code_points(tree, last)


def errors_within(tree: SyntaxTree, start: int, end: int) -> bool:
    """Whether something between the two offsets does not parse."""
    return _is_damaged(tree.tree.root_node, _byte(tree, start), _byte(tree, end))


def does_nothing(language: str, text: str) -> bool:
    """Whether statements only hold a place: `pass`, `...`, `raise NotImplementedError`, strings, comments, or none."""
    if not text.strip():
        return True
    tree = syntax.parse(language, _dedented(text)) if language == "python" else None
    if tree is None:
        return text.strip() in ("...", ";", "{}")
    return all(_is_idle(node) for node in tree.tree.root_node.named_children)


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
        return operator is not None and operator.type == "|" and all(side and is_type(_text(side)) for side in sides)
    return node is not None and node.type in kinds


def indent_unit(tree: SyntaxTree) -> str:
    """One level of the file's indentation, by its first indented block; four spaces where there is none."""
    found = _INDENTED.search(tree.data)
    return found[2].decode() if found else "    "


_SPLATS = ("list_splat_pattern", "dictionary_splat_pattern")


def _placeholder(tree: SyntaxTree, found: re.Match[bytes]) -> Placeholder | None:
    node = _node_at(tree, found.start())
    if node is None:
        return None
    if found[0] in (b"TODO", b"FIXME"):
        return _todo(tree, node) if "comment" in node.type else None
    if tree.row.name != "python" or "comment" in node.type or "string" in node.type:
        return None
    if found[0] == b":":
        return _empty_body(tree, node)
    statement = next((around for around in _upwards(node) if around.type.endswith("_statement")), None)
    if found[0] == b"..." and (node.parent is None or node.parent.type in _VALUE_PARENTS):
        site = _site(tree, node.start_byte, node.end_byte, ("", ""), (Hole.EXPRESSION,))
        lines = node.start_point[0]
        return Placeholder(site, "...", lines, lines, unfinished=False) if node.type == "ellipsis" else None
    if statement is None or not _is_idle(statement):
        return None
    return _idle_body(tree, statement, found[0].decode().partition(" ")[0])


def _idle_body(tree: SyntaxTree, statement: Node, label: str) -> Placeholder | None:
    """A statement that holds the place of a block, together with the block's header if it is on the same line."""
    block = statement.parent
    if block is None or block.type != "block":
        return None
    others = [node for node in block.named_children if node != statement and not _is_string(node)]
    if any(node.type != "comment" for node in others) or statement.has_error:
        return None
    header = block.parent
    assert header is not None  # a block is never a root
    start, pieces = statement.start_byte, ("", "")
    if header.start_point[0] == statement.start_point[0] or _colon_line(header, block) == statement.start_point[0]:
        indent = _deeper(tree.data, header.start_byte)
        start, pieces = len(tree.data[:start].rstrip()), (f"\n{indent}", "")
    name = "raise NotImplementedError" if label == "raise" else label
    site = _site(tree, start, statement.end_byte, pieces, (Hole.BLOCK,))
    unfinished = header.type == "function_definition" and not _is_declaration(tree, header)
    return Placeholder(site, name, statement.start_point[0], statement.end_point[0], unfinished)


def _empty_body(tree: SyntaxTree, colon: Node) -> Placeholder | None:
    """The block that is due after a header's colon, below comments that belong to it."""
    data = tree.data
    start = end = _line_end(data, colon.end_byte)
    indent = _deeper(data, colon.start_byte)
    first_row = last_row = colon.start_point[0]
    while (following := _next_line(data, end)) is not None:
        line = data[slice(*following)]
        comment = line.lstrip().startswith(b"#") and len(line) - len(line.lstrip()) >= len(indent)
        blank = bool(line) and not line.strip()  # made for the body, where an empty line only separates
        if not comment and not blank:
            break
        end, last_row = following[1], last_row + 1
        if blank:
            break
        start = end
    if colon.type != ":" or not syntax.block_expected(tree, _code_points(tree, end)):
        return None
    site = _site(tree, start, end, (f"\n{indent}", ""), (Hole.BLOCK,))
    return Placeholder(site, "empty body", first_row, last_row, unfinished=True)


def _todo(tree: SyntaxTree, comment: Node) -> Placeholder | None:
    """The code that a comment on lines of its own asks for, below it."""
    data = tree.data
    start = _line_start(data, comment.start_byte)
    if data[start : comment.start_byte].strip():
        return None
    at, row = _line_end(data, comment.end_byte), comment.end_point[0]
    while (following := _next_line(data, at)) is not None:
        node = _node_at(tree, following[0] + len(_indent(data, following[0]).encode()))
        if node is None or "comment" not in node.type or node.start_byte < following[0]:
            break
        at, row = following[1], row + 1
    below = _next_line(data, at)
    if below is not None and re.match(rb"\s*(?:pass|\.\.\.|raise NotImplementedError)\b", data[below[0] : below[1]]):
        return None  # that one is the hole
    if at == _line_end(data, comment.end_byte) and b"*/" in data[comment.start_byte : comment.end_byte]:
        at = comment.end_byte
    indent = _indent(data, comment.start_byte)
    site = _site(tree, at, at, (f"\n{indent}", ""), (Hole.BLOCK,))
    return Placeholder(site, "TODO", comment.start_point[0], row, unfinished=False)


def _is_damaged(node: Node, first: int, last: int) -> bool:
    """Whether an error, or something that is missing, touches a span of bytes."""
    if not node.has_error or node.end_byte < first or node.start_byte > last:
        return False
    inner = [child for child in node.children if child.has_error]
    return node.is_error or not inner or any(_is_damaged(child, first, last) for child in inner)


def _is_idle(node: Node) -> bool:
    if node.type in ("pass_statement", "comment") or _is_string(node):
        return True
    if node.type == "expression_statement":
        return all(child.type == "ellipsis" for child in node.named_children)
    return node.type == "raise_statement" and _text(node).removeprefix("raise").strip().startswith(
        "NotImplementedError"
    )


def _is_string(node: Node) -> bool:
    return node.type == "expression_statement" and all(child.type == "string" for child in node.named_children)


def _is_declaration(tree: SyntaxTree, function: Node) -> bool:
    """Whether a function is meant to have no body: abstract, overloaded, or in a protocol."""
    wrapper = function.parent
    decorated = wrapper is not None and wrapper.type == "decorated_definition"
    if decorated and wrapper and _NOT_TO_FILL.search(tree.data, wrapper.start_byte, function.start_byte):
        return True
    around = _enclosing(function, "class_definition")
    bases = around and around.child_by_field_name("superclasses")
    return bool(bases and b"Protocol" in (bases.text or b""))


def _definition_at(tree: SyntaxTree, offset: int) -> Node | None:
    """The function or class in whose header the cursor is: from its first line to its colon."""
    byte = _byte(tree, offset)
    at = _line_start(tree.data, byte) + len(_indent(tree.data, byte).encode())
    for node in _upwards(_node_at(tree, max(byte, at))):
        if node.type in _DEFINITIONS:
            colon = _colon(node)
            inside = colon is not None and byte <= _line_end(tree.data, colon.end_byte)
            return node if inside and not node.is_error else None
    return None


def _colon(definition: Node) -> Node | None:
    return next((child for child in definition.children if child.type == ":"), None)


def _colon_line(header: Node, block: Node) -> int:
    colons = [child for child in header.children if child.type == ":" and child.end_byte <= block.start_byte]
    return colons[-1].start_point[0] if colons else -1


def _required_parameters(tree: SyntaxTree, called: Node) -> list[str]:
    """Names of the parameters without a default of what is called; empty where that is not known for certain."""
    attribute = called.child_by_field_name("attribute") if called.type == "attribute" else None
    name = _text(attribute or called)
    if not name.isidentifier():
        return []
    pattern = re.compile(rb"\b(?:def|class)[ \t]+" + re.escape(name.encode()) + rb"\b")
    nodes = [_node_at(tree, found.end() - 1) for found in pattern.finditer(tree.data)]
    definitions = [node.parent for node in nodes if node is not None and node.parent is not None]
    if len(definitions) != 1:
        return []
    definition, bound = definitions[0], False
    if definition.type == "class_definition":
        body = definition.child_by_field_name("body")
        methods = [_undecorated(node) for node in body.named_children] if body else []
        inits = [node for node in methods if _field_text(node, "name") == b"__init__"]
        if len(inits) != 1:
            return []
        definition, bound = inits[0], True
    elif _enclosing(definition, "class_definition"):
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
            required.append(_text(name_node))
    return required[1:] if bound else required


def _statements(tree: SyntaxTree, first: int, last: int) -> list[Node]:
    """The whole statements of one block that a span of bytes touches."""
    for node in _upwards(tree.tree.root_node.descendant_for_byte_range(first, last)):
        if node.type in ("block", "module"):
            return [child for child in node.named_children if child.start_byte < last and child.end_byte > first]
    return []


def _spans_lines_in_string(node: Node) -> bool:
    if node.type == "string":
        return node.start_point[0] != node.end_point[0]
    return any(map(_spans_lines_in_string, node.children))


def _has_block(node: Node) -> bool:
    return any(child.type in ("block", "statement_block", "body") for child in node.children)


def _undecorated(node: Node) -> Node:
    definition = node.child_by_field_name("definition")
    return definition if definition is not None else node


def _enclosing(node: Node, kind: str) -> Node | None:
    """What `node` is a direct member of, if it is of that kind."""
    for around in _upwards(node.parent):
        if around.type == kind:
            return around
        if around.type in _DEFINITIONS:
            return None
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
    """Statements whose first line stands after the file's indentation, as a text of their own."""
    first, newline, rest = text.partition("\n")
    depths = [len(line) - len(line.lstrip()) for line in rest.split("\n") if line.strip()]
    depth = min(depths, default=0)
    return first.lstrip() + newline + "\n".join(line[depth:] for line in rest.split("\n"))


def _site(tree: SyntaxTree, start: int, end: int, pieces: tuple[str, ...], holes: tuple[Hole, ...]) -> Site:
    return Site(_code_points(tree, start), _code_points(tree, end), pieces, holes)


def _upwards(node: Node | None) -> Iterator[Node]:
    while node is not None:
        yield node
        node = node.parent


def _node_at(tree: SyntaxTree, byte: int) -> Node | None:
    """The smallest node that begins at `byte` or stretches over it."""
    byte = max(byte, 0)
    return tree.tree.root_node.descendant_for_byte_range(byte, min(byte + 1, len(tree.data)))


def _field_text(node: Node, field: str) -> bytes | None:
    child = node.child_by_field_name(field)
    return child.text if child is not None else None


def _text(node: Node) -> str:
    return (node.text or b"").decode("utf-8", "replace")


def _trimmed(data: bytes, first: int, last: int) -> tuple[int, int]:
    """The visible part of a span; its beginning where nothing is visible."""
    span = data[first:last]
    first += len(span) - len(span.lstrip())
    return first, max(first, first + len(span.strip()))


def _next_line(data: bytes, line_end: int) -> tuple[int, int] | None:
    """Start and end of the line after the one that ends at `line_end`."""
    if line_end >= len(data):
        return None
    start = line_end + (2 if data.startswith(b"\r\n", line_end) else 1)
    return start, _line_end(data, start)


def _line_start(data: bytes, byte: int) -> int:
    return max(data.rfind(b"\n", 0, byte), data.rfind(b"\r", 0, byte)) + 1


def _line_end(data: bytes, byte: int) -> int:
    return min((at for at in (data.find(b"\n", byte), data.find(b"\r", byte)) if at >= 0), default=len(data))


def _line_offset(data: bytes, row: int) -> int:
    """Where a row begins, as tree-sitter counts rows; the end of the text for one below it."""
    at = 0
    for _ in range(row):
        at = data.find(b"\n", at) + 1
        if at == 0:
            return len(data)
    return at


def _indent(data: bytes, byte: int) -> str:
    """The blanks at the beginning of the line of `byte`."""
    start = _line_start(data, byte)
    line = data[start : _line_end(data, start)]
    return line[: len(line) - len(line.lstrip(b" \t"))].decode()


def _deeper(data: bytes, byte: int) -> str:
    """One level more than the indentation of the line of `byte`."""
    found = _INDENTED.search(data)
    return _indent(data, byte) + (found[2].decode() if found else "    ")


def _byte(tree: SyntaxTree, offset: int) -> int:
    if tree.data.isascii():
        return min(max(offset, 0), len(tree.data))
    text = tree.data.decode("utf-8", "surrogatepass")
    return len(text[: max(offset, 0)].encode("utf-8", "surrogatepass"))


def _code_points(tree: SyntaxTree, byte: int) -> int:
    return byte if tree.data.isascii() else len(tree.data[:byte].decode("utf-8", "surrogatepass"))
