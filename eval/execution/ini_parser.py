"""Reads a simple dialect of INI files."""

from collections.abc import Iterable


class ConfigError(ValueError):
    """A line that cannot be understood."""


def without_comment(line: str) -> str:
    """The line up to `;` or `#`, blanks stripped."""
    for mark in ";#":
        line = line.split(mark, 1)[0]  # hole
    return line.strip()


def parse(lines: Iterable[str]) -> dict[str, dict[str, str]]:
    """Sections with their options; options before the first belong to ``""``. Errors give the line number."""
    sections: dict[str, dict[str, str]] = {}
    name = ""
    for number, raw in enumerate(lines, start=1):
        line = without_comment(raw)
        if not line:
            continue  # hole
        if line.startswith("["):
            if not line.endswith("]"):  # hole: 4 lines
                raise ConfigError(f"line {number}: section is not closed")
            name = line[1:-1].strip()
            sections.setdefault(name, {})
            continue
        key, separator, value = line.partition("=")
        if not separator:
            raise ConfigError(f"line {number}: no '='")
        sections.setdefault(name, {})[key.strip()] = value.strip()  # hole
    return sections


def get_bool(section: dict[str, str], key: str, default: bool = False) -> bool:
    """An option as a truth value: yes, true, on and 1 are true."""
    if key not in section:
        return default
    return section[key].lower() in ("yes", "true", "on", "1")


# ---- tests
text = ["a = 1", "", "[net] ; where", "host = example", "on=Yes # sure", "[ empty ]"]
assert parse(text) == {"": {"a": "1"}, "net": {"host": "example", "on": "Yes"}, "empty": {}}
assert get_bool({"on": "Yes"}, "on") and not get_bool({}, "on")
for bad, number in (["[net"], "1"), (["x=1", "word"], "2"):
    try:
        parse(bad)
    except ConfigError as error:
        assert number in str(error)
    else:
        raise AssertionError("no error")
