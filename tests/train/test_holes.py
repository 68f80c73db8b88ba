"""Each kind of hole is what it says, and serving sees of a hole what training saw."""

from __future__ import annotations

import ast
import random
from collections import Counter
from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_fixtures import SOURCE, tiny_tokenizer

from dgemma_lsp.documents.documents import ParsedSnapshot
from dgemma_lsp.documents.edits import Snapshot
from dgemma_lsp.documents.text import Text
from dgemma_lsp.pipeline import context
from dgemma_model.prompt.suffix_first import SuffixFirst
from dgemma_model.source import syntax
from dgemma_model.source.excerpt import ExcerptBudget
from dgemma_model.train.holes import MAX_HOLE_CHARS, MIX, CutHole, HoleCutter, HoleKind, draw_kind

TOKENIZER = tiny_tokenizer()

ODD = '''\
"""Ünïcode: 漢字 😀.

More words 😀 in a docstring.
"""

# a comment

VALUES = {"é": [1, 2, 3], "ß": (4, 5)}


def größe(x, *, scale=2.5):
    # 😀 more
    if x > 3 and scale:
        return [y * scale for y in VALUES[x]]

    return None
'''
CUTTERS = [HoleCutter(SOURCE), HoleCutter(ODD)]
KINDS: list[HoleKind] = list(get_args(HoleKind))


def holes(kind: HoleKind, cutter: HoleCutter, count: int = 150) -> list[CutHole]:
    rng = random.Random(0)
    cut = [cutter.cut(kind, rng) for _ in range(count)]
    found = [hole for hole in cut if hole is not None]
    assert len(found) > count // 10
    assert {hole.kind for hole in found} == {kind}
    return found


def line_around(text: str, offset: int) -> tuple[int, int]:
    start = text.rfind("\n", 0, offset) + 1
    end = text.find("\n", offset)
    return start, len(text) if end < 0 else end


