"""Model text -> insertable text: an ordered list of small pure functions.

The model writes `\\n` and does not know what the editor has typed ahead. Each rule undoes one way in
which its text does not fit its place, and leaves everything else alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from dgemma_lsp.edits import Edit, NoSuggestion
from dgemma_model.request import Readable

_QUOTES = "\"'"
_OPENERS = "([{"
_CLOSERS = ")]}"
_RETYPED = frozenset(_CLOSERS + _QUOTES + ">:;, ")
"""What a suggestion types over; any other text that it repeats is cut from it instead."""

_LINE_BREAK = re.compile(r"\r\n|\n|\r")
_LOOP = re.compile(r"(.{3,}?)\1{5,}|(.{10,}?)\2{3,}")
_EXPRESSION_END = re.compile(r"""[\w)\]}"'](?=[\s,;:)\]}]|$)""")
_LOOP_LINES = 4
"""The longest run of lines whose repetition is looked for, and"""
_LOOP_COUNT = 3
"""how often in a row it must stand there."""

_NEAR_CHARS = 4000
"""How far above and below the cursor lines are looked at."""
_READ_CHARS = 64_000
"""How far the cursor's line and those lines are read at all."""


@dataclass(frozen=True, slots=True)
class Place:
    """What stands around the text that is to be inserted."""

    offset: int
    before: str
    """The cursor's line up to the cursor."""
    after: str
    """The rest of the cursor's line, without its line break."""
    above: str
    """The nearest line above that is not blank."""
    below: tuple[str, ...]
    """The lines below that are not blank, without trailing blanks."""
    newline: str
    indent: str
    """One level of indentation."""
    one_line: bool
    """Only one line may be inserted."""
    deleted: str = ""
    """What the user has just deleted here, with nothing done since."""


def place_at(source: Readable, offset: int, *, one_line: bool, deleted: str = "") -> Place:
    """The place of a cursor at `offset`; with something after it on its line it takes one line only."""
    first = max(0, offset - _READ_CHARS)
    text = source[first : offset + _READ_CHARS]
    offset -= first
    start = max(text.rfind("\n", 0, offset), text.rfind("\r", 0, offset)) + 1
    line_break = _LINE_BREAK.search(text, offset)
    end = line_break.start() if line_break else len(text)
    above = _lines(text[max(0, start - _NEAR_CHARS) : start])
    below = _lines(text[end : end + _NEAR_CHARS])
    after = text[offset:end]
    here = [text[start:offset] + "_"] if text.startswith("\t", start, offset) else []  # which spaces need not be meant
    return Place(
        offset=first + offset,
        before=text[start:offset],
        after=after,
        above=next((line for line in reversed(above) if line.strip()), ""),
        below=tuple(line.rstrip() for line in below if line.strip()),
        newline=_newline(text, start, line_break),
        indent=_indent_unit([*above, *here, *below]),
        one_line=one_line or bool(after.strip()),
        deleted=deleted,
    )


def clean(text: str, place: Place, *, complete: bool, automatic: bool) -> Edit | NoSuggestion:
    """The edit that inserts `text` at `place`, or why there is nothing to insert.

    `complete` is False for a draft that was cut or is still changing: its ragged end goes. `automatic` asks
    for a suggestion worth an interruption; when the user has asked, anything visible will do.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
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
    if automatic and (new < 2 or all(char.isspace() or char in _CLOSERS + _QUOTES for char in text)):
        return NoSuggestion.EMPTY
    if automatic and is_line_above(text, place):
        return NoSuggestion.REPEATS
    if automatic and is_undoing(text, place.deleted):
        return NoSuggestion.UNDOES
    return Edit(place.offset, place.offset + covered, text.replace("\n", place.newline))


def is_line_above(text: str, place: Place) -> bool:
    """Whether the cursor's line would be the one above once more, which hardly any line is: one of 1,900 held out."""
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
    due = len(_leading(place.above))
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
    base = len(_leading(place.before) if place.before.strip() else place.before)
    lines = _as_lines(text, place)
    depths = [len(_leading(line)) for line in lines]
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
    depth = len(_leading(place.before)) + 1 if place.before.strip() else len(_leading(lines[0]))
    for number, line in enumerate(lines[1:], 1):
        indent = len(_leading(line))
        if not line.strip() or indent >= depth:
            continue
        if line[indent] not in _CLOSERS:
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
        unit_text = found[1] or found[2]
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
    depth_below = len(_leading(place.below[0])) if place.below else 0
    kept = len(lines)
    while kept > 1 and _is_bodiless(lines[kept - 1], depth_below):
        kept -= 1
    return "\n".join(lines[:kept])[len(_blank_before(place)) :]


