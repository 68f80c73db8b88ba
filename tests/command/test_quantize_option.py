"""`--quantize` and the setting `quantize`: everything that loads a checkpoint loads it in these bits."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from gemma_fixtures import write_gemma
from qwen2_fixtures import write_gguf
from typer.testing import CliRunner
from wire import Wire

from dgemma_lsp import settings
from dgemma_lsp.command import bench
from dgemma_lsp.command.cli import app
from dgemma_model.bench import published_shape
from dgemma_model.checkpoint.config import QUANTIZE

SERVER = (sys.executable, "-P", "-m", "dgemma_lsp")


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DGEMMA_CHECKPOINTS", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_gemma(tmp_path / "gemma")


def test_the_setting_has_the_values_of_the_option() -> None:
    accepted = settings.OPTIONS["quantize"].schema["enum"]
    assert isinstance(accepted, list) and set(accepted) == {*QUANTIZE, None}


@pytest.mark.parametrize(
    ("arguments", "options", "bits"),
    [
        ([], {"quantize": "4bit"}, "4bit"),
        (["--quantize", "8bit"], {"quantize": "4bit"}, "8bit"),
        ([], {"quantize": "3bit"}, "none"),
    ],
)
def test_a_server_holds_experts_in_the_bits_that_its_user_says(
    directory: Path, store: Path, arguments: list[str], options: dict[str, str], bits: str
) -> None:
    """The command line goes before the settings, and a value that is none is as no setting: all bits fit here."""
    with Wire(*SERVER, *arguments) as wire:
        wire.initialize(initializationOptions={"checkpoint": str(directory), "device": "cpu"} | options)
        wire.wait_until_loaded()
    assert [folder.name for folder in store.glob("*/*/experts-*")] == ([] if bits == "none" else [f"experts-{bits}"])


def test_eval_fills_with_rounded_experts_in_every_process(directory: Path, tmp_path: Path) -> None:
    tasks, output = tmp_path / "tasks.jsonl", tmp_path / "table.csv"
    tasks.write_text(json.dumps({"id": 1, "prefix": "x = ", "suffix": "\n", "middle": "1"}) + "\n")
    options = ("--checkpoint", directory, "--quantize", "4bit", "--tasks", tasks, "--ways", "default,plain")
    done = subprocess.run(
        [*SERVER, "eval", *map(str, options), "--output", str(output)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    processes = min(2, len(os.sched_getaffinity(0)))
    loaded = re.findall(r"needed on cpu: .*\((\w+)\)", done.stderr)
    assert set(loaded) == {"4bit"} and len(loaded) >= processes
    assert len(output.read_text().splitlines()) > 2


def test_bench_measures_the_form_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published_shape, "CANVASES", (4,))
    monkeypatch.setattr(published_shape, "STEPS", 2)
    monkeypatch.setattr(published_shape, "PROMPT_TOKENS", 40)
    options = ["bench", "--shape", "26b", "--device", "cpu", "--repeats", "1"]
    done = CliRunner().invoke(app, [*options, "--quantize", "8bit"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.strip().splitlines()[-1])["forms"].keys() == {"8bit"}


def test_what_has_no_experts_is_not_measured_as_if_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_servers", lambda *named: {})
    path = tmp_path / "model.gguf"
    write_gguf(path)
    done = CliRunner().invoke(app, ["bench", "--checkpoint", str(path), "--quantize", "4bit"])
    assert done.exit_code == 2 and "--quantize is about experts" in done.stderr
