"""Model text -> insertable text: the golden cases of cases/cleanup.md, and laws."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma_lsp.documents.edits import Edit, NoSuggestion
from dgemma_lsp.pipeline import cleanup
from dgemma_lsp.pipeline.cleanup import clean
from dgemma_lsp.pipeline.insertion import place_at

CASES = Path(__file__).parents[1] / "cases" / "cleanup.md"


class Case(NamedTuple):
    options: frozenset[str]
    file: str
    model: str
    result: str
    deleted: str = ""


def read_cases() -> dict[str, Case]:
    cases = {}
    for section in CASES.read_text("utf-8").split("\n## ")[1:]:
        heading, body = section.split("\n", 1)
        _, _, options = heading.rstrip(")").partition(" (")
        parts = dict(re.findall(r"^```(\w+)\n(.*?)\n?^```$", body, re.MULTILINE | re.DOTALL))
        assert parts.keys() - {"deleted"} == {"file", "model", "result"}, heading
        assert heading not in cases, heading
        texts = {part: unmarked(text) for part, text in parts.items()}
        cases[heading] = Case(frozenset(filter(None, options.split(", "))), **texts)
    return cases


def unmarked(text: str) -> str:
    return text.replace("⇥", "\t").replace("␍\n", "\r\n").replace("␍", "\r").replace("·", " ")


def cleaned(
    file: str, model: str, *, block: bool = False, complete: bool = True, automatic: bool = True, deleted: str = ""
) -> Edit | NoSuggestion:
    offset = file.index("▮")
    place = place_at(file.replace("▮", "", 1), offset, one_line=not block, deleted=deleted)
    return clean(model, place, complete=complete, automatic=automatic)


def check(case: Case) -> None:
    assert case.options <= {"block", "incomplete", "invoked"}
    edit = cleaned(
        case.file,
        case.model,
        block="block" in case.options,
        complete="incomplete" not in case.options,
        automatic="invoked" not in case.options,
        deleted=case.deleted,
    )
    if isinstance(edit, NoSuggestion):
        assert edit.name == case.result
    else:
        shown = Edit(edit.start, edit.end, edit.new_text + "▮").apply(case.file.replace("▮", ""))
        assert shown == case.result


GOLDEN = read_cases()


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_case(name: str) -> None:
    check(GOLDEN[name])


def test_there_are_enough_golden_cases() -> None:
    assert len(GOLDEN) >= 40


def failing() -> list[str]:
    failed = []
    for name, case in GOLDEN.items():
        try:
            check(case)
        except AssertionError:
            failed.append(name)
    return failed


@pytest.mark.parametrize("rule", [*cleanup.FITTING, *cleanup.NOT_REPEATING], ids=lambda rule: rule.__name__)
def test_without_a_rule_a_golden_case_fails(monkeypatch: pytest.MonkeyPatch, rule: object) -> None:
    assert failing() == []
    for rules in ("FITTING", "NOT_REPEATING"):
        monkeypatch.setattr(cleanup, rules, tuple(one for one in getattr(cleanup, rules) if one is not rule))
    assert failing()


@pytest.mark.parametrize(
    ("name", "idle"),
    [
        ("drop_ragged_end", lambda text: text),
        ("retyped_length", lambda text, place: 0),
        ("is_undoing", lambda text, deleted: False),
    ],
)
def test_without_what_follows_the_rules_a_golden_case_fails(
    monkeypatch: pytest.MonkeyPatch, name: str, idle: object
) -> None:
    monkeypatch.setattr(cleanup, name, idle)
    assert failing()


code = st.text(alphabet="ab(){}[]\"'\\:, +\t\n", max_size=24) | st.text(max_size=8)
files = st.tuples(code, code).map("▮".join).filter(lambda text: text.count("▮") == 1)


@given(file=files, model=code, block=st.booleans())
def test_cleanup_is_idempotent(file: str, model: str, block: bool) -> None:
    once = cleaned(file, model, block=block)
    if isinstance(once, Edit):
        assert cleaned(file, once.new_text, block=block) == once


@given(file=files, model=code, block=st.booleans(), complete=st.booleans(), automatic=st.booleans())
def test_what_an_edit_covers_it_types_again(
    file: str, model: str, block: bool, complete: bool, automatic: bool
) -> None:
    edit = cleaned(file, model, block=block, complete=complete, automatic=automatic)
    if isinstance(edit, NoSuggestion):
        return
    text, cursor = file.replace("▮", ""), file.index("▮")
    covered = text[cursor : edit.end]
    assert edit.start == cursor <= edit.end <= len(text)
    assert "\n" not in covered and "\r" not in covered
    remaining = iter(edit.new_text)
    assert all(char in remaining for char in covered)
    assert edit.new_text.strip() and edit.apply(text) != text


@given(file=files, model=code)
def test_one_line_stays_one_line(file: str, model: str) -> None:
    edit = cleaned(file, model, automatic=False)
    if isinstance(edit, Edit):
        assert "\n" not in edit.new_text and "\r" not in edit.new_text


@given(model=code, newline=st.sampled_from(["\n", "\r\n", "\r"]))
def test_every_line_break_is_the_files(model: str, newline: str) -> None:
    edit = cleaned(f"def f():{newline}    ▮{newline}", model, block=True, automatic=False)
    if isinstance(edit, Edit):
        assert set(re.findall(r"\r\n|\n|\r", edit.new_text)) <= {newline}


UNSEEN = [
    *map(chr, range(0x200B, 0x2010)),
    *map(chr, range(0x202A, 0x202F)),
    *map(chr, range(0x2060, 0x2065)),
    *map(chr, range(0x2066, 0x206A)),
    *"\ufeff\u00ad\u061c\u180e\u3164\u115f\uffa0\u2800\u034f\u2028\u2029\ue000\x00\x1b\x7f\x85",
    *"\U000e0041\U000e0101\U0001d173",
]
"""What cannot be seen: directions of writing, no width, fillers, controls, tags."""


@pytest.mark.parametrize("char", UNSEEN, ids=ascii)
@pytest.mark.parametrize("automatic", [False, True])
def test_what_cannot_be_seen_is_not_suggested(char: str, *, automatic: bool) -> None:
    for model in (f'is_{char}admin("user")', f'is_admin("user{char}")', f"{char}is_admin", f"first\n    sec{char}ond"):
        assert cleaned("x = ▮\n", model, automatic=automatic, block=True) is NoSuggestion.INVISIBLE
    for file in (f'x = "{char}" + ▮\n', f'x = ▮ + "{char}"\n'):
        edit = cleaned(file, f'is_admin("user{char}")', automatic=automatic)
        assert isinstance(edit, Edit) and char in edit.new_text
        other = "\u202e" if char != "\u202e" else "\u2066"
        assert cleaned(file, f"is_{other}admin()", automatic=automatic) is NoSuggestion.INVISIBLE
    assert cleaned(f'y = "{char}"\nx = ▮\n', f"is_{char}admin", automatic=automatic) is NoSuggestion.INVISIBLE


@pytest.mark.parametrize("text", ['"\u2764\ufe0f"', "größe", '"日本語"', "x\u0301", "naïve(a)", '"→ ✓ 😀"', "a\tb"])
def test_what_can_be_seen_is_suggested(text: str) -> None:
    edit = cleaned("x = ▮\n", text)
    assert isinstance(edit, Edit) and edit.new_text == text
