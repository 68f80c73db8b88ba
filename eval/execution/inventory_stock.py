"""Stock of a small warehouse."""

from dataclasses import dataclass, field


class OutOfStockError(Exception):
    """More was asked for than there is."""


@dataclass
class Shelf:
    """Numbers of pieces by article."""

    pieces: dict[str, int] = field(default_factory=dict)

    def receive(self, article: str, count: int) -> None:
        """Add pieces; a count below one is a mistake."""
        if count < 1:
            raise ValueError(f"cannot receive {count} pieces")  # hole
        self.pieces[article] = self.pieces.get(article, 0) + count  # hole

    def take(self, article: str, count: int) -> None:
        """Remove pieces, all or none; an article that has run out is forgotten."""
        there = self.pieces.get(article, 0)
        if there < count:  # hole: 2 lines
            raise OutOfStockError(f"{article}: {there} of {count}")
        if there == count:
            del self.pieces[article]
        else:
            self.pieces[article] = there - count

    def missing(self, order: dict[str, int]) -> dict[str, int]:
        """What an order needs beyond the stock."""
        gaps = {}
        for article, count in order.items():
            there = self.pieces.get(article, 0)
            if there < count:
                gaps[article] = count - there  # hole
        return gaps


# ---- tests
shelf = Shelf()
shelf.receive("bolt", 5)
shelf.receive("bolt", 2)
shelf.receive("nut", 1)
assert shelf.pieces == {"bolt": 7, "nut": 1}
assert shelf.missing({"bolt": 9, "nut": 1, "gear": 3}) == {"bolt": 2, "gear": 3}
shelf.take("nut", 1)
shelf.take("bolt", 3)
assert shelf.pieces == {"bolt": 4}
for wrong, kind in ((lambda: shelf.take("bolt", 5), OutOfStockError), (lambda: shelf.receive("nut", 0), ValueError)):
    try:
        wrong()
    except kind:
        pass
    else:
        raise AssertionError("no error")
assert shelf.pieces == {"bolt": 4}
