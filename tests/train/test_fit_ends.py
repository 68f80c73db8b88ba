"""The weights of the probe of ends: from true middles that are read as a fill would write them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from model_fixtures import tiny_checkpoint

from dgemma_model.checkpoint import load
from dgemma_model.decoding.end_probe import END_FIGURES, PlaceKind
from dgemma_model.evaluation.held_out import HeldOutHole
from dgemma_model.request import Excerpt
from dgemma_model.train.fit_ends import (
    EndCandidate,
    Middle,
    Reader,
    crossed,
    fitted,
    gather_held_out,
    kept,
    middle_of,
    right_ways,
    table,
)


def middles(count: int) -> list[Middle]:
    """Middles whose fourth figure says where they end."""
    rng = random.Random(0)
    found = []
    for number in range(count):
        kind: PlaceKind = "inside" if number % 2 else "line_end"
        candidates = []
        for is_end in (False, False, True):
            figures = (1.0, rng.gauss(0, 1), 0.0, rng.gauss(2.0 * is_end, 0.3), *(0.0,) * (END_FIGURES - 4))
            candidates.append(EndCandidate(kind, figures, is_end, ends=0.0))
        found.append(Middle("line", f"package{number % 6}", candidates, is_cut_early=False))
    return found


def test_the_figure_that_tells_is_found_and_tells_in_other_packages() -> None:
    some = middles(120)
    weights = fitted(some)["line_end"]
    assert weights[3] > 3 * weights[1].abs() and not weights[4:].any()
    assert sum(each.is_right(odds, 0.0) for each, odds in zip(some, crossed(some), strict=True)) > 110
    assert not some[0].is_right([-1.0, -1.0, -1.0], 0.0)
    assert not some[0].is_right([1.0, -1.0, 1.0], 0.0)


@pytest.mark.parametrize("middle", ["f(a)", "a, f(b)"])
def test_a_true_middle_is_read_up_to_its_end(middle: str) -> None:
    checkpoint = load.load(tiny_checkpoint(), torch.device("cpu"), torch.float32)
    reading = Reader(checkpoint).read("expression", "p", Excerpt("def add(xs):\n    print(", ")\n"), middle)
    assert reading is not None
    found = middle_of(reading, checkpoint.format.vocabulary)
    assert not found.is_cut_early
    *before, last = (each.is_end for each in found.candidates)
    assert last and not any(before)


def test_held_out_python_holes_are_read_once_and_told_of(tmp_path: Path) -> None:
    checkpoint = load.load(tiny_checkpoint(), torch.device("cpu"), torch.float32)
    origin = {"package": "p", "licence": "MIT", "path": "p.py", "sha256": ""}
    text = {"prefix": "def add(xs):\n    print(", "middle": "a, f(b)", "suffix": ")\n"}
    holes = [
        HeldOutHole(1, "expression", **origin, **text),
        HeldOutHole(2, "empty", **origin, **text | {"middle": ""}),
        HeldOutHole(3, "line", **origin, **text, language="go"),
        HeldOutHole(4, "block", **origin, **text | {"middle": "f(a)\nf(b)", "suffix": "\nreturn xs\n"}),
    ]
    gather_held_out(tmp_path / "read", holes, Reader(checkpoint))
    written = {place.name: place.stat().st_mtime_ns for place in (tmp_path / "read").iterdir()}
    assert set(written) == {"1.pt", "4.pt"}
    gather_held_out(tmp_path / "read", holes, Reader(checkpoint))
    assert {place.name: place.stat().st_mtime_ns for place in (tmp_path / "read").iterdir()} == written
    found = kept(tmp_path / "read", checkpoint.format.vocabulary)
    assert [(each.kind, each.package, sum(c.is_end for c in each.candidates)) for each in found] == [
        ("expression", "p", 1),
        ("block", "p", 1),
    ]
    odds = [[2.0 if place.is_end else -3.0 for place in each.places] for each in found]
    shown = table(found, right_ways(found, odds, served=None), "these")
    right = {column.header: list(column.cells)[-1] for column in shown.columns}
    assert right["expression (1)"].startswith("100.0") and right["block (1)"].startswith("100.0")
    assert right["line (0)"] == ""


PLACE = EndCandidate("line_end", (), is_end=False, ends=0.0)
END = EndCandidate("line_end", (), is_end=True, ends=0.0)


@pytest.mark.parametrize(
    ("odds", "ends_right", "found"),
    [
        ([-1.0, 2.0, 3.0, 4.0], None, True),
        ([2.0, 3.0, 0.0, 0.0], None, False),
        ([0.5, 0.9, 0.1, 0.1], None, True),
        ([0.5, 0.4, 0.3, 0.2], None, False),
        ([-1.0, 0.5, 0.4, 0.6], None, False),
        ([-1.0, 0.5, 0.4, 0.3], None, True),
        ([-1.0, -1.5, -1.5, -1.5], None, False),
        ([-3.0, -1.5, -1.6, -1.7], None, True),
        ([-3.0, -3.0, -3.0, -3.0], True, True),
        ([0.2, -3.0, -3.0, -3.0], True, False),
        ([-3.0, -3.0, -3.0, -3.0], False, False),
    ],
)
def test_an_end_is_found_as_a_fill_ends(odds: list[float], ends_right: bool | None, found: bool) -> None:
    """With a place before the true end, and two in what is written on after it."""
    middle = Middle("block", "p", [PLACE, END], False, [PLACE, PLACE], ends_right)
    assert middle.is_found(odds) is found


def test_what_the_writer_writes_on_is_kept(tmp_path: Path) -> None:
    checkpoint = load.load(tiny_checkpoint(), torch.device("cpu"), torch.float32)
    reading = Reader(checkpoint).read("line", "p", Excerpt("def add(xs):\n", "\nreturn xs\n"), "f(a)")
    assert reading is not None
    middle = middle_of(reading, checkpoint.format.vocabulary)
    assert len(middle.beyond) == len(reading.beyond) <= 2
    assert all(text.startswith("f(a)\n") and text.endswith("\n") for text, _, _ in reading.beyond)
    assert middle.ends_right is not None or len(reading.beyond) == 2 or not reading.beyond
