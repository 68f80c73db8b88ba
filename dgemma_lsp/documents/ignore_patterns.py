"""What one ignore file says of a path: git's patterns, matched in linear time.

Anyone may have written the patterns of a repository. So a pattern must not cost more than its length times the path's.
Each one is run as a nondeterministic automaton whose states are the bits of an integer. Paths and patterns are bytes,
as in git, where `?` is one byte. The meaning is that of git 2.39 (dir.c and wildmatch.c), and tests compare with it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

MOST_PATTERNS = 2_000
"""Further lines of one file are not read."""
_MOST_PATTERN_BYTES = 1_024
"""A longer line is no pattern."""

_ALL = frozenset(range(256))
_SLASH = ord("/")
_NO_SLASH = _ALL - {_SLASH}
_SPECIAL = re.compile(rb"[*?\[\\]")
_LITERAL_RUN = re.compile(rb"[^*?\[\]\\/!^]{2,}")


@dataclass(frozen=True, slots=True)
class IgnorePattern:
    """One line of an ignore file."""

    line: str
    """As it is written, without blanks at its end."""
    excludes: bool
    """False for one that begins with `!`."""
    folders_only: bool
    anywhere: bool
    """Speaks of the last name of a path, at any depth; otherwise of the path from the ignore file's folder."""
    literal: bytes | None
    """What must be the same, where the pattern has no wildcards."""
    ending: bytes | None
    """What must come last, where the only wildcard is a star at its beginning."""
    automaton: _Automaton | None

    def matches(self, path: bytes, name: bytes, *, is_folder: bool) -> bool:
        """Whether it speaks of `path`, which is relative to the ignore file's folder and ends in `name`."""
        if self.folders_only and not is_folder:
            return False
        text = name if self.anywhere else path
        if self.literal is not None:
            return text == self.literal
        if self.ending is not None:
            return text.endswith(self.ending)
        return self.automaton is not None and self.automaton.matches(text)


def patterns(content: bytes, *, ignore_case: bool = False) -> tuple[IgnorePattern, ...]:
    """The patterns of an ignore file, in order. What is no pattern concerns only itself: it matches nothing."""
    found: list[IgnorePattern] = []
    for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        line = _without_trailing_spaces(line.removesuffix(b"\r"))
        if line and not line.startswith(b"#") and len(line) <= _MOST_PATTERN_BYTES:
            found.append(_pattern(line, ignore_case))
            if len(found) == MOST_PATTERNS:
                break
    return tuple(found)


def deciding(
    rules: tuple[IgnorePattern, ...], path: str, *, is_folder: bool, ignore_case: bool = False
) -> IgnorePattern | None:
    """The last pattern that speaks of `path` (relative, with slashes): it decides. None where none does."""
    written = os.fsencode(path)
    if ignore_case:
        written = written.lower()
    name = written.rpartition(b"/")[2]
    for rule in reversed(rules):
        if rule.matches(written, name, is_folder=is_folder):
            return rule
    return None


def _without_trailing_spaces(line: bytes) -> bytes:
    """The line without the spaces at its end; a space after a backslash stays."""
    kept = line.rstrip(b" ")
    backslashes = len(kept) - len(kept.rstrip(b"\\"))
    return line[: len(kept) + 1] if backslashes % 2 and len(kept) < len(line) else kept


def _pattern(line: bytes, ignore_case: bool) -> IgnorePattern:
    excludes = not line.startswith(b"!")
    pattern = line if excludes else line[1:]
    folders_only = pattern.endswith(b"/")
    pattern = pattern[: len(pattern) - folders_only]
    anywhere = b"/" not in pattern
    pattern = pattern.removeprefix(b"/")
    if ignore_case:
        pattern = _lowered(pattern)
    special = _SPECIAL.search(pattern)
    literal, ending, automaton = None, None, None
    if special is None:
        literal = pattern
    elif anywhere and pattern.startswith(b"*") and _SPECIAL.search(pattern, 1) is None:
        ending = pattern[1:]
    else:
        automaton = _compiled(pattern, special.start())
    shown = line.decode("utf-8", "replace")
    return IgnorePattern(shown, excludes, folders_only, anywhere, literal, ending, automaton)


def _lowered(pattern: bytes) -> bytes:
    """In small letters, as is the path that it is compared to."""
    return pattern.lower().replace(b"[:upper:]", b"[:lower:]")


