"""Values of the pipeline: a document at one moment, its surroundings, edits and suggestions, and reasons for silence.

Everything here is immutable and counts in code points of the document's text. `documents` and `server/to_client`
convert to the units of a client.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from dgemma_lsp.documents.text import Text


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One document at one moment, with a cursor. Never changes, so that any thread may read it."""

    uri: str
    version: int | None
    language: str
    source: Text
    """The text; parts of it are cheap to read."""
    offset: int
    """The cursor, in code points from the start of the text."""

    @property
    def text(self) -> str:
        """The whole text, which is a copy: where a part will do, take it from `source`."""
        return str(self.source)

    def at(self, offset: int) -> Snapshot:
        """The same snapshot with the cursor at `offset`."""
        return replace(self, offset=offset)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is known around a snapshot: the user's recent edits of its document, and text of the project."""

    deleted: str = ""
    """What the user has just deleted at the cursor, with nothing done since."""
    edited_at: tuple[int, ...] = ()
    """The places of the user's other recent edits in the document, the latest first."""
    others: tuple[Snapshot, ...] = ()
    """The other open documents of the language, the last edited first; their cursor is where that was."""
    nearby: tuple[str, ...] = ()
    """Pieces of files on disk that are near the document, the nearest last."""


NO_SURROUNDINGS = Surroundings()
"""Those of a text that is filled on its own."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace `text[start:end]` by `new_text`; code points."""

    start: int
    end: int
    new_text: str

    def apply(self, text: str) -> str:
        """The text after the edit."""
        return text[: self.start] + self.new_text + text[self.end :]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """An edit offered for one version of one document.

    `edit.start` is never after the cursor, `edit.end` never before it, and both are on the cursor's line. The edit
    types the text between them again, for instance a closing bracket.
    """

    snapshot: Snapshot
    edit: Edit
    score: float
    """How sure the model is, in nats: see `Draft.score`."""
    steps: int
    """Passes of the network that it took; 0 if the user typed along an earlier suggestion."""
    others: tuple[Edit, ...] = ()
    """Further candidates, for a user who asked."""
    trace: dict[str, float] = field(default_factory=dict, compare=False)
    """Milliseconds per stage, for the log line."""


@dataclass(frozen=True, slots=True)
class Rewrite:
    """What a command is to change in one version of one document."""

    snapshot: Snapshot
    edits: tuple[Edit, ...]
    """Disjoint, in the order of the text; at least one, and together they change something."""
    steps: int
    """Passes of the network that it took."""

    def apply(self) -> str:
        """The document's text afterwards."""
        return apply_all(self.snapshot.text, self.edits)


class NoSuggestion(Enum):
    """Why nothing is shown. Every silence has a name, is logged, and can be asked for."""

    DISABLED = "suggestions are switched off"
    LOADING = "the model is still loading"
    NO_MODEL = "the model could not be loaded"
    NOT_OPEN = "the editor has not opened this document"
    MANUAL = "suggestions come only when they are asked for (the setting `trigger` is manual)"
    EXCLUDED = "this document is never read or completed"
    LANGUAGE = "the checkpoint does not know this language (the setting `languages` can name it all the same)"
    IN_COMMENT = "the cursor is in a comment"
    IN_STRING = "the cursor is in a string"
    IN_WORD = "the cursor is inside a finished word"
    SUPERSEDED = "a newer request replaced this one"
    CANCELLED = "the editor cancelled the request"
    STALE = "the document changed meanwhile"
    OUT_OF_TIME = "the time budget ended before there was anything to show"
    EMPTY = "the model had nothing to add"
    REPEATS = "the text around already says it"
    UNDOES = "it is what was just deleted"
    TOO_COMPLEX = "the document takes too long to parse, so that it is plain text, in which nothing is shown unasked"
    INVISIBLE = "it has characters that cannot be seen"
    UNPARSEABLE = "the result would not parse, or not compile"
    UNRESOLVED = "it uses a name that is defined nowhere"
    SECRET = "it holds what looks like a secret"
    LOW_CONFIDENCE = "the model was not sure enough"
    NOTHING_HERE = "there is nothing here that this could be done to"
    NOTHING_DOUBTED = "the model found no wrong word in this function"
    NO_REVIEW = "this checkpoint or engine does not find wrong words often enough to be asked"
    NOTHING_BETTER = "the model had nothing better than the present text"
    ENGINE_DOWN = "the engine cannot be reached"
    ENGINE_SLOW = "the engine did not answer in time"
    ENGINE_BUSY = "the engine is busy or still loading"
    ENGINE_GARBAGE = "the engine's answer cannot be used"
    ENGINE_BROKE_OFF = "the engine closed the connection in the middle of an answer"
    ENGINE_MODEL = "the engine has another model, or one that it cannot be asked to fill with"
    ENGINE_TOKEN = "the engine wants a token, or another one"
    FAILED = "the fill failed; the log has the reason"


def apply_all(text: str, edits: Sequence[Edit]) -> str:
    """The text after edits that are disjoint and in the order of the text."""
    for edit in reversed(edits):
        text = edit.apply(text)
    return text


def after(snapshot: Snapshot, edit: Edit) -> Snapshot:
    """The document after an edit at the cursor, which then comes after what was inserted."""
    source = snapshot.source.replaced(edit.start, edit.end, edit.new_text)
    return replace(snapshot, source=source, offset=edit.start + len(edit.new_text))


def rebase(suggestion: Suggestion, newer: Snapshot) -> Suggestion | None:
    """The rest of `suggestion` in `newer`, or None if the user typed something else.

    The user must have typed along: with the result applied, the text is the one that was suggested. Characters that the
    editor added after the cursor (a closing bracket) are covered by the edit if the rest types them again.
    """
    older, edit = suggestion.snapshot, suggestion.edit
    then, now = older.source, newer.source
    end = len(now) - (len(then) - edit.end)
    if older.uri != newer.uri or not edit.start <= newer.offset <= end:
        return None
    differs, until, _ = then.difference(now)
    if then[differs : edit.start] != now[differs : edit.start]:
        return None
    shift = end - edit.end
    after = edit.end if shift else max(edit.end, differs)
    if then[after:until] != now[after + shift : max(until, after) + shift]:
        return None
    typed, covered = now[edit.start : newer.offset], now[newer.offset : end]
    rest = edit.new_text[len(typed) :]
    if not edit.new_text.startswith(typed) or rest == covered or not _is_retyped(covered, rest):
        return None
    return replace(suggestion, snapshot=newer, edit=Edit(newer.offset, end, rest), others=())


def common_start(one: str, other: str) -> int:
    """Length of the longest common beginning, in the time that comparing whole texts takes."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _is_retyped(covered: str, rest: str) -> bool:
    """Whether `covered` is within one line and a subsequence of `rest`: editors show nothing else."""
    remaining = iter(rest)
    return "\n" not in covered and "\r" not in covered and all(char in remaining for char in covered)
