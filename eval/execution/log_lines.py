"""Summaries of server logs such as ``12:30:05 WARN disk: nearly full``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from io import StringIO
from typing import NamedTuple, TextIO

LINE = re.compile(r"(\d\d):(\d\d):(\d\d) (DEBUG|INFO|WARN|ERROR) (\w+): (.*)")
LEVELS = ("DEBUG", "INFO", "WARN", "ERROR")


class Entry(NamedTuple):
    """One message; `second` counts from midnight."""

    second: int
    level: str
    source: str
    message: str


def entries(log: TextIO) -> Iterator[Entry]:
    """The messages of a log; a line of another form goes on with the message before it."""
    current: Entry | None = None
    for line in log:
        match = LINE.match(line.rstrip("\n"))
        if match is None:
            if current is not None:
                current = current._replace(message=f"{current.message}\n{line.rstrip()}")  # hole
            continue
        if current is not None:
            yield current  # hole
        hours, minutes, seconds, *rest = match.groups()
        current = Entry(int(hours) * 3600 + int(minutes) * 60 + int(seconds), *rest)  # hole
    if current is not None:
        yield current


def at_least(found: Iterable[Entry], level: str) -> list[Entry]:
    """The entries of this level and of higher ones."""
    lowest = LEVELS.index(level)
    return [entry for entry in found if LEVELS.index(entry.level) >= lowest]  # hole


def report(found: Iterable[Entry]) -> str:
    """How many messages each source wrote, most first."""
    counts = Counter(entry.source for entry in found)
    out = StringIO()
    for source, count in counts.most_common():  # hole: 2 lines
        out.write(f"{source}: {count}\n")
    return out.getvalue()


# ---- tests
log = StringIO("noise\n00:01:05 INFO web: up\n00:01:06 ERROR db: lost\n  at row 3\n10:00:00 WARN web: slow\n")
found = list(entries(log))
assert found == [
    Entry(65, "INFO", "web", "up"),
    Entry(66, "ERROR", "db", "lost\n  at row 3"),
    Entry(36000, "WARN", "web", "slow"),
]
assert [entry.source for entry in at_least(found, "WARN")] == ["db", "web"]
assert at_least(found, "DEBUG") == found
assert report(found) == "web: 2\ndb: 1\n"
