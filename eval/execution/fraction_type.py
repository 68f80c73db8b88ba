"""Exact fractions."""

from __future__ import annotations

from math import gcd


class Ratio:
    """A fraction in lowest terms with a positive denominator."""

    __slots__ = ("bottom", "top")

    def __init__(self, top: int, bottom: int = 1) -> None:
        if bottom == 0:
            raise ZeroDivisionError("a ratio needs a denominator")  # hole
        if bottom < 0:
            top, bottom = -top, -bottom  # hole
        common = gcd(top, bottom)
        self.top = top // common  # hole: 2 lines
        self.bottom = bottom // common

    def __repr__(self) -> str:
        return f"Ratio({self.top}, {self.bottom})"

    def __str__(self) -> str:
        return str(self.top) if self.bottom == 1 else f"{self.top}/{self.bottom}"

    def __add__(self, other: Ratio) -> Ratio:
        return Ratio(self.top * other.bottom + other.top * self.bottom, self.bottom * other.bottom)

    def __sub__(self, other: Ratio) -> Ratio:
        return self + Ratio(-other.top, other.bottom)  # hole

    def __mul__(self, other: Ratio) -> Ratio:
        return Ratio(self.top * other.top, self.bottom * other.bottom)  # hole

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ratio):
            return NotImplemented
        return (self.top, self.bottom) == (other.top, other.bottom)  # hole

    def __hash__(self) -> int:
        return hash((self.top, self.bottom))

    def __lt__(self, other: Ratio) -> bool:
        return self.top * other.bottom < other.top * self.bottom


# ---- tests
assert str(Ratio(6, -4)) == "-3/2" and repr(Ratio(10, 5)) == "Ratio(2, 1)" and str(Ratio(10, 5)) == "2"
assert Ratio(1, 2) + Ratio(1, 3) == Ratio(5, 6)
assert Ratio(1, 2) - Ratio(1, 3) == Ratio(1, 6)
assert Ratio(2, 3) * Ratio(3, 4) == Ratio(1, 2)
assert Ratio(1, 3) < Ratio(1, 2) and not Ratio(1, 2) < Ratio(2, 4)
assert (Ratio(1, 2) == 0.5) is False and len({Ratio(1, 2), Ratio(2, 4)}) == 1
try:
    Ratio(1, 0)
except ZeroDivisionError:
    pass
else:
    raise AssertionError("no error")
