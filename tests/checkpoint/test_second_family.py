"""A second family of checkpoints comes in at the contracts, and nothing else knows of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import second_family
import torch
from wire import Wire, inline

from dgemma_model.checkpoint import families, load
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.infill import Infiller
from dgemma_model.request import Excerpt, FillRequest

URI = "file:///space/repeats.py"
TEXT = "total = alpha\nother = beta\ntotal = "


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    second_family.write_checkpoint(tmp_path)
    return tmp_path


def test_it_fills_through_the_face(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(families.FAMILIES, "repeater", second_family.Repeaters())
    infiller = Infiller.load(str(directory), "cpu")
    for knobs in ({}, {"copy_weight": 1.0}, {"drafting": "none"}):
        *_, draft = infiller.fill(FillRequest(Excerpt(TEXT, "\n"), one_line=True, **knobs))  # type: ignore[arg-type]
        assert (draft.text, draft.complete) == ("alpha", True), knobs
    assert infiller.score(Excerpt(TEXT, "\n"), ["alpha"]) > infiller.score(Excerpt(TEXT, "\n"), ["beta"])


def test_it_fills_through_a_server(directory: Path) -> None:
    with Wire(sys.executable, "-P", second_family.__file__, str(directory)) as wire:
        wire.initialize()
        wire.wait_until_loaded()
        wire.open(URI, TEXT + "\n")
        first, *_ = wire.request("textDocument/inlineCompletion", inline(URI, 2, 8, kind=1))
        assert first["insertText"] == "alpha"


def test_an_unknown_family_is_told_which_ones_run_here(directory: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'repeater' model; these families run here: .*'diffusion_gemma'"):
        load.load(directory, torch.device("cpu"), torch.float32)
    (directory / "config.json").write_text(json.dumps({"model_type": ["x"]}))
    with pytest.raises(CheckpointError, match="run here"):
        load.load(directory, torch.device("cpu"), torch.float32)
