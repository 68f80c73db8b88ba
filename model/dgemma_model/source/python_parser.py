"""What Python's own compiler says of an edit. Nothing is executed. No torch.

tree-sitter forgives a good deal, wrong indentation above all, and does not know which statements are allowed where.

The compiler refuses a text in one of two stages. What does not parse is refused in the first. `return` outside a
function, a parameter that is there twice, `from __future__` below other code and the like are refused in the second.
"""

from __future__ import annotations

import ast
import re
import symtable
import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dgemma_model.request import Readable

MOST_CHARS = 200_000
"""A longer text takes Python too long to parse."""
_REACH = 20_000
"""How far from an edit the outermost statement around it may begin and end, in code points."""
_REACHING_DOWN = ("never closed", "unterminated", "does not match")
_CONTINUES = re.compile(r"[\s#)\]}]|(?:else|elif|except|finally|case)\b|$")
"""How lines begin that do not begin an outermost statement."""
_DEFINES = re.compile(r"\s*(?:@|(?:async +def|def|class)\b)")
_CLOSED_LATER = ("unmatched", "does not match")
"""Errors that later lines have because something before them is missing."""
_STAND_IN = "_"
_FINALLY = re.compile(r"^([ \t]*)finally\b", re.MULTILINE)
_FINALLY_DEPTH = 5
_FUTURE = re.compile(r"^[ \t]*from[ \t]+__future__[ \t]+import[ \t]*(?:\([^)]*\)|[^\n]*)", re.MULTILINE)


class _Verdict(NamedTuple):
    """What the compiler says of a text."""

    error: SyntaxError | None
    is_near: bool
    """Whether the error is in the edit, or in the line of code after it."""
    parses: bool


def finds_fault(text: str, first: int, last: int, before: str | None = None) -> bool:
    """Whether Python cannot parse the lines `[first:last]` of `text`, counted from 1, or the line of code after them.

    With `before`, the text as it was, also whether Python refuses to compile them although it did not refuse before.
    Errors in other lines do not count, nor do texts that this Python is too old or too small for.
    """
    error = _error(text) if len(text) <= MOST_CHARS else None
    if error is None:
        return False
    if not _parses(text):
        return _is_near(error, text, first, last)
    if before is None:
        return False
    was = _error(before)
    if was is None:
        return True
    if was.msg != error.msg:
        return _is_near(error, text, first, last)
    had = _own_faults(before)
    return any(fault not in had for fault in _own_faults(text, first, last))


def _own_faults(text: str, first: int = 1, last: int | None = None) -> list[str]:
    """What the compiler has against each outermost statement on its own that touches the lines; empty for a text that
    does not parse."""
    if not _parses(text) or _takes_exponential_time(text):
        return []
    statements = ast.parse(text).body
    near = [each for each in statements if (each.end_lineno or 0) >= first and (last is None or each.lineno <= last)]
    return [error.msg for each in near if (error := _error(ast.Module([each], []))) is not None]


def python_rejects(
    source: Readable,
    start: int,
    end: int,
    new: str,
    *,
    may_be_newer: bool = False,
    may_be_half: bool = False,
    in_notebook: bool = False,
) -> bool:
    """Whether Python refuses to compile `new` in the place of `source[start:end]`, whatever is wrong without it.

    What opens a block is sound without one where its line was begun already, or where its function ends: then the
    user is about to write it. `may_be_newer` says that another parser finds nothing wrong: the code may be of a newer
    Python than this. With `may_be_half`, what does not parse is not refused. A cell of a notebook may `await` outside
    functions.
    """
    if _misplaces_future(source, start, end, new):
        return True
    new = _line_feeds(new)
    above = _line_feeds(source[max(0, start - _REACH) : start]).split("\n")
    below = _line_feeds(source[end : end + _REACH]).split("\n")
    following = _next_code(below, 1) or len(below)
    is_cut = start > _REACH, len(source) > end + _REACH
    around = next(_statements_around(above, below, following, *is_cut), None)
    if around is None:
        return False
    top, bottom = around
    margin = len(_indent(above[top]))
    head, tail = "\n".join(["if 1:"] * bool(margin) + above[top:]), below[1:bottom]
    first = head.count("\n") + 1

    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT if in_notebook else 0

    def judged(middle: str, body: Sequence[str] = ()) -> _Verdict:
        text = "\n".join([head + middle + below[0], *body, *tail])
        error = _error(text, flags)
        is_near = error is not None and _is_near(error, text, first, first + middle.count("\n"))
        return _Verdict(error, is_near, error is None or _parses(text))

    after = judged(new)
    line = f"{above[-1]}{new}{below[0]}".rpartition("\n")[2].rstrip()
    is_begun = bool(above[-1].strip()) or _ends_function(line, below[following - 1 :])
    if not after.parses and line.endswith(":") and is_begun:
        after = judged(new, _body_of(line))
    error, is_near, parses = after
    if error is None or (may_be_half and not parses):
        return False
    without, named = judged(""), judged(_STAND_IN)
    if without.error is None:
        return True
    if parses:
        is_known = any(was.error is not None and was.error.msg == error.msg for was in (without, named))
        return not is_known if without.parses or named.parses else is_near or error.lineno is None
    before, was_near, _ = named
    if is_near:
        is_own = first <= (error.lineno or 0) <= first + new.count("\n")
        is_indentation = isinstance(error, IndentationError)
        if is_indentation and above[-1].strip() and before is not None and before.msg == error.msg:
            return False  # the lines around were wrong already
        return (is_own and not may_be_newer) or is_indentation or not was_near
    if (error.lineno or 0) < first:
        return False
    return (was_near and isinstance(before, IndentationError)) or any(word in error.msg for word in _CLOSED_LATER)


