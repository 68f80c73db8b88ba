"""Date arithmetic for a booking calendar."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta

ONE_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Stay:
    """From the day of arrival to the day of departure, which is not part of it."""

    arrival: date
    departure: date

    def __post_init__(self) -> None:
        if self.departure <= self.arrival:
            raise ValueError("departure must be after arrival")  # hole

    @property
    def nights(self) -> int:
        """How many nights the stay has."""
        return (self.departure - self.arrival).days  # hole

    def overlaps(self, other: Stay) -> bool:
        """Whether both need the room on the same night."""
        return self.arrival < other.departure and other.arrival < self.departure  # hole

    def days(self) -> Iterator[date]:
        """Every day that starts a night of the stay."""
        day = self.arrival  # hole: 4 lines
        while day < self.departure:
            yield day
            day += ONE_DAY


def next_weekday(day: date, weekday: int) -> date:
    """The first day after `day` that falls on `weekday` (Monday is 0)."""
    ahead = (weekday - day.weekday() - 1) % 7 + 1
    return day + timedelta(days=ahead)  # hole


def month_end(day: date) -> date:
    """The last day of the month of `day`."""
    start_of_next = (day.replace(day=28) + timedelta(days=4)).replace(day=1)
    return start_of_next - ONE_DAY


# ---- tests
first = Stay(date(2024, 2, 27), date(2024, 3, 1))
assert first.nights == 3
assert list(first.days()) == [date(2024, 2, 27), date(2024, 2, 28), date(2024, 2, 29)]
assert first.overlaps(Stay(date(2024, 2, 29), date(2024, 3, 5)))
assert not first.overlaps(Stay(date(2024, 3, 1), date(2024, 3, 5)))
assert not Stay(date(2024, 3, 1), date(2024, 3, 5)).overlaps(first)
assert next_weekday(date(2024, 1, 1), 0) == date(2024, 1, 8)
assert next_weekday(date(2024, 1, 1), 4) == date(2024, 1, 5)
assert month_end(date(2023, 2, 3)) == date(2023, 2, 28)
try:
    Stay(date(2024, 1, 2), date(2024, 1, 2))
except ValueError:
    pass
else:
    raise AssertionError("no error")
