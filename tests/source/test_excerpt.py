"""Which part of a text the model sees."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from dgemma_model.request import Excerpt
from dgemma_model.source.excerpt import ExcerptBudget, cut

SMALL = ExcerptBudget(prefix_chars=40, suffix_chars=20)
LINE = "0123456\n"


def left_edge(text: str, cursor: int, budget: ExcerptBudget = SMALL, scopes: tuple[int, ...] = ()) -> int:
    return cursor - len(cut(text, [(cursor, cursor)], budget, scope_starts=scopes).prefix)


def test_a_short_text_is_seen_whole() -> None:
    assert cut("abcdef", [(3, 3)], SMALL) == Excerpt("abc", "def")


def test_what_is_in_a_hole_is_not_seen() -> None:
    assert cut("abcdef", [(1, 2), (4, 5)], SMALL, language="go") == Excerpt("a", "f", ("cd",), "go")


def test_a_prefix_begins_with_a_line() -> None:
    excerpt = cut(LINE * 10, [(80, 80)], SMALL)
    assert excerpt.prefix == LINE * 4


def test_a_suffix_ends_with_a_line() -> None:
    assert cut(LINE * 10, [(0, 0)], SMALL).suffix == LINE * 2


def test_a_prefix_of_just_the_budget_is_seen_whole() -> None:
    assert left_edge(LINE * 10, 40) == 0


def test_a_suffix_is_not_shortened_by_more_than_half() -> None:
    assert cut("ab\n" + "x" * 50, [(0, 0)], SMALL).suffix == "ab\n" + "x" * 17


def test_a_line_longer_than_the_budget_is_cut() -> None:
    excerpt = cut("x" * 200, [(100, 100)], SMALL)
    assert 20 <= len(excerpt.prefix) <= 40
    assert excerpt.suffix == "x" * 20


def test_a_scope_that_fits_is_kept_whole() -> None:
    text = LINE * 10
    assert left_edge(text, 80) == 48
    assert left_edge(text, 80, scopes=(0, 40)) == 40


def test_a_scope_that_does_not_fit_changes_nothing() -> None:
    assert left_edge(LINE * 10, 80, scopes=(0, 8)) == 48


def test_a_scope_that_is_near_changes_nothing() -> None:
    assert left_edge(LINE * 10, 80, scopes=(0, 72)) == 48


def test_the_outermost_scope_that_fits_is_taken() -> None:
    assert left_edge("0\n" * 50, 75, scopes=(0, 36, 38)) == 36


def test_a_suffix_of_whole_blocks_ends_where_the_outermost_text_follows() -> None:
    whole = ExcerptBudget(prefix_chars=40, suffix_chars=40, whole_blocks=True)
    text = "\n        first = 1\n    second\nthird = 33\n    fourth\n"
    assert cut(text, [(0, 0)], whole).suffix == "\n        first = 1\n    second\n"
    assert cut("one\n" * 20, [(0, 0)], whole).suffix == "one\n" * 6
    assert cut("short\n", [(0, 0)], whole).suffix == "short\n"


def test_a_checkpoint_that_reads_more_sees_more() -> None:
    assert ExcerptBudget.within(512) == ExcerptBudget()
    large = ExcerptBudget.within(4096)
    assert large.prefix_chars > 5000 and large.suffix_chars > 2500 and large.further_chars > 2500
    assert large.prefix_chars + large.suffix_chars + large.further_chars <= 3 * 4096


lines = st.text(alphabet="ab \n", max_size=300)
budgets = st.builds(ExcerptBudget, st.integers(8, 80), st.integers(4, 40), whole_blocks=st.booleans())


@st.composite
def cut_places(draw: st.DrawFn) -> tuple[str, int, ExcerptBudget, tuple[int, ...]]:
    """A text, a cursor, a budget, and line starts before the cursor."""
    text = draw(lines)
    cursor = draw(st.integers(0, len(text)))
    starts = [0] + [at + 1 for at, char in enumerate(text[:cursor]) if char == "\n"]
    scopes = draw(st.sets(st.sampled_from(starts), max_size=4))
    return text, cursor, draw(budgets), tuple(sorted(scopes))


@given(place=cut_places(), data=st.data())
def test_an_excerpt_is_one_piece_of_the_text(
    place: tuple[str, int, ExcerptBudget, tuple[int, ...]], data: st.DataObject
) -> None:
    text, cursor, budget, scopes = place
    end = data.draw(st.integers(cursor, len(text)))
    excerpt = cut(text, [(cursor, end)], budget, scope_starts=scopes)
    assert text[:cursor].endswith(excerpt.prefix)
    assert text[end:].startswith(excerpt.suffix)


@given(place=cut_places())
def test_an_excerpt_keeps_to_its_budget(place: tuple[str, int, ExcerptBudget, tuple[int, ...]]) -> None:
    text, cursor, budget, scopes = place
    excerpt = cut(text, [(cursor, cursor)], budget, scope_starts=scopes)
    assert len(excerpt.prefix) <= budget.prefix_chars
    assert len(excerpt.suffix) <= budget.suffix_chars


@given(place=cut_places())
def test_a_prefix_begins_with_a_line_unless_the_line_is_long(
    place: tuple[str, int, ExcerptBudget, tuple[int, ...]],
) -> None:
    text, cursor, budget, scopes = place
    left = left_edge(text, cursor, budget, scopes)
    quarter = budget.prefix_chars // 2 // 2
    assert left == 0 or text[left - 1] == "\n" or "\n" not in text[left : left + quarter]


def edges_while_typing(place: tuple[str, int, ExcerptBudget, tuple[int, ...]], typed: str) -> list[int]:
    """The left edge after each character."""
    text, cursor, budget, scopes = place
    before, after = text[:cursor], text[cursor:]
    return [
        left_edge(before + typed[:count] + after, cursor + count, budget, scopes) for count in range(len(typed) + 1)
    ]


@given(place=cut_places(), typed=st.text(alphabet="ab\n", min_size=1, max_size=200))
def test_typing_moves_the_left_edge_far_or_not_at_all(
    place: tuple[str, int, ExcerptBudget, tuple[int, ...]], typed: str
) -> None:
    text, cursor, budget, _ = place
    edges = edges_while_typing((text, cursor, budget, ()), typed)
    assert all(old == new or new - old >= budget.prefix_chars // 4 for old, new in pairwise(edges))


@given(place=cut_places(), typed=st.text(alphabet="ab\n", min_size=1, max_size=200))
def test_scopes_cost_one_more_move_each(place: tuple[str, int, ExcerptBudget, tuple[int, ...]], typed: str) -> None:
    _, _, budget, scopes = place
    edges = edges_while_typing(place, typed)
    assert edges == sorted(edges)
    moves = sum(old != new for old, new in pairwise(edges))
    assert moves <= len(scopes) + 1 + (edges[-1] - edges[0]) // (budget.prefix_chars // 4)


def test_a_line_break_after_a_long_line_leaves_the_prefix_as_it_was() -> None:
    text = "x" * 35
    assert left_edge(text + "yyyyyyy", 42) == left_edge(text + "yyyyyy\n", 42) == 20


@given(place=cut_places(), typed=st.text(alphabet="ab\n", max_size=50))
def test_typing_leaves_the_suffix_as_it_was(place: tuple[str, int, ExcerptBudget, tuple[int, ...]], typed: str) -> None:
    text, cursor, budget, _ = place
    before = cut(text, [(cursor, cursor)], budget).suffix
    after = cut(text[:cursor] + typed + text[cursor:], [(cursor + len(typed), cursor + len(typed))], budget)
    assert after.suffix == before
