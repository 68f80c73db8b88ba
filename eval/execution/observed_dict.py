"""A dictionary with attribute access that records its changes."""

from collections.abc import Iterator, MutableMapping
from typing import Any


class Record(MutableMapping[str, Any]):
    """Fields by key or as attributes; `changes` lists what was set and deleted."""

    def __init__(self, **fields: Any) -> None:
        object.__setattr__(self, "_fields", dict(fields))
        object.__setattr__(self, "changes", [])

    def __getitem__(self, key: str) -> Any:
        return self._fields[key]  # hole

    def __setitem__(self, key: str, value: Any) -> None:
        self.changes.append((key, self._fields.get(key), value))
        self._fields[key] = value  # hole

    def __delitem__(self, key: str) -> None:
        old = self._fields.pop(key)  # hole: 2 lines
        self.changes.append((key, old, None))

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __getattr__(self, name: str) -> Any:
        try:  # hole: 4 lines
            return self._fields[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value  # hole


# ---- tests
record = Record(name="Ida", age=3)
assert record["name"] == "Ida" and record.age == 3
record.age = 4
record["town"] = "Ulm"
del record["name"]
assert dict(record) == {"age": 4, "town": "Ulm"}
assert record.changes == [("age", 3, 4), ("town", None, "Ulm"), ("name", "Ida", None)]
assert "name" not in record and record.get("name", "?") == "?"
assert not hasattr(record, "name") and getattr(record, "town", None) == "Ulm"
