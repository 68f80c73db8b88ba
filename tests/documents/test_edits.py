from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma_lsp.documents.edits import Edit, Snapshot, Suggestion, rebase
from dgemma_lsp.documents.text import Text

URI = "file:///a.py"

texts = st.text(alphabet="ab(\n\r\U0001f600", max_size=12)


def snapshot(marked: str, version: int = 1) -> Snapshot:
    """The text without its `|`, which is the cursor."""
    before, after = marked.split("|")
    return Snapshot(URI, version, "python", Text(before + after), len(before))


def suggested(marked: str, new_text: str, *, covers: int = 0, retypes: int = 0) -> Suggestion:
    """`new_text` at the cursor, in place of `covers` characters after it and `retypes` before it."""
    at = snapshot(marked)
    return Suggestion(at, Edit(at.offset - retypes, at.offset + covers, new_text), score=-0.5, steps=4)


@given(texts, st.text(alphabet="ab)", min_size=1), texts, st.data())
def test_typing_a_beginning_drops_it(before: str, new_text: str, after: str, data: st.DataObject) -> None:
    old = Snapshot(URI, 1, "python", Text(before + after), len(before))
    suggestion = Suggestion(old, Edit(len(before), len(before), new_text), score=0.0, steps=1)
    typed = new_text[: data.draw(st.integers(0, len(new_text) - 1))]
    newer = Snapshot(URI, 2, "python", Text(before + typed + after), len(before + typed))
    rebased = rebase(suggestion, newer)
    assert rebased is not None
    assert rebased.edit == Edit(newer.offset, newer.offset, new_text.removeprefix(typed))
    assert rebased.snapshot is newer


@given(texts, st.text("ab)", max_size=5), st.text("ab)", max_size=3), texts, st.data())
def test_what_is_rebased_leads_to_the_text_that_was_suggested(
    before: str, new_text: str, covered: str, after: str, data: st.DataObject
) -> None:
    old = Snapshot(URI, 1, "python", Text(before + covered + after), len(before))
    suggestion = Suggestion(old, Edit(len(before), len(before + covered), new_text), score=0.0, steps=1)
    typed = new_text[: data.draw(st.integers(0, 2))] + data.draw(st.sampled_from(["", "", "a", "\n"]))
    text = before + typed + data.draw(st.sampled_from([covered, covered[1:], ")", ""])) + after
    newer = Snapshot(URI, 2, "python", Text(text), data.draw(st.sampled_from([len(before + typed), len(before)])))
    rebased = rebase(suggestion, newer)
    if rebased is not None:
        assert rebased.edit.apply(newer.text) == suggestion.edit.apply(old.text)
        assert rebased.edit.start <= newer.offset <= rebased.edit.end
        assert rebased.edit.apply(newer.text) != newer.text


@pytest.mark.parametrize(
    ("suggestion", "newer", "expected"),
    [
        # Nothing typed, one letter typed; a bracket that the suggestion re-types is still after the cursor.
        (suggested("x = |", "value"), "x = |", Edit(4, 4, "value")),
        (suggested("x = |", "value"), "x = v|", Edit(5, 5, "alue")),
        (suggested("f(|)", "a, b)", covers=1), "f(a|)", Edit(3, 4, ", b)")),
        # The suggestion began before the cursor.
        (suggested("pri|", "print(x)", retypes=3), "prin|", Edit(4, 4, "t(x)")),
        # The editor closed a bracket that the suggestion has, too.
        (suggested("x = |", "f(a)"), "x = f(|)", Edit(6, 7, "a)")),
        # A line of it was typed.
        (suggested("if x:|", "\n    y\n    z"), "if x:\n    y|", Edit(11, 11, "\n    z")),
    ],
)
def test_typing_along(suggestion: Suggestion, newer: str, expected: Edit) -> None:
    rebased = rebase(suggestion, snapshot(newer, version=2))
    assert rebased is not None
    assert rebased.edit == expected
    assert rebased.snapshot.version == 2
    assert (rebased.score, rebased.steps) == (suggestion.score, suggestion.steps)


@pytest.mark.parametrize(
    ("suggestion", "newer"),
    [
        (suggested("x = |", "value"), "x = w|"),  # another letter
        (suggested("x = |", "value"), "x =| "),  # the cursor is at another place
        (suggested("x = |", "value"), "x =|"),  # deleted
        (suggested("x = |", "value"), "x = value|"),  # nothing left
        (suggested("x = |", "value"), "x = valuev|"),  # too much
        (suggested("x = |\ny", "value"), "x = v|\nz"),  # changed below
        (suggested("w\nx = |", "value"), "v\nx = v|"),  # changed above
        (suggested("f(|)", "a)", covers=1), "f(a|)"),  # only the bracket is left, and it is there
        (suggested("x = |", "f(a)"), "x = f(|]"),  # what came after the cursor is not re-typed
        (suggested("x|", "a\nb"), "x|\nb"),  # would cover a line break
    ],
)
def test_going_another_way(suggestion: Suggestion, newer: str) -> None:
    assert rebase(suggestion, snapshot(newer, version=2)) is None


def test_another_document_is_another_way() -> None:
    other = replace(snapshot("x = v|"), uri="file:///b.py")
    assert rebase(suggested("x = |", "value"), other) is None
