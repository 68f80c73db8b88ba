"""Ends fills by rules where they begin to repeat the text after the hole. No torch.

Some instruction-tuned models do not stop: they write the middle, then the suffix again, then whatever may follow. So
the text is compared with the suffix while it is written.
"""

from __future__ import annotations

from dataclasses import dataclass

_CLOSERS = {")": "(", "]": "[", "}": "{"}
_QUOTES = "\"'`"


@dataclass(frozen=True, slots=True)
class FillEnd:
    """The parts of the text around a hole that tell where its fill ends."""

    rest: str
    """The rest of the hole's last line, without blanks around it."""
    blanks_before_rest: int
    next_line: str
    """The first line of the suffix below the hole that is not blank, without blanks at its end."""
    line_before: str
    """The line that the hole is in, up to the hole."""
    one_line: bool

    @classmethod
    def of(cls, prefix: str, suffix: str, *, one_line: bool) -> FillEnd:
        """From the text around the hole."""
        rest, _, below = suffix.partition("\n")
        lines = (line.rstrip() for line in below.split("\n"))
        next_line = next((line for line in lines if line), "")
        blanks = len(rest) - len(rest.lstrip())
        return cls(rest.strip(), blanks, next_line, prefix[prefix.rfind("\n") + 1 :], one_line)

    def cut(self, text: str) -> int | None:
        """The length of the fill in code points, once `text` has reached what follows the hole; None until then."""
        if "\n" in text and self.repeats(text):
            return 0
        if self.rest and (found := self._cut_before_rest(text)) is not None:
            return found
        if self.one_line:
            line_break = text.find("\n")
            return line_break if line_break >= 0 else None
        return self._cut_before_next_line(text)

    def repeats(self, text: str) -> bool:
        """Whether the first line of `text`, in the hole, repeats the next line. A line of one word or sign does not
        count: `else`, `end` and `}` are often in two lines."""
        line = (self.line_before + text.partition("\n")[0]).rstrip()
        return not self.rest and line == self.next_line and len(line.split()) > 1

    def _cut_before_rest(self, text: str) -> int | None:
        """The length before a repetition of the rest of the line; None without one. It is all of the rest at the end of
        a line of `text`, or its first sign if that is a closing bracket that `text` does not open. A token may hold
        line breaks, so all lines are looked at; or the first one only, if the fill ends with its line."""
        is_telling = any(sign.isalnum() for sign in self.rest)  # brackets alone say too little
        start, opened, before = 0, list[str](), _depth(self.line_before + self.rest)
        for line in text.split("\n")[: 1 if self.one_line else None]:
            depth = len(opened)
            unopened = _first_unopened(line, opened)
            if unopened is not None and self.rest[0] == line[unopened]:
                return start + len(line[:unopened].rstrip())
            at = len(line.rstrip()) - len(self.rest)
            is_empty = start + at == 0 and start + len(line) == len(text)  # so far: the line may go on
            if at >= 0 and not is_empty and line.startswith(self.rest, at):
                depth += _depth(line[:at])
                if depth == 0 or (is_telling and depth + before == 0):
                    return start + max(len(line[:at].rstrip()), at - self.blanks_before_rest)
            start += len(line) + 1
        return None

    def _cut_before_next_line(self, text: str) -> int | None:
        """The length before the first whole line that equals the line below the hole, or is indented less than that one
        and the hole. (But where the hole ends inside a line, that line may be indented less.) A token may hold several
        line breaks, so all lines but the hole's own are looked at."""
        if not self.next_line:
            return None
        at = text.find("\n")
        least = min(indent_of(self.next_line), indent_of(self.line_before + text[: max(at, 0)]))
        while at >= 0 and (end := text.find("\n", at + 1)) >= 0:
            line = text[at + 1 : end].rstrip()
            is_next = line == self.next_line and not (line.lstrip()[:1] in _CLOSERS and not is_level(text[:at]))
            if line and (is_next or (not self.rest and indent_of(line) < least)):
                return at
            at = end
        return None


def indent_of(line: str) -> int:
    """The number of blanks (spaces or tabs) at the beginning of `line`."""
    return len(line) - len(line.lstrip())


def _first_unopened(line: str, opened: list[str]) -> int | None:
    """The place of the first closing bracket outside of strings that neither `line` nor the text before it opens; None
    if there is none. `opened` are the brackets that are open before the line, and then after it."""
    for at, sign in _signs(line):
        if sign in _CLOSERS.values():
            opened.append(sign)
        elif sign in _CLOSERS:
            if not opened:
                return at
            opened.pop()
    return None


def is_level(text: str) -> bool:
    """Whether `text` closes all brackets that it opens."""
    return _depth(text) == 0


def _depth(text: str) -> int:
    """How many brackets `text` opens and leaves open; negative if it closes more."""
    return sum((sign in _CLOSERS.values()) - (sign in _CLOSERS) for _, sign in _signs(text))


def _signs(line: str) -> list[tuple[int, str]]:
    """The characters of `line` outside of strings that are no letters or digits, with their places. A quote that is not
    closed begins no string."""
    found, at = list[tuple[int, str]](), 0
    while at < len(line):
        if line[at] in _QUOTES:
            end = line.find(line[at], at + 1)
            if end > 0:
                at = end + 1
                continue
        elif not line[at].isalnum():
            found.append((at, line[at]))
        at += 1
    return found
