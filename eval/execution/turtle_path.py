"""A turtle that walks on a grid by commands."""

from __future__ import annotations

from dataclasses import dataclass

STEPS = {"N": (0, 1), "E": (1, 0), "S": (0, -1), "W": (-1, 0)}
CLOCKWISE = "NESW"


@dataclass
class Turtle:
    """Where the turtle is, where it looks, and where it has been."""

    x: int = 0
    y: int = 0
    heading: str = "N"

    def __post_init__(self) -> None:
        self.trail = [(self.x, self.y)]

    def turn(self, quarters: int) -> None:
        """Turn right by so many quarters; negative ones turn left."""
        place = CLOCKWISE.index(self.heading)
        self.heading = CLOCKWISE[(place + quarters) % 4]  # hole

    def forward(self, steps: int) -> None:
        """Walk, and leave a trail."""
        dx, dy = STEPS[self.heading]
        for _ in range(steps):
            self.x += dx  # hole: 3 lines
            self.y += dy
            self.trail.append((self.x, self.y))

    def run(self, program: str) -> Turtle:
        """Commands such as ``F3 R F2 L``; raises `ValueError` for an unknown one."""
        for command in program.split():
            action, amount = command[0], int(command[1:] or 1)
            if action == "F":  # hole: 6 lines
                self.forward(amount)
            elif action in "RL":
                self.turn(amount if action == "R" else -amount)
            else:
                raise ValueError(f"unknown command {command!r}")
        return self

    @property
    def distance(self) -> int:
        """City-block distance from the start of the trail."""
        start_x, start_y = self.trail[0]
        return abs(self.x - start_x) + abs(self.y - start_y)  # hole


# ---- tests
turtle = Turtle().run("F2 R F3 R2 F1 L")
assert (turtle.x, turtle.y, turtle.heading) == (2, 2, "S")
assert turtle.distance == 4
assert turtle.trail == [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (3, 2), (2, 2)]
turtle.turn(-3)
assert turtle.heading == "W"
assert Turtle(5, 5).run("F R F").distance == 2
try:
    Turtle().run("F1 X2")
except ValueError:
    pass
else:
    raise AssertionError("no error")