@dataclass(slots=True)
class _Automaton:
    """A pattern with wildcards. State i, which is bit i of an integer, means that the first i elements have matched."""

    steps: list[int] = field(default_factory=lambda: [0] * 256)
    """For each byte, the states that it leads from to the next one."""
    loops: list[int] = field(default_factory=lambda: [0] * 256)
    """For each byte, the states of stars that it leaves as they are."""
    skips: int = 0
    """The states from which the next one is reached by nothing."""
    leaps: int = 0
    """The states before a `**/`, which may be nothing at all."""
    count: int = 0
    """Elements; the last state."""
    required: bytes = b""
    """Bytes that every matching path has."""

    def matches(self, text: bytes) -> bool:
        """Whether the pattern matches all of `text`."""
        if self.required not in text:
            return False
        states = self._spread(1)
        for byte in text:
            states = self._spread((states & self.steps[byte]) << 1 | states & self.loops[byte])
            if not states:
                return False
        return bool(states >> self.count)

    def _spread(self, states: int) -> int:
        """With the states that are reached by nothing."""
        before = -1
        while before != states:
            before = states
            states |= (states & self.skips) << 1 | (states & self.leaps) << 3
        return states

    def add(self, accepted: frozenset[int]) -> None:
        """An element that takes one byte."""
        for byte in accepted:
            self.steps[byte] |= 1 << self.count
        self.count += 1

    def add_gate(self) -> None:
        """An element that takes nothing, before a star and a slash that may be left out."""
        self.skips |= 1 << self.count
        self.leaps |= 1 << self.count
        self.count += 1

    def add_star(self, accepted: frozenset[int]) -> None:
        """An element that takes any number of bytes."""
        for byte in accepted:
            self.loops[byte] |= 1 << self.count
        self.skips |= 1 << self.count
        self.count += 1


def _compiled(pattern: bytes, special: int) -> _Automaton | None:
    """The automaton of a pattern whose first wildcard is at `special`; None for what matches nothing.

    To git the part before the first wildcard is no part of the pattern: `a**/b` begins with `**/` after an "a".
    """
    made, at = _Automaton(), 0
    while at < len(pattern):
        byte = pattern[at]
        at += 1
        if byte == ord("*"):
            start = at - 1
            while at < len(pattern) and pattern[at] == ord("*"):
                at += 1
            rest = pattern[at:]
            leads = start == special or pattern[start - 1] == _SLASH
            crosses = at - start > 1 and leads and (not rest or rest.startswith((b"/", b"\\/")))
            if crosses and rest.startswith(b"/"):
                made.add_gate()
            made.add_star(_ALL if crosses else _NO_SLASH)
        elif byte == ord("?"):
            made.add(_NO_SLASH)
        elif byte == ord("["):
            found = _bracket(pattern, at)
            if found is None:
                return None
            accepted, at = found
            made.add(accepted & _NO_SLASH)
        else:
            if byte == ord("\\"):
                if at == len(pattern):
                    return None
                byte = pattern[at]
                at += 1
            made.add(frozenset({byte}))
    if b"[" not in pattern:
        made.required = max(_LITERAL_RUN.findall(pattern), key=len, default=b"")
    return made


def _bracket(pattern: bytes, at: int) -> tuple[frozenset[int], int] | None:
    """The bytes that a bracket accepts, whose content begins at `at`, and where it ends; None where it does not."""
    negated = pattern[at : at + 1] in (b"!", b"^")
    at += negated
    accepted: set[int] = set()
    last: int | None = None  # what a range would begin with
    first = True
    while first or pattern[at : at + 1] != b"]":
        first = False
        if at >= len(pattern):
            return None
        byte: int | None = pattern[at]
        following = pattern[at + 1 : at + 2]
        if byte == ord("\\"):
            at += 1
            if at >= len(pattern):
                return None
            byte = pattern[at]
            accepted.add(byte)
        elif byte == ord("-") and last is not None and following and following != b"]":
            at += 1
            if pattern[at] == ord("\\"):
                at += 1
                if at >= len(pattern):
                    return None
            accepted.update(range(last, pattern[at] + 1))
            byte = None
        elif byte == ord("[") and following == b":":
            end = pattern.find(b"]", at + 2)
            if end < 0:
                return None
            if end == at + 2 or pattern[end - 1] != ord(":"):
                accepted.add(ord("["))  # no class after all
            else:
                named = _CLASSES.get(pattern[at + 2 : end - 1])
                if named is None:
                    return None
                accepted |= named
                at, byte = end, None
        else:
            assert byte is not None
            accepted.add(byte)
        last = byte
        at += 1
    return (_ALL - accepted if negated else frozenset(accepted)), at + 1


def _class(characters: Iterator[int]) -> frozenset[int]:
    return frozenset(characters)


_ASCII = range(128)
_CLASSES = {
    b"alnum": _class(byte for byte in _ASCII if chr(byte).isalnum()),
    b"alpha": _class(byte for byte in _ASCII if chr(byte).isalpha()),
    b"blank": _class(iter(b" \t")),
    b"cntrl": _class(byte for byte in _ASCII if byte < 32 or byte == 127),
    b"digit": _class(iter(b"0123456789")),
    b"graph": _class(iter(range(33, 127))),
    b"lower": _class(byte for byte in _ASCII if chr(byte).islower()),
    b"print": _class(iter(range(32, 127))),
    b"punct": _class(byte for byte in range(33, 127) if not chr(byte).isalnum()),
    b"space": _class(iter(b" \t\n\v\f\r")),
    b"upper": _class(byte for byte in _ASCII if chr(byte).isupper()),
    b"xdigit": _class(iter(b"0123456789abcdefABCDEF")),
}
