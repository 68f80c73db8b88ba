"""Editors that have no plugin of ours, set up with the lines of editors/README.md and nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from terminal import Terminal, wait

ROOT = Path(__file__).parents[3]
FAKE = [sys.executable, "-P", str(ROOT / "tests" / "support" / "fake_server.py")]
HELIX = ROOT / ".cache" / "helix" / "hx"


def lines(heading: str) -> str:
    """The code below a heading of editors/README.md."""
    readme = (ROOT / "editors" / "README.md").read_text("utf-8")
    section = re.search(rf"^### {re.escape(heading)}\n(.*?)^#", readme, re.MULTILINE | re.DOTALL)
    found = section and re.search(r"^```\w+\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)
    assert found, f"no lines for {heading}"
    return found[1]


def needed(*programs: str) -> None:
    """Skip, loudly, where a program cannot be had."""
    if missing := [program for program in programs if shutil.which(program) is None]:
        pytest.skip(f"NOT TESTED, not to be had: {', '.join(missing)} (tests/editors/other/fetch_editors.sh)")


def home_with_server(home: Path) -> dict[str, str]:
    """An empty home with `dgemma-lsp` in PATH, which is the real server around a model that always says "value"."""
    server = home / "bin" / "dgemma-lsp"
    server.parent.mkdir(parents=True)
    server.write_text(f"#!/bin/sh\nexec {' '.join(FAKE)}\n")
    server.chmod(0o755)
    folders = {f"XDG_{name}_HOME": str(home / name.lower()) for name in ("CONFIG", "DATA", "STATE", "CACHE")}
    path = f"{server.parent}:{os.environ['PATH']}"
    # The tests run from a checkout, where the server finds its modules by this.
    python_path = os.environ.get("PYTHONPATH", f"{ROOT}:{ROOT / 'model'}")
    return {"HOME": str(home), "PATH": path, "PYTHONPATH": python_path, "LC_ALL": "C.UTF-8", **folders}


def project(home: Path, text: str) -> Path:
    """A file in a project of its own."""
    folder = home / "project"
    folder.mkdir()
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    file = folder / "module.py"
    file.write_text(text)
    return file


class Emacs:
    """One Emacs in a terminal; its own server says what is in its buffers."""

    def __init__(self, home: Path, init: str, text: str) -> None:
        environment = home_with_server(home)
        self._socket = home / "socket"
        self._socket.mkdir(mode=0o700)
        (home / ".emacs.d").mkdir()
        own = f"""
            (setq server-socket-dir "{self._socket}" make-backup-files nil)
            (setq xterm-extra-capabilities nil) ; nobody answers it what the terminal can do
            (setq lsp-auto-guess-root t) ; or it asks
            (add-hook 'emacs-startup-hook 'server-start)
        """
        (home / ".emacs.d" / "init.el").write_text(own + init)
        self.file = project(home, text)
        self.terminal = Terminal(["emacs", "-nw", str(self.file)], self.file.parent, **environment)

    def lisp(self, expression: str) -> str:
        """The value of an expression in the file's buffer, as Lisp writes it; empty while Emacs does not answer."""
        inside = f'(with-current-buffer "module.py" {expression})'
        command = ["emacsclient", f"--socket-name={self._socket / 'server'}", "--eval", inside]
        try:
            return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout.strip()
        except subprocess.TimeoutExpired:
            return ""

    def wait(self, expression: str, what: str) -> None:
        wait(lambda: self.lisp(expression) not in ("", "nil"), what, self.report)

    def wait_text(self, text: str) -> None:
        wait(lambda: self.text() == text, f"the buffer says {text!r}", self.report)

    def text(self) -> str:
        quoted = self.lisp("(buffer-substring-no-properties (point-min) (point-max))")
        return str(json.loads(quoted or '""'))  # as Lisp writes plain text, so does JSON

    def report(self) -> str:
        said = self.lisp('(with-current-buffer "*Messages*" (buffer-string))')
        return f"{self.text()!r}\n{said}\n{self.terminal.report()}"


class Kate:
    """One Kate on a display that nobody sees. What it has written is read from the disk."""

    def __init__(self, home: Path, servers: str, text: str) -> None:
        self._environment = {**os.environ, **home_with_server(home), "XDG_RUNTIME_DIR": str(home / "run")}
        (home / "run").mkdir(mode=0o700)
        settings = home / "config" / "kate" / "lspclient" / "settings.json"
        settings.parent.mkdir(parents=True)
        settings.write_text(servers)
        (home / "config" / "katerc").write_text("[Kate Plugins]\nlspclientplugin=true\n")
        self.file = project(home, text)
        self._log = home / "kate.log"
        display, number = os.pipe()
        self._display = self._start(
            ["Xvfb", "-displayfd", str(number), "-nolisten", "tcp", "-fbdir", str(home)], pass_fds=[number]
        )
        os.close(number)
        with os.fdopen(display) as told:
            self._environment["DISPLAY"] = ":" + told.readline().strip()
        self._kate = self._start(["dbus-run-session", "--", "kate", "--block", str(self.file)])

    def _start(self, command: list[str], **more: Any) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                command, env=self._environment, stdout=log, stderr=log, start_new_session=True, **more
            )

    def close(self) -> None:
        for process in (self._kate, self._display):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def focus(self, title: str) -> None:
        """Wait for the window with this title, and have the keys go there: there is no window manager to do it."""
        find = ["search", "--onlyvisible", "--name", title, "windowfocus", "--sync"]
        wait(lambda: self._xdotool(*find) == 0, f"there is a window {title!r}", self.report)

    def press(self, *keys: str) -> None:
        assert self._xdotool("key", "--delay", "50", *keys) == 0

    def _xdotool(self, *arguments: str) -> int:
        command = ["xdotool", *arguments]
        return subprocess.run(command, env=self._environment, capture_output=True, timeout=60).returncode

    def report(self) -> str:
        return f"{self.file.read_text()!r}\n{self._log.read_text(errors='replace')[-3000:]}"
