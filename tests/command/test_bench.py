"""`dgemma-lsp bench`: what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from model_fixtures import tiny_checkpoint
from typer.testing import CliRunner

from dgemma_lsp.command import bench as command
from dgemma_lsp.command import bench_keystrokes, bench_server
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
    monkeypatch.setattr(command, "SERVERS", (1,))
    monkeypatch.setattr(command, "IDLE_SECONDS", 0.2)
    monkeypatch.setattr(bench_server, "AHEAD_SECONDS", 0.2)
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


def test_the_published_shape_runs_in_small_on_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published_shape, "CANVASES", (4, 8))
    monkeypatch.setattr(published_shape, "STEPS", 2)
    monkeypatch.setattr(published_shape, "PROMPT_TOKENS", 40)
    done = CliRunner().invoke(app, ["bench", "--shape", "26b", "--device", "cpu", "--repeats", "1"])
    assert done.exit_code == 0, done.output
    *shown, last = done.stdout.strip().splitlines()
    report = json.loads(last)
    assert report["in_small"] and any("a small network of the published kind" in line for line in shown)
    assert report["forms"].keys() == {"none", "4bit"}
    for form in report["forms"].values():
        assert form["decoder_step"].keys() == {"4", "8"}
        for measured in form["decoder_step"].values():
            assert measured["ours"].keys() == TIMES
            assert measured["times_floor"] == pytest.approx(measured["ours"]["median_ms"] / measured["floor_ms"], 0.05)
            assert measured["tokens_per_s"] > 0
    budgets = [form["budget_gb"] for form in report["forms"].values()]
    assert budgets == sorted(budgets, reverse=True)


def test_a_form_that_does_not_fit_is_said_to_need_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    config = published_shape.published_config()
    monkeypatch.setattr(published_shape, "free_memory", lambda device: 10**9)
    monkeypatch.setattr(published_shape, "COPIED_BYTES", {"cpu": 1 << 16})
    with pytest.raises(timing.BenchError, match=r"--quantize 4bit does not fit, 1\.0 GB are free; none needs .* GB"):
        published_shape.measure_shape(config, torch.device("cpu"), 1)


def test_another_shape_is_not_known() -> None:
    done = CliRunner().invoke(app, ["bench", "--shape", "7b"])
    assert done.exit_code == 2
    assert "26b" in done.stderr


def test_the_published_shape_has_the_published_number_of_weights() -> None:
    experts, others = published_shape.weight_bytes(published_shape.published_config(), "none", 1)
    assert 25.2e9 < experts + others < 25.3e9


def test_a_summary_is_in_milliseconds() -> None:
    assert timing.summary([0.001 * n for n in range(1, 101)]) == {"median_ms": 50.5, "p95_ms": 96.0}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_shape_that_fits_is_measured_beside_its_floor() -> None:
    report = published_shape.measure_shape(published_shape.small_config(), torch.device("cuda"), 2)
    for form in report["forms"].values():
        assert all(times["floor_ms"] > 0 for times in form["decoder_step"].values())


def test_ways_are_measured_in_turns() -> None:
    seen: list[str] = []
    times = timing.side_by_side({"a": lambda: seen.append("a"), "b": lambda: seen.append("b")}, 3)
    assert "".join(seen) == "baabbaab"
    assert times.keys() == {"a", "b"} and all(found.keys() == TIMES for found in times.values())
