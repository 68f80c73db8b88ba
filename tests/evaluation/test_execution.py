"""Only a right fill passes, and a wild one does no harm."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from dgemma_model.evaluation.cases import Task, read_tasks
from dgemma_model.evaluation.execution import Outcome, run, run_all

TASKS = read_tasks(Path(__file__).parents[2] / "eval" / "execution")
WRONG = ("", "pass", "return None")


def outcome(fill: str, test: str = "assert double(2) == 4\n", seconds: float = 5.0) -> Outcome:
    task = Task("double", "import os\n\n\ndef double(x):\n    ", "\n    return 2 * x\n", test, "double")
    return run(task, fill, seconds)


def test_what_was_there_passes_every_task() -> None:
    outcomes = run_all((task, task.middle) for task in TASKS)
    assert [(task.id, found) for task, found in zip(TASKS, outcomes, strict=True) if not found.passed] == []


def test_fills_that_say_nothing_fail_every_task() -> None:
    fills = [(task, wrong) for task in TASKS for wrong in WRONG]
    outcomes = run_all(fills, seconds=0.5)
    assert [(task.id, fill) for (task, fill), found in zip(fills, outcomes, strict=True) if found.passed] == []


@pytest.mark.parametrize(
    ("fill", "verdict", "detail"),
    [
        ("x = x", "passed", ""),
        ("x = 3", "assertion", "AssertionError"),
        ("x = y", "error", "NameError"),
        ("x = (", "syntax", "SyntaxError"),
        ("x = '\0'", "syntax", "null bytes"),
        ("x = '\ud800'", "syntax", "UnicodeEncodeError"),
        ("raise SystemExit(0)", "error", "SystemExit"),
        ("return double(x)", "error", "RecursionError"),
    ],
)
def test_verdicts(fill: str, verdict: str, detail: str) -> None:
    found = outcome(fill)
    assert (found.verdict, found.passed) == (verdict, verdict == "passed")
    assert detail in found.detail


@pytest.mark.parametrize(
    "fill",
    [
        "os._exit(0)",
        "os.closerange(0, 99); os._exit(0)",
        "os.write(3, b'0123456789abcdef passed \\n'); os._exit(0)",
        "import faulthandler; faulthandler._sigsegv()",
    ],
)
def test_an_early_end_is_no_success(fill: str) -> None:
    assert outcome(fill).verdict == "died"


@pytest.mark.parametrize(
    "fill",
    [
        "while True: pass",
        "import time; time.sleep(60)",
        "while True: print('x' * 10**6)",
        "os.closerange(0, 3)\n    while True: pass",
        "while True:\n        try: raise KeyError\n        except BaseException: pass",
    ],
)
def test_what_does_not_end_is_ended(fill: str) -> None:
    assert outcome(fill, seconds=0.5).verdict == "timeout"


@pytest.mark.parametrize(
    ("fill", "detail"),
    [
        ("x = [0] * 10**10", "MemoryError"),
        ("x = [[0] * 1000 for _ in range(10**9)]", "MemoryError"),
        ("open('big', 'wb').write(bytes(2**21))", "File too large"),
        ("os.fork()", "os.fork is not allowed"),
        ("import subprocess; subprocess.run(['true'])", "subprocess.Popen is not allowed"),
        ("import multiprocessing", "import is not allowed"),
        ("import ctypes", "import is not allowed"),
        ("os.system('true')", "os.system is not allowed"),
        ("os.kill(os.getppid(), 0)", "os.kill is not allowed"),
        ("import socket; socket.socket()", "not allowed"),
        ("import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))", "not allowed"),
    ],
)
def test_what_a_fill_may_not_take(fill: str, detail: str) -> None:
    found = outcome(fill)
    assert found.verdict == "error"
    assert detail in found.detail


def test_floods_of_output_are_lost_without_harm() -> None:
    assert outcome("print('x' * 10**7)").passed
    flood = "for pipe in range(3, 9):\n        try: os.write(pipe, b'x' * 10**5)\n        except OSError: pass"
    assert outcome(flood, seconds=1.0).verdict == "died"


def test_a_fill_knows_nothing_of_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "s")
    assert outcome("import sys; assert 'SECRET' not in os.environ and 'HOME' not in os.environ").passed
    assert outcome("import sys; assert sys.stdin.read() == '' and len(sys.argv) == 1").passed
    assert outcome("assert os.listdir() == []").passed


def test_a_fill_writes_in_its_own_folder_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("kept")
    folders = tmp_path / "folders"
    folders.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folders))
    assert outcome("os.mkdir('a'); open('a/b', 'w').write('text'); os.rename('a/b', 'c')").passed
    for fill in (
        f"open({str(precious)!r}, 'w')",
        f"os.remove({str(precious)!r})",
        f"os.rename({str(precious)!r}, 'here')",
        f"os.chdir({str(tmp_path)!r}); os.remove('precious')",
        f"import shutil; shutil.rmtree({str(tmp_path)!r})",
        f"os.open('precious', os.O_TRUNC | os.O_WRONLY, dir_fd=os.open({str(tmp_path)!r}, 0))",
        f"os.symlink({str(precious)!r}, 'link')",
        "open('../new', 'w')",
    ):
        assert "not allowed" in outcome(fill).detail, fill
    assert precious.read_text() == "kept"
    assert list(folders.iterdir()) == []


def test_tests_in_a_function_named_check_are_called() -> None:
    test = "def check(candidate):\n    assert candidate(2) == 4\n"
    assert outcome("x = x", test).passed
    assert outcome("x = 3", test).verdict == "assertion"


def test_a_missing_entry_point_is_an_error() -> None:
    task = Task("lost", "", "", "def check(candidate):\n    pass\n", "lost")
    assert run(task, "found = 1").verdict == "error"


def test_all_are_run_in_order() -> None:
    task = Task("n", "n = ", "\n", "assert n % 2 == 0", "n")
    assert [found.passed for found in run_all([(task, str(n)) for n in range(5)], 3)] == [
        True,
        False,
        True,
        False,
        True,
    ]
