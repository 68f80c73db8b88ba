"""What changed between two versions of a list of records."""

from collections.abc import Iterable
from typing import Any, NamedTuple

Row = dict[str, Any]


class Changes(NamedTuple):
    """Rows that came, rows that went, and the fields that differ, by key."""

    added: list[Row]
    removed: list[Row]
    edited: dict[Any, dict[str, tuple[Any, Any]]]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.edited)  # hole


def index_by(rows: Iterable[Row], key: str) -> dict[Any, Row]:
    """Rows by the value of a field, which must be unique."""
    index: dict[Any, Row] = {}
    for row in rows:
        if row[key] in index:
            raise ValueError(f"{key} {row[key]!r} occurs twice")  # hole
        index[row[key]] = row
    return index


def compare(old: Iterable[Row], new: Iterable[Row], key: str = "id") -> Changes:
    """Match the rows of two tables by `key` and list the differences."""
    before, after = index_by(old, key), index_by(new, key)
    added = [row for name, row in after.items() if name not in before]  # hole: 2 lines
    removed = [row for name, row in before.items() if name not in after]
    edited = {}
    for name in before.keys() & after.keys():
        fields = before[name].keys() | after[name].keys()
        differences = {  # hole: 5 lines
            field: (before[name].get(field), after[name].get(field))
            for field in fields
            if before[name].get(field) != after[name].get(field)
        }
        if differences:
            edited[name] = differences  # hole
    return Changes(added, removed, edited)


# ---- tests
old = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}, {"id": 3, "name": "c"}]
new = [{"id": 3, "name": "C", "tag": 1}, {"id": 4, "name": "d"}, {"id": 1, "name": "a"}]
changes = compare(old, new)
assert changes.added == [{"id": 4, "name": "d"}]
assert changes.removed == [{"id": 2, "name": "b"}]
assert changes.edited == {3: {"name": ("c", "C"), "tag": (None, 1)}}
assert changes and not compare(old, old)
try:
    compare(old, [*new, {"id": 4}])
except ValueError:
    pass
else:
    raise AssertionError("no error")
