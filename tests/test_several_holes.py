"""Held-out cases with several holes."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import pytest
from model_fixtures import SOURCE, tiny_checkpoint

from dgemma_model.train import several_holes
from dgemma_model.train.corpus import HELD_OUT
from dgemma_model.train.several_holes import CASES_FILE, COUNTS, Result, SeveralHoles, cut_cases, excerpt_of, read_cases


def case(*parts: str) -> SeveralHoles:
    """Text, hole, text, hole, ..., text."""
    return SeveralHoles(0, "p", "MIT", "p.py", "0" * 64, parts[0], [*parts[1:-1:2]], [*parts[2:-1:2]], parts[-1])


def test_the_excerpt_is_what_stands_around_the_holes() -> None:
    excerpt = excerpt_of(case("def f(a):\n    x = ", "a", "\n    return ", "x", "\n\nz = 1\n"))
    assert (excerpt.prefix, excerpt.between, excerpt.suffix) == (
        "def f(a):\n    x = ",
        ("\n    return ",),
        "\n\nz = 1\n",
    )


def test_a_hole_is_exact_but_for_blanks_at_its_end() -> None:
    result = Result(case("", "a", " ", "b", ""), ("a  ", "c"), 1.0, 1)
    assert result.exact == [True, False]


def test_cases_are_cut_and_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(several_holes, "COUNTS", {2: 3, 3: 2})
    (tmp_path / "manifest.json").write_text(json.dumps({"one": {"licence": "MIT"}}))
    (tmp_path / "corpus.jsonl").write_text("")
    (tmp_path / "held_out.jsonl").write_text(json.dumps({"package": "one", "path": "a.py", "text": SOURCE}) + "\n")
    cases = cut_cases(tmp_path, seed=1)
    assert [len(c.middles) for c in cases] == [2, 2, 2, 3, 3]
    for c in cases:
        parts = [c.prefix]
        for middle, behind in zip(c.middles, [*c.between, c.suffix], strict=True):
            parts += [middle, behind]
        assert "".join(parts) in SOURCE
    assert cases == cut_cases(tmp_path, seed=1) != cut_cases(tmp_path, seed=2)
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps(asdict(c)) + "\n" for c in cases[2:4]))
    several_holes.score(
        argparse.Namespace(cases=tmp_path / "cases.jsonl", checkpoint=str(tiny_checkpoint()), device="cpu", first=None)
    )
    printed = capsys.readouterr().out
    assert "| together |" in printed and "| one by one, verified |" in printed and "(n = 2)" in printed


def test_the_committed_cases_are_as_described() -> None:
    cases = read_cases(CASES_FILE)
    assert [c.id for c in cases] == list(range(len(cases)))
    for count, cases_of_it in COUNTS.items():
        assert sum(len(c.middles) == count == len(c.between) + 1 for c in cases) == cases_of_it
    assert {c.package for c in cases} == HELD_OUT
    assert all(c.licence and len(c.sha256) == 64 for c in cases)
    assert all(middle and "\n" not in middle for c in cases for middle in c.middles)
    assert all(between for c in cases for between in c.between)
