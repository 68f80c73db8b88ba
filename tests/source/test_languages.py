"""The table of languages against the grammars themselves."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import PurePath

import pytest
import tree_sitter

from dgemma_model.source import languages, syntax
from dgemma_model.source.language_row import Language
from dgemma_model.source.languages import ROWS


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_uses_the_grammars_own_names(row: Language) -> None:
    grammar = syntax.grammar_of(row)
    assert isinstance(grammar, tree_sitter.Language)
    known = {grammar.node_kind_for_id(number) for number in range(grammar.node_kind_count)}
    named = {
        name for field in fields(row) if isinstance(kinds := getattr(row, field.name), frozenset) for name in kinds
    }
    assert sorted(named - known) == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_identifier_of_a_language_gives_its_trees(row: Language) -> None:
    for language in (row.name, *row.other_ids):
        tree = syntax.parse(language, "")
        assert tree is not None and tree.row is row


@pytest.mark.parametrize(
    ("path", "language"),
    [
        ("src/app.py", "python"),
        ("App.TSX", "tsx"),
        ("a.h", "c"),
        ("a.zig", "zig"),
        ("Makefile", "plaintext"),
        ("x/.bashrc", "plaintext"),
        ("deploy.yml", "yaml"),
    ],
)
def test_the_language_of_a_file(path: str, language: str) -> None:
    assert languages.language_of(PurePath(path)) == language


def test_a_language_without_its_grammar_is_plain_text(caplog: pytest.LogCaptureFixture) -> None:
    row = Language(name="elvish", module="tree_sitter_elvish")
    assert not syntax.has_grammar(row) and not syntax.has_grammar(row)
    assert caplog.text.count("tree-sitter-elvish") == 1


def test_grammars_are_loaded_when_they_are_needed() -> None:
    program = (
        "import sys\n"
        "from dgemma_model.source import syntax\n"
        "def loaded(): return sorted(name for name in sys.modules if name.startswith('tree_sitter_'))\n"
        "assert loaded() == [], loaded()\n"
        "syntax.parse('go', 'package a')\n"
        "assert loaded() == ['tree_sitter_go', 'tree_sitter_go._binding'], loaded()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