def drop_following_lines(text: str, place: Place) -> str:
    """Without the lines at the end that stand below the cursor already."""
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
    """Without what stands after the cursor already, unless that is typed over (see `retyped_length`)."""
    while overlap := _overlap(text, place):
        if _RETYPED.issuperset(place.after[:overlap]):
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
    """Whether all that will still be written behind `text` is going to be dropped: the cursor's block is over."""
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


def retyped_length(text: str, place: Place) -> int:
    """How much of the text after the cursor, closing brackets and quotes above all, `text` types again.

    That much is replaced by the edit. It is a subsequence of `text`: editors show nothing else.
    """
    if overlap := _overlap(text, place):
        return overlap
    quote = _scan(place.before)[2]
    covered, last = 0, -1
    for at in _scan(text, quote)[0]:
        if not place.after.startswith(text[at], covered):
            break
        covered, last = covered + 1, at
    rest = place.after[covered:].rstrip()
    if covered and rest and text[last + 1 :].endswith(rest):
        return covered + len(rest)
    return covered


def _overlap(text: str, place: Place) -> int:
    """Length of the longest beginning of `place.after` that `text` ends in, and that is the same thing there.

    In `f(g(x)▮)` the text `, h(y)` closes a bracket of its own: that is not the one after the cursor.
    """
    after = place.after.rstrip()
    quote = _scan(place.before)[2]
    for length in range(min(len(after), len(text)), 0, -1):
        if (
            text.endswith(after[:length])
            and after[:length].strip()
            and not _splits_word(after, length)
            and _scan(text[:-length], quote)[1:] == (0, quote)
        ):
            return length
    return 0


def _scan(text: str, quote: str = "") -> tuple[list[int], int, str]:
    """Where `text` closes what was opened before it, how many brackets it leaves open, the string it ends in.

    A string is named by its quote, no string by the empty one; `quote` is the one that `text` begins in.
    """
    closing: list[int] = []
    depth, outer, escaped = 0, bool(quote), False
    for at, char in enumerate(text):
        if escaped or char == "\\":
            escaped = not escaped
        elif quote:
            if char == quote:
                if outer:
                    closing.append(at)
                quote, outer = "", False
        elif char in _QUOTES:
            quote = char
        elif char in _OPENERS:
            depth += 1
        elif char in _CLOSERS and depth:
            depth -= 1
        elif char in _CLOSERS:
            closing.append(at)
    return closing, depth, quote


def _splits_word(text: str, at: int) -> bool:
    around = text[max(at - 1, 0) : at + 1]
    return 0 < at < len(text) and all(char.isalnum() or char == "_" for char in around)


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
    is_header = content.endswith(":") and depth_below <= len(_leading(line))
    return not content or is_header or content.startswith("@")


def _leading(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))]


def _fit_line(line: str, unit: str) -> str:
    blanks = _leading(line)
    if unit == "\t":
        tabs, spaces = divmod(blanks.count(" "), 4)
        return "\t" * (blanks.count("\t") + tabs) + " " * spaces + line[len(blanks) :]
    return blanks.replace("\t", unit) + line[len(blanks) :]


def _step_line(line: str, base: int, step: int, width: int) -> str:
    extra = max(len(_leading(line)) - base, 0) if line.strip() else 0
    return line[:base] + " " * (extra // step * width) + line[base + extra :]


def _lines(text: str) -> list[str]:
    return _LINE_BREAK.split(text)


def _newline(text: str, start: int, line_break: re.Match[str] | None) -> str:
    """The line break that ends the cursor's line, or for the last line the one before it."""
    before = text[max(0, start - 2) : start]
    found = line_break or _LINE_BREAK.search(before if before.endswith("\r\n") else before[-1:])
    return found[0] if found else "\n"


def _indent_unit(lines: list[str]) -> str:
    """A tab if most of the indented lines begin with one, else the commonest step inwards between lines."""
    blanks = [_leading(line) for line in lines if line.strip()]
    indented = [blank for blank in blanks if blank]
    if sum(blank[0] == "\t" for blank in indented) * 2 > len(indented):
        return "\t"
    steps = Counter(len(deeper) - len(blank) for blank, deeper in pairwise(blanks) if len(deeper) > len(blank))
    return " " * (steps.most_common(1)[0][0] if steps else 4)
