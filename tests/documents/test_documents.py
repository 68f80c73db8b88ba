from __future__ import annotations

import logging
from typing import get_args

import pytest
import reference_text
from hypothesis import given
from hypothesis import strategies as st

from dgemma_lsp.documents.documents import (
    PARSED_CHARS,
    Document,
    Documents,
    Encoding,
    Position,
    TextChange,
    parsed,
    position_at,
)
from dgemma_model.source import structure, syntax

URI = "file:///a.py"

encodings = st.sampled_from(get_args(Encoding))
texts = st.lists(st.sampled_from(reference_text.PIECES)).map("".join).map(reference_text.joined)


def opened(text: str, encoding: Encoding = "utf-16") -> Documents:
    documents = Documents(encoding)
    documents.open(URI, "python", 1, text)
    return documents


def after(text: str, *changes: TextChange, encoding: Encoding = "utf-16") -> str:
    documents = opened(text, encoding)
    documents.change(URI, 2, changes)
    document = documents.get(URI)
    assert document is not None
    return document.text


def replacing(start: tuple[int, int], end: tuple[int, int], text: str) -> TextChange:
    return TextChange(text, (Position(*start), Position(*end)))


@pytest.mark.parametrize("encoding", reference_text.ENCODINGS)
def test_ten_thousand_random_edits_leave_the_reference_text(encoding: Encoding) -> None:
    document = Document(URI, "python", 1, "")
    for number, (edit, expected) in enumerate(reference_text.random_edits(2611, 10_000, encoding)):
        start_and_end = edit.start and edit.end and (Position(*edit.start), Position(*edit.end))
        document.change(TextChange(edit.text, start_and_end), encoding)
        assert document.text == expected, f"edit {number}: {edit}"


@given(texts, st.data(), encodings)
def test_offsets_agree_with_walking_along_the_text(text: str, data: st.DataObject, encoding: Encoding) -> None:
    place = st.integers(0, 12)
    position = Position(data.draw(place), data.draw(place))
    offset = Document(URI, "python", 1, text).offset_at(position, encoding)
    assert offset == reference_text.offset_of(text, position, encoding)


@given(texts, st.data(), encodings)
def test_a_position_leads_back_to_its_offset(text: str, data: st.DataObject, encoding: Encoding) -> None:
    offset = data.draw(st.integers(0, len(text)))
    if text[offset - 1 : offset + 1] == "\r\n":
        offset -= 1  # no position lies inside a line break
    position = position_at(text, offset, encoding)
    assert position == reference_text.position_of(text, offset, encoding)
    assert Document(URI, "python", 1, text).offset_at(position, encoding) == offset


@pytest.mark.parametrize(
    ("encoding", "character", "offset"),
    [
        ("utf-16", 1, 1),
        ("utf-16", 2, 1),  # inside the surrogate pair
        ("utf-16", 3, 2),
        ("utf-8", 3, 1),  # inside the four bytes
        ("utf-8", 5, 2),
        ("utf-8", 6, 2),  # inside the two bytes of é
        ("utf-8", 7, 3),
        ("utf-32", 2, 2),
        ("utf-32", 99, 4),
    ],
)
def test_a_position_inside_a_character_is_before_it(encoding: Encoding, character: int, offset: int) -> None:
    assert Document(URI, "python", 1, "a\U0001f600éz\n").offset_at(Position(0, character), encoding) == offset


@pytest.mark.parametrize(
    ("position", "offset"),
    [((0, 99), 2), ((1, 99), 5), ((2, 99), 7), ((2, 1), 7), ((99, 0), 7), ((2**31 - 1, 2**31 - 1), 7)],
)
def test_a_position_outside_is_moved_to_the_nearest_end(position: tuple[int, int], offset: int) -> None:
    assert Document(URI, "python", 1, "ab\r\nc\r\n").offset_at(Position(*position), "utf-16") == offset