def _misplaces_future(source: Readable, start: int, end: int, new: str) -> bool:
    """Whether an edit brings an import from `__future__` below other code, or other code above one."""
    after = new + source[end : end + _REACH]
    if "__future__" not in after or start > MOST_CHARS:
        return False
    before = source[:start]

    def is_misplaced(rest: str) -> bool:
        text = _line_feeds(before + rest)
        ends = [found.end() for found in _FUTURE.finditer(text) if found.end() > len(before)]
        error = _error(text[: ends[-1]]) if ends else None
        return error is not None and "__future__" in error.msg

    return is_misplaced(after) and not is_misplaced(source[end : end + _REACH])


def _line_feeds(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _ends_function(opener: str, following: list[str]) -> bool:
    """Whether the lines that follow `opener` begin outside its function."""
    line = following[0] if following else ""
    is_outside = len(_indent(line)) < len(_indent(opener))
    return not line.strip() or (is_outside and (not _indent(line) or bool(_DEFINES.match(line))))


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _body_of(opener: str) -> list[str]:
    """The lines of a body for a line that opens a block."""
    indent = _indent(opener)
    body = [f"{indent} pass"]
    return [*body, f"{indent}finally:", *body] if opener == f"{indent}try:" else body


def _statements_around(
    above: list[str], below: list[str], following: int, is_cut_above: bool, is_cut_below: bool
) -> Iterator[tuple[int, int | None]]:
    """Where statements begin and end that hold the last line above, the first one below and the one `following`: the
    outermost one, then the outermost function or class within reach; None at the end of the text."""
    outermost = (at for at in range(len(above) - 1, is_cut_above - 1, -1) if not _CONTINUES.match(above[at]))
    defined = [at for at in range(1, len(above)) if _DEFINES.match(above[at]) and _indent(above[at])]
    tops = [next(outermost, None if is_cut_above else 0)]
    tops.append(min(defined, key=lambda at: (len(_indent(above[at])), -at), default=None))
    for top in tops:
        if top is not None:
            margin = len(_indent(above[top]))
            ends = (at for at in range(following, len(below)) if _begins_statement(below, at, margin))
            bottom = next(ends, None)
            if bottom is not None or not is_cut_below:
                yield top, bottom


def _begins_statement(lines: list[str], at: int, margin: int) -> bool:
    """Whether a statement that is indented by `margin` or less begins on a line, with its decorators."""
    is_inside = len(_indent(lines[at])) > margin
    decorated = lines[at - 1].lstrip().startswith("@")
    return not is_inside and not decorated and not _CONTINUES.match(lines[at].lstrip())


def _is_near(error: SyntaxError, text: str, first: int, last: int) -> bool:
    """Whether the error is in the lines `[first:last]` or in the line of code after them."""
    if error.lineno is None:
        return False
    found = error.lineno
    reaches_down = any(word in error.msg for word in _REACHING_DOWN)  # from where something was opened
    opened = [int(line) for line in re.findall(r"on line (\d+)", error.msg)]
    next_line = _next_code(text.split("\n"), last) or found
    return any(first <= line <= last for line in opened) or ((reaches_down or first <= found) and found <= next_line)


def _next_code(lines: list[str], line: int) -> int | None:
    """The number of the first line after `line` that is neither blank nor a comment, or None."""
    for at in range(line, len(lines)):
        if (content := lines[at].strip()) and not content.startswith("#"):
            return at + 1
    return None


def _error(code: str | ast.Module, flags: int = 0) -> SyntaxError | None:
    """Why Python refuses to compile something; None also for what it is too old or too small to judge."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if isinstance(code, str) and _takes_exponential_time(code):
                symtable.symtable(code, "<text>", "exec")  # all that comes before code is made
            else:
                compile(code, "<text>", "exec", flags, dont_inherit=True, optimize=0)
    except SyntaxError as error:
        return error
    except (ValueError, OverflowError, RecursionError, MemoryError):
        return None
    return None


def _takes_exponential_time(text: str) -> bool:
    """Whether `finally` may be nested deeply: each level doubles the code that is made, at least."""
    return len(set(_FINALLY.findall(text))) > _FINALLY_DEPTH


def _parses(text: str) -> bool:
    return _error(text, ast.PyCF_ONLY_AST) is None
