"""Files in four languages with the same line that wants to be filled: what an item adds to a sum."""

from __future__ import annotations

from typing import NamedTuple


class Basket(NamedTuple):
    """The text around the cursor, and how a comment begins."""

    before: str
    after: str
    comment: str = "//"

    @property
    def place(self) -> tuple[int, int]:
        """Row and column of the cursor, from 0."""
        lines = self.before.split("\n")
        return len(lines) - 1, len(lines[-1])

    @property
    def unfinished(self) -> str:
        """The same file with a comment in place of that line, which says what is to be written below it."""
        return self.before.removesuffix("sum += ") + f"{self.comment} TODO: add the price to the sum" + self.after


BASKETS = {
    "basket.py": Basket(
        "class Item:\n    def __init__(self, price, count):\n        self.price = price\n        self.count = count\n\n"
        "\ndef total(items):\n    sum = 0\n    for item in items:\n        sum += ",
        "\n    return sum\n",
        "#",
    ),
    "basket.ts": Basket(
        "interface Item {\n  price: number;\n  count: number;\n}\n\nexport function total(items: Item[]): number {\n"
        "  let sum = 0;\n  for (const item of items) {\n    sum += ",
        "\n  }\n  return sum;\n}\n",
    ),
    "basket.go": Basket(
        "package basket\n\ntype Item struct {\n\tPrice int\n\tCount int\n}\n\nfunc Total(items []Item) int {\n"
        "\tsum := 0\n\tfor _, item := range items {\n\t\tsum += ",
        "\n\t}\n\treturn sum\n}\n",
    ),
    "basket.rs": Basket(
        "pub struct Item {\n    price: u32,\n    count: u32,\n}\n\npub fn total(items: &[Item]) -> u32 {\n"
        "    let mut sum = 0;\n    for item in items {\n        sum += ",
        "\n    }\n    sum\n}\n",
    ),
}
