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
"""Most places of the words before the hole at which a text between them and the words after the hole is looked for."""


_SIGN = re.compile(r"\w+|[^\w\s]")


_FIRST_WORD = re.compile(r"\s*(?:\w+|[^\w\s]|$)")


class TextBetween(NamedTuple):
    """A text that another place has between the same words as those around the hole."""

    text: str
    closeness: float
    """How alike the surroundings are: equal code points before it on its line, up to 40, plus half of those after it,
    up to 10, plus twice the logarithm of how often it occurs there."""


def texts_between(prefix: str, suffix: str, project: Sequence[IndexedText] = (), count: int = 1) -> list[TextBetween]:
    """Texts near the hole or in the `project` that are on one line between the last words before the hole and the first
    word after it (or the end of the line).

    The closest comes first; none comes twice, and none is empty. A text closes only brackets that it opens.
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
                before, following, times = found.get(rest[:size], (0, 0, 0))
                now = _common(text[start:after][::-1], begun[::-1], 40), _common(rest[size:], ended, 10)
                found[rest[:size]] = (*max(now, (before, following)), times + 1)
            at = text.find(key, at + 1)
    between = (
        TextBetween(text, before + following / 2 + 2 * math.log(times))
        for text, (before, following, times) in found.items()
    )
    return nlargest(count, between, key=lambda each: each.closeness)


class Occurrences(NamedTuple):
    """How often a text occurs near the hole and in the project."""

    anywhere: int
    before: int
    """After the word or sign that is before the hole."""
    following: int
    """Before the word or sign, or the end of a line, that is after the hole."""
    between: int
    """Between both."""


def occurrences(
    texts: Sequence[str], prefix: str, suffix: str, project: Sequence[IndexedText] = ()
) -> list[Occurrences]:
    """How often each of `texts` for the hole occurs near it and in the `project`."""
    everything = "\0".join((*(piece.text for piece in project), prefix, suffix))
    begun = prefix[prefix.rfind("\n") + 1 :].lstrip()
    spoken = [match.start() for match in _SIGN.finditer(begun)]
    before = begun[spoken[-1] :] if spoken else ""
    after = suffix.partition("\n")[0]
    first = _SIGN.search(after)
    following = after[: first.end()] if first else "\n"
    found = []
    for text in texts:
        anywhere = everything.count(text) if text.strip() else 0
        with_before = everything.count(before + text) if anywhere and before else 0
        with_following = everything.count(text + following) if anywhere else 0
        with_both = everything.count(before + text + following) if with_before and with_following else 0
        found.append(Occurrences(anywhere, with_before, with_following, with_both))
    return found


def _last_words(begun: str) -> str:
    """The end of a line in words, blanks and signs: at least two of them, and a word."""
    spoken = [match[0] for match in _WORD.finditer(begun)]
    for count in range(2, len(spoken) + 1):
        if any(map(str.isalnum, "".join(spoken[-count:]))):
            return "".join(spoken[-count:])
    return ""


def _size_before(rest: str, end: str) -> int:
    """The length of `rest` before the first `end` outside of brackets; 0 if there is none."""
    depth = 0
    for at, sign in enumerate(rest):
        if depth == 0 and rest.startswith(end, at):
            return at
        depth += (sign in "([{") - (sign in ")]}")
        if depth < 0:
            return 0
    return 0


def _common(a: str, b: str, most: int) -> int:
    """The length of the common beginning of both, at most `most`."""
    for size in range(min(len(a), len(b), most)):
        if a[size] != b[size]:
            return size
    return min(len(a), len(b), most)
