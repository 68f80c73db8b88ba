"""`dgemma-lsp bench --checkpoint` of a checkpoint that writes causally: everything is measured and printed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from qwen2_fixtures import write_gguf
from typer.testing import CliRunner

from dgemma_lsp.command import bench as command
from dgemma_lsp.command import bench_server
from dgemma_lsp.command.cli import app
from dgemma_model.bench import opponents, writer_times


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny `.gguf` file, and little to measure."""
    monkeypatch.setattr(writer_times, "WRITTEN", (2,))
    monkeypatch.setattr(writer_times, "PASSES", (1, 4))
    monkeypatch.setattr(command, "SERVERS", (1, 2))
    monkeypatch.setattr(command, "IDLE_SECONDS", 0.5)
    monkeypatch.setattr(bench_server, "AHEAD_SECONDS", 0.5)
    monkeypatch.setattr(opponents, "KINDS", {})
    write_gguf(tmp_path / "model.gguf", "qwen2")
    return tmp_path / "model.gguf"


def test_everything_is_measured_and_printed(model: Path) -> None:
    done = CliRunner().invoke(app, ["bench", "--checkpoint", str(model), "--device", "cpu", "--repeats", "2"])
    assert done.exit_code == 0, done.output
    *shown, last = done.stdout.strip().splitlines()
    report = json.loads(last)
    assert any("a pass over 4 tokens" in line for line in shown)
    assert report["cold_prompt"].keys() == {"ours"} and report["cold_prompt"]["ours"]["median_ms"] > 0
    assert report["written"].keys() == {"2"} and report["pass"].keys() == {"1", "4"}
    assert report["cold_prompt_transformers"].keys() == {"ours", "float32", "bfloat16"}
    assert report["copied_lines"]["tokens"] >= 1
    assert all(0 <= report[name]["cut_percent"] <= 100 for name in ("line", "line_with_project", "line_with_similar"))
    assert any("lines cut by the time budget" in line for line in shown)
    assert [len(sizes) for sizes in report["servers_mb"].values()] in ([1, 2], [0, 0])
    assert report["idle_ms"] is None or report["idle_ms"] >= 0


def test_a_checkpoint_that_is_not_here_is_said_before_servers_start() -> None:
    done = CliRunner().invoke(app, ["bench", "--checkpoint", "no-such-checkpoint"])
    assert done.exit_code == 2 and "no-such-checkpoint" in done.stderr


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the system does not tell")
def test_time_and_memory_of_a_process_are_read() -> None:
    spinning = [sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass\nprint()\ninput()"]
    with subprocess.Popen(spinning, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert 290 <= (bench_server.processor_ms(process.pid) or 0.0) < 5_000
        own, mapped = bench_server.own_and_mapped_mb(process.pid) or (0.0, 0.0)
        assert 1 < own < 200 and 1 < mapped < 200
        process.kill()
    assert bench_server.processor_ms(process.pid) is None and bench_server.own_and_mapped_mb(process.pid) is None


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the system does not tell")
def test_what_processes_map_from_a_file_is_not_their_own(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(40 << 20))
    program = (
        "import mmap, sys\n"
        "file = open(sys.argv[1], 'rb')\n"
        "mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n"
        "sum(mapped[::4096])\n"
        "own = b'x' * (20 << 20)\n"
        "print()\ninput()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "weights")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        own, mapped = bench_server.own_and_mapped_mb(process.pid) or (0.0, 0.0)
        process.kill()
    assert own > 20 and mapped > 40 and own < 40


def test_no_opponent_reads_another_file(tmp_path: Path) -> None:
    assert opponents.opponents(tmp_path / "weights.safetensors", 1) == {}
