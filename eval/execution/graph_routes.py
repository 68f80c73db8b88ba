"""Routes in a network of stations."""

from collections import deque
from itertools import pairwise

Network = dict[str, dict[str, int]]


def connect(network: Network, one: str, other: str, minutes: int) -> None:
    """Add a line that runs both ways."""
    network.setdefault(one, {})[other] = minutes
    network.setdefault(other, {})[one] = minutes  # hole


def fewest_stops(network: Network, start: str, goal: str) -> list[str] | None:
    """The stations of a route with as few stops as possible, found breadth first."""
    came_from: dict[str, str | None] = {start: None}
    queue = deque([start])
    while queue:
        station = queue.popleft()  # hole
        if station == goal:
            return _trace(came_from, goal)
        for neighbour in network.get(station, {}):
            if neighbour not in came_from:  # hole: 3 lines
                came_from[neighbour] = station
                queue.append(neighbour)
    return None


def _trace(came_from: dict[str, str | None], goal: str) -> list[str]:
    route = []
    station: str | None = goal
    while station is not None:
        route.append(station)
        station = came_from[station]  # hole
    return route[::-1]


def travel_time(network: Network, route: list[str]) -> int:
    """Minutes along a route."""
    return sum(network[here][there] for here, there in pairwise(route))


def reachable(network: Network, start: str) -> set[str]:
    """Every station that a traveller can get to, the start included."""
    seen = {start}
    waiting = [start]
    while waiting:
        for neighbour in network.get(waiting.pop(), {}):
            if neighbour not in seen:
                seen.add(neighbour)  # hole: 2 lines
                waiting.append(neighbour)
    return seen


# ---- tests
lines: Network = {}
for one, other, minutes in (("A", "B", 3), ("B", "C", 4), ("C", "D", 5), ("A", "E", 9), ("E", "D", 1), ("X", "Y", 2)):
    connect(lines, one, other, minutes)
assert lines["B"] == {"A": 3, "C": 4}
assert fewest_stops(lines, "A", "D") == ["A", "E", "D"]
assert fewest_stops(lines, "A", "A") == ["A"]
assert fewest_stops(lines, "A", "X") is None
assert travel_time(lines, ["A", "B", "C"]) == 7
assert reachable(lines, "B") == set("ABCDE") and reachable(lines, "Z") == {"Z"}
