"""A memory of the prompt and of text elsewhere: what followed the last few tokens before, and the line most like the
one that is missing. No torch.

Code repeats itself, and a small model is slow to learn to copy. Its next-token distribution is therefore mixed with
the counts of a cache n-gram model over the prompt and the fill so far (Kuhn & De Mori 1990; for code Hellendoorn &
Devanbu 2017), the more the longer the match.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from difflib import SequenceMatcher
from functools import lru_cache

from dgemma_model.elsewhere import Piece
from dgemma_model.tokenizer import Tokenizer

WEIGHT_BY_MATCH = (0.0, 0.03, 0.1, 0.23, 0.39, 0.52, 0.65, 0.72, 0.78)
"""Share of the copied distribution for a match of so many tokens; the last one also for longer matches (LOG.md)."""

LONGEST_MATCH = len(WEIGHT_BY_MATCH) - 1
_BRACKETS_SEEN = 800
"""How far back an open bracket is looked for, in code points."""
LONGEST_COPY = 12
"""Most tokens copied at once as a draft."""


class PromptCopies:
    """The prompt's tokens and those written since; and pieces of text `elsewhere`, the nearest last."""

    def __init__(self, ids: Sequence[int], elsewhere: Sequence[Piece] = ()) -> None:
        self._ids = list(ids)
        self._elsewhere = elsewhere
        self._matches: tuple[int, list[tuple[list[int], int]]] | None = None

    def append(self, token: int) -> None:
        """Take in one more token behind the others."""
        self._ids.append(token)
        self._matches = None

    def continuation(self) -> tuple[int, list[int]]:
        """The length of the longest earlier match of the last tokens, at most `LONGEST_MATCH`, and up to twice as many
        tokens (at most `LONGEST_COPY`) that followed the nearest such match; (0, []) without any."""
        longest, places = self._longest_matches()
        if not places:
            return 0, []
        ids, at = places[-1]
        return longest, ids[at + 1 : at + 1 + min(2 * longest, LONGEST_COPY)]

    def predict(self) -> tuple[int, dict[int, float]]:
        """The length of the longest earlier match of the last tokens, at most `LONGEST_MATCH`, and the
        share of each id among those that followed matches of that length; (0, {}) without any."""
        longest, places = self._longest_matches()
        followers = Counter(ids[at + 1] for ids, at in places)
        return longest, {token: count / len(places) for token, count in followers.items()}

    def _longest_matches(self) -> tuple[int, list[tuple[list[int], int]]]:
        """How many of the last tokens stand somewhere else, too, followed by another one, and where the last of them
        stands: ids and place, the nearest last. Elsewhere at least two tokens must agree."""
        if self._matches is None:
            self._matches = self._find_matches()
        return self._matches

    def _find_matches(self) -> tuple[int, list[tuple[list[int], int]]]:
        if not self._ids:
            return 0, []
        found: list[tuple[int, list[int], int]] = []
        pairs: list[tuple[list[int], int]] = []
        for piece in self._elsewhere if len(self._ids) > 1 else ():
            ids, third = piece.ids, self._ids[-3] if len(self._ids) > 2 else None
            places = [at for at in piece.places(*self._ids[-2:]) if at + 1 < len(ids)]
            longer = [at for at in places if at > 1 and ids[at - 2] == third]  # seldom many, where pairs may be
            found += ((self._match_length(ids, at, known=3), ids, at) for at in longer)
            pairs += ((ids, at) for at in places)
        here = [at for at, token in enumerate(self._ids[:-1]) if token == self._ids[-1]]
        found += ((self._match_length(self._ids, at, known=1), self._ids, at) for at in here)
        longest = max((length for length, _, _ in found), default=0)
        if longest < 2 and pairs:
            return 2, pairs
        if longest > 2:
            pairs = []
        return longest, pairs + [(ids, at) for length, ids, at in found if length == longest]

    def _match_length(self, ids: list[int], place: int, known: int) -> int:
        last, length = len(self._ids) - 1, known
        while length < LONGEST_MATCH and length <= min(place, last) and ids[place - length] == self._ids[last - length]:
            length += 1
        return length