@pytest.mark.parametrize("cutter", CUTTERS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_hole_is_in_the_text_and_not_too_long(kind: HoleKind, cutter: HoleCutter) -> None:
    found = holes(kind, cutter)
    for hole in found:
        assert 0 <= hole.start <= hole.end <= len(cutter.text)
        assert hole.end - hole.start <= MAX_HOLE_CHARS
        assert (hole.start == hole.end) == (kind == "empty")
    assert len({(hole.start, hole.end) for hole in found}) > 3


@pytest.mark.parametrize("cutter", CUTTERS)
def test_a_line_is_all_but_its_indentation(cutter: HoleCutter) -> None:
    for hole in holes("line", cutter):
        start, end = line_around(cutter.text, hole.start)
        assert hole.end == end
        assert cutter.text[start : hole.start].strip() == ""
        assert not cutter.text[hole.start].isspace()


@pytest.mark.parametrize("cutter", CUTTERS)
def test_a_rest_of_line_begins_behind_something(cutter: HoleCutter) -> None:
    for hole in holes("rest_of_line", cutter):
        start, end = line_around(cutter.text, hole.start)
        assert hole.end == end
        assert cutter.text[start : hole.start].strip() != ""


@pytest.mark.parametrize("cutter", CUTTERS)
def test_an_expression_parses_in_parentheses_and_a_statement_as_code(cutter: HoleCutter) -> None:
    """Except for what occurs in calls and definitions only: keyword arguments, parameters, types."""
    whole = 0
    for hole in holes("expression", cutter):
        piece = cutter.text[hole.start : hole.end]
        assert piece == piece.strip()
        try:
            ast.parse(f"f({piece})" if not piece.startswith("(") else f"f{piece}")
            whole += 1
        except SyntaxError:
            ast.parse(f"def f{piece}: ...")
    assert whole > 20
    for hole in holes("statement", cutter):
        start, _ = line_around(cutter.text, hole.start)
        body = cutter.text[start : hole.start] + cutter.text[hole.start : hole.end]
        ast.parse(f"async def f():\n{body}" if body[0] == " " else body)


@pytest.mark.parametrize("cutter", CUTTERS)
def test_a_block_is_whole_lines_of_at_least_its_first_ones_depth(cutter: HoleCutter) -> None:
    for hole in holes("block", cutter):
        start, _ = line_around(cutter.text, hole.start)
        assert cutter.text[start : hole.start].strip() == ""
        assert hole.end == line_around(cutter.text, hole.end)[1]
        lines = cutter.text[start : hole.end].split("\n")
        assert 2 <= len(lines) <= 8
        assert lines[-1].strip() != ""
        depths = [len(line) - len(line.lstrip()) for line in lines if line.strip()]
        assert min(depths) == depths[0] == hole.start - start


@pytest.mark.parametrize("cutter", CUTTERS)
def test_code_lines_are_drawn_evenly_and_none_begins_inside_a_string(cutter: HoleCutter) -> None:
    strict = HoleCutter(cutter.text, code_lines=True)
    counts = Counter(hole.start for hole in holes("line", strict, 2000))
    assert max(counts.values()) < 4 * min(counts.values())  # long lines are no likelier than short ones
    inside = [cutter.text.find(words) for words in ("More words", '"""\n\n#')]
    assert counts.keys().isdisjoint(inside)
    assert counts.keys() <= {hole.start for hole in holes("line", cutter, 2000)}


@pytest.mark.parametrize(
    ("language", "text", "code"),
    [
        (
            "go",
            "// a\n/* b\n c */\nvar s = `d\ne`\n\nfunc f() {\n\tg() // h\n}\n",
            {"var s = `d", "func f() {", "g() // h"},
        ),
        ("javascript", "/** a\n * b\n */\nlet x = 1;\n// c\nlet y = `d\n  e`;\n", {"let x = 1;", "let y = `d"}),
        ("bash", "#!/bin/sh\n# a\nif true; then\n  b\nfi\n", {"if true; then", "fi"}),
    ],
)
def test_code_lines_of_other_languages_are_neither_comments_nor_strings(
    language: str, text: str, code: set[str]
) -> None:
    cutter, rng = HoleCutter(text, language=language, code_lines=True), random.Random(0)
    cut = [hole for _ in range(200) if (hole := cutter.cut("line", rng)) is not None]
    assert {text[hole.start : hole.end] for hole in cut} == code


def test_longer_lines_are_drawn_more_often_in_training() -> None:
    cutter = HoleCutter("xx = 1\n" + "y" * 93 + " = 1\n" + "z = 2\n" * 30)
    counts = Counter(hole.start for hole in holes("line", cutter, 1000))
    assert counts[7] > 5 * counts[0]


def test_kinds_are_drawn_as_often_as_the_mix_says() -> None:
    rng = random.Random(0)
    drawn = Counter(draw_kind(rng) for _ in range(20_000))
    assert set(MIX) == set(KINDS) and sum(MIX.values()) == pytest.approx(1.0)
    assert {kind: drawn[kind] / 20_000 for kind in MIX} == pytest.approx(MIX, abs=0.015)


def test_the_same_seed_cuts_the_same_holes() -> None:
    cut = [[cutter.cut(draw_kind(rng), rng) for _ in range(30)] for cutter, rng in 2 * [(CUTTERS[1], random.Random(3))]]
    again = [CUTTERS[1].cut(draw_kind(rng), rng) for rng in [random.Random(3)] for _ in range(30)]
    assert again == cut[0]


# ------------------------------------------------------- training and serving

LONG = "\n\n".join(SOURCE.replace("Account", f"Account{number}") for number in range(4))


def opened(text: str, hole: CutHole) -> ParsedSnapshot:
    """The file as an editor has it while the hole is still to be written, with the cursor there."""
    document = text[: hole.start] + text[hole.end :]
    snapshot = Snapshot("file:///a.py", 1, "python", Text(document), hole.start)
    return ParsedSnapshot(snapshot, syntax.parse("python", document))


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(KINDS), seed=st.integers(0, 10_000), text=st.sampled_from([LONG, ODD, SOURCE]))
def test_serving_sees_what_training_saw(kind: HoleKind, seed: int, text: str) -> None:
    """The tree of a document with a hole in it may show other scopes than that of the whole file; where it shows the
    same, prompts are the same to the last id."""
    cutter = HoleCutter(text)
    hole = cutter.cut(kind, random.Random(seed))
    if hole is None:
        return
    trained, served = cutter.excerpt(hole, ExcerptBudget()), context.view(opened(text, hole)).excerpt
    assert trained.suffix == served.suffix
    assert trained.prefix.endswith(served.prefix) or served.prefix.endswith(trained.prefix)
    tree = opened(text, hole).tree
    assert tree is not None and cutter._tree is not None
    if syntax.scope_starts(tree, hole.start) == syntax.scope_starts(cutter._tree, hole.start):
        assert SuffixFirst(TOKENIZER).encode(trained, 512) == SuffixFirst(TOKENIZER).encode(served, 512)


def test_the_law_above_is_seldom_excused() -> None:
    rng, same, all_of_them = random.Random(0), 0, 0
    cutter = HoleCutter(LONG)
    for _ in range(200):
        hole = cutter.cut(draw_kind(rng), rng)
        if hole is not None:
            all_of_them += 1
            served = replace(context.view(opened(LONG, hole)).excerpt, file_name="")  # which its prompts do not have
            same += cutter.excerpt(hole, ExcerptBudget()) == served
    assert same / all_of_them > 0.9
