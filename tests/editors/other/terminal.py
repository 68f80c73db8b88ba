"""A program in a terminal of its own: keys go in, what it draws is kept for reports only."""

from __future__ import annotations

import fcntl
import itertools
import os
import pty
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

TIMEOUT_S = 60
ROWS, COLUMNS = 40, 120


def wait(condition: Callable[[], Any], what: str, report: Callable[[], str] = str) -> Any:
    """Look until the condition holds; its value."""
    deadline = time.monotonic() + TIMEOUT_S
    for pause in itertools.chain([0.0, 0.02, 0.05], itertools.repeat(0.1)):
        if value := condition():
            return value
        assert time.monotonic() < deadline, f"not so in {TIMEOUT_S} s: {what}\n{report()}"
        time.sleep(pause)


class Terminal:
    """One program. Waiting is by looking again, never by the clock."""

    def __init__(self, command: Sequence[str], folder: Path, **environment: str) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self._drawn = bytearray()
        self._process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "TERM": "xterm-256color", **environment},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # /dev/tty is this terminal
        )
        os.close(slave)
        threading.Thread(target=self._drain, daemon=True).start()

    def _drain(self) -> None:
        while True:
            try:
                self._drawn += os.read(self._master, 65536)
            except OSError:
                return

    def press(self, *keys: str) -> None:
        """Send keys as a terminal does, one after the other."""
        for key in keys:
            os.write(self._master, key.encode())
            time.sleep(0.03)  # or Escape and what follows it would be one key

    def report(self) -> str:
        return self._drawn[-4000:].decode("utf-8", "replace")

    def close(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._master)
