"""Which part of a file the model sees: one rule for serving, training and evaluation. No torch.

Cuts are *sticky*: the left edge is a function of a coarse grid, so that it stays where it was while the user types
and then moves far; the suffix is cut by its length alone, which typing before it does not change. The prompt is then
only ever appended to, and the cached keys and values of everything before the cursor stay valid.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from dgemma_model.request import Excerpt


@dataclass(frozen=True, slots=True)
class ExcerptBudget:
    """How much text an excerpt may hold, in code points (about three to a token of the embedded checkpoint)."""

    prefix_chars: int = 1280
    suffix_chars: int = 320


def cut(
    text: str,
    holes: Sequence[tuple[int, int]],
    budget: ExcerptBudget,
    *,
    language: str = "python",
    scope_starts: Sequence[int] = (),
) -> Excerpt:
    """The excerpt of `text` around `holes`.

    `holes` are disjoint (start, end) offsets in ascending order; the text inside them is not part of the excerpt.
    `scope_starts` are the starts of the enclosing scopes, outermost first: where one fits into the budget, the
    prefix begins there rather than in the middle of it.
    """
    first, last = holes[0][0], holes[-1][1]
    left = _left_edge(text, first, budget.prefix_chars, scope_starts)
    right = _right_edge(text, last, budget.suffix_chars)
    between = tuple(text[a_end:b_start] for (_, a_end), (b_start, _) in pairwise(holes))
    return Excerpt(prefix=text[left:first], suffix=text[last:right], between=between, language=language)


def _left_edge(text: str, cursor: int, limit: int, scope_starts: Sequence[int]) -> int:
    """Offset of the first code point shown; a line start, except in lines of a quarter of the budget and more."""
    if cursor <= limit:
        return 0
    grid = limit // 2
    earliest = cursor - limit
    edge = -(-earliest // grid) * grid  # the first grid point inside the budget: constant until typing passes it
    fitting = bisect_left(scope_starts, earliest)
    if fitting < len(scope_starts) and scope_starts[fitting] <= edge:
        return scope_starts[fitting]  # a little more than the grid gives, so that the scope is whole
    newline = text.find("\n", edge, edge + grid // 2)  # further on, the next cut would be near, too
    return newline + 1 if newline >= 0 else edge


def _right_edge(text: str, hole_end: int, limit: int) -> int:
    """Offset after the last code point shown: the end of a line where there is one within the budget."""
    end = hole_end + limit
    if end >= len(text):
        return len(text)
    newline = text.rfind("\n", hole_end, end)
    return newline + 1 if newline > hole_end + limit // 2 else end