def test_changes_of_one_notification_apply_in_order() -> None:
    first, second = replacing((0, 0), (0, 0), "ab\n"), replacing((1, 0), (1, 1), "Y")
    assert after("xz", first, second) == "ab\nYz"
    assert after("xz", first, TextChange("all new"), replacing((0, 3), (0, 3), "!")) == "all! new"


def test_halves_of_a_line_break_become_one() -> None:
    assert after("a\rb", replacing((1, 0), (1, 0), "\n"), replacing((1, 0), (1, 0), "x")) == "a\r\nxb"
    # Joined from the left, from the right, and by deleting what stood between.
    assert after("a\nb", replacing((0, 1), (0, 1), "\r"), replacing((1, 0), (1, 0), "x")) == "a\r\nxb"
    assert after("a\r \nb", replacing((1, 0), (1, 1), ""), replacing((1, 0), (1, 0), "x")) == "a\r\nxb"


def test_halves_of_a_character_become_one() -> None:
    assert after("", replacing((0, 0), (0, 0), "\ud83d"), replacing((0, 1), (0, 1), "\ude00")) == "\U0001f600"


def test_a_reversed_range_is_turned_around() -> None:
    assert after("abcd", replacing((0, 3), (0, 1), "-")) == "a-d"


def test_changes_to_a_document_that_is_not_open_are_logged_without_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    documents = Documents()
    with caplog.at_level(logging.WARNING):
        documents.change(URI, 2, [TextChange("secret")])
    assert documents.get(URI) is None
    assert "not open" in caplog.text
    assert "secret" not in caplog.text


def test_a_closed_document_is_gone_and_can_be_closed_again() -> None:
    documents = opened("a")
    documents.close(URI)
    documents.close(URI)
    assert documents.get(URI) is None
    assert documents.snapshot(URI, Position(0, 0)) is None


def test_opening_again_replaces() -> None:
    documents = opened("a")
    documents.open(URI, "rust", 7, "b")
    snapshot = documents.snapshot(URI, Position(0, 1))
    assert snapshot is not None
    assert (snapshot.text, snapshot.language, snapshot.version, snapshot.offset) == ("b", "rust", 7, 1)


def test_a_snapshot_never_changes() -> None:
    documents = opened("one\ntwo")
    snapshot = documents.snapshot(URI, Position(1, 3))
    documents.change(URI, 2, [replacing((0, 0), (1, 0), "")])
    assert snapshot is not None
    assert (snapshot.text, snapshot.offset, snapshot.version) == ("one\ntwo", 7, 1)


def test_edits_in_a_line_of_five_megabytes() -> None:
    line = "é" * 2_500_000
    changes = [replacing((0, 2_000_000 + 2 * n), (0, 2_000_000 + 2 * n), "x") for n in range(5)]
    text = after(line, *changes, encoding="utf-8")
    assert len(text) == 2_500_005
    assert text[1_000_000:1_000_006] == "xxéxxé"  # every second place was inside an é, so before it
    assert after(line, replacing((0, 5_000_000), (0, 5_000_000), "end"), encoding="utf-8") == line + "end"


@pytest.mark.parametrize("text", ["x = 1\n", "x = '\ud800'\n", "\x00\x01\xff", "a\fb\u2028c"])
def test_a_tree_is_of_exactly_the_text(text: str) -> None:
    snapshot = opened(text).snapshot(URI, Position(0, 0))
    assert snapshot is not None
    tree = parsed(snapshot).tree
    assert tree is not None
    assert tree.data.decode("utf-8", "surrogatepass") == text


def test_no_tree_for_plain_text() -> None:
    documents = Documents()
    documents.open("file:///a.txt", "plaintext", 1, "words")
    snapshot = documents.snapshot("file:///a.txt", Position(0, 0))
    assert snapshot is not None
    assert parsed(snapshot).tree is None


LONG = "".join(f"class C{n}:\n    def f(self):\n        x = {n}\n        return x + 1\n\n" for n in range(3000))


