"""What should change next, after what the user has just changed.

This much needs no model: where a definition was renamed, the places that still have the old name, one after the other.
Everything else waits for a checkpoint that is good enough to be asked.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, replace

from dgemma_lsp.documents.documents import ParsedSnapshot
from dgemma_lsp.documents.edits import Edit, common_start
from dgemma_lsp.documents.text import Text
from dgemma_model.source import rename_sites, syntax

_KEPT = 16
"""Documents whose latest rename is remembered."""
_WORD = re.compile(r"\w+")
_MAX_WORD_CHARS = 80
_PARSE_S = 0.1
"""CPU time that parsing the text from before a rename may take."""


@dataclass(frozen=True, slots=True)
class _Rename:
    """A word that became another, seen from a text in which it had not."""

    before: Text
    old: str
    new: str
    """Empty while the user is still at it, or has done nothing of the kind."""
    latest: Text


class Renames:
    """The rename that each document is in the middle of."""

    def __init__(self) -> None:
        self._of: OrderedDict[str, _Rename] = OrderedDict()

    def note(self, uri: str, before: Text, after: Text) -> None:
        """A document's text has changed."""
        known, rename = self._of.get(uri), None
        step = _changed_word(before, after)
        if known is not None and known.latest == before:
            if known.new and step == (known.old, known.new):
                rename = replace(known, latest=after)  # the user follows it himself, or has accepted an edit
            elif (words := _changed_word(known.before, after)) is not None:
                rename = _Rename(known.before, *words, after)  # still at the same word
        if rename is None:
            rename = _Rename(before, *(step or ("", "")), after)
        self._of[uri] = rename
        self._of.move_to_end(uri)
        while len(self._of) > _KEPT:
            self._of.popitem(last=False)

    def next_edit(self, parsed: ParsedSnapshot) -> Edit | None:
        """The next place to change in a document: the first one after the cursor, else the first of all. None if the
        new name had a meaning there before the rename: then it is not known which use means which."""
        snapshot, tree = parsed
        rename = self._of.get(snapshot.uri)
        if rename is None or not rename.new or rename.latest != snapshot.source:
            return None
        if tree is None or snapshot.language != "python":
            return None
        places = rename_sites.left_behind(tree, rename.old, rename.new)
        if not places:
            return None
        before = syntax.parse(snapshot.language, str(rename.before), like=tree, limit_s=_PARSE_S)
        if before is None or rename_sites.collides(before, rename.old, rename.new):
            return None
        following = [place for place in places if place[0] >= snapshot.offset]
        start, end = (following or places)[0]
        return Edit(start, end, rename.new)

    def forget(self, uri: str) -> None:
        """Drop what is known of a document."""
        self._of.pop(uri, None)


def _changed_word(before: Text, after: Text) -> tuple[str, str] | None:
    """The one word that is another now, or is gone for the moment, if nothing else has changed."""
    grown = len(after) - len(before)
    if abs(grown) > _MAX_WORD_CHARS or before == after:
        return None
    start, old_end, new_end = before.difference(after)
    was, now = before[start:old_end], after[start:new_end]
    head = common_start(was, now)
    limit = min(len(was), len(now)) - head
    tail = common_start(was[::-1][:limit], now[::-1][:limit])
    start, old_end, new_end = start + head, old_end - tail, new_end - tail
    while start > 0 and _is_word(before[start - 1 : start]):
        start -= 1
    while old_end < len(before) and _is_word(before[old_end : old_end + 1]):
        old_end, new_end = old_end + 1, new_end + 1
    old, new = before[start:old_end], after[start:new_end]
    if not _WORD.fullmatch(old) or not _WORD.fullmatch(new or old) or max(len(old), len(new)) > _MAX_WORD_CHARS:
        return None
    return old, new


def _is_word(char: str) -> bool:
    return char.isalnum() or char == "_"
