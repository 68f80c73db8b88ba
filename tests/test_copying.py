"""The memory of the prompt."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma_model.checkpoint import embedded_directory
from dgemma_model.copying import WEIGHT_BY_MATCH, PromptCopies, Suggestions, most_similar_line
from dgemma_model.elsewhere import Piece
from dgemma_model.tokenizer import Tokenizer

ids = st.lists(st.integers(0, 4), max_size=30)


def naive(tokens: list[int]) -> tuple[int, dict[int, float]]:
    for length in range(len(WEIGHT_BY_MATCH) - 1, 0, -1):
        if length >= len(tokens):
            continue
        tail = tokens[-length:]
        followers = Counter(tokens[end] for end in range(length, len(tokens)) if tokens[end - length : end] == tail)
        if followers:
            return length, {token: count / followers.total() for token, count in followers.items()}
    return 0, {}


def test_what_followed_the_longest_match_is_predicted() -> None:
    assert PromptCopies([1, 2, 3, 9, 2, 3, 7, 2, 3, 7, 1, 2, 3]).predict() == (3, {9: 1.0})
    assert PromptCopies([2, 3, 9, 2, 3, 7, 2, 3, 7, 5, 2, 3]).predict() == (2, {9: 1 / 3, 7: 2 / 3})
    assert PromptCopies([1, 2, 3]).predict() == (0, {})
    assert PromptCopies([]).predict() == (0, {})


@given(ids, ids)
def test_it_equals_a_search_of_the_whole_text(prompt: list[int], written: list[int]) -> None:
    copies = PromptCopies(prompt)
    for token in written:
        copies.append(token)
    assert copies.predict() == naive(prompt + written)


@pytest.mark.parametrize(
    ("marked", "line"),
    [
        ("open(a)\nread(a)\nclose(a)\nopen(a)\n▮\nclose(a)\n", "read(a)"),
        ("▮\nclose(a)\nopen(a)\nread(a)\nclose(a)\n", "read(a)"),
        ("x = 1\nlog(x)\ny = 2\nlo▮\n", "g(x)"),
        ("def f():\n    return 1\n\ndef g():\n    ▮\n", "return 1"),
        ("x = 1\nwhat▮\n", ""),
        ("▮", ""),
    ],
)
def test_the_most_similar_line_is_the_one_with_the_same_neighbours(marked: str, line: str) -> None:
    prefix, suffix = marked.split("▮")
    assert most_similar_line(prefix, suffix) == line


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([], (0, [])),
        ([1], (0, [])),
        ([1, 2, 3], (0, [])),
        ([1, 2, 1], (1, [2, 1])),
        ([1, 2, 9, 1, 3, 9, 1], (2, [3, 9, 1])),
        ([5, 1, 2, 9, 8, 7, 6, 4, 5, 1, 3, 5, 1, 2], (3, [9, 8, 7, 6, 4, 5])),
        ([1, 2, 3, 1, 4, 5, 1], (1, [4, 5])),
        ([*range(20), *range(9)], (8, [*range(9, 20), 0])),
    ],
)
def test_what_followed_the_longest_and_latest_match_is_copied(ids: list[int], expected: tuple[int, list[int]]) -> None:
    assert PromptCopies(ids).continuation() == expected


TOKENIZER = Tokenizer.read(embedded_directory() / "tokenizer.json")


@pytest.mark.parametrize(
    ("marked", "written", "elsewhere", "ends"),
    [
        ("x = load(▮)\n", "path", "y = load(path)\n", True),
        ("x = load(▮, mode)\n", "path", "y = load(path)\n", False),
        ("x = load(▮, mode)\n", "path", "y = load(path, mode)\n", True),
        ("x = load(▮)\n", "first(path", "y = load(first(path))\n", False),
        ("x = load▮\n", "(path)", "y = load(path)\n", True),
        ("x = (▮ + 1)\n", "rate", "y = (rate + 1)\n", True),
    ],
)
def test_a_copy_that_goes_on_as_the_text_behind_the_hole_ends_the_fill(
    marked: str, written: str, elsewhere: str, *, ends: bool
) -> None:
    before, after = marked.split("▮")
    piece = Piece(elsewhere, TOKENIZER.encode(elsewhere))
    prompt = TOKENIZER.encode(before)
    suggestions = Suggestions(TOKENIZER, prompt, [piece], weight=1.0, before=before, after=after, one_line=True)
    for token in TOKENIZER.encode(before + written)[len(prompt) :]:
        suggestions.append(token)
    share, suggested = suggestions.predict()
    assert share > 0
    assert (TOKENIZER.end_id in suggested) is ends


@pytest.mark.parametrize(("before", "closes"), [("    for item", False), ("    x = sum(y for item", True)])
def test_a_copied_bracket_closes_one_that_is_open(before: str, *, closes: bool) -> None:
    there = "    return sum(x for item)\n"
    piece = Piece(there, TOKENIZER.encode(there))
    suggestions = Suggestions(
        TOKENIZER, TOKENIZER.encode(before), [piece], weight=1.0, before=before, after="\n", one_line=True
    )
    _, suggested = suggestions.predict()
    assert any(TOKENIZER.decode([token]).startswith(")") for token in suggested) is closes
