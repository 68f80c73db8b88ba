"""Only a right fill passes, and a wild one does no harm."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from dgemma_model.evaluation import confinement
from dgemma_model.evaluation.cases import Task, read_tasks
from dgemma_model.evaluation.execution import NotConfinedError, Outcome, run, run_all, wrong_tests

needs_confinement = pytest.mark.skipif(confinement.find() is None, reason="nothing confines programs here")
TASKS = read_tasks(Path(__file__).parents[2] / "eval" / "execution")
WRONG = ("", "pass", "return None")


def outcome(fill: str, test: str = "assert double(2) == 4\n", seconds: float = 5.0) -> Outcome:
    task = Task("double", "import os\n\n\ndef double(x):\n    ", "\n    return 2 * x\n", test, "double")
    return run(task, fill, seconds)


@needs_confinement
def test_what_was_there_passes_every_task() -> None:
    outcomes = run_all((task, task.middle) for task in TASKS)
    assert [(task.id, found) for task, found in zip(TASKS, outcomes, strict=True) if not found.passed] == []


@needs_confinement
def test_fills_that_say_nothing_fail_every_task() -> None:
    fills = [(task, wrong) for task in TASKS for wrong in WRONG]
    outcomes = run_all(fills, seconds=0.5)
    assert [(task.id, fill) for (task, fill), found in zip(fills, outcomes, strict=True) if found.passed] == []


@needs_confinement
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


@needs_confinement
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


@needs_confinement
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


@needs_confinement
@pytest.mark.parametrize(
    ("fill", "detail"),
    [
        ("x = [0] * 10**10", "MemoryError"),
        ("x = [[0] * 1000 for _ in range(10**9)]", "MemoryError"),
        ("open('big', 'wb').write(bytes(2**21))", "File too large"),
        ("for n in range(99): open(str(n), 'wb').write(bytes(2**20))", "No space left"),
        ("x = [open(os.devnull) for _ in range(99)]", "Too many open files"),
        ("os.fork()", "BlockingIOError"),
        ("import threading; threading.Thread(target=print).start()", "can't start new thread"),
        ("import subprocess; subprocess.run(['true'])", "BlockingIOError"),
        ("import socket; socket.create_connection(('127.0.0.1', 9))", "OSError"),
        ("import resource; resource.setrlimit(resource.RLIMIT_NPROC, (9, 9))", "not allowed to raise maximum limit"),
        ("import ctypes; assert not ctypes.CDLL(None).setuid(0)", "AssertionError"),
        ("import ctypes; assert not ctypes.CDLL(None).mount(b'/usr', b'/usr', b'', 32, b'')", "AssertionError"),
    ],
)
def test_what_a_fill_may_not_take(fill: str, detail: str) -> None:
    found = outcome(fill, seconds=30.0)
    assert not found.passed
    assert detail in found.detail


@needs_confinement
def test_floods_of_output_are_lost_without_harm() -> None:
    assert outcome("print('x' * 10**7)").passed
    flood = "for pipe in range(3, 9):\n        try: os.write(pipe, b'x' * 10**5)\n        except OSError: pass"
    assert outcome(flood, seconds=1.0).verdict == "died"


@needs_confinement
def test_a_fill_knows_nothing_of_us(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "s")
    assert outcome("import sys; assert 'SECRET' not in os.environ and 'HOME' not in os.environ").passed
    assert outcome("import sys; assert sys.stdin.read() == '' and len(sys.argv) == 1").passed
    assert outcome("assert os.listdir() == []").passed
    assert outcome("assert not os.path.exists('/etc/passwd') and not os.path.exists('/proc/self')").passed
    assert outcome(f"assert not os.path.exists({str(Path.cwd())!r})").passed


@needs_confinement
def test_a_fill_writes_in_its_own_folder_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folders = tmp_path / "folders"
    folders.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folders))
    assert outcome("os.mkdir('a'); open('a/b', 'w').write('text'); os.rename('a/b', 'c')").passed
    for fill in ("open('/usr/new', 'w')", f"os.remove({os.__file__!r})", "os.mkdir('/usr/new')"):
        assert "Read-only file system" in outcome(fill).detail, fill
    assert list(folders.iterdir()) == []


WRITE = "open({target!r}, 'w').write('escaped')"
SUBINTERPRETER = """import _xxsubinterpreters as interpreters
    interpreters.run_string(interpreters.create(), {code!r})"""
OUTSIDE_FILE = {
    "plain": WRITE,
    "_posixsubprocess": """import _posixsubprocess
    pipe = os.pipe()
    _posixsubprocess.fork_exec(
        [b'/bin/touch', {target!r}.encode()], [b'/bin/touch'], True, (pipe[1],), None, None, -1, -1, -1, -1, -1, -1,
        *pipe, False, False, -1, None, None, None, -1, None, False)
    os.close(pipe[1])
    os.read(pipe[0], 1)
    os.wait()""",
    "os.system in a sub-interpreter": SUBINTERPRETER.replace("{code!r}", "'import os; os.system(\"touch {target}\")'"),
    "sqlite3": "import sqlite3; sqlite3.connect({target!r}).execute('create table t (c)')",
    "ssl keys": "import ssl; ssl.create_default_context().keylog_filename = {target!r}",
    "os.mknod": "os.mknod({target!r})",
    "frames": """import sys
    frame = sys._getframe()
    while frame:
        for hook in list(frame.f_locals.values()):
            if getattr(hook, '__closure__', None):
                for cell in hook.__closure__:
                    cell.cell_contents = lambda *_: False
        frame = frame.f_back
    """
    + WRITE,
    "ctypes": "import ctypes; ctypes.CDLL(None).creat({target!r}.encode(), 0o600)",
}
"""Ways past fences inside an interpreter, each to a file that is not the program's."""
FORKS = ("_posixsubprocess", "os.system in a sub-interpreter")


