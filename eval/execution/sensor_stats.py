"""Running statistics of measurements, without keeping them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from math import sqrt


class RunningStats:
    """Count, mean and spread of all values so far (Welford's method)."""

    def __init__(self, values: Iterable[float] = ()) -> None:
        self.count = 0
        self.mean = 0.0
        self._squares = 0.0
        for value in values:
            self.add(value)  # hole

    def add(self, value: float) -> None:
        """Take one more value into account."""
        self.count += 1
        distance = value - self.mean  # hole: 3 lines
        self.mean += distance / self.count
        self._squares += distance * (value - self.mean)

    @property
    def deviation(self) -> float:
        """Standard deviation of the values (divided by their number); 0 for fewer than two."""
        if self.count < 2:
            return 0.0  # hole
        return sqrt(self._squares / self.count)


class MovingAverage:
    """Mean of the last `width` values."""

    def __init__(self, width: int) -> None:
        self._values: deque[float] = deque(maxlen=width)

    def update(self, value: float) -> float:
        """The mean after one more value."""
        self._values.append(value)
        return sum(self._values) / len(self._values)  # hole


def outliers(values: list[float], limit: float = 2.0) -> list[float]:
    """Values more than `limit` deviations away from the mean."""
    stats = RunningStats(values)
    return [value for value in values if abs(value - stats.mean) > limit * stats.deviation]  # hole


# ---- tests
stats = RunningStats([2, 4, 4, 4, 5, 5, 7, 9])
assert stats.count == 8 and abs(stats.mean - 5) < 1e-9 and abs(stats.deviation - 2) < 1e-9
assert RunningStats().deviation == 0.0 and RunningStats([3]).deviation == 0.0
average = MovingAverage(3)
assert [average.update(value) for value in (3, 5, 7, 9)] == [3, 4, 5, 7]
assert outliers([1, 1, 1, 1, 1, 1, 1, 1, 1, 20]) == [20]
assert outliers([1, 2, 3]) == []
