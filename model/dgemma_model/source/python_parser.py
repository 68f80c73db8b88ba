"""What Python's own parser says of an edit: tree-sitter forgives a good deal, wrong indentation above all. No torch."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence

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
"""Faults that lines further down have for want of something before them."""
_STAND_IN = "_"


def finds_fault(text: str, first: int, last: int) -> bool:
    """Whether Python cannot parse the lines `[first:last]`, counted from 1, or the line of code behind them.

    A fault elsewhere, or a text that this Python is too old or too small for, is none.
    """
    error = _error(text) if len(text) <= MOST_CHARS else None
    return error is not None and _is_near(error, text, first, last)


def python_rejects(source: Readable, start: int, end: int, new: str, *, may_be_newer: bool = False) -> bool:
    """Whether Python rejects `new` in the place of `source[start:end]`, whatever is wrong without it.

    What opens a block is sound without one where its line was begun already, or where its function ends: then the
    user is about to write it. `may_be_newer` says that another parser finds nothing wrong: the code may be of a newer
    Python than this.
    """
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

    def parsed(middle: str, body: Sequence[str] = ()) -> tuple[SyntaxError | None, bool]:
        text = "\n".join([head + middle + below[0], *body, *tail])
        error = _error(text)
        return error, error is not None and _is_near(error, text, first, first + middle.count("\n"))

    error, is_near = parsed(new)
    line = f"{above[-1]}{new}{below[0]}".rpartition("\n")[2].rstrip()
    if error is not None and line.endswith(":") and (above[-1].strip() or _ends_function(line, below[following - 1 :])):
        error, is_near = parsed(new, _body_of(line))
    if error is None:
        return False
    if parsed("")[0] is None:
        return True
    before, was_near = parsed(_STAND_IN)
    if is_near:
        is_own = first <= (error.lineno or 0) <= first + new.count("\n")
        return (is_own and not may_be_newer) or isinstance(error, IndentationError) or not was_near
    if (error.lineno or 0) < first:
        return False
    return (was_near and isinstance(before, IndentationError)) or any(word in error.msg for word in _CLOSED_LATER)


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
    """Whether it is about the lines `[first:last]` or the line of code behind them."""
    if error.lineno is None:
        return False
    found = error.lineno
    reaches_down = any(word in error.msg for word in _REACHING_DOWN)  # from where something was opened
    opened = [int(line) for line in re.findall(r"on line (\d+)", error.msg)]
    behind = _next_code(text.split("\n"), last) or found
    return any(first <= line <= last for line in opened) or ((reaches_down or first <= found) and found <= behind)


def _next_code(lines: list[str], line: int) -> int | None:
    """Number of the first line behind the one of this number that is neither blank nor a comment, if there is one."""
    for at in range(line, len(lines)):
        if (content := lines[at].strip()) and not content.startswith("#"):
            return at + 1
    return None


def _error(text: str) -> SyntaxError | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
    except SyntaxError as error:
        return error
    except (ValueError, RecursionError, MemoryError):
        return None
    return None
