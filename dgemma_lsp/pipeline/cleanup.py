"""Model text -> insertable text: an ordered list of small pure functions.

The model writes `\\n` and does not know what the editor has typed ahead. Each rule undoes one way in
which its text does not fit its place, and leaves everything else alone.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from itertools import pairwise

from dgemma_lsp.documents.edits import Edit, NoSuggestion
from dgemma_lsp.pipeline.insertion import Place, leading_blanks
from dgemma_lsp.pipeline.retyped import CLOSERS, QUOTES, RETYPED, overlap_length, retyped_length

_LOOP = re.compile(r"(.{3,}?)\1{5,}|(.{10,}?)\2{3,}|(.{20,}?)\3{2,}(?=.)")
"""Six times the same, four times if it is longer, or three times and the beginning of a fourth if it is long."""
_UNSEEN = frozenset({"Cf", "Cc", "Zl", "Zp", "Co"})
_FILLERS = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u2800\u3164\uffa0"
"""Letters and marks, to Unicode, that have no shape."""
_EXPRESSION_END = re.compile(r"""[\w)\]}"'](?=[\s,;:)\]}]|$)""")
_LOOP_LINES = 4
"""The longest run of lines whose repetition is looked for, and"""
_LOOP_COUNT = 3
"""how often in a row it must occur."""


def clean(text: str, place: Place, *, complete: bool, automatic: bool) -> Edit | NoSuggestion:
    """The edit that inserts `text` at `place`, or why there is nothing to insert.

    `complete` is False for a draft that was cut or is still changing: its ragged end goes. `automatic` asks
    for a suggestion worth an interruption; when the user has asked, anything visible will do.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not invisible(text) <= invisible(place.before + place.after):
        return NoSuggestion.INVISIBLE
    if not complete:
        text = drop_ragged_end(text)
    for rule in FITTING:
        text = rule(text, place)
    if not text.strip():
        return NoSuggestion.EMPTY
    for rule in NOT_REPEATING:
        text = rule(text, place)
    covered = retyped_length(text, place)
    new = _visible(text) - _visible(place.after[:covered])
    if new == 0:
        return NoSuggestion.REPEATS
    if automatic and (new < 2 or all(char.isspace() or char in CLOSERS + QUOTES for char in text)):
        return NoSuggestion.EMPTY
    if automatic and is_line_above(text, place):
        return NoSuggestion.REPEATS
    if automatic and is_undoing(text, place.deleted):
        return NoSuggestion.UNDOES
    return Edit(place.offset, place.offset + covered, text.replace("\n", place.newline))


def invisible(text: str) -> frozenset[str]:
    """The characters in `text` that cannot be seen, so that it may say something else than it seems to: controls of
    the direction of writing, characters of no width, fillers, variation selectors after anything but a symbol."""
    if text.isascii() and text.isprintable():
        return frozenset()
    found = set[str]()
    for before, char in pairwise(" " + text):
        category = unicodedata.category(char)
        is_selector = "\ufe00" <= char <= "\ufe0f" and unicodedata.category(before) != "So"
        if (category in _UNSEEN and char not in "\t\n\f") or is_selector or char in _FILLERS or char >= "\U000e0000":
            found.add(char)
    return frozenset(found)


def is_line_above(text: str, place: Place) -> bool:
    """Whether the cursor's line would repeat the line above. Of 1,900 held-out lines, one does."""
    first, _, _ = text.partition("\n")
    return (place.before + first + place.after).rstrip() == place.above.rstrip()


def drop_ragged_end(text: str) -> str:
    """Without the last line, or where there is but one, without its last word: neither need be finished."""
    whole_lines, newline, _ = text.rpartition("\n")
    return whole_lines if newline else re.sub(r"[\w\ufffd]*$", "", text)


def drop_further_lines(text: str, place: Place) -> str:
    """Only the first line, where there is room for one."""
    return text.partition("\n")[0] if place.one_line else text


def drop_leading_blank_lines(text: str, place: Place) -> str:
    """On a blank line the text begins there, not further down."""
    return text if place.before.strip() else re.sub(r"\A(?:[^\S\n]*\n)+", "", text)


def drop_retyped_indentation(text: str, place: Place) -> str:
    """Without indentation at the beginning, where the cursor is as deep as it should be."""
    if place.before.strip():
        return text
    due = len(leading_blanks(place.above))
    if place.above.rstrip().endswith((":", "(", "[", "{", ",", "\\")):
        due += len(place.indent)
    return text.lstrip(" \t") if len(place.before) >= due else text


def fit_indentation(text: str, place: Place) -> str:
    """Tabs in a file of tabs, spaces in a file of spaces."""
    first, *further = text.split("\n")
    return "\n".join([first, *(_fit_line(line, place.indent) for line in further)])


def fit_steps(text: str, place: Place) -> str:
    """Steps of indentation as wide as the file's, where a block's lines step in by another width."""
    if not place.indent.strip("\t") or "\n" not in text:
        return text
    base = len(leading_blanks(place.before) if place.before.strip() else place.before)
    lines = _as_lines(text, place)
    depths = [len(leading_blanks(line)) for line in lines]
    steps = {
        deeper - depth
        for (line, depth), deeper in zip(zip(lines, depths, strict=True), depths[1:], strict=False)
        if deeper > depth and line.rstrip().endswith((":", "{"))
    }
    width = len(place.indent)
    if (
        len(steps) != 1
        or (step := steps.pop()) == width
        or any((depth - base) % step for depth in depths if depth > base)
    ):
        return text
    first, *further = text.split("\n")
    return "\n".join([first, *(_step_line(line, base, step, width) for line in further)])


