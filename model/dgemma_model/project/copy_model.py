"""Copies: what followed the last few tokens earlier in the prompt, in the fill, or in the project text. No torch.

Code repeats itself, and a small model is slow to learn to copy. Its next-token distribution is therefore mixed with
that of a cache n-gram model over the prompt, the fill so far and the project text (Kuhn & De Mori 1990; for code
Hellendoorn & Devanbu 2017). Every earlier place of the last tokens votes for the token that followed it there. A vote
counts more for a longer match, a nearer text, and lines around it that are more like those around the hole.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from dgemma_model.project.similar_lines import lines_around
from dgemma_model.project.text_index import IndexedText, words
from dgemma_model.prompt.format import FillVocabulary

LONGEST_MATCH = 20
"""Most tokens whose match is looked for."""


@dataclass(frozen=True, slots=True)
class CopyWeights:
    """How much copies are trusted: a part of a checkpoint's policy, fitted to holes of packages that are not evaluated.
    The defaults are those of the embedded checkpoint."""

    by_match: tuple[float, ...] = (0.0, 0.49, 1.54, 2.77, 3.76, 4.36, 4.95, 5.17, 5.35)
    """Log-weight of a place by the number of its last tokens that match those before the hole."""
    per_further_token: float = 0.2
    """Log-weight of each token beyond the longest of these matches."""
    in_project: float = 0.3
    """Log-weight of a place in the nearest piece of project text, compared with one in the prompt."""
    nearness: float = 0.67
    """The weight of a place falls with the number of pieces that are nearer, to this power."""
    likeness: float = 4.9
    """Log-weight of a place around which all words are those around the hole."""
    sharpness: float = 1.3
    """Power to which a token's summed weight is raised: above 1, places that agree count for more than their sum."""
    plausibility: float = 0.285
    """Power of the probability that the causal head gives to the copied token."""
    trust: float = -4.0
    """Log-odds of copying, rather than writing, before any evidence."""
    trust_in_one: float = -5.1
    """The same if only one token matches."""
    trust_in_weight: float = 0.386
    """Log-odds that each nat of the logarithm of the weight of all places adds."""
    least_weight: float = 3.0
    """Added to that weight, so that its logarithm is finite."""
    trust_in_agreement: float = 2.67
    """Log-odds that are added if all places agree on the token."""
    trust_in_head: float = -0.372
    """Log-odds that each nat of the head's own log-probability adds."""

    def of_match(self, length: int) -> float:
        """The weight of a place of which so many of the last tokens match, 0 to `LONGEST_MATCH`."""
        longest = len(self.by_match) - 1
        further = self.per_further_token * max(0, length - longest)
        return math.exp(self.by_match[min(length, longest)] + further)


_IMPOSSIBLE = -30.0
"""Nats; nothing is less likely."""
_BRACKETS_SEEN = 800
"""How far back an open bracket is looked for, in code points."""
LONGEST_COPY = 23
"""Most tokens copied at once as a draft; with the one before them, one of `served.PASS_TOKENS`."""
_BRACKET = re.compile(rb"[(\[{)\]}]")


class Places(NamedTuple):
    """The earlier places of the last tokens in one text, each followed by another token."""

    number: int
    """The number of the piece of project text, or `IN_PROMPT`."""
    ids: list[int]
    """The tokens of the text."""
    matches: dict[int, int]
    """From the index of the last token in `ids`, in order, to how many of the last tokens match there: 1 to
    `LONGEST_MATCH`, at least 2 in project text."""


IN_PROMPT = -1


