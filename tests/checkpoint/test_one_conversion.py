"""Two processes that want the same converted form: one makes it, the other waits and uses it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from gemma_fixtures import write_gemma
from qwen2_fixtures import write_gguf

from dgemma_model.checkpoint import store
from dgemma_model.checkpoint.causal_code import converted_form

PROGRAM = """
import sys, time
from pathlib import Path
import torch
from dgemma_model.checkpoint import load as checkpoints

started = time.monotonic()
source, quantize, go = Path(sys.argv[1]), sys.argv[2] or None, Path(sys.argv[3])

def slowly(share):
    print(f"share {share:.2f}", flush=True)
    while share < 1 and not go.exists():
        assert time.monotonic() < started + 900
        time.sleep(0.02)

checkpoints.load(source, torch.device("cpu"), torch.float32, slowly, quantize)
print("loaded", flush=True)
"""
"""Loads a checkpoint, says each step of the conversion, and goes on after the first one when a file is there."""
WAITING = "waiting until it has ended"


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DGEMMA_CHECKPOINTS", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture(params=["a GGUF file", "experts in 4 bits"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """What is loaded, and the form of its experts."""
    if request.param == "experts in 4 bits":
        return str(write_gemma(tmp_path / "gemma")), "4bit"
    write_gguf(tmp_path / "model.gguf")
    return str(tmp_path / "model.gguf"), ""


Start = Callable[[tuple[str, str], Path], subprocess.Popen[str]]


@pytest.fixture
def started() -> Iterator[Start]:
    """Starts the program; it has ended when the test has."""
    processes: list[subprocess.Popen[str]] = []

    def start(source: tuple[str, str], go: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PROGRAM, *source, str(go)]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def is_converting(process: subprocess.Popen[str]) -> None:
    """Return once it has made a first part of the form."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("share 0."), line


def is_waiting(process: subprocess.Popen[str]) -> None:
    """Return once it has said that it waits."""
    assert process.stderr is not None
    while WAITING not in process.stderr.readline():
        assert process.poll() is None, "it did not wait"


def forms(root: Path) -> Iterator[Path]:
    """All that is where forms of files outside of the store are, whole or not."""
    return (path.parent for path in root.glob("**/weights.safetensors"))


def shares(said: str) -> int:
    """How many parts of a form were made."""
    return said.count("share 0.")


def test_of_two_processes_one_converts_and_the_other_uses_what_it_has_made(
    source: tuple[str, str], root: Path, tmp_path: Path, started: Start
) -> None:
    first = started(source, tmp_path / "go")
    is_converting(first)
    second = started(source, tmp_path / "go")
    is_waiting(second)
    (tmp_path / "go").touch()
    said = [process.communicate(timeout=900) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], said
    assert all("loaded" in out for out, _ in said)
    assert shares(said[0][0]) > 3 and shares(said[1][0]) == 0
    assert WAITING not in said[0][1] + said[1][1]
    (form,) = forms(root)
    assert not form.name.startswith(".")


def test_a_process_that_is_killed_while_it_converts_blocks_nobody(
    source: tuple[str, str], root: Path, tmp_path: Path, started: Start
) -> None:
    first = started(source, tmp_path / "never")
    is_converting(first)
    (tmp_path / "go").touch()
    second = started(source, tmp_path / "go")
    is_waiting(second)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert any(form.name.startswith(".") for form in forms(root))
    out, _ = second.communicate(timeout=900)
    assert second.returncode == 0 and "loaded" in out
    (form,) = forms(root)  # and what the first one has left is gone
    assert not form.name.startswith(".")


def test_a_form_that_is_there_is_used_while_the_lock_is_held(tmp_path: Path, started: Start) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path)
    form = converted_form(path)
    with store.hold_form(form):
        out, _ = started((str(path), ""), tmp_path / "never").communicate(timeout=900)
        assert "loaded" in out


def test_forms_of_different_files_do_not_wait_for_each_other(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path)
    with store.hold_form(tmp_path / "another"):
        converted_form(path)


def test_where_nothing_can_be_locked_nobody_waits(root: Path, tmp_path: Path) -> None:
    root.mkdir()
    (root / ".locks").touch()
    with store.hold_form(tmp_path / "form"), store.hold_form(tmp_path / "form"):
        pass
