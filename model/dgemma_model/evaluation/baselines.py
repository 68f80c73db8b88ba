"""Fills without a model: what any model has to be better than."""

from __future__ import annotations

from collections.abc import Callable

from dgemma_model.copying import most_similar_line
from dgemma_model.evaluation.held_out import Case

CONSTANTS = ("else:", "return None", "return True")


def _constant(text: str) -> Callable[[str, str], str]:
    return lambda before, after: text


BASELINES: dict[str, Callable[[str, str], str]] = {
    "nothing": _constant(""),
    **{text: _constant(text) for text in CONSTANTS},
    "nearby line": most_similar_line,
}
"""Each makes a text from what stands before the hole and behind it."""


def baseline_texts(case: Case, name: str) -> tuple[str, ...]:
    """What the baseline of that name puts into the holes of `case`, from left to right; "nothing" leaves what is to be
    repaired as it is."""
    if name == "nothing" and case.start is not None:
        return case.start
    texts: list[str] = []
    behind = (*case.between, case.suffix)
    before = case.prefix
    for hole in range(case.holes):
        texts.append(BASELINES[name](before, "".join(behind[hole:])))
        before += texts[-1] + behind[hole]
    return tuple(texts)
