"""How many threads a pass takes, with a clock that says how long each way would take."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from dgemma_model.network.threads import FEW_ROWS, RETRY, RETRY_WORSE, ThreadChoice

MANY_ROWS = 8 * FEW_ROWS


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


class Machine:
    """Passes that take what they are told to, by whether they have one thread."""

    def __init__(self) -> None:
        self.seconds = {True: 1.0, False: 1.0}
        self._now = 0.0
        self.choice = ThreadChoice(lambda: self._now)

    def run(self, passes: int, rows: int = 8) -> list[bool]:
        """Which of so many passes had one thread."""
        alone = []
        for _ in range(passes):
            with self.choice.measured(rows):
                alone.append(torch.get_num_threads() == 1)
                assert torch.get_num_threads() in (1, 4)
                self._now += self.seconds[alone[-1]]
            assert torch.get_num_threads() == 4
        return alone


@pytest.mark.parametrize("is_better_alone", [True, False])
def test_the_faster_way_is_taken(is_better_alone: bool) -> None:
    machine = Machine()
    machine.seconds[not is_better_alone] = 1.2
    machine.run(10)
    assert machine.run(10 * RETRY).count(is_better_alone) >= 9 * RETRY
    with machine.choice.chosen(8):
        assert (torch.get_num_threads() == 1) == is_better_alone


def test_few_and_many_rows_are_told_apart() -> None:
    machine = Machine()
    machine.seconds = {True: 1.0, False: 2.0}
    machine.run(20)
    machine.seconds = {True: 2.0, False: 1.0}
    machine.run(20, MANY_ROWS)
    assert machine.run(RETRY - 1, MANY_ROWS).count(False) >= RETRY - 2
    with machine.choice.chosen(8):
        assert torch.get_num_threads() == 1


def test_what_is_much_slower_is_rarely_tried() -> None:
    machine = Machine()
    machine.seconds = {True: 1.0, False: 5.0}
    machine.run(10)
    assert machine.run(4 * RETRY_WORSE).count(False) <= 4


@pytest.mark.parametrize("was_better_alone", [True, False])
def test_when_the_machine_changes_so_does_the_choice(was_better_alone: bool) -> None:
    machine = Machine()
    machine.seconds[not was_better_alone] = 3.0
    machine.run(20)
    machine.seconds = {was_better_alone: 3.0, not was_better_alone: 1.0}
    machine.run(4 * RETRY_WORSE)
    assert machine.run(10).count(was_better_alone) <= 1


def test_a_pass_that_prepares_products_says_nothing() -> None:
    machine = Machine()
    machine.seconds = {True: 1.0, False: 1.5}
    machine.run(10)
    for rows in range(9, 30):  # each takes long once, whoever does it
        machine.seconds = {True: 90.0, False: 90.0}
        machine.run(1, rows)
        machine.seconds = {True: 1.0, False: 1.5}
    with machine.choice.chosen(8):
        assert torch.get_num_threads() == 1


def test_one_slow_pass_changes_nothing() -> None:
    machine = Machine()
    machine.seconds = {True: 1.0, False: 1.5}
    machine.run(10)
    machine.seconds[True] = 100.0
    machine.run(1)
    machine.seconds[True] = 1.0
    assert machine.run(5).count(True) >= 4


def test_where_there_is_one_thread_nothing_is_chosen() -> None:
    torch.set_num_threads(1)
    choice = ThreadChoice()
    for _ in range(20):
        with choice.measured(8):
            assert torch.get_num_threads() == 1
        with choice.chosen(8):
            assert torch.get_num_threads() == 1


def test_threads_are_put_back_after_an_error() -> None:
    choice = ThreadChoice()
    with pytest.raises(RuntimeError), choice.measured(8):
        raise RuntimeError
    assert torch.get_num_threads() == 4
