"""Unit tests judge a fill: the filled program runs with its tests in a process of its own (run_program.py).

The process is confined by the operating system (confinement.py). It reports on itself, and what runs in it can write
any report. So a pass is believed only after controls: the same program with tests that are wrong on purpose, each in
a process of its own. A right program fails them. One that does not do what is asked, but says that it did, that
equals everything, or that reads the answers off the tests, passes them as well, and is found out.
"""

from __future__ import annotations

import ast
import marshal
import os
import random
import selectors
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from dgemma_model.evaluation import confinement
from dgemma_model.evaluation.cases import Task

Verdict = Literal["passed", "faked", "syntax", "assertion", "error", "timeout", "died"]
"""`died`: the process ended, or flooded us, before it reached the end of the tests. `faked`: it passes wrong tests."""

RUN_PROGRAM = Path(__file__).with_name("run_program.py").read_text("utf-8")
SECONDS = 5.0
REPORT_BYTES = 4096
CONTROLS = 2
"""Wrong tests that a program must fail after it has passed the right ones."""

_VERDICTS = ("passed", "syntax", "assertion", "error")


class NotConfinedError(Exception):
    """Nothing on this machine confines a program, and nobody has asked to run it all the same."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one fill."""

    verdict: Verdict
    detail: str = ""
    """The exception and its message, where one was raised."""

    @property
    def passed(self) -> bool:
        """The program does what its tests ask."""
        return self.verdict == "passed"


def run(task: Task, text: str, seconds: float = SECONDS, *, unconfined: bool = False) -> Outcome:
    """Fill the hole of `task` with `text`, run it with its tests, and say how that went within `seconds` of wall clock.

    The process gets no arguments, no input, and an empty folder that is deleted; what it prints is lost. `unconfined`
    says that it may run with this user's rights where the machine has nothing to confine it.

    Raises:
        NotConfinedError: it has not, and that was not said.
    """
    confine = confinement.find()
    if confine is None and not unconfined:
        raise NotConfinedError("programs written by a model are not run where nothing confines them")
    program = task.prefix + text + task.suffix
    outcome = _run_once(program, task.test, task.entry_point, seconds, confine)
    if outcome.passed:
        for control in wrong_tests(task.test, CONTROLS):
            if _run_once(program, control, task.entry_point, seconds, confine).passed:
                return Outcome("faked", "passes tests that are wrong on purpose")
    return outcome


def run_all(fills: Iterable[tuple[Task, str]], processes: int | None = None, seconds: float = SECONDS) -> list[Outcome]:
    """`run` for each task and text, in order, several at a time (as many as there are cores)."""
    with ThreadPoolExecutor(processes or os.cpu_count()) as pool:
        return list(pool.map(lambda fill: run(fill[0], fill[1], seconds), fills))


def _run_once(
    program: str, test: str, entry_point: str, seconds: float, confine: confinement.Confine | None
) -> Outcome:
    """One process, one report."""
    job = (program, test, entry_point, int(seconds) + 2)
    command = [confinement.interpreter(), "-I", "-S", "-B", "-X", "utf8", "-c", RUN_PROGRAM]
    with TemporaryDirectory(prefix="task-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            command if confine is None else confine(command, folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={} if confine is None else {"PATH": confinement.SEARCH_PATH},
            start_new_session=True,
        )
        assert process.stdin and process.stdout
        with process.stdout:
            try:
                with suppress(BrokenPipeError), process.stdin:
                    process.stdin.write(marshal.dumps(job))
                return _report(process.stdout.fileno(), time.monotonic() + seconds)
            finally:
                with suppress(ProcessLookupError):  # not waited for yet, so the number is still its own
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _report(pipe: int, deadline: float) -> Outcome:
    """The report of the process at its end, or why there is none: exactly one line, with nothing before or after it."""
    received = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while len(received) < REPORT_BYTES:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return Outcome("timeout")
            chunk = os.read(pipe, REPORT_BYTES)
            if chunk:
                received += chunk
                continue
            verdict, _, detail = received.decode("utf-8", "replace").partition(" ")
            if verdict in _VERDICTS and detail.endswith("\n") and detail.count("\n") == 1:
                return Outcome(verdict, detail.rstrip("\n"))  # type: ignore[arg-type]
            return Outcome("died", "ended before the tests did")
    return Outcome("died", "wrote to what is not its own")


def wrong_tests(test: str, count: int) -> list[str]:
    """`count` versions of a test, drawn at random, that a right program fails.

    In each, what one assertion expects is changed: nothing but the right answer tells it from the test itself. Only
    assertions count that are reached for certain and want something to equal a literal. Where there are fewer of
    them there are fewer versions; where there is none, the only version fails at its end.
    """
    tree = ast.parse(test)
    places = [
        constant
        for statement in _reached(tree)
        if isinstance(statement, ast.Assert)
        for literal in _expected_literals(statement.test)
        for constant in ast.walk(literal)
        if isinstance(constant, ast.Constant) and _changed(constant.value) is not None
    ]
    versions = []
    for constant in random.sample(places, min(count, len(places))):
        kept, constant.value = constant.value, _changed(constant.value)
        versions.append(ast.unparse(tree))
        constant.value = kept
    return versions or [f"{test}\nraise AssertionError\n"]


def _reached(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements that run whenever the test runs to its end."""
    for statement in tree.body:
        yield statement
        if isinstance(statement, ast.FunctionDef) and statement.name == "check":
            yield from statement.body


def _expected_literals(condition: ast.expr) -> Iterator[ast.expr]:
    """The literals that something must equal if the condition is to hold."""
    if isinstance(condition, ast.BoolOp) and isinstance(condition.op, ast.And):
        for value in condition.values:
            yield from _expected_literals(value)
    elif isinstance(condition, ast.Compare) and [type(operator) for operator in condition.ops] == [ast.Eq]:
        yield from filter(_is_literal, (condition.left, *condition.comparators))


def _is_literal(expression: ast.expr) -> bool:
    try:
        ast.literal_eval(expression)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _changed(value: object) -> str | int | float | None:
    """Something else of the same type; None where that is not certain to be something else."""
    match value:
        case bool():
            return not value
        case int() | float() if abs(value) < 1e9:
            return value + random.choice((1, 2, 3))
        case str():
            return value + random.choice("aeiou")
        case _:
            return None
