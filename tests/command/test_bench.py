"""`dgemma-lsp bench`: what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from model_fixtures import tiny_checkpoint
from typer.testing import CliRunner

from dgemma_lsp.command import bench as command
from dgemma_lsp.command import bench_keystrokes
from dgemma_lsp.command.cli import app
from dgemma_model.bench import network_times as bench
from dgemma_model.bench import published_shape, timing
from dgemma_model.source import syntax

TIMES = {"median_ms", "p95_ms"}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny checkpoint, and little to measure."""
    monkeypatch.setattr(bench, "CANVASES", (4, 8))
    monkeypatch.setattr(bench, "FILLS", (8,))
    monkeypatch.setattr(command, "PING_SECONDS", 0.2)
    monkeypatch.setattr(command, "KEYSTROKES", {"some lines": ("python", 50, 12, 512)})
    return tiny_checkpoint()


def test_the_last_line_is_one_document_with_every_measurement(small: Path) -> None:
    done = CliRunner().invoke(app, ["bench", "--checkpoint", str(small), "--device", "cpu", "--repeats", "2"])
    assert done.exit_code == 0, done.output
    *shown, last = done.stdout.strip().splitlines()
    report = json.loads(last)
    assert any("decoder step, canvas 8" in line for line in shown)
    everyone = {"ours", "float32", "bfloat16"}
    assert report["encoder_cold"].keys() == everyone
    assert all(times.keys() == TIMES | {"us_per_token"} for times in report["encoder_cold"].values())
    assert report["decoder_step"].keys() == {"4", "8"}
    assert all(measured.keys() == everyone for measured in report["decoder_step"].values())
    for key, measured in (("fills", everyone | {"token_by_token"}), ("fills_cached", {"ours", "token_by_token"})):
        assert report[key]["8"].keys() == measured | {"steps", "tokens_per_step"}
        assert report[key]["8"]["tokens_per_step"] * report[key]["8"]["steps"] == 8
    assert report["encoder_reuse"].keys() == {"1", "8"}
    assert 0 < report["warm_fill"]["share_outside_network"] < 1
    assert report["ping_during_fills"]["pings"] > 0
    assert report["keystroke"]["some lines"]["stages"]["all"].keys() == TIMES | {"max_ms"}
    assert report["peak_memory_mb"] > 0


@pytest.mark.parametrize("language", bench_keystrokes.SAMPLES)
def test_keystrokes_in_a_long_file_are_answered_without_a_copy_of_it(language: str) -> None:
    shorter, longer = (bench_keystrokes.measure(language, lines, 40) for lines in (10_000, 60_000))
    assert longer["stages"].keys() >= {"change", "parse", "suggest", "rebase", "all"}  # `rebase`: something was shown
    assert 0 < longer["memory_mb"] < shorter["memory_mb"] + 0.2 * (longer["text_mb"] - shorter["text_mb"])


def test_the_line_that_is_typed_parses_where_it_is_typed() -> None:
    for language, sample in bench_keystrokes.SAMPLES.items():
        lines = sample.unit.format(number=1).split("\n")
        for line in range(sample.at, sample.at + 3):
            whole = syntax.parse(language, "\n".join([*lines[:line], sample.typed, *lines[line:]]))
            assert whole is not None and syntax.error_count(whole) == 0, (language, line)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to measure on")
def test_the_published_shape_is_refused_with_its_size_where_there_is_no_gpu() -> None:
    done = CliRunner().invoke(app, ["bench", "--shape", "26b"])
    assert done.exit_code == 2
    assert "50.5 GB" in done.stderr and "GPU" in done.stderr


def test_another_shape_is_not_known() -> None:
    done = CliRunner().invoke(app, ["bench", "--shape", "7b"])
    assert done.exit_code == 2
    assert "26b" in done.stderr


def test_the_published_shape_has_the_published_number_of_weights() -> None:
    assert 25.2e9 < published_shape.weight_bytes(published_shape.published_config()) / 2 < 25.3e9


def test_a_summary_is_in_milliseconds() -> None:
    assert timing.summary([0.001 * n for n in range(1, 101)]) == {"median_ms": 50.5, "p95_ms": 96.0}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_shape_that_fits_is_measured_beside_its_floor() -> None:
    from model_fixtures import tiny_config

    report = published_shape.measure_shape(tiny_config(), torch.device("cuda"), 2)
    assert all(times["floor_ms"] > 0 for times in report["decoder_step"].values())


def test_ways_are_measured_in_turns() -> None:
    seen: list[str] = []
    times = timing.side_by_side({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, 3)
    assert "".join(seen) == "baabbaab"
    assert times.keys() == {"a", "b"} and all(found.keys() == TIMES for found in times.values())
