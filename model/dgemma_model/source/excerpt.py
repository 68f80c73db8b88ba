"""Which part of a file the model sees: one rule for serving, training and evaluation. No torch.

Cuts are *sticky*. The left edge lies on a coarse grid: it stays while the user types, and then moves far. The suffix is
cut by its length alone, which typing before it does not change. So typing only appends to the prompt, and the cached
keys and values of everything before the cursor stay valid.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from dgemma_model.request import Excerpt, Readable

_CHARS_PER_TOKEN = 3


@dataclass(frozen=True)
class ExcerptBudget:
    """How much text an excerpt may hold, in code points (about three to a token of the embedded checkpoint)."""

    prefix_chars: int = 1280
    suffix_chars: int = 320
    further_chars: int = 0
    """For what is not next to the hole: imports, headers, signatures. None for a checkpoint trained without."""
    whole_blocks: bool = False
    """The suffix ends where a block does, at the price of less text."""

    @classmethod
    def within(cls, prompt_tokens: int) -> ExcerptBudget:
        """The budget for a checkpoint that reads so many tokens. For 512 it is that of the embedded checkpoint: text
        next to the hole only. Of further room, half is for the prefix, a quarter for the suffix, and a quarter for
        context notes.
        """
        room = prompt_tokens * _CHARS_PER_TOKEN - cls.prefix_chars - cls.suffix_chars
        if room <= 0:
            return cls()
        return cls(cls.prefix_chars + room // 2, cls.suffix_chars + room // 4, room // 4, whole_blocks=True)


def cut(
    text: Readable,
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
    right = (_block_end if budget.whole_blocks else _right_edge)(text, last, budget.suffix_chars)
    between = tuple(text[a_end:b_start] for (_, a_end), (b_start, _) in pairwise(holes))
    return Excerpt(prefix=text[left:first], suffix=text[last:right], between=between, language=language)


def _left_edge(text: Readable, cursor: int, limit: int, scope_starts: Sequence[int]) -> int:
    """Offset of the first code point shown; a line start, except in lines of a quarter of the budget and more."""
    if cursor <= limit:
        return 0
    grid = limit // 2
    earliest = cursor - limit
    edge = -(-earliest // grid) * grid  # the first grid point inside the budget: constant until typing passes it
    fitting = bisect_left(scope_starts, earliest)
    if fitting < len(scope_starts) and scope_starts[fitting] <= edge:
        return scope_starts[fitting]  # a little more than the grid gives, so that the scope is whole
    newline = text[edge : edge + grid // 2].find("\n")  # further on, the next cut would be near, too
    return edge + newline + 1


def _right_edge(text: Readable, hole_end: int, limit: int) -> int:
    """Offset after the last code point shown: the end of a line where there is one within the budget."""
    end = hole_end + limit
    if end >= len(text):
        return len(text)
    newline = text[hole_end:end].rfind("\n")
    return hole_end + newline + 1 if newline > limit // 2 else end


def _block_end(text: Readable, hole_end: int, limit: int) -> int:
    """As `_right_edge`, at the line in the far half that the outermost text follows.

    Indentation tells, not the tree, which changes with every key: a suffix that did, too, would cost the whole cache.
    """
    end = _right_edge(text, hole_end, limit)
    lines = text[hole_end : end + limit].split("\n")
    best, at = (limit, end), hole_end
    for line, following in pairwise(lines):
        at += len(line) + 1
        if at > end:
            break
        if at - hole_end > limit // 2 and following.strip():
            best = min(best, (len(following) - len(following.lstrip()), at), key=lambda place: place[0])
    return best[1]
