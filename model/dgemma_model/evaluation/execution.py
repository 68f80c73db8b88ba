"""Unit tests judge a fill: the filled program runs with its tests in a process of its own (sandbox.py). POSIX only."""

from __future__ import annotations

import marshal
import os
import secrets
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from dgemma_model.evaluation.cases import Task

Verdict = Literal["passed", "syntax", "assertion", "error", "timeout", "died"]
"""`died`: the process ended, or flooded us, before it reached the end of the tests."""

SANDBOX = Path(__file__).with_name("sandbox.py")
SECONDS = 5.0
REPORT_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one fill."""

    verdict: Verdict
    detail: str = ""
    """The exception and its message, where one was raised."""

    @property
    def passed(self) -> bool:
        """The program ran to the end of its tests."""
        return self.verdict == "passed"


def run(task: Task, text: str, seconds: float = SECONDS) -> Outcome:
    """Fill the hole of `task` with `text`, run it with its tests, and say how that went within `seconds` of wall clock.

    The process gets no environment, no arguments, no input, and an empty folder that is deleted; what it prints is
    lost. Only a report with a nonce that it cannot know in advance counts as passed.
    """
    nonce = secrets.token_hex(16)
    job = (nonce, task.prefix + text + task.suffix, task.test, task.entry_point, int(seconds) + 2)
    with TemporaryDirectory(prefix="task-", ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-X", "utf8", str(SANDBOX)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,
        )
        assert process.stdin and process.stdout
        with process.stdout:
            try:
                with suppress(BrokenPipeError), process.stdin:
                    process.stdin.write(marshal.dumps(job))
                return _report(process.stdout.fileno(), nonce, time.monotonic() + seconds)
            finally:
                with suppress(ProcessLookupError):  # not waited for yet, so the number is still its own
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _report(pipe: int, nonce: str, deadline: float) -> Outcome:
    """What the sandbox says, or why it says nothing."""
    received = b""
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while len(received) < REPORT_BYTES:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                return Outcome("timeout")
            chunk = os.read(pipe, REPORT_BYTES)
            if not chunk:
                return Outcome("died", "ended before the tests did")
            received += chunk
            _, found, report = received.decode("utf-8", "replace").partition(nonce + " ")
            if found and report.endswith("\n"):
                verdict, _, detail = report.rstrip("\n").partition(" ")
                return Outcome(verdict, detail)  # type: ignore[arg-type]
    return Outcome("died", "wrote to what is not its own")


def run_all(fills: Iterable[tuple[Task, str]], processes: int | None = None, seconds: float = SECONDS) -> list[Outcome]:
    """`run` for each task and text, in order, several at a time (as many as there are cores)."""
    with ThreadPoolExecutor(processes or os.cpu_count()) as pool:
        return list(pool.map(lambda fill: run(fill[0], fill[1], seconds), fills))
