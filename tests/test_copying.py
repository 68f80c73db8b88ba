"""The memory of the prompt."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from dgemma_model.copying import WEIGHT_BY_MATCH, PromptCopies

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
