"""Templates with ``{{name}}`` places and filters."""

import re
from collections.abc import Callable, Mapping

PLACE = re.compile(r"\{\{\s*(\w+)((?:\s*\|\s*\w+)*)\s*\}\}")

FILTERS: dict[str, Callable[[str], str]] = {
    "upper": str.upper,
    "strip": str.strip,
    "title": str.title,
}


class TemplateError(LookupError):
    """A place or filter without a meaning; the message gives its name."""


def render(template: str, values: Mapping[str, object]) -> str:
    """Replace every place by its value, filters applied from left to right."""

    def replace(match: re.Match[str]) -> str:
        name, filters = match.groups()
        if name not in values:
            raise TemplateError(f"no value for {name!r}")  # hole
        text = str(values[name])
        for part in filters.split("|")[1:]:
            try:  # hole: 4 lines
                text = FILTERS[part.strip()](text)
            except KeyError as error:
                raise TemplateError(f"no filter {part.strip()!r}") from error
        return text

    return PLACE.sub(replace, template)  # hole


def places(template: str) -> list[str]:
    """The names that a template needs, each once, in order."""
    return list(dict.fromkeys(match[1] for match in PLACE.finditer(template)))


# ---- tests
assert render("Dear {{ name | strip | upper }}, {{n}} left", {"name": " ann ", "n": 3}) == "Dear ANN, 3 left"
assert render("plain", {}) == "plain"
assert places("{{a}} {{b|upper}} {{ a }}") == ["a", "b"]
for template, word in (("{{who}}", "who"), ("{{n|loud}}", "loud")):
    try:
        render(template, {"n": 1})
    except TemplateError as error:
        assert word in str(error)
    else:
        raise AssertionError("no error")
