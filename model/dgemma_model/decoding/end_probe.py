"""Finds where a fill ends: a logistic model of what the writer would write next, and of the shape of the text.

Some instruction-tuned models do not end their fills, but their probabilities still show where the end is. Inside a
line, wherever brackets are level, the model asks whether the writer would go on with the suffix. At the end of a line,
the line below the hole is read as a draft: how likely is it to come next? `train/fit_ends.py` fits the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dgemma_model.decoding.fill_end import FillEnd, indent_of, is_level
from dgemma_model.prompt.format import FillVocabulary
from dgemma_model.prompt.tokenizer import Tokenizer

Place = Literal["line_end", "inside"]

END_FIGURES = 24
"""How many figures the model weighs, of either kind of place."""
NEXT_TOKENS = 8
"""Tokens of the line below the hole that are read at the end of each line."""
_LONGEST_HEAD = 24
"""Bytes of the text after the hole whose beginnings are compared with what would be written next."""
_LEAST = -20.0
"""The least log-probability, in nats, that counts."""


@dataclass(frozen=True, slots=True)
class EndPlace:
    """A place where a fill may end."""

    kind: Place
    cut: int
    """How much of the text belongs to the fill, if it ends here, in code points."""


class EndFigures:
    """The figures of the places where one hole may end."""

    def __init__(self, prefix: str, suffix: str, vocabulary: FillVocabulary) -> None:
        self._end = FillEnd.of(prefix, suffix, one_line=False)
        self._line_before = prefix[prefix.rfind("\n") + 1 :]
        self._is_blank_below = suffix.partition("\n")[2].startswith("\n")
        self._ends = list(vocabulary.ends)
        self._heads = _heads(vocabulary.tokenizer, suffix)
        self.next_ids = vocabulary.tokenizer.encode(self._end.next_line)[:NEXT_TOKENS] if not self._end.rest else []
        """The first tokens of the line below the hole; none if the hole ends inside a line."""

    def place(self, text: str) -> EndPlace | None:
        """Where the hole may end now that `text` is written; None if it may not."""
        stripped = text.rstrip()
        if not stripped:
            return None
        if self._end.rest:
            line = text[text.rfind("\n") + 1 :]
            return EndPlace("inside", len(text)) if line.strip() and is_level(line) else None
        next_line, last = self._end.next_line, (self._line_before + stripped).rpartition("\n")[2]
        if not is_level(stripped) and indent_of(next_line) <= indent_of(last):
            return None  # what is opened is not closed, nor does what follows go on in it
        blank = text[len(stripped) :]
        return EndPlace("line_end", len(stripped) + blank.find("\n")) if blank.endswith("\n") else None

    def said(self, spoken: np.ndarray) -> list[float]:
        """Three log-probabilities from those of the next token, [V]: that the fill ends, of the likeliest token, and
        that the suffix begins."""
        suffix = float(np.logaddexp.reduce(spoken[self._heads])) if self._heads else _LEAST
        return [float(np.logaddexp.reduce(spoken[self._ends])), float(spoken.max()), suffix]

    def of(self, text: str, said: Sequence[float], below: np.ndarray) -> list[float]:
        """The `END_FIGURES` figures of a text. `said` is what the method of that name returns. `below` [n, 2] has the
        log-probabilities of the first n of `next_ids`, one after the other, and of the likeliest token at each
        place."""
        ends, best, suffix = (max(value, _LEAST) for value in said)
        stripped = text.rstrip()
        last = (self._line_before + stripped).rpartition("\n")[2]
        is_blank = text[len(stripped) :].count("\n") > 1
        next_line, rest = self._end.next_line, self._end.rest[:1]
        deeper = indent_of(next_line) - indent_of(last) if next_line else 0
        following = np.maximum(below, _LEAST) if len(below) else np.zeros((1, 2))
        lost = following[:, 0] - following[:, 1]
        return [
            1.0,
            ends,
            best,
            suffix,
            suffix - best,
            float(is_blank),
            float(self._is_blank_below),
            float(is_blank == self._is_blank_below),
            float(deeper > 0),
            float(deeper < 0),
            float(last.endswith((":", "{", "(", "[", ","))),
            float(last.endswith((":", "{", "(", "[", ",")) == (deeper > 0)),
            float(is_level(self._line_before + stripped)),
            float(next_line.lstrip()[:1] in (")", "]", "}")),
            float(not next_line),
            float(bool(rest) and rest in ")]}"),
            float(last[-1:].isalnum() == rest.isalnum()),
            float(lost[0]),
            float(lost[:2][-1]),
            float(lost.mean()),
            float(lost.min()),
            float(following[:, 0].mean()),
            float(np.maximum(lost, -3).sum()),
            float((lost > -0.01).all()),
        ]


class EndProbe:
    """Decides whether the text of one hole ends."""

    def __init__(self, weights: Sequence[float], figures: EndFigures) -> None:
        """`weights` [2 * END_FIGURES]: those for ends of lines, then those for places inside a line."""
        line_end, inside = np.array(weights).reshape(2, END_FIGURES)
        self._weights: dict[Place, np.ndarray] = {"line_end": line_end, "inside": inside}
        self._figures = figures

    def draft(self, text: str) -> list[int]:
        """The tokens that must be read after `text` before `cut` can decide whether it ends there."""
        place = self._figures.place(text)
        return self._figures.next_ids if place is not None and place.kind == "line_end" else []

    def cut(self, text: str, spoken: np.ndarray, drafted: Sequence[int]) -> int | None:
        """The length of `text` that belongs into the hole if it ends here; None if it goes on. `spoken` [1 + n, V] are
        the log-probabilities of the next token, and of the token after each of the n `drafted` ones."""
        place = self._figures.place(text)
        if place is None:
            return None
        read = list(drafted[: len(self._figures.next_ids)])
        rows = spoken[: len(read)]
        below = np.stack((rows[np.arange(len(read)), read], rows.max(1)), 1) if read else np.empty((0, 2))
        figures = self._figures.of(text, self._figures.said(spoken[0]), below)
        return place.cut if figures @ self._weights[place.kind] > 0 else None


def _heads(tokenizer: Tokenizer, text: str) -> list[int]:
    """The tokens that `text` may begin with, without a single space."""
    data = text.encode("utf-8", "replace")[:_LONGEST_HEAD]
    heads = (data[:size] for size in range(1, len(data) + 1))
    return [token for head in heads if head != b" " and (token := tokenizer.id_of(head)) is not None]