class Suggestions:
    """What the prompt and text elsewhere suggest for each token of one fill, beside what the head says of it."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt: Sequence[int],
        elsewhere: Sequence[Piece],
        *,
        weight: float,
        before: str,
        after: str,
        one_line: bool,
        forced: bytes = b"",
    ) -> None:
        """`before` stands before the hole and `after` behind it; `forced` is what healing makes the fill begin with;
        see `Policy.copy_weight` for `weight`."""
        self.copies = PromptCopies(prompt, elsewhere)
        self._tokenizer, self._weight = tokenizer, weight
        self._after = after.partition("\n")[0].encode("utf-8", "replace")
        self._ends = frozenset(tokenizer.ids_starting(b"\n") if one_line else ())
        self._forced, self._written = len(forced), b""
        self._before = before[-_BRACKETS_SEEN:].encode("utf-8", "replace")

    def append(self, token: int) -> None:
        """The next token of the fill."""
        self.copies.append(token)
        self._written += self._tokenizer.token_bytes[token]

    def predict(self) -> tuple[float, dict[int, float]]:
        """How much of the next token's probability is shared out among what is suggested, 0 to 1, and the shares; all
        that would end the fill is end-of-text."""
        length, copied = self.copies.predict() if self._weight else (0, {})
        found: dict[int, float] = {}
        for token, count in copied.items():
            if token in self._ends or self._is_end(token):
                token = self._tokenizer.end_id
            elif token in self._tokenizer.special_ids or self._closes_nothing(token):
                continue
            found[token] = found.get(token, 0.0) + count
        return self._weight * WEIGHT_BY_MATCH[length], found

    def _closes_nothing(self, token: int) -> bool:
        """Whether a copied token begins with a bracket that closes none."""
        data = self._tokenizer.token_bytes[token]
        return data[:1] in (b")", b"]", b"}") and not _open_brackets(self._before + self._written[self._forced :])

    def _is_end(self, token: int) -> bool:
        """Whether a copied token says that a hole in the middle of a line has ended: what stands behind the hole begins
        with it, and the fill has no bracket open."""
        data, written = self._tokenizer.token_bytes[token], self._written[self._forced :]
        if not data or not self._after.startswith(data):
            return token == self._tokenizer.end_id
        opened = sum(map(written.count, (b"(", b"[", b"{")))
        return opened <= sum(map(written.count, (b")", b"]", b"}")))


def _open_brackets(text: bytes) -> int:
    """How many brackets are open at the end of a piece of code; those in strings and comments count, too."""
    depth = 0
    for byte in text:
        if byte in b"([{":
            depth += 1
        elif byte in b")]}":
            depth = max(0, depth - 1)
    return depth


def most_similar_line(prefix: str, suffix: str, elsewhere: Sequence[Piece] = ()) -> str:
    """The rest of the cursor's line as a line near it or `elsewhere` would have it: the one whose neighbours are most
    like the cursor's.

    Only lines that begin as the cursor's line does count. Empty where there is none.
    """
    before, after = prefix.split("\n"), suffix.split("\n")
    begun = before[-1].lstrip()
    above = next((line for line in reversed(before[:-1]) if line.strip()), "").strip()
    below = next((line for line in after[1:] if line.strip()), "").strip()
    best, best_score = "", -1.0
    for over, content, under in _lines_between(tuple(elsewhere), above, below):
        if content.startswith(begun) and len(content) > len(begun):
            score = _similarity(over, above) + _similarity(under, below)
            if score >= best_score:
                best, best_score = content[len(begun) :], score
    for lines in (before[:-1], after[1:]):
        for at, line in enumerate(lines):
            content = line.strip()
            if not content.startswith(begun) or len(content) <= len(begun):
                continue
            neighbours = lines[at - 1].strip() if at else "", lines[at + 1].strip() if at + 1 < len(lines) else ""
            nearness = 0.01 * at / len(lines)
            score = _similarity(neighbours[0], above) + _similarity(neighbours[1], below) + nearness
            if score > best_score:
                best, best_score = content[len(begun) :], score
    return best


@lru_cache(maxsize=4)
def _lines_between(pieces: tuple[Piece, ...], above: str, below: str) -> list[tuple[str, str, str]]:
    """Those of all pieces. This and the next are asked the same at every keystroke in a line."""
    return [found for piece in pieces for found in piece.lines_between(above, below)]


@lru_cache(maxsize=1 << 14)
def _similarity(a: str, b: str) -> float:
    return SequenceMatcher(None, a, b, autojunk=False).ratio() if a and b else 0.0
