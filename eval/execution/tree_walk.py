"""A tree of named nodes, such as a table of contents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Node:
    """A node with its children in order."""

    name: str
    children: list[Node] = field(default_factory=list)

    def add(self, name: str) -> Node:
        """Append a new child and return it."""
        child = Node(name)
        self.children.append(child)  # hole
        return child

    def walk(self) -> Iterator[Node]:
        """This node, then everything below it, depth first."""
        yield self
        for child in self.children:
            yield from child.walk()  # hole

    def depth(self) -> int:
        """Number of levels; a leaf has one."""
        return 1 + max((child.depth() for child in self.children), default=0)  # hole

    def path_to(self, name: str) -> list[str] | None:
        """Names from this node down to `name`, or nothing where there is no such node."""
        if self.name == name:
            return [name]
        for child in self.children:  # hole: 4 lines
            path = child.path_to(name)
            if path is not None:
                return [self.name, *path]
        return None

    def outline(self, level: int = 0) -> list[str]:
        """One indented line for each node."""
        lines = ["  " * level + self.name]
        for child in self.children:
            lines += child.outline(level + 1)
        return lines


# ---- tests
root = Node("book")
one = root.add("one")
root.add("two")
one.add("intro").add("note")
assert [node.name for node in root.walk()] == ["book", "one", "intro", "note", "two"]
assert root.depth() == 4 and Node("x").depth() == 1
assert root.path_to("note") == ["book", "one", "intro", "note"]
assert root.path_to("two") == ["book", "two"]
assert root.path_to("index") is None
assert root.outline()[:3] == ["book", "  one", "    intro"]
