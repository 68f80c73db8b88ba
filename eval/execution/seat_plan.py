"""Seats of a small theatre, drawn as rows of ``.`` (free) and ``#`` (taken)."""

from collections.abc import Iterator


class SeatPlan:
    """Rows of seats; rows and seats count from 1."""

    def __init__(self, drawing: str) -> None:
        self._rows = [list(line.strip()) for line in drawing.strip().splitlines()]

    def free(self) -> Iterator[tuple[int, int]]:
        """Every free seat as row and number."""
        for row, seats in enumerate(self._rows, 1):  # hole: 4 lines
            for number, mark in enumerate(seats, 1):
                if mark == ".":
                    yield row, number

    def book(self, row: int, number: int) -> bool:
        """Take a seat, unless it is taken already."""
        if self._rows[row - 1][number - 1] == "#":  # hole: 4 lines
            return False
        self._rows[row - 1][number - 1] = "#"
        return True

    def find_group(self, size: int) -> tuple[int, int] | None:
        """The first seat of the first run of `size` free neighbours, or nothing."""
        for row, seats in enumerate(self._rows, 1):
            start = "".join(seats).find("." * size)
            if start >= 0:  # hole: 2 lines
                return row, start + 1
        return None

    def __str__(self) -> str:
        return "\n".join("".join(seats) for seats in self._rows)  # hole


# ---- tests
plan = SeatPlan("""
    ##.#
    #..#
    ....
""")
assert list(plan.free())[:3] == [(1, 3), (2, 2), (2, 3)]
assert plan.find_group(2) == (2, 2) and plan.find_group(4) == (3, 1) and plan.find_group(5) is None
assert plan.book(2, 3) is True and plan.book(2, 3) is False
assert str(plan) == "##.#\n#.##\n...."
