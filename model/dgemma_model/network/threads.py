"""How many threads a pass takes: one, or all that torch has, whichever took less time lately.

Threads that work on one product wait for each other, many times in a pass. If they sleep while they wait, waking them
costs more than they save in all but the largest passes. If they spin and another process has one of their cores, all
wait for that core, and a pass takes many times as long (log/archive.md). So they spin briefly
(`dgemma_model.__init__`).
Whether several threads pay depends on the processor and on what else runs, so it is measured while fills run. The
number of threads changes the order of sums, and with it the last bits of a result.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

FEW_ROWS = 32
"""Passes of so many rows, at most, are compared with each other, and larger ones."""
ROWS_OVERHEAD = 24
"""The constant part of a pass's time, in rows."""
RECENT, ENOUGH = 5, 3
"""Latest passes whose median counts, and how many are wanted of either kind before they are compared."""
RETRY, RETRY_WORSE, WORSE = 16, 64, 1.5
"""After how many passes the slower way is tried again; and after how many where it takes so many times as long."""


class ThreadChoice:
    """Measures passes and chooses; for CPUs. The thread count that it finds is all there are, and is put back."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """`clock` tells seconds."""
        self._clock = clock
        self._recent = {(few, alone): deque[float](maxlen=RECENT) for few in (False, True) for alone in (False, True)}
        self._since_retry = {False: 0, True: 0}
        self._prepared = set[tuple[int, bool]]()

    @contextmanager
    def measured(self, rows: int) -> Iterator[None]:
        """Use around a pass over so many rows; its time counts for later choices. The first pass with the same rows and
        threads does not count, because products are prepared in it."""
        everyone, few = torch.get_num_threads(), rows <= FEW_ROWS
        if everyone == 1:
            yield
            return
        alone = self._next(few)
        torch.set_num_threads(1 if alone else everyone)
        try:
            started = self._clock()
            yield
            seconds = self._clock() - started
        finally:
            torch.set_num_threads(everyone)
        if (rows, alone) in self._prepared:
            if alone != self._is_better_alone(few):
                self._since_retry[few] = 0
            self._recent[few, alone].append(seconds / (ROWS_OVERHEAD + rows))
        self._prepared.add((rows, alone))

    @contextmanager
    def chosen(self, rows: int) -> Iterator[None]:
        """Around smaller work on so many rows, which is not measured."""
        everyone = torch.get_num_threads()
        torch.set_num_threads(1 if self._is_better_alone(rows <= FEW_ROWS) else everyone)
        try:
            yield
        finally:
            torch.set_num_threads(everyone)

    def _next(self, few: bool) -> bool:
        """Whether the next pass is to take one thread."""
        for alone in (True, False):
            if len(self._recent[few, alone]) < ENOUGH:
                return alone
        alone = self._is_better_alone(few)
        self._since_retry[few] += 1
        is_much_worse = self._time(few, not alone) > WORSE * self._time(few, alone)
        is_due = self._since_retry[few] >= (RETRY_WORSE if is_much_worse else RETRY)
        return alone != is_due

    def _is_better_alone(self, few: bool) -> bool:
        return self._time(few, True) <= self._time(few, False)

    def _time(self, few: bool, alone: bool) -> float:
        """Seconds a row, 0 where nothing is known yet."""
        recent = self._recent[few, alone]
        return statistics.median(recent) if recent else 0.0


THREADS = ThreadChoice()
"""The process' own: the machine is one."""
