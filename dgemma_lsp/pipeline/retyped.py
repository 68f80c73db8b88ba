"""How much of what follows the cursor a suggestion types again: closing brackets and quotes that are there."""

from __future__ import annotations

from dgemma_lsp.pipeline.insertion import Place

QUOTES = "\"'"


OPENERS = "([{"


CLOSERS = ")]}"


RETYPED = frozenset(CLOSERS + QUOTES + ">:;, ")
"""Characters after the cursor that a suggestion may type over. Other text that it repeats is cut from it."""


def retyped_length(text: str, place: Place) -> int:
    """How much of the text after the cursor, closing brackets and quotes above all, `text` types again.

    That much is replaced by the edit. It is a subsequence of `text`: editors show nothing else.
    """
    if overlap := overlap_length(text, place):
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


def overlap_length(text: str, place: Place) -> int:
    """Length of the longest beginning of `place.after` that `text` ends with, if both mean the same.

    In `f(g(x)▮)` the text `, h(y)` ends with a bracket that it opened itself. That is not the one after the cursor.
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
        elif char in QUOTES:
            quote = char
        elif char in OPENERS:
            depth += 1
        elif char in CLOSERS and depth:
            depth -= 1
        elif char in CLOSERS:
            closing.append(at)
    return closing, depth, quote


def _splits_word(text: str, at: int) -> bool:
    around = text[max(at - 1, 0) : at + 1]
    return 0 < at < len(text) and all(char.isalnum() or char == "_" for char in around)
