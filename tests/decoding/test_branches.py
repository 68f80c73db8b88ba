"""Which tokens of several proposals a pass checks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from dgemma_model.decoding.drafting import Branch, TextSoFar, worth_checking
from dgemma_model.network.contract import Proposal
from dgemma_model.request import DraftedBy, DraftToken


class Ready:
    """A drafter whose proposal is ready."""

    name: DraftedBy = "copies"

    def __init__(
        self,
        ids: Sequence[int],
        probabilities: Sequence[float],
        others: Sequence[Sequence[tuple[int, float]]] = (),
    ) -> None:
        self._proposal = Proposal(ids, probabilities, others)

    def proposal(self) -> Proposal:
        return self._proposal

    def draft_anew(self, text: TextSoFar) -> Iterator[tuple[DraftToken, ...]]:
        return iter(())

    def checked(self, written: int, agreed: int | None) -> None:
        pass


def checked(*ready: Ready, token_cost: float, others: int = 0) -> list[Branch]:
    return worth_checking(ready, list, token_cost, others)[0]


@pytest.mark.parametrize(
    ("likely", "count"),
    [([], 0), ([0.01] * 7, 1), ([1.0] * 7, 7), ([0.9, 0.9, 0.01, 0.9], 2), ([0.2, 0.9, 0.9], 3), ([0.3, 0.3, 0.9], 1)],
)
def test_a_pass_checks_what_is_worth_its_cost(likely: list[float], count: int) -> None:
    ready = Ready(range(len(likely)), likely)
    assert checked(ready, token_cost=0.13) == [Branch([*range(count)], ready)] * (count > 0)
    everything = [Branch([*range(len(likely))], ready)] * (count > 0)
    assert checked(ready, token_cost=0.0) == everything  # where all passes cost the same


def test_the_rate_is_of_tokens_by_cost() -> None:
    ready = Ready([4, 5], [1.0, 0.5])
    assert worth_checking([ready], list, 0.1, 0)[1] == pytest.approx(2.5 / 1.1)
    assert worth_checking([ready], list, 0.1, 3)[1] == pytest.approx(2.5 / 1.4)
    assert worth_checking([], list, 0.1, 0) == ([], 1.0)


@pytest.mark.parametrize(
    ("ids", "probability", "token_cost", "read"),
    [
        ([], 0.9, 0.06, [[7, 8, 1, 2]]),
        ([6, 8, 9], 0.6, 0.06, [[7, 8, 1, 2], [6, 8]]),  # the likeliest first, and less of the other one
        ([6, 8, 9], 0.6, 0.2, [[7, 8]]),
        ([6], 0.95, 0.0, [[6], [7, 8, 1, 2, 3]]),
        ([6, 8, 9], 0.95, 0.06, [[6, 8, 9]]),  # hardly anything is left for the other one
        ([7], 0.9, 0.06, [[7, 8, 1, 2]]),  # the shorter one is a part of the longer one
        ([7, 8, 9], 0.5, 0.04, [[7, 8, 1, 2], [7, 8, 9]]),  # they part at the third token
    ],
)
def test_several_proposals_are_branches_of_one_tree(
    ids: list[int], probability: float, token_cost: float, read: list[list[int]]
) -> None:
    ready, other = Ready(ids, [probability] * len(ids)), Ready([7, 8, 1, 2, 3], [0.6] * 5)
    found = checked(other, ready, token_cost=token_cost)
    assert [branch.ids for branch in found] == read
    assert all((branch.drafter is ready) == (branch.ids in (ids, [6, 8])) for branch in found)


def test_other_tokens_of_a_place_are_branches_too() -> None:
    ready = Ready([7, 8, 9], [0.5, 0.9, 0.9], [[(5, 0.3), (4, 0.01)], [], [(3, 0.2)]])
    assert [branch.ids for branch in checked(ready, token_cost=0.015)] == [[7, 8, 9], [7, 8, 3], [5]]
    assert [branch.ids for branch in checked(ready, token_cost=0.13)] == [[7, 8, 9]]


def test_what_two_drafters_agree_on_is_as_probable_as_the_surer_one_says() -> None:
    unsure = Ready([7, 8, 1, 2], [0.6] * 4)
    alone = worth_checking([unsure], list, 0.06, 0)[1]
    assert alone < worth_checking([unsure, Ready([7], [0.9])], list, 0.06, 0)[1]
    assert worth_checking([unsure, Ready([7], [0.3])], list, 0.06, 0)[1] == alone
