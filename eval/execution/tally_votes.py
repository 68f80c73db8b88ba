"""Counting ballots of a club election."""

from collections import Counter
from collections.abc import Iterable


def first_choices(ballots: Iterable[list[str]]) -> Counter[str]:
    """How often each candidate stands first; empty ballots do not count."""
    counts: Counter[str] = Counter()
    for ballot in ballots:
        if ballot:
            counts[ballot[0]] += 1  # hole
    return counts


def leaders(counts: Counter[str]) -> list[str]:
    """The candidates with the most votes, in alphabetical order; several if they are level."""
    if not counts:
        return []
    most = max(counts.values())  # hole
    return sorted(name for name, votes in counts.items() if votes == most)


def runoff(ballots: list[list[str]]) -> str:
    """Drop the weakest candidate (of equals, the last in the alphabet) until somebody has more than half."""
    ballots = [list(ballot) for ballot in ballots]
    while True:
        counts = first_choices(ballots)
        winner = leaders(counts)[0]
        if 2 * counts[winner] > sum(counts.values()) or len(counts) == 1:
            return winner
        fewest = min(counts.values())  # hole: 3 lines
        weakest = max(name for name, votes in counts.items() if votes == fewest)
        ballots = [[name for name in ballot if name != weakest] for ballot in ballots]


# ---- tests
assert first_choices([["ann", "bob"], [], ["bob"], ["ann"]]) == {"ann": 2, "bob": 1}
assert leaders(Counter(cy=2, al=2, bo=1)) == ["al", "cy"]
assert leaders(Counter()) == []
assert runoff([["a", "c"], ["a"], ["b", "c"], ["c", "b"], ["c"], ["b", "a"], ["b"]]) == "b"
assert runoff([["x", "y"], ["y", "x"], ["y"]]) == "y"
assert runoff([["a"], ["a"], ["a"], ["b"], ["b"], ["c", "b"], ["c", "b"]]) == "b"
