"""Files in three languages with the same line that wants to be filled: what an item adds to a sum."""

from __future__ import annotations

from typing import NamedTuple


class Basket(NamedTuple):
    """The text around the cursor."""

    before: str
    after: str

    @property
    def place(self) -> tuple[int, int]:
        """Row and column of the cursor, from 0."""
        lines = self.before.split("\n")
        return len(lines) - 1, len(lines[-1])


BASKETS = {
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
