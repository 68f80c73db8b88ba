"""A cart with discounts; prices are whole cents."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Line:
    """An article of the cart."""

    article: str
    price: int
    count: int = 1

    @property
    def total(self) -> int:
        """Price of all pieces."""
        return self.price * self.count  # hole


class Discount(Protocol):
    """Something that makes a cart cheaper."""

    def cents_off(self, lines: list[Line]) -> int:
        """How much to subtract."""


@dataclass(frozen=True)
class Percent:
    """A share of everything, rounded down."""

    percent: int

    def cents_off(self, lines: list[Line]) -> int:
        """The share of the sum of the lines."""
        return sum(line.total for line in lines) * self.percent // 100  # hole


@dataclass(frozen=True)
class EveryThirdFree:
    """Of each three pieces of an article one costs nothing."""

    article: str

    def cents_off(self, lines: list[Line]) -> int:
        """The price of the free pieces."""
        return sum(line.count // 3 * line.price for line in lines if line.article == self.article)


@dataclass
class Cart:
    """Lines and the discounts that apply to them."""

    lines: list[Line] = field(default_factory=list)
    discounts: list[Discount] = field(default_factory=list)

    def add(self, article: str, price: int, count: int = 1) -> None:
        """Put pieces into the cart; the same article at the same price shares a line."""
        for place, line in enumerate(self.lines):
            if (line.article, line.price) == (article, price):  # hole: 3 lines
                self.lines[place] = Line(article, price, line.count + count)
                return
        self.lines.append(Line(article, price, count))  # hole

    def total(self) -> int:
        """What is to be paid, never less than nothing."""
        full = sum(line.total for line in self.lines)
        off = sum(discount.cents_off(self.lines) for discount in self.discounts)
        return max(0, full - off)  # hole


# ---- tests
cart = Cart()
assert cart.total() == 0
cart.add("pen", 120, 2)
cart.add("ink", 999)
cart.add("pen", 120, 2)
assert cart.lines == [Line("pen", 120, 4), Line("ink", 999)]
assert cart.total() == 1479
cart.discounts.append(EveryThirdFree("pen"))
assert cart.total() == 1359
cart.discounts.append(Percent(10))
assert cart.total() == 1359 - 147
cart.discounts.append(Percent(100))
assert cart.total() == 0