class PromptCopies:
    """Finds earlier places of the last tokens: in the prompt, in what was written since, and in pieces of project text,
    the nearest last."""

    def __init__(self, ids: Sequence[int], project: Sequence[IndexedText] = ()) -> None:
        self._ids = list(ids)
        self._project = project
        self._at: dict[int, list[int]] = {}
        """The indices of each token in the prompt and the fill, without the last token."""
        for at, token in enumerate(self._ids[:-1]):
            self._at.setdefault(token, []).append(at)
        self._found: list[Places] | None = None
        self._before: dict[int, dict[int, int]] = {}
        """The matches of the previous step, by the number of the text, if they were asked for."""

    def append(self, token: int) -> None:
        """Add the next token of the fill."""
        self._before = {number: matches for number, _, matches in self._found or ()}
        if self._ids:
            self._at.setdefault(self._ids[-1], []).append(len(self._ids) - 1)
        self._ids.append(token)
        self._found = None

    def continuation(self) -> tuple[int, list[int]]:
        """The length of the longest earlier match of the last tokens, at most `LONGEST_MATCH`, and up to twice as many
        tokens (at most `LONGEST_COPY`) that followed the nearest such match; (0, []) without any."""
        longest, copied = 0, list[int]()
        for _, ids, matches in self.places():
            for at, length in matches.items():
                if length >= longest:
                    longest, copied = length, ids[at + 1 : at + 1 + min(2 * length, LONGEST_COPY)]
        return longest, copied

    def places(self) -> list[Places]:
        """The earlier places of the last tokens, the nearest text last; at most `text_index.PLACES` in each piece."""
        if self._found is None:
            self._found = self._find()
        return self._found

    def _find(self) -> list[Places]:
        ids, found = self._ids, list[Places]()
        if len(ids) > 1:
            pair, third_last = (ids[-2], ids[-1]), ids[-3] if len(ids) > 2 else -1
            for number, piece in enumerate(self._project):
                if places := piece.places(pair):
                    there, before = piece.ids, self._before.get(number, {})
                    matches = dict.fromkeys(places, 2)
                    for at in places:
                        if at > 1 and there[at - 2] == third_last:
                            matches[at] = self._match_length(there, at, before)
                    found.append(Places(number, there, matches))
        if ids and (at_prompt := self._at.get(ids[-1])):
            before = self._before.get(IN_PROMPT, {})
            found.append(Places(IN_PROMPT, ids, {at: self._match_length(ids, at, before) for at in at_prompt}))
        return found

    def _match_length(self, ids: list[int], place: int, before: Mapping[int, int]) -> int:
        if known := before.get(place - 1):
            return min(known + 1, LONGEST_MATCH)
        last, length = len(self._ids) - 1, 1
        while length < LONGEST_MATCH and length <= min(place, last) and ids[place - length] == self._ids[last - length]:
            length += 1
        return length


