"""Comma separated values, the part of the format that our reports need."""

from collections.abc import Iterable, Iterator
from io import StringIO
from typing import TextIO


def quoted(field: str) -> str:
    """A field as it stands in a file: in quotes if it holds a comma, a quote or a line break."""
    if any(mark in field for mark in ',"\n'):
        return '"' + field.replace('"', '""') + '"'  # hole
    return field


def write_rows(out: TextIO, rows: Iterable[Iterable[object]]) -> int:
    """Write one line for each row; returns how many."""
    count = 0
    for row in rows:
        out.write(",".join(quoted(str(cell)) for cell in row) + "\n")  # hole
        count += 1
    return count


def sheet(rows: Iterable[Iterable[object]]) -> str:
    """The rows as one text."""
    out = StringIO()
    write_rows(out, rows)
    return out.getvalue()  # hole


def split_line(line: str) -> list[str]:
    """The fields of one line, quotes resolved; a doubled quote within quotes is one quote."""
    fields = [""]
    in_quotes = False
    place = 0
    while place < len(line):
        letter = line[place]
        if letter == '"' and in_quotes and line[place + 1 : place + 2] == '"':
            fields[-1] += '"'
            place += 1
        elif letter == '"':
            in_quotes = not in_quotes
        elif letter == "," and not in_quotes:  # hole: 4 lines
            fields.append("")
        else:
            fields[-1] += letter
        place += 1
    return fields


def read_records(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """The rows after the heading, as dictionaries."""
    rows = (split_line(line.rstrip("\n")) for line in lines)
    heading = next(rows)  # hole
    for row in rows:
        yield dict(zip(heading, row, strict=True))


# ---- tests
written = sheet([["name", "note"], ["Ann", "a, b"], ["Bo", 3]])
assert written == 'name,note\nAnn,"a, b"\nBo,3\n'
assert write_rows(StringIO(), [[1], [2]]) == 2
assert quoted('say "hi"') == '"say ""hi"""'
assert split_line('x,"a, b",,z') == ["x", "a, b", "", "z"]
assert split_line('"say ""hi""",y') == ['say "hi"', "y"]
assert list(read_records(StringIO(written))) == [{"name": "Ann", "note": "a, b"}, {"name": "Bo", "note": "3"}]
