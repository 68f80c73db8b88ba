"""Held-out cases with several holes are cut."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from model_fixtures import SOURCE

from dgemma_model.evaluation.held_out import case_of_several
from dgemma_model.train import several_holes
from dgemma_model.train.several_holes import cut_cases


def test_cases_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(several_holes, "COUNTS", {2: 3, 3: 2})
    (tmp_path / "manifest.json").write_text(json.dumps({"one": {"licence": "MIT"}}))
    (tmp_path / "corpus.jsonl").write_text("")
    (tmp_path / "held_out.jsonl").write_text(json.dumps({"package": "one", "path": "a.py", "text": SOURCE}) + "\n")
    cases = cut_cases(tmp_path, seed=1)
    assert [len(c.middles) for c in cases] == [2, 2, 2, 3, 3]
    assert all(case_of_several(c).filled(c.middles) in SOURCE for c in cases)
    assert cases == cut_cases(tmp_path, seed=1) != cut_cases(tmp_path, seed=2)
