"""Texts of the project between the words that surround the hole, and how often a text occurs."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from heapq import nlargest
from typing import NamedTuple

from dgemma_model.project.similar_lines import _WORD
from dgemma_model.project.text_index import IndexedText

_PLACES_BETWEEN = 200
"""Places of the words before the hole that are looked at for what stands between these and the words behind it."""


_SIGN = re.compile(r"\w+|[^\w\s]")


_FIRST_WORD = re.compile(r"\s*(?:\w+|[^\w\s]|$)")


class TextBetween(NamedTuple):
    """What stands elsewhere between the words on both sides of the hole."""

    text: str
    closeness: float
    """How much of what is around it is as around the hole: code points before it on its line, up to 40; half as much
    behind it, up to 10; and the more, the more often it stands there."""


def texts_between(prefix: str, suffix: str, project: Sequence[IndexedText] = (), count: int = 1) -> list[TextBetween]:
    """What stands near the hole or `elsewhere` on one line between the last words before the hole and the first word
    behind it (or the end of the line), the closest first, none twice, none empty.

    Only brackets that the text itself opens are closed in it.
    """
    begun, ended = prefix[prefix.rfind("\n") + 1 :].lstrip(), suffix.partition("\n")[0].rstrip() + "\n"
    key = _last_words(begun)
    first = _FIRST_WORD.match(ended)
    if not key or first is None:
        return []
    end = first[0]
    found: dict[str, tuple[int, int, int]] = {}
    left = _PLACES_BETWEEN
    for text in (prefix, suffix, *(piece.text for piece in reversed(project))):
        at = text.find(key)
        while at >= 0 and left:
            left -= 1
            start, after = text.rfind("\n", 0, at) + 1, at + len(key)
            line_end = text.find("\n", after)
            rest = text[after : line_end if line_end >= 0 else len(text)].rstrip() + "\n"
            if size := _size_before(rest, end):
                before, behind, times = found.get(rest[:size], (0, 0, 0))
                now = _common(text[start:after][::-1], begun[::-1], 40), _common(rest[size:], ended, 10)
                found[rest[:size]] = (*max(now, (before, behind)), times + 1)
            at = text.find(key, at + 1)
    between = (
        TextBetween(text, before + behind / 2 + 2 * math.log(times)) for text, (before, behind, times) in found.items()
    )
    return nlargest(count, between, key=lambda each: each.closeness)


class Occurrences(NamedTuple):
    """How often a text stands near the hole and elsewhere."""

    anywhere: int
    before: int
    """Behind the word or sign that it is to stand behind here."""
    behind: int
    """Before the word or sign, or the end of a line, that it is to stand before."""
    between: int
    """Between both."""


def occurrences(
    texts: Sequence[str], prefix: str, suffix: str, project: Sequence[IndexedText] = ()
) -> list[Occurrences]:
    """How often each of `texts` for the hole stands near it and `elsewhere`."""
    everything = "\0".join((*(piece.text for piece in project), prefix, suffix))
    begun = prefix[prefix.rfind("\n") + 1 :].lstrip()
    spoken = [match.start() for match in _SIGN.finditer(begun)]
    before = begun[spoken[-1] :] if spoken else ""
    after = suffix.partition("\n")[0]
    first = _SIGN.search(after)
    behind = after[: first.end()] if first else "\n"
    found = []
    for text in texts:
        anywhere = everything.count(text) if text.strip() else 0
        with_before = everything.count(before + text) if anywhere and before else 0
        with_behind = everything.count(text + behind) if anywhere else 0
        with_both = everything.count(before + text + behind) if with_before and with_behind else 0
        found.append(Occurrences(anywhere, with_before, with_behind, with_both))
    return found


def _last_words(begun: str) -> str:
    """The end of a line in words, blanks and signs: at least two of them, and a word."""
    spoken = [match[0] for match in _WORD.finditer(begun)]
    for count in range(2, len(spoken) + 1):
        if any(map(str.isalnum, "".join(spoken[-count:]))):
            return "".join(spoken[-count:])
    return ""


def _size_before(rest: str, end: str) -> int:
    """How much of `rest` stands before the first `end` that is in no bracket; 0 where there is none."""
    depth = 0
    for at, sign in enumerate(rest):
        if depth == 0 and rest.startswith(end, at):
            return at
        depth += (sign in "([{") - (sign in ")]}")
        if depth < 0:
            return 0
    return 0


def _common(a: str, b: str, most: int) -> int:
    """How many signs at the beginnings of both are the same, at most so many."""
    for size in range(min(len(a), len(b), most)):
        if a[size] != b[size]:
            return size
    return min(len(a), len(b), most)
