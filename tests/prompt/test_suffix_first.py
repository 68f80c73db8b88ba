"""Excerpts to prompts and canvases, and fills back to text."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from model_fixtures import tiny_tokenizer
from test_tokenizer import texts

from dgemma_model.prompt.format import FillVocabulary
from dgemma_model.prompt.suffix_first import SuffixFirst
from dgemma_model.request import Excerpt

TOKENIZER = tiny_tokenizer()
ENOUGH = 10_000


@given(prefix=texts, suffix=texts)
def test_a_prompt_is_suffix_first_and_prefix_last(prefix: str, suffix: str) -> None:
    prompt = SuffixFirst(TOKENIZER).encode(Excerpt(prefix, suffix), ENOUGH)
    border = prompt.text.index(TOKENIZER.prefix_id)
    assert prompt.ids[0] == TOKENIZER.suffix_id
    assert TOKENIZER.decode(prompt.text[1:border]) == suffix
    assert TOKENIZER.decode(prompt.text[border + 1 :]) + prompt.forced.decode() == prefix


@given(prefix=texts, suffix=texts)
def test_a_prompt_ends_with_the_marker_of_the_hole(prefix: str, suffix: str) -> None:
    prompt = SuffixFirst(TOKENIZER).encode(Excerpt(prefix, suffix), ENOUGH)
    assert prompt.ids == [*prompt.text, TOKENIZER.middle_id]


@given(prefix=texts, middle=texts, suffix=texts)
def test_prompt_and_fill_are_the_tokens_of_the_whole_text(prefix: str, middle: str, suffix: str) -> None:
    """Wherever the cursor cuts, the model sees text tokenised as whole files are."""
    excerpt = Excerpt(prefix, suffix)
    prompt, fill = (
        SuffixFirst(TOKENIZER).encode(excerpt, ENOUGH).text,
        SuffixFirst(TOKENIZER).encode_fill(excerpt, middle),
    )
    suffix_ids, whole = TOKENIZER.encode(suffix), TOKENIZER.encode(prefix + middle)
    assert prompt + fill == [TOKENIZER.suffix_id, *suffix_ids, TOKENIZER.prefix_id, *whole, TOKENIZER.end_id]


@example(prefix="x = '", middle="\ufffd", padding=0)
@example(prefix="\r", middle="\n", padding=3)
@given(prefix=texts, middle=texts, padding=st.integers(0, 3))
def test_a_fill_is_read_back_at_any_cursor(prefix: str, middle: str, padding: int) -> None:
    excerpt = Excerpt(prefix, "")
    forced = SuffixFirst(TOKENIZER).encode(excerpt, ENOUGH).forced
    ids = SuffixFirst(TOKENIZER).encode_fill(excerpt, middle) + [TOKENIZER.end_id] * padding
    assert FillVocabulary(TOKENIZER, [TOKENIZER.end_id]).read(ids, forced) == (middle, True)


@given(text=texts, at=st.integers(0, 60), cut_at=st.integers(0, 60))
def test_a_fill_that_is_cut_short_is_the_beginning_of_the_text(text: str, at: int, cut_at: int) -> None:
    prefix, middle = text[:at], text[at:]
    excerpt = Excerpt(prefix, "")
    forced = SuffixFirst(TOKENIZER).encode(excerpt, ENOUGH).forced
    read, ended = FillVocabulary(TOKENIZER, [TOKENIZER.end_id]).read(
        SuffixFirst(TOKENIZER).encode_fill(excerpt, middle)[:-1][:cut_at], forced
    )
    assert not ended
    assert middle.startswith(read)


def single_bytes(data: bytes) -> list[int]:
    return [TOKENIZER.token_bytes.index(bytes([byte])) for byte in data]


@pytest.mark.parametrize(
    ("data", "ends", "expected"),
    [
        (b"ab", True, ("ab", True)),
        (b"ab", False, ("ab", False)),
        ("a😀".encode(), True, ("a😀", True)),
        ("a😀".encode()[:-1], True, ("a", False)),
        ("a😀".encode()[:2], False, ("a", False)),
        ("a\ufffd".encode(), True, ("a\ufffd", True)),
        (b"a\xffb", True, ("a\ufffdb", True)),
        (b"", True, ("", True)),
    ],
)
def test_a_character_that_is_only_begun_is_left_out(data: bytes, ends: bool, expected: tuple[str, bool]) -> None:
    assert (
        FillVocabulary(TOKENIZER, [TOKENIZER.end_id]).read(single_bytes(data) + [TOKENIZER.end_id] * ends, b"")
        == expected
    )


def test_text_after_the_end_is_not_read() -> None:
    assert FillVocabulary(TOKENIZER, [TOKENIZER.end_id]).read(
        [*TOKENIZER.encode("a"), TOKENIZER.end_id, *TOKENIZER.encode("b")], b""
    ) == ("a", True)


@pytest.mark.parametrize("text", ["re", "", "x = 1"])
def test_a_fill_that_does_not_begin_with_the_healed_text_is_none(text: str) -> None:
    assert FillVocabulary(TOKENIZER, [TOKENIZER.end_id]).read(
        [*TOKENIZER.encode(text), TOKENIZER.end_id], b"return"
    ) == ("", False)


def test_special_tokens_in_a_fill_are_no_text() -> None:
    ids = [*TOKENIZER.encode("a"), TOKENIZER.mask_id, TOKENIZER.suffix_id, *TOKENIZER.encode("b"), TOKENIZER.end_id]
    assert FillVocabulary(TOKENIZER, [TOKENIZER.end_id]).read(ids, b"") == ("ab", True)


@given(prefix=texts, suffix=texts, limit=st.integers(16, 40))
def test_a_prompt_keeps_to_its_limit_and_loses_the_far_ends(prefix: str, suffix: str, limit: int) -> None:
    excerpt = Excerpt(prefix, suffix)
    prompt, whole = SuffixFirst(TOKENIZER).encode(excerpt, limit), SuffixFirst(TOKENIZER).encode(excerpt, ENOUGH)
    assert len(prompt.ids) <= limit
    if len(TOKENIZER.encode(suffix)) <= limit // 8:
        assert len(prompt.ids) > min(limit, len(whole.ids)) - limit // 8
    assert prompt.forced == whole.forced
    border, whole_border = prompt.text.index(TOKENIZER.prefix_id), whole.text.index(TOKENIZER.prefix_id)
    assert whole.text[:whole_border][:border] == prompt.text[:border]
    kept = prompt.text[border + 1 :]
    assert kept == whole.text[whole_border + 1 :][len(whole.text) - whole_border - 1 - len(kept) :]
    assert prompt.ids[-1] == whole.ids[-1] == TOKENIZER.middle_id


def test_typing_only_appends_to_the_text_of_a_prompt() -> None:
    typed = "    return self.balance"
    before: list[int] = []
    for size in range(len(typed) + 1):
        ids = SuffixFirst(TOKENIZER).encode(Excerpt("def f(self):\n" + typed[:size], "\n\n"), ENOUGH).text
        assert ids[: len(before)] == before
        before = ids


def test_typing_only_appends_for_a_while_where_the_prefix_is_cut() -> None:
    cuts, before = 0, [TOKENIZER.suffix_id]
    for size in range(60):
        ids = SuffixFirst(TOKENIZER).encode(Excerpt("x = 1\n" * 40 + "+ 1 " * size, ""), 80).text
        assert len(ids) <= 80
        cuts += ids[: len(before)] != before
        before = ids
    assert 15 < cuts <= 24  # 240 tokens were typed, and a cut makes room for ten


@pytest.mark.parametrize(
    ("prefix", "is_settled"),
    [
        ("x = 1\n    ", True),
        ("def f():\n    ", True),  # deeper than the header: that is the body's
        ("    def f():\n    ", False),  # an editor that only repeats the indentation
        ("    g(\n    ", False),
        ("    g(\n        a,\n        ", True),
        ("if x:\n", False),
        ("x = ", False),
        ("    ", False),
        ("", False),
    ],
)
def test_an_indentation_that_may_well_be_meant_is_settled(prefix: str, is_settled: bool) -> None:
    assert SuffixFirst(TOKENIZER).encode(Excerpt(prefix, "\n"), ENOUGH).is_indent_settled is is_settled


# ------------------------------------------------------------- several holes


@given(between=st.lists(texts, max_size=3), widths=st.lists(st.integers(1, 5), min_size=4, max_size=4))
def test_holes_are_laid_out_with_the_text_between_them_pinned(between: list[str], widths: list[int]) -> None:
    excerpt, widths = Excerpt("a", "b", tuple(between)), widths[: len(between) + 1]
    layout = SuffixFirst(TOKENIZER).lay_out(excerpt, widths)
    assert len(layout.hole_slices) == excerpt.hole_count == len(between) + 1
    assert len(layout.pinned) == len(layout.ids)
    assert [hole.stop - hole.start for hole in layout.hole_slices] == widths
    assert layout.hole_slices[0].start == 0 and layout.hole_slices[-1].stop == len(layout.ids)
    for text, left, right in zip(between, layout.hole_slices[:-1], layout.hole_slices[1:], strict=True):
        assert TOKENIZER.decode(layout.ids[left.stop : right.start]) == text
        assert all(layout.pinned[left.stop : right.start])
    assert not any(layout.pinned[at] for hole in layout.hole_slices for at in range(hole.start, hole.stop))
