"""Ends a fill at its time budget, with the present draft cut to a part that parses. No torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from dgemma_model.request import Draft, Excerpt
from dgemma_model.source import syntax

CUT_POINT = re.compile(r"\w+|[^\w\s]|\n")
MOST_CUTS = 24
"""How many ends of words and signs are tried for a cut, from the back."""


def within_budget(
    drafts: Iterator[Draft], budget_ms: float, excerpt: Excerpt, clock: Callable[[], float]
) -> Iterator[Draft]:
    """Yield `drafts` until `budget_ms` milliseconds have passed since the first pass after the prompt; `clock` tells
    seconds.

    The first draft after that is the last one. So a fill ends at most one pass late, and always with a draft.
    """
    started = clock()
    for draft in drafts:
        if draft.step and not draft.done and 1000 * (clock() - started) >= budget_ms:
            yield replace(cut_where_it_parses(draft, excerpt), done=True)
            return
        yield draft
        if not draft.step:
            started = clock()


def cut_where_it_parses(draft: Draft, excerpt: Excerpt) -> Draft:
    """`draft` with each text cut back, as little as possible, so that the excerpt has the fewest errors.

    A later step might have completed an unfinished text. The part of it that parses is of use now.
    """
    texts = list(draft.texts)
    for hole, text in enumerate(texts):
        ends = [match.end() for match in CUT_POINT.finditer(text)][-MOST_CUTS:]
        cuts = dict.fromkeys([text, *(text[:end] for end in reversed(ends)), ""])
        fewest: int | None = None
        for cut in cuts:
            errors = _errors(excerpt, [*texts[:hole], cut, *texts[hole + 1 :]])
            if errors is None:
                return draft
            if fewest is None or errors < fewest:
                fewest, texts[hole] = errors, cut
            if errors == 0:
                break
    return draft if tuple(texts) == draft.texts else replace(draft, texts=tuple(texts), complete=False)


def _errors(excerpt: Excerpt, texts: list[str]) -> int | None:
    """How many places of the filled excerpt do not parse; None for a language without a grammar."""
    filled = "".join(part for pair in zip((excerpt.prefix, *excerpt.between), texts, strict=True) for part in pair)
    tree = syntax.parse(excerpt.language, filled + excerpt.suffix)
    return None if tree is None else syntax.error_count(tree)
