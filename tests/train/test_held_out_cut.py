"""Held-out holes are cut, and the losses on them measured."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from model_fixtures import SOURCE, tiny_checkpoint

from dgemma_model.evaluation.held_out import HeldOutHole
from dgemma_model.train import cut_held_out, losses
from dgemma_model.train.holes import HoleCutter


def test_losses_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = SOURCE.index("self.balance += amount")
    middle = "self.balance += amount"
    hole = HeldOutHole(0, "line", "p", "MIT", "a.py", "", SOURCE[:at], middle, SOURCE[at + len(middle) :])
    (tmp_path / "holes.jsonl").write_text(json.dumps(asdict(hole)) + "\n")
    losses.print_losses(argparse.Namespace(holes=tmp_path / "holes.jsonl", sample=5, checkpoint=str(tiny_checkpoint())))
    printed = capsys.readouterr().out
    assert re.fullmatch(r"Nats per token: causal [0-9.]+; denoising, t = 0.5 [0-9.]+; .* t = 1.0 [0-9.]+.\n", printed)


OTHER = SOURCE.replace("self", "it").replace("account", "purse")


def held_out(tmp_path: Path) -> None:
    """A corpus that has seen one of two held-out files."""
    manifest = {name: {"licence": "MIT"} for name in ("one", "two")}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"package": "x", "path": "x.py", "text": SOURCE}) + "\n")
    files = [("one", "seen.py", SOURCE), ("two", "new.py", OTHER)]
    (tmp_path / "held_out.jsonl").write_text(
        "".join(json.dumps({"package": p, "path": f, "text": t}) + "\n" for p, f, t in files)
    )


def test_held_out_holes_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cut_held_out, "COUNTS", {"line": 5, "empty": 2, "block": 3})
    held_out(tmp_path)
    holes = cut_held_out.cut_holes(tmp_path, seed=3)
    assert [h.kind for h in holes] == ["line"] * 5 + ["empty"] * 2 + ["block"] * 3
    assert {h.path for h in holes} == {"new.py"}  # training has seen the other
    assert [h.id for h in holes] == list(range(10))
    for h in holes:
        assert h.sha256 == hashlib.sha256(OTHER.encode()).hexdigest()
        assert h.prefix + h.middle + h.suffix in OTHER
    assert holes == cut_held_out.cut_holes(tmp_path, seed=3) != cut_held_out.cut_holes(tmp_path, seed=4)


def test_holes_are_added_behind_those_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held_out(tmp_path)
    cut_held_out.write_holes(tmp_path / "holes.jsonl", cut_held_out.cut_holes(tmp_path, seed=3, counts={"line": 3}))
    before = (tmp_path / "holes.jsonl").read_text()
    options = ["add", "--kind", "expression", "--count", "4", "--seed", "1"]
    monkeypatch.setattr("sys.argv", ["x", *options, "--data", str(tmp_path), "--out", str(tmp_path / "holes.jsonl")])
    cut_held_out.main()
    assert (tmp_path / "holes.jsonl").read_text().startswith(before)
    holes = cut_held_out.read_holes(tmp_path / "holes.jsonl")
    assert [(h.id, h.kind) for h in holes[3:]] == [(number, "expression") for number in range(3, 7)]


def test_no_hole_is_cut_twice_and_large_packages_may_weigh_more() -> None:
    files = {name: [(f"{name}.py", HoleCutter(text, code_lines=True))] for name, text in (("a", SOURCE), ("b", OTHER))}
    licences = dict.fromkeys(files, "MIT")
    holes = cut_held_out.cut_from(files, licences, 0, {"line": 20}, weights={"a": 9.0, "b": 1.0})
    assert len({(h.path, h.prefix, h.middle) for h in holes}) == len(holes) == 20
    assert sum(h.package == "a" for h in holes) > 12


def test_a_text_that_is_twice_in_a_file_is_no_hole() -> None:
    apart = "#" * (cut_held_out.PREFIX_CHARS + cut_held_out.SUFFIX_CHARS)
    text = f"{apart}\nx = 1\n{apart}\nx = 1\n{apart}"
    at = text.index("x = 1")
    assert not cut_held_out.is_found_once(text, at, at + 5)
    assert cut_held_out.is_found_once(text + "!", text.rindex("x = 1"), len(text))