def test_a_long_document_is_parsed_around_the_cursor() -> None:
    documents = opened(LONG)
    snapshot = documents.snapshot(URI, Position(6003, 12))
    assert snapshot is not None and len(LONG) > PARSED_CHARS
    tree = parsed(snapshot).tree
    assert tree is not None and len(tree.data) < PARSED_CHARS
    seen = tree.data.decode()
    assert LONG[tree.start :].startswith(seen) and seen.startswith("class ")
    assert LONG[tree.start + len(seen) :].startswith("class ")
    assert syntax.error_count(tree) == 0
    around = LONG.index("class C1200:")
    assert syntax.scope_starts(tree, snapshot.offset) == [around, LONG.index("    def f", around)]


def test_trees_are_brought_up_to_date(parsed_anew: list[bytes]) -> None:
    documents = opened(LONG)
    line, character = 6003, 16
    last_tree, typed = documents.last_tree(URI), " + f(x)\n        y = ["
    for char in typed:
        documents.change(URI, 2, [replacing((line, character), (line, character), char)])
        line, character = (line + 1, 0) if char == "\n" else (line, character + 1)
        snapshot = documents.snapshot(URI, Position(line, character))
        assert snapshot is not None
        tree = parsed(snapshot, last_tree).tree
        fresh = tree and syntax.parse("python", tree.data.decode(), tree.start)
        assert tree is not None and fresh is not None
        assert snapshot.source[tree.start : tree.start + len(tree.data)] == tree.data.decode()
        assert list(structure.named_nodes(tree)) == list(structure.named_nodes(fresh))
    assert len(parsed_anew) == 1 + len(typed), "the first one, and those to compare with"


def deleted_after(text: str, *changes: TextChange, cursor: tuple[int, int]) -> str:
    documents = opened(text)
    documents.change(URI, 2, changes)
    snapshot = documents.snapshot(URI, Position(*cursor))
    assert snapshot is not None
    return documents.surroundings(snapshot).deleted


def test_what_was_just_deleted_is_known() -> None:
    backspace = [replacing((0, at - 1), (0, at), "") for at in (7, 6, 5)]
    delete = [replacing((0, 4), (0, 5), "")] * 3
    assert deleted_after("x = abc", replacing((0, 4), (0, 7), ""), cursor=(0, 4)) == "abc"
    assert deleted_after("x = abc", *backspace, cursor=(0, 4)) == "abc"
    assert deleted_after("x = abc", *delete, cursor=(0, 4)) == "abc"


def test_what_was_deleted_is_forgotten_where_something_else_was_done() -> None:
    deletion = replacing((0, 4), (0, 7), "")
    assert deleted_after("x = abc", deletion, cursor=(0, 3)) == ""
    assert deleted_after("x = abc", deletion, replacing((0, 4), (0, 4), "d"), cursor=(0, 5)) == ""
    assert deleted_after("x = abc\ny", replacing((1, 0), (1, 1), ""), deletion, cursor=(0, 4)) == "abc"
    assert deleted_after("x = abc", deletion, TextChange("x = "), cursor=(0, 4)) == ""


def test_other_documents_of_the_language_are_known() -> None:
    documents = opened("x = 1\n")
    for name, language in (("b.py", "python"), ("c.go", "go"), ("d.py", "python")):
        documents.open(f"file:///{name}", language, 1, "y = 2\n" * 400)
    documents.change("file:///b.py", 2, [replacing((3, 0), (3, 0), "z")])
    snapshot = documents.snapshot(URI, Position(0, 0))
    assert snapshot is not None
    others = documents.surroundings(snapshot).others
    assert [(other.uri, other.offset) for other in others] == [("file:///b.py", 19), ("file:///d.py", 0)]


def test_where_else_the_user_was_busy_is_known() -> None:
    documents = opened("x = 1\n" * 2000)
    places = [(10, 0), (1500, 0), (1501, 2), (600, 0)]
    documents.change(URI, 2, [replacing(place, place, "y\n") for place in places])
    snapshot = documents.snapshot(URI, Position(601, 0))
    assert snapshot is not None
    edited_at = documents.surroundings(snapshot).edited_at
    assert [snapshot.source.line_at(at) for at in edited_at] == [1503, 11]
