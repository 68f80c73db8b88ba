"""One fill, judged: each judgement with cases where it says no, where it says yes, and in between."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dgemma_model.evaluation.baselines import BASELINES, baseline_texts
from dgemma_model.evaluation.held_out import HOLES_FILE, Case, case_of, read_holes
from dgemma_model.evaluation.judging import Fill

ROOT = Path(__file__).parents[2]
MARK = "▮"


def case(marked: str, *middles: str, **changes: Any) -> Case:
    """A case with holes at the marks."""
    prefix, *between, suffix = marked.split(MARK)
    return replace(Case("c", "line", prefix, suffix, middles, tuple(between)), **changes)


def fill(marked: str, middle: str, text: str) -> Fill:
    return Fill(case(marked, middle), (text,))


@pytest.mark.parametrize(
    ("text", "middle", "exact"),
    [
        ("return x", "return x", True),
        ("return x  ", "return x", True),
        ("a  \nb\n", "a\nb", True),
        ("return  x", "return x", False),
        (" return x", "return x", False),
        ("", "return x", False),
        ("", "", True),
    ],
)
def test_blanks_at_the_ends_of_lines_do_not_count(text: str, middle: str, exact: bool) -> None:
    assert fill(f"{MARK}\n", middle, text).is_exact is exact


def test_several_holes_are_exact_together_or_not() -> None:
    two = case(f"a = {MARK}\nb = {MARK}\n", "1", "2")
    assert Fill(two, ("1", "2")).is_exact
    half = Fill(two, ("1", "3"))
    assert half.is_exact is False and half.exact_holes == [True, False] and half.similarity == 0.5


def test_where_nobody_knows_what_was_there_nothing_is_exact() -> None:
    unknown = Fill(replace(case(f"x = {MARK}\n"), middles=None), ("1",))
    assert (unknown.is_exact, unknown.similarity, unknown.has_same_tree) == (None, None, None)
    assert unknown.parses and not replace(unknown, texts=("(",)).parses
    assert not unknown.is_proposal_right


@pytest.mark.parametrize(
    ("text", "parses"), [("x + 1", True), ("(x", False), ("", True), ("x:", False), ("y = x)", False)]
)
def test_a_fill_parses_if_it_adds_no_errors(text: str, parses: bool) -> None:
    assert fill(f"def f(x):\n    x = 2\n    {MARK}\n    return x\n", "x += 1", text).parses is parses


@pytest.mark.parametrize(("language", "parses"), [("go", True), ("python", False), ("klingon", True)])
def test_a_fill_parses_or_not_in_its_own_language(language: str, parses: bool) -> None:
    made = fill(f"package a\n\nfunc f() {{\n\t{MARK}\n}}\n", "return", "return // nothing")
    made = replace(made, case=replace(made.case, language=language, middles=None))
    assert made.parses is parses


def test_a_tree_is_that_of_its_own_language() -> None:
    made = fill(f"package a\n\nvar x = {MARK}\n", "f(1)", "f( 1 )")
    assert replace(made, case=replace(made.case, language="go")).has_same_tree
    assert not replace(made, case=replace(made.case, language="klingon")).has_same_tree


def test_errors_that_were_there_before_do_not_count() -> None:
    assert fill(f"x = (((\ndef f(x):\n    {MARK}\n", "return x", "return y").parses


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("call(a, 'b')", True),
        ("call(a,'b')  # why", True),
        ('call(a, "b")', True),
        ("call(\n        a,\n        'b')", True),
        ("call(a, 'c')", False),
        ("call('a', 'b')", False),
        ("call(b, 'a')", False),
        ("call(a, 'b'); x", False),
        ("", False),
    ],
)
def test_the_layout_makes_no_other_tree(text: str, same: bool) -> None:
    assert fill(f"def f(a):\n    {MARK}\n", "call(a, 'b')", text).has_same_tree is same


def test_text_beside_escapes_and_in_errors_is_part_of_the_tree() -> None:
    assert not fill(f'x = "{MARK}\\n{{a}}"\n', "some words", "").has_same_tree
    assert not fill(f"x = ((( $ {MARK} ?? $\n", "one", "two").has_same_tree


def test_indentation_is_part_of_the_tree() -> None:
    assert not fill(f"if a:\n    b()\n{MARK}\n", "c()", "    c()").has_same_tree


def test_similarity_is_one_for_the_same_and_zero_for_nothing_in_common() -> None:
    assert fill(MARK, "abc", "abc").similarity == 1.0
    assert fill(MARK, "abc", "xyz").similarity == 0.0
    assert fill(MARK, "abcd", "abcx").similarity == 0.75


@pytest.mark.parametrize(
    ("proposed", "right", "parses"),
    [
        ("if a:\n    b()\n    c()\nd()\n", True, True),
        ("if a:  \n    b()\n    c()\nd()", True, True),
        ("if a:\n    b()\nd()\n", True, True),
        ("if a:\n    b(\nd()\n", False, False),
        ("if a:\n    c()\nd()\n", False, True),
        ("if a:\n    b()\n    c()\n    d()\nd()\n", False, True),
        (None, False, False),
    ],
)
def test_a_proposal_is_right_as_far_as_it_goes(proposed: str | None, right: bool, parses: bool) -> None:
    made = replace(fill(f"if a:\n    {MARK}\nd()\n", "b()\n    c()", ""), proposed=proposed)
    assert (made.is_proposal_right, made.does_proposal_parse) == (right, parses)


def test_a_proposal_must_please_python_where_the_original_does() -> None:
    indented = fill(f"if a:\n    {MARK}\n        c()\n", "if b:", "")
    assert replace(indented, proposed="if a:\n    if b:\n        c()\n").does_proposal_parse
    assert not replace(indented, proposed="if a:\n    b()\n        c()\n").does_proposal_parse
    of_python_2 = fill(f"print {MARK}\n", "x", "")
    assert replace(of_python_2, proposed="print y\n").does_proposal_parse


def test_a_proposal_may_type_over_what_follows() -> None:
    made = replace(fill(f"print({MARK})\n", "x", ""), proposed="print(x)\n")
    assert made.is_proposal_right


def test_the_right_answer_is_exact_and_parses() -> None:
    for hole in random.Random(0).sample(read_holes(ROOT / HOLES_FILE), 60):
        made = Fill(case_of(hole), (hole.middle,))
        assert made.is_exact and made.parses and made.has_same_tree and made.similarity == 1.0


# ---------------------------------------------------------------- baselines


@pytest.mark.parametrize(
    ("marked", "expected"),
    [
        (f"if a:\n    run(a)\n    stop()\nif b:\n    {MARK}\n    stop()\n", "run(a)"),
        (f"self.a = a\nself.b = b\nself.{MARK}\n", "b = b"),
        (f"{MARK}\n", ""),
        (f"alpha()\n{MARK}", "alpha()"),
    ],
)
def test_the_nearby_line_is_the_one_with_the_most_similar_neighbours(marked: str, expected: str) -> None:
    assert baseline_texts(case(marked, ""), "nearby line") == (expected,)


def test_a_baseline_never_sees_the_answer() -> None:
    seen, unseen = case(f"a = 1\n{MARK}\nb = 2\n", "secret"), case(f"a = 1\n{MARK}\nb = 2\n", "another")
    assert {"nothing", "else:", "return None", "return True", "nearby line", "line anywhere"} == {*BASELINES}
    for name in BASELINES:
        assert baseline_texts(seen, name) == baseline_texts(unseen, name)


def test_a_baseline_fills_every_hole_and_sees_what_it_filled() -> None:
    several = case(f"self.a = a\nself.b = b\n{MARK}\nx\n{MARK}\n", "", "")
    assert baseline_texts(several, "else:") == ("else:", "else:")
    assert len(baseline_texts(several, "nearby line")) == 2


def test_nothing_leaves_what_is_to_be_repaired_as_it_is() -> None:
    broken = case(f"{MARK}\n", "right", start=("wrong",))
    assert baseline_texts(broken, "nothing") == ("wrong",)
    assert baseline_texts(broken, "else:") == ("else:",)
