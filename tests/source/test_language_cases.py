"""Every language on its own case file, tests/cases/LANGUAGE.md.

A heading is `kind: what it is about`, with these kinds; `▮` is the cursor:

- `fill WHAT`: what is filled there (a `FillKind`, or the reason for filling nothing); `(comments)` and `(strings)`
  after WHAT say that these are filled, too;
- `scopes`: `»` marks the beginning of each enclosing scope;
- `errors N`: how many places do not parse;
- `outline`: code, then its imports and `name: signature` of what it defines;
- `suggest`: code, what the model writes, and the text that is offered or the reason for none; `(incomplete)` says that
  the model had not ended.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from dgemma_lsp.documents.documents import parsed
from dgemma_lsp.documents.edits import Edit, NoSuggestion, Snapshot
from dgemma_lsp.documents.text import Text
from dgemma_lsp.pipeline.fill_kind import fill_kind
from dgemma_lsp.pipeline.suggest import suggest
from dgemma_lsp.settings import Settings
from dgemma_model.request import Draft, FillRequest
from dgemma_model.source import outline, syntax
from dgemma_model.source.languages import ROWS
from dgemma_model.source.syntax import SyntaxTree

CASES = Path(__file__).parents[1] / "cases"


class Case(NamedTuple):
    language: str
    kind: str
    argument: str
    options: frozenset[str]
    texts: tuple[str, ...]


def read_cases() -> dict[str, Case]:
    cases = {}
    for row in ROWS:
        for section in (CASES / f"{row.name}.md").read_text("utf-8").split("\n## ")[1:]:
            heading, body = section.split("\n", 1)
            kind, argument, options = re.fullmatch(r"(\w+) ?(\w*)(?: \((.*?)\))?: .+", heading).groups()  # type: ignore[union-attr]
            texts = re.findall(r"^````\n(.*?)\n````$", body, re.MULTILINE | re.DOTALL)
            name = f"{row.name}: {heading}"
            assert name not in cases, name
            chosen = frozenset(filter(None, (options or "").split(", ")))
            cases[name] = Case(row.name, kind, argument, chosen, tuple(text.replace("⇥", "\t") for text in texts))
    return cases


class Writer:
    """A model that writes the same whatever it is asked."""

    name, device, threshold, languages, prompt_tokens = "writer", "none", -1.0, None, 512
    uses_project_text = False
    sends_text = False
    reviewer = None

    def __init__(self, text: str, *, complete: bool) -> None:
        self.draft = Draft((text,), step=1, done=True, complete=complete, score=0.0)

    def fill(self, request: FillRequest) -> Iterator[Draft]:
        yield self.draft


def tree_of(language: str, text: str) -> SyntaxTree:
    tree = syntax.parse(language, text)
    assert tree is not None
    return tree


def check_fill(case: Case) -> None:
    (marked,) = case.texts
    text, offset = marked.replace("▮", ""), marked.index("▮")
    options = {name: name in case.options for name in ("comments", "strings")}
    assert fill_kind(tree_of(case.language, text), text, offset, **options).name == case.argument


def check_scopes(case: Case) -> None:
    (marked,) = case.texts
    unmarked = marked.replace("▮", "")
    starts = [found.start() - number for number, found in enumerate(re.finditer("»", unmarked))]
    offset = marked.replace("»", "").index("▮")
    assert syntax.scope_starts(tree_of(case.language, unmarked.replace("»", "")), offset) == starts


def check_errors(case: Case) -> None:
    assert syntax.error_count(tree_of(case.language, case.texts[0])) == int(case.argument)


def check_outline(case: Case) -> None:
    code, expected = case.texts
    tree = tree_of(case.language, code)
    imports = [code[start:end].strip() for start, end in outline.imports(tree)]
    signatures = [f"{signature.name}: {signature.text}" for signature in outline.signatures(tree)]
    assert "\n".join(imports + signatures) == expected


def check_suggest(case: Case) -> None:
    file, model, result = case.texts
    at = parsed(Snapshot("file:///case", 1, case.language, Text(file.replace("▮", "")), file.index("▮")))
    writer = Writer(model, complete="incomplete" not in case.options)
    *_, answer = suggest(at, writer, Settings(), invoked=False)
    if isinstance(answer, NoSuggestion):
        assert answer.name == result
    else:
        edit = answer.edit
        assert Edit(edit.start, edit.end, edit.new_text + "▮").apply(at.snapshot.text) == result


CHECKS = {
    "fill": check_fill,
    "scopes": check_scopes,
    "errors": check_errors,
    "outline": check_outline,
    "suggest": check_suggest,
}
GOLDEN = read_cases()


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_case(name: str) -> None:
    CHECKS[GOLDEN[name].kind](GOLDEN[name])


def test_every_language_has_enough_cases() -> None:
    counts = Counter(case.language for case in GOLDEN.values())
    assert len(GOLDEN) >= 150
    assert all(counts[row.name] >= 5 for row in ROWS)