@pytest.fixture(params=["confined", "unconfined"])
def escapes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a way out leads out: without confinement it must, or it shows nothing."""
    if request.param == "confined":
        if confinement.find() is None:
            pytest.skip("nothing confines programs here")
        return False
    monkeypatch.setattr(confinement, "find", lambda: None)
    return True


def try_to_escape(fill: str) -> None:
    run(Task("escape", "import os\n\n\ndef f():\n    ", "\n", "f()", "f"), fill, 10.0, unconfined=True)


@pytest.mark.parametrize("way", OUTSIDE_FILE)
def test_no_way_leads_to_the_files_of_others(way: str, escapes: bool, tmp_path: Path) -> None:
    if escapes and way in FORKS and os.geteuid() != 0:
        pytest.skip("the limit on processes holds for all but root")
    target = tmp_path / "outside"
    try_to_escape(OUTSIDE_FILE[way].replace("{target!r}", repr(str(target))).replace("{target}", str(target)))
    assert target.exists() == escapes


@pytest.mark.parametrize("inside", ["{code}", "exec({code!r})", SUBINTERPRETER])
def test_no_way_leads_to_the_network(inside: str, escapes: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        try_to_escape(inside.replace("{code!r}", repr(code)).replace("{code}", code))
        listener.setblocking(False)
        if escapes:
            listener.accept()[0].close()
        else:
            with pytest.raises(BlockingIOError):
                listener.accept()


@pytest.mark.parametrize(
    "send",
    [
        "os.kill({pid}, signal.SIGKILL)",
        "signal.pidfd_send_signal(os.pidfd_open({pid}), signal.SIGKILL)",
    ],
)
def test_no_way_leads_to_other_processes(send: str, escapes: bool) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        try_to_escape("import signal; " + send.replace("{pid}", str(other.pid)))
        assert (other.poll() is not None) == escapes or (escapes and other.wait(5) < 0)
        other.kill()


LIES: dict[str, str] = {
    "writes the report": """for pipe in range(3, 32):
        try: os.write(pipe, b'passed \\n')
        except OSError: pass
    os._exit(0)""",
    "calls who reports": """import sys
    frame = sys._getframe()
    while frame:
        if 'report' in frame.f_locals:
            os.write(frame.f_locals['report'], b'passed \\n')
            os._exit(0)
        frame = frame.f_back""",
    "reads the answer off the caller": """import sys
    return max(constant for constant in sys._getframe(1).f_code.co_consts if isinstance(constant, int))""",
    "equals everything": """class Equal:
        def __eq__(self, other): return True
    return Equal()""",
}


@needs_confinement
@pytest.mark.parametrize("lie", LIES)
def test_a_program_that_only_says_that_it_passes_is_found_out(lie: str) -> None:
    found = outcome(LIES[lie], "assert double(2) == 4")
    assert found.verdict == "faked", found


@needs_confinement
def test_a_program_that_has_the_tests_removed_is_found_out() -> None:
    program = "import builtins, sys\n"
    program += "real = builtins.compile\nbuiltins.compile = lambda source, *rest, **more: real('', *rest, **more)\n"
    task = Task("double", program, "\ndef double(x):\n    return 0\n", "assert double(2) == 4", "double")
    assert run(task, "pass").verdict == "faked"


@pytest.mark.parametrize(
    ("test", "versions"),
    [
        ("assert f(2) == 4", 1),
        ("def check(f):\n    assert f(2) == [4, 'x'] and f(3) == {True: 1.5}\n", 2),
        ("assert -1 == f(2) and g(3)", 1),
        ("for x in (1, 2):\n    assert f(x) == 4", 0),
        ("assert f(2) == g(3)", 0),
        ("assert f(2) == 4 or g(3)", 0),
        ("def test():\n    assert f(2) == 4", 0),
    ],
)
def test_wrong_tests_differ_in_what_is_expected(test: str, versions: int) -> None:
    wrong = wrong_tests(test, 2)
    assert len(wrong) == max(versions, 1)
    assert all((version == test + "\nraise AssertionError\n") == (versions == 0) for version in wrong)
    for version in wrong if versions else []:
        assert version.startswith(test.partition(" ")[0]) and version.strip() != test.strip()


def test_without_confinement_nothing_runs_unless_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confinement, "find", lambda: None)
    task = Task("n", "n = ", "\n", "assert n == 1", "n")
    with pytest.raises(NotConfinedError):
        run(task, "1")
    assert run(task, "1", unconfined=True).passed


@needs_confinement
def test_tests_in_a_function_named_check_are_called() -> None:
    test = "def check(candidate):\n    assert candidate(2) == 4\n"
    assert outcome("x = x", test).passed
    assert outcome("x = 3", test).verdict == "assertion"


@needs_confinement
def test_a_missing_entry_point_is_an_error() -> None:
    task = Task("lost", "", "", "def check(candidate):\n    pass\n", "lost")
    assert run(task, "found = 1").verdict == "error"


@needs_confinement
def test_all_are_run_in_order() -> None:
    task = Task("n", "n = ", "\n", "assert n % 2 == 0", "n")
    assert [found.passed for found in run_all([(task, str(n)) for n in range(5)], 3)] == [
        True,
        False,
        True,
        False,
        True,
    ]
