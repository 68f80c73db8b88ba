"""Earlier suggestions, found again by the text on both sides; silences; the user's typing speed; and counts of use.

All of it is kept in this process' memory only, and ends with the process.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from itertools import islice
from statistics import median

from dgemma_lsp.documents.edits import NoSuggestion, Snapshot, Suggestion, rebase

_MAX_ENTRIES = 64
_MAX_CHARS = 16_000_000
"""Code points of all texts that are kept for comparison."""
_NEAR_CHARS = 32
"""Code points before the cursor that are compared first, which makes most comparisons of whole texts unnecessary."""

_SETTLED = frozenset(
    {
        *(NoSuggestion.EMPTY, NoSuggestion.REPEATS, NoSuggestion.UNPARSEABLE, NoSuggestion.UNRESOLVED),
        NoSuggestion.LOW_CONFIDENCE,
    }
)
"""Silences that the model would only repeat for the same text."""


class Memory:
    """Suggestions and silences of the past minutes, the newest first to be found."""

    def __init__(self) -> None:
        self._entries: deque[tuple[Snapshot, Suggestion | NoSuggestion, bool]] = deque()
        self._chars = 0

    def remember(self, snapshot: Snapshot, answer: Suggestion | NoSuggestion, *, invoked: bool = False) -> None:
        """Keep the answer for a snapshot, if a later request could use it.

        An `invoked` answer skipped some checks, so it is reused only while the user types along it.
        """
        if isinstance(answer, NoSuggestion) and (invoked or answer not in _SETTLED):
            return
        if isinstance(answer, Suggestion):
            answer = replace(answer, snapshot=snapshot, others=())
        self._entries.appendleft((snapshot, answer, invoked))
        self._chars += len(snapshot.source)
        while len(self._entries) > _MAX_ENTRIES or (self._chars > _MAX_CHARS and len(self._entries) > 1):
            self._chars -= len(self._entries.pop()[0].source)

    def find(self, snapshot: Snapshot) -> Suggestion | NoSuggestion | None:
        """The rest of a suggestion along which the user has typed, or the silence for the same text; None if neither is
        known."""
        for asked, answer, invoked in self._entries:
            if asked.uri != snapshot.uri or not _is_near(asked, snapshot):
                continue
            if invoked and asked.offset == snapshot.offset:
                continue
            if isinstance(answer, Suggestion):
                if _is_typed_along(answer, snapshot) and (rest := rebase(answer, snapshot)) is not None:
                    return replace(rest, steps=0, trace={})
            elif asked.offset == snapshot.offset and asked.source == snapshot.source:
                return answer
        return None

    def forget(self, uri: str | None = None) -> None:
        """Forget a document, or everything."""
        self._entries = deque(entry for entry in self._entries if uri is not None and entry[0].uri != uri)
        self._chars = sum(len(snapshot.source) for snapshot, *_ in self._entries)


def _is_near(asked: Snapshot, snapshot: Snapshot) -> bool:
    """Whether the cursor may have come from the one to the other by typing."""
    near = max(0, asked.offset - _NEAR_CHARS)
    return asked.offset <= snapshot.offset and asked.source[near : asked.offset] == snapshot.source[near : asked.offset]


def _is_typed_along(suggestion: Suggestion, snapshot: Snapshot) -> bool:
    """Whether the text before the cursor is a beginning of the suggestion; `rebase` compares whole texts."""
    edit = suggestion.edit
    if snapshot.offset - edit.start > len(edit.new_text):
        return False
    return edit.new_text.startswith(snapshot.source[edit.start : snapshot.offset])


_MAX_SILENCES = 512
"""Documents whose last silence is remembered; more where more are open."""


class Silences:
    """Why nothing came of the last request in each document."""

    def __init__(self) -> None:
        self._reasons: dict[str, NoSuggestion] = {}

    def get(self, uri: str) -> NoSuggestion | None:
        """The reason, or None where there is none."""
        return self._reasons.get(uri)

    def note(self, uri: str, reason: NoSuggestion, opened: Collection[str]) -> None:
        """Remember the reason. A client may ask for any document; of those that are not `opened`, the oldest are
        forgotten."""
        self.forget(uri)
        self._reasons[uri] = reason
        if (too_many := len(self._reasons) - _MAX_SILENCES) > 0:
            for other in list(islice((other for other in self._reasons if other not in opened), too_many)):
                self.forget(other)

    def forget(self, uri: str) -> None:
        """There is a suggestion, or the document is closed."""
        self._reasons.pop(uri, None)


class Rhythm:
    """How fast the user types, to tell a pause from the time between two keys."""

    LONGEST_S = 1.0
    """Seconds; a longer interval was a pause, not typing."""
    FEWEST = 8
    FACTOR = 1.2
    """A pause is this much longer than the user's usual time between two keys."""
    SLOWEST = 4.0
    """How many times the configured delay may become."""

    def __init__(self) -> None:
        self._last = float("-inf")
        self._intervals: deque[float] = deque(maxlen=32)

    def note(self, now: float) -> None:
        """A key was pressed at `now`, in seconds of a clock that never goes back."""
        interval, self._last = now - self._last, now
        if 0.0 < interval <= self.LONGEST_S:
            self._intervals.append(interval)

    def delay_s(self, configured_s: float) -> float:
        """Seconds to wait for the next key: as configured, or longer if this user usually presses it a little later."""
        if len(self._intervals) < self.FEWEST:
            return configured_s
        usual = median(self._intervals)
        longest = configured_s * self.SLOWEST
        return configured_s if usual * self.FACTOR > longest else max(configured_s, usual * self.FACTOR)


@dataclass
class Statistics:
    """How often suggestions were of use, for the user's own eyes."""

    counts: Counter[str] = field(default_factory=Counter)
    silences: Counter[str] = field(default_factory=Counter)
    _open: dict[int, int] = field(default_factory=dict)
    """Offers that may still be accepted: their number, and how much of each was accepted already."""
    _numbers: int = 0

    def offer(self, answer: Suggestion | NoSuggestion) -> int:
        """Count an answer; the number by which a client can speak of it."""
        self._numbers += 1
        if isinstance(answer, NoSuggestion):
            self.silences[answer.name] += 1
            return self._numbers
        self.counts["offered" if answer.steps else "typed_through"] += 1
        self._open[self._numbers] = 0
        while len(self._open) > _MAX_ENTRIES:
            del self._open[next(iter(self._open))]
        return self._numbers

    def show(self, number: object) -> None:
        """A client says that it shows an offer."""
        if number in self._open:
            self.counts["shown"] += 1

    def accept(self, number: object) -> None:
        """A client says that an offer was accepted as a whole; a repeated message counts once."""
        if isinstance(number, int) and self._open.pop(number, None) is not None:
            self.counts["accepted"] += 1

    def accept_partly(self, number: object, length: int) -> None:
        """A client says that so much of an offer is accepted by now."""
        if isinstance(number, int) and number in self._open:
            self.counts["partly_accepted"] += self._open[number] == 0
            self._open[number] = max(length, 1)