def drop_after_block(text: str, place: Place) -> str:
    """Without what follows the cursor's block: from the first line that is less indented and closes no bracket."""
    lines = _as_lines(text, place)
    depth = len(leading_blanks(place.before)) + 1 if place.before.strip() else len(leading_blanks(lines[0]))
    for number, line in enumerate(lines[1:], 1):
        indent = len(leading_blanks(line))
        if not line.strip() or indent >= depth:
            continue
        if line[indent] not in CLOSERS:
            return "\n".join(lines[:number])[len(_blank_before(place)) :]
        depth = indent
    return text


def drop_loop(text: str, place: Place) -> str:
    """Where the text ends in a loop, only the loop's first round."""
    lines = _as_lines(text, place)
    for start in range(len(lines)):
        for size in range(1, _LOOP_LINES + 1):
            unit, rest = lines[start : start + size], lines[start:]
            rounds = (unit * len(rest))[: len(rest)]
            if len(rest) >= size * _LOOP_COUNT and rest == rounds and any(map(str.strip, unit)):
                return "\n".join(lines[: start + size])[len(_blank_before(place)) :]
    last = text[text.rfind("\n") + 1 :]
    for found in _LOOP.finditer(last):
        unit_text = found[1] or found[2] or found[3]
        if re.search(r"\w", unit_text) and unit_text.startswith(last[found.end() :]):
            return text[: len(text) - len(last) + found.start() + len(unit_text)]
    return text


def drop_trailing_blanks(text: str, place: Place) -> str:
    """Without blanks at the ends of lines, and without blank lines at the end."""
    *lines, last = text.split("\n")
    text = "\n".join([*(line.rstrip() for line in lines), last])
    return text if place.after.strip() else text.rstrip()


def drop_bodiless_headers(text: str, place: Place) -> str:
    """Without headers and decorators at the end whose body is not there, nor below the cursor."""
    lines = _as_lines(text, place)
    depth_below = len(leading_blanks(place.below[0])) if place.below else 0
    kept = len(lines)
    while kept > 1 and _is_bodiless(lines[kept - 1], depth_below):
        kept -= 1
    return "\n".join(lines[:kept])[len(_blank_before(place)) :]


def drop_following_lines(text: str, place: Place) -> str:
    """Without lines at the end that are below the cursor already."""
    if place.after.strip():
        return text
    lines = (place.before + text).split("\n")
    first = 0
    while first < len(lines):
        tail = tuple(line.rstrip() for line in lines[first:] if line.strip())
        if tail and tail == place.below[: len(tail)]:
            lines, first = lines[:first], 0
        else:
            first += 1
    return "\n".join(lines)[len(place.before) :].rstrip()


def drop_rest_of_line(text: str, place: Place) -> str:
    """Without text that follows the cursor already, unless the edit types over it (see `retyped_length`)."""
    while overlap := overlap_length(text, place):
        if RETYPED.issuperset(place.after[:overlap]):
            break
        text = text[:-overlap]
    return text


FITTING: tuple[Callable[[str, Place], str], ...] = (
    drop_further_lines,
    drop_leading_blank_lines,
    drop_retyped_indentation,
    fit_indentation,
    fit_steps,
    drop_after_block,
    drop_loop,
    drop_trailing_blanks,
    drop_bodiless_headers,
)
NOT_REPEATING: tuple[Callable[[str, Place], str], ...] = (drop_following_lines, drop_rest_of_line)
"""The rules in their order: what one leaves is what the next one sees."""


def is_past_block(text: str, place: Place) -> bool:
    """Whether the cursor's block is over, so that whatever is written after `text` would be dropped."""
    for rule in FITTING[: FITTING.index(drop_after_block)]:
        text = rule(text, place)
    return drop_after_block(text, place) != text


def is_undoing(text: str, deleted: str) -> bool:
    """Whether the text is what the user has just deleted: nobody wants that back."""
    new, deleted = text.strip(), deleted.strip()
    return min(_visible(new), _visible(deleted)) >= 2 and (new.startswith(deleted) or deleted.startswith(new))


def shorter(text: str) -> Iterator[str]:
    """Ever shorter beginnings of an unfinished text, each ending where a statement or an expression may end.

    A text of several lines loses whole lines; a line ends after a closing bracket, a word, or a closing quote.
    """
    if "\n" in text:
        lines = text.split("\n")
        yield from ("\n".join(lines[:count]) for count in range(len(lines) - 1, 0, -1))
        return
    for found in reversed(list(_EXPRESSION_END.finditer(text))):
        yield text[: found.end()]


def _blank_before(place: Place) -> str:
    """The indentation before the cursor, which the text's first line continues; empty after anything else."""
    return "" if place.before.strip() else place.before


def _as_lines(text: str, place: Place) -> list[str]:
    """The lines of `text` as the file will have them."""
    return (_blank_before(place) + text).split("\n")


def _visible(text: str) -> int:
    return sum(not char.isspace() for char in text)


def _is_bodiless(line: str, depth_below: int) -> bool:
    content = line.strip()
    is_header = content.endswith(":") and depth_below <= len(leading_blanks(line))
    return not content or is_header or content.startswith("@")


def _fit_line(line: str, unit: str) -> str:
    blanks = leading_blanks(line)
    if unit == "\t":
        tabs, spaces = divmod(blanks.count(" "), 4)
        return "\t" * (blanks.count("\t") + tabs) + " " * spaces + line[len(blanks) :]
    return blanks.replace("\t", unit) + line[len(blanks) :]


def _step_line(line: str, base: int, step: int, width: int) -> str:
    extra = max(len(leading_blanks(line)) - base, 0) if line.strip() else 0
    return line[:base] + " " * (extra // step * width) + line[base + extra :]