class CopyModel:
    """What the prompt and the project text suggest for each token of one fill, in addition to the causal head."""

    def __init__(
        self,
        vocabulary: FillVocabulary,
        prompt: Sequence[int],
        project: Sequence[IndexedText],
        *,
        weight: float,
        weights: CopyWeights,
        before: str,
        after: str,
        one_line: bool,
        forced: bytes = b"",
    ) -> None:
        """`before` and `after` are the text before and after the hole. `forced` is what token healing makes the fill
        begin with. For `weight` see `Policy.copy_weight`."""
        self.copies = PromptCopies(prompt, project)
        self._project = project
        self._vocabulary, self._tokenizer = vocabulary, vocabulary.tokenizer
        self._weight, self._fitted = weight, weights
        self._by_match = [weights.of_match(length) for length in range(LONGEST_MATCH + 1)]
        self._after = after.partition("\n")[0].encode("utf-8", "replace")
        self._ends = frozenset(vocabulary.ends_of(one_line=one_line))
        self._to_heal = len(forced)
        self._opened = 0
        """Brackets that the fill opened, less those that it closed."""
        self._depth = _open_brackets(before[-_BRACKETS_SEEN:].encode("utf-8", "replace"))
        """Brackets that are open where the next token comes."""
        self._around = lines_around(before, after)
        self._weights: dict[int, tuple[float, Sequence[int], Mapping[int, float]]] = {IN_PROMPT: (1.0, (), {})}

    def append(self, token: int) -> None:
        """The next token of the fill."""
        self.copies.append(token)
        data = self._tokenizer.token_bytes[token]
        written, self._to_heal = data[self._to_heal :], max(0, self._to_heal - len(data))
        self._depth = _open_brackets(written, self._depth)
        self._opened += sum(map(written.count, (b"(", b"[", b"{"))) - sum(map(written.count, (b")", b"]", b"}")))

    def predict(
        self,
        likeliest: float,
        log_probability: Callable[[int], float],
        allowed: Container[int] | None = None,
    ) -> tuple[float, dict[int, float]]:
        """The share of the next token's probability that copies get, 0 to 1, and how it is divided among tokens.

        All tokens that would end the fill count as end-of-text. `likeliest` is the log-probability of the head's own
        token, `log_probability` that of any token. Only `allowed` tokens are suggested.
        """
        fitted = self._fitted
        copied: dict[int, float] = {}
        longer = set[int]()
        """Tokens that followed a match of more than one token."""
        for number, ids, matches in self.copies.places() if self._weight else ():
            nearness, lines, line_weights = self._weights_in(number)
            for at, length in matches.items():
                token, weight = ids[at + 1], self._by_match[length] * nearness
                if line_weights:
                    weight *= line_weights.get(lines[at], 1.0)
                copied[token] = copied.get(token, 0.0) + weight
                if length > 1:
                    longer.add(token)
        weights: dict[int, float] = {}
        is_longer = False
        for token, weight in copied.items():
            meant = self._suggested(token)
            if meant is not None and (allowed is None or meant in allowed):
                weights[meant] = weights.get(meant, 0.0) + weight
                is_longer = is_longer or token in longer
        if not weights:
            return 0.0, {}
        favour = {
            token: weight**fitted.sharpness * math.exp(fitted.plausibility * max(log_probability(token), _IMPOSSIBLE))
            for token, weight in weights.items()
        }
        total = sum(favour.values())
        shares = {token: each / total for token, each in favour.items()}
        log_odds = (
            (fitted.trust if is_longer else fitted.trust_in_one)
            + fitted.trust_in_weight * math.log(sum(weights.values()) + fitted.least_weight)
            + fitted.trust_in_agreement * max(shares.values())
            + fitted.trust_in_head * likeliest
        )
        return self._weight / (1 + math.exp(-log_odds)), shares

    def _weights_in(self, number: int) -> tuple[float, Sequence[int], Mapping[int, float]]:
        """The weight of a piece, the line of each of its tokens, and the weights of lines."""
        found = self._weights.get(number)
        if found is None:
            piece = self._project[number]
            nearness = math.exp(self._fitted.in_project) * math.pow(len(self._project) - number, -self._fitted.nearness)
            found = self._weights[number] = (
                nearness,
                piece.lines,
                _line_weights(piece, *self._around, self._fitted.likeness),
            )
        return found

    def _suggested(self, token: int) -> int | None:
        """The token that a copied one means here: itself, or end-of-text; None if it may not come here."""
        end, data = self._vocabulary.end_id, self._tokenizer.token_bytes[token]
        if token in self._ends:
            return end
        if data and self._after.startswith(data) and self._opened <= 0:  # what follows the hole begins: it ends
            return end
        closes_nothing = not self._depth and data[:1] in (b")", b"]", b"}")
        return None if closes_nothing or token in self._tokenizer.special_ids else token


@lru_cache(maxsize=1024)
def _line_weights(piece: IndexedText, above: str, below: str, likeness: float) -> Mapping[int, float]:
    """The weight of each line of a piece, by how much the lines around it are like those around the hole. Lines without
    any likeness are left out. Cached, because the same is asked at every keystroke in a line and for every judged
    text."""
    most = 1 + len(words(above)) + len(words(below))
    return {line: math.exp(likeness * count / most) for line, count in piece.shared_words(above, below).items()}


def _open_brackets(text: bytes, depth: int = 0) -> int:
    """How many brackets are open at the end of a piece of code, if `depth` are open before it. Brackets in strings and
    comments count, too."""
    for bracket in _BRACKET.findall(text):
        depth = depth + 1 if bracket in b"([{" else max(0, depth - 1)
    return depth
