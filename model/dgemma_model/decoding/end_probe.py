"""Finds where a fill ends, by a logistic model of the writer's next-token probabilities and of the text's shape.

Some instruction-tuned models do not end their fills, but their probabilities still show where the end is. A fill may
end inside a line wherever all brackets are closed; there it counts how likely the writer would go on with the suffix.
It may also end at the end of any line. There the first tokens below the hole are read as a draft, and it counts how
likely they come next. `train/fit_ends.py` fits the weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dgemma_model.decoding.fill_end import FillEnd, indent_of, is_level
from dgemma_model.prompt.format import FillVocabulary
from dgemma_model.prompt.tokenizer import Tokenizer

PlaceKind = Literal["line_end", "inside"]

END_FIGURES = 25
"""The number of figures (features) of the logistic model, for each kind of place."""
NEXT_TOKENS = 8
"""Tokens below the hole that are read at the end of each line."""
_NEXT_CHARS = 160
"""Of the text below the hole; no more is turned into tokens."""
_LONGEST_HEAD = 24
"""Tokens with at most so many bytes count as beginnings of the text after the hole."""
LEAST_ODDS, SURE_ODDS = -2.0, 1.0
"""A place with lower log-odds is not taken for the end, even if the text is cut off; one with higher odds is at once.
Between 0 and `SURE_ODDS` up to `LINES_AHEAD` further lines are written, for a likelier place may follow."""
LINES_AHEAD = 2
_LEAST = -20.0
"""Lower log-probabilities, in nats, count as this one."""


@dataclass(frozen=True, slots=True)
class EndPlace:
    """A place where a fill may end."""

    kind: PlaceKind
    cut: int
    """The length of the fill in code points, if it ends here."""


class EndFigures:
    """The places where a fill of one hole may end, and their figures."""

    def __init__(self, prefix: str, suffix: str, vocabulary: FillVocabulary) -> None:
        self._end = FillEnd.of(prefix, suffix, one_line=False)
        self._line_before = prefix[prefix.rfind("\n") + 1 :]
        self._is_blank_below = suffix.partition("\n")[2].startswith("\n")
        self._ends = np.array(vocabulary.ends)
        self._heads = np.array(_heads(vocabulary.tokenizer, suffix), dtype=int)
        below = "" if self._end.rest else _lines_below(suffix)
        self.next_ids = vocabulary.tokenizer.encode(below)[:NEXT_TOKENS] if below else []
        """The first tokens below the hole, without blank lines before them; none if the hole ends inside a line."""
        is_blank = (vocabulary.tokenizer.decode([token]).isspace() for token in self.next_ids)
        self._indent_tokens = sum(itertools.takewhile(bool, is_blank))

    def place(self, text: str) -> EndPlace | None:
        """The place at the end of `text` where the fill may end; None if it may not end there."""
        stripped = text.rstrip()
        if not stripped:
            return None
        if self._end.rest:
            line = text[text.rfind("\n") + 1 :]
            return EndPlace("inside", len(text)) if line.strip() and is_level(line) else None
        blank = text[len(stripped) :]
        return EndPlace("line_end", len(stripped) + blank.find("\n")) if blank.endswith("\n") else None

    def next_log_probs(self, log_probs: np.ndarray) -> list[float]:
        """Three log-probabilities, from those [V] of the next token: that the fill ends, of the likeliest token, and
        that the suffix begins."""
        suffix = float(np.logaddexp.reduce(log_probs[self._heads])) if len(self._heads) else _LEAST
        return [float(np.logaddexp.reduce(log_probs[self._ends])), float(log_probs.max()), suffix]

    def of(self, text: str, next_log_probs: Sequence[float], below: np.ndarray) -> list[float]:
        """The `END_FIGURES` figures of the place at the end of `text`.

        `next_log_probs` are what the method of that name returns. `below` [n, 2] has the log-probability of each of the
        first n of `next_ids` after those before it, and that of the likeliest token there.
        """
        ends, best, suffix = (max(value, _LEAST) for value in next_log_probs)
        stripped = text.rstrip()
        last = (self._line_before + stripped).rpartition("\n")[2]
        is_blank = text[len(stripped) :].count("\n") > 1
        next_line, rest = self._end.next_line, self._end.rest[:1]
        deeper = indent_of(next_line) - indent_of(last) if next_line else 0
        following = np.maximum(below, _LEAST) if len(below) else np.zeros((1, 2))
        lost = following[:, 0] - following[:, 1]
        word = min(self._indent_tokens, len(lost) - 1)
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
            float(lost[:word].sum()),
            float(lost[word]),
            float(lost[word + 1]) if len(lost) > word + 1 else 0.0,
            float(lost.mean()),
            float(lost.min()),
            float(following[:, 0].mean()),
            float(np.maximum(lost, -3).sum()),
            float((lost > -0.01).all()),
        ]


class EndProbe:
    """Tells how likely the fill of one hole ends."""

    def __init__(self, weights: Sequence[float], figures: EndFigures) -> None:
        """`weights` [2 * END_FIGURES]: those for ends of lines, then those for places inside a line."""
        line_end, inside = np.array(weights).reshape(2, END_FIGURES)
        self._weights: dict[PlaceKind, np.ndarray] = {"line_end": line_end, "inside": inside}
        self._figures = figures

    def draft(self, text: str) -> list[int]:
        """The tokens that the next pass must read after `text`, so that `odds` can tell whether it ends there."""
        place = self._figures.place(text)
        return self._figures.next_ids if place is not None and place.kind == "line_end" else []

    def odds(self, text: str, log_probs: Sequence[np.ndarray], drafted: Sequence[int]) -> tuple[float, EndPlace] | None:
        """The log-odds that the fill ends at the end of `text`, and that place; None if it may not end there.

        `log_probs`, [V] each, are those of the next token, and of the token after each of the n `drafted` ones.
        """
        place = self._figures.place(text)
        if place is None:
            return None
        read = drafted[: len(self._figures.next_ids)]
        below = np.array([(row[token], row.max()) for row, token in zip(log_probs, read, strict=False)])
        figures = self._figures.of(text, self._figures.next_log_probs(log_probs[0]), below)
        return float(figures @ self._weights[place.kind]), place


class EndSearch:
    """Decides where a fill ends, from the places that are met while it is written."""

    def __init__(self) -> None:
        self._odds = LEAST_ODDS
        self._likeliest: int | None = None
        self._seen = 0  # places since the first that is likely

    @property
    def likely(self) -> int | None:
        """The length of the fill in code points if it ends where that is likely, while lines are written beyond it."""
        return self._likeliest if self._seen else None

    @property
    def likeliest(self) -> int | None:
        """Its length if it must end now: at the likeliest place. None if no place is likely at all."""
        return self._likeliest

    def end(self, odds: float, place: EndPlace) -> int | None:
        """Its length, now that a further place has been met, with such log-odds; None if that is still open."""
        if odds > self._odds:
            self._odds, self._likeliest = odds, place.cut
        may_wait = place.kind == "line_end" and self._seen < LINES_AHEAD
        self._seen += self._odds > 0
        return self._likeliest if self._odds > (SURE_ODDS if may_wait else 0) else None


def _lines_below(suffix: str) -> str:
    """The beginning of what is below the line that `suffix` begins on, from the first line that is not blank."""
    lines = [line.rstrip() for line in suffix.partition("\n")[2].split("\n")]
    first = next((number for number, line in enumerate(lines) if line), len(lines))
    return "\n".join(lines[first:])[:_NEXT_CHARS]


def _heads(tokenizer: Tokenizer, text: str) -> list[int]:
    """The ids of all tokens that are beginnings of `text`, but for a single space."""
    data = text.encode("utf-8", "replace")[:_LONGEST_HEAD]
    heads = (data[:size] for size in range(1, len(data) + 1))
    return [token for head in heads if head != b" " and (token := tokenizer.id_of(head)) is not None]
