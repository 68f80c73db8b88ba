"""The text store against plain strings, in pieces so small that every edit meets their borders."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import reference_text
from hypothesis import given, settings
from hypothesis import strategies as st

from dgemma_lsp.documents import text as text_module
from dgemma_lsp.documents.text import Text

texts = st.lists(st.sampled_from([*reference_text.PIECES, "abc\n", "\r", "\n"]), max_size=40).map("".join)


@pytest.fixture(autouse=True, scope="module")
def small_pieces() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_module, "_PIECE_CHARS", 6)
        yield


def joined(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def lines_of(text: str) -> list[int]:
    return [0, *(found.end() for found in re.finditer(r"\r\n|\n|\r", text))]


def check(text: Text, plain: str) -> None:
    assert (str(text), len(text)) == (plain, len(plain))
    starts = lines_of(plain)
    assert text.line_count == len(starts)
    assert [text.line_start(line) for line in range(len(starts))] == starts
    assert text.line_start(len(starts) + 3) == len(plain)
    for offset in range(len(plain) + 1):
        inside = plain[offset - 1 : offset + 1] == "\r\n" and offset > 0
        assert inside or text.line_at(offset) == sum(start <= offset for start in starts) - 1
    longest = max(map(len, plain.splitlines() or [""]))  # a piece ends where a line does
    assert all(len(piece.text) < 40 + 2 * longest for piece in text._pieces)
    assert not any(piece.text.endswith("\r") for piece in text._pieces[:-1] if plain.count("\r") == plain.count("\r\n"))


@given(texts, st.data())
@settings(max_examples=200, deadline=None)
def test_edits_slices_and_lines_are_those_of_a_string(plain: str, data: st.DataObject) -> None:
    plain = joined(plain)
    text = Text(plain)
    check(text, plain)
    for _ in range(4):
        start, end = sorted(data.draw(st.tuples(st.integers(0, len(plain)), st.integers(0, len(plain)))))
        new = data.draw(texts)
        before, old = text, plain
        text, plain = text.replaced(start, end, new), joined(plain[:start] + new + plain[end:])
        check(text, plain)
        assert str(before) == old, "an edit changed the old text"
        assert text[start:end] == plain[start:end] and text[-3:] == plain[-3:]
        differs, until, other = before.difference(text)
        assert (old[:differs], old[until:]) == (plain[:differs], plain[other:])


def test_an_edit_shares_what_it_does_not_touch() -> None:
    text = Text("line\n" * 1000)
    edited = text.replaced(2500, 2500, "x")
    differs, until, _ = text.difference(edited)
    assert 2400 < differs <= 2500 <= until < 2600
    assert edited != text and edited.replaced(2500, 2501, "") == text


def test_small_pieces_do_not_grow_many() -> None:
    text = Text("line\n" * 1000)
    for at in range(0, 1000, 2):
        text = text.replaced(at, at + 4, "")
    assert len(text._pieces) < 1000


def test_a_file_of_carriage_returns_is_cut_too() -> None:
    text = Text("line\r" * 1000)
    before = len(text._pieces)
    assert before > 300 and len(text.replaced(10, 10, "x")._pieces) > before - 5
