"""Fills without a model. Any model has to be better than these."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from dgemma_model.evaluation.held_out import Case
from dgemma_model.project.similar_lines import most_similar_line
from dgemma_model.project.text_index import IndexedText, split

CONSTANTS = ("else:", "return None", "return True")
Baseline = Callable[[str, str, Sequence[str]], str]
"""Makes a text from the text before the hole, the text after it, and other texts of the project."""


def _constant(text: str) -> Baseline:
    return lambda before, after, project_text: text


def _anywhere(before: str, after: str, project_text: Sequence[str]) -> str:
    return most_similar_line(before, after, [piece for text in project_text for piece in _pieces(text)])


@lru_cache(maxsize=1024)
def _pieces(text: str) -> list[IndexedText]:
    return [IndexedText(part, []) for part in split(text)]


BASELINES: dict[str, Baseline] = {
    "nothing": _constant(""),
    **{text: _constant(text) for text in CONSTANTS},
    "nearby line": lambda before, after, project_text: most_similar_line(before, after),
    "line anywhere": _anywhere,
}


def baseline_texts(case: Case, name: str, project_text: Sequence[str] = ()) -> tuple[str, ...]:
    """What the baseline of that name puts into the holes of `case`, from left to right; "nothing" leaves what is to be
    repaired as it is."""
    if name == "nothing" and case.start is not None:
        return case.start
    texts: list[str] = []
    after_holes = (*case.between, case.suffix)
    before = case.prefix
    for hole in range(case.holes):
        texts.append(BASELINES[name](before, "".join(after_holes[hole:]), project_text))
        before += texts[-1] + after_holes[hole]
    return tuple(texts)
