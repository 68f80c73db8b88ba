"""Run-length coding of strings and of sets of line numbers."""

from collections.abc import Iterable
from itertools import groupby


def encode(text: str) -> str:
    """Every run of a letter as its length and the letter; a run of one is the letter alone."""
    pieces = []
    for letter, run in groupby(text):
        length = len(list(run))  # hole
        pieces.append(letter if length == 1 else f"{length}{letter}")
    return "".join(pieces)


def decode(code: str) -> str:
    """What `encode` was given; the text itself must hold no digits."""
    text = ""
    count = ""
    for letter in code:
        if letter.isdigit():  # hole: 5 lines
            count += letter
        else:
            text += letter * int(count or 1)
            count = ""
    return text


def ranges(numbers: Iterable[int]) -> str:
    """Line numbers in short form: ``1-3,7,9-10``."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number  # hole
        else:
            runs.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def expand(short: str) -> list[int]:
    """The inverse of `ranges`."""
    numbers: list[int] = []
    for part in short.split(","):
        low, _, high = part.partition("-")
        numbers.extend(range(int(low), int(high or low) + 1))  # hole
    return numbers


# ---- tests
assert encode("aaabccd") == "3ab2cd"
assert encode("") == ""
assert decode("3ab12cd") == "aaab" + "c" * 12 + "d"
assert decode(encode("xxyyyyz")) == "xxyyyyz"
assert ranges([3, 1, 2, 7, 10, 9]) == "1-3,7,9-10"
assert ranges([]) == ""
assert expand("1-3,7,9-10") == [1, 2, 3, 7, 9, 10]
