"""A real VS Code (code-server) in a headless Chromium, with the packaged extension and whatever server a test wants.

Keys go in and pictures come out through the browser; what the editor itself holds is asked for through a small
extension of the tests' own (`probe`).
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from code_server import CODE_SERVER, HERE, ROOT, SYSTEM, code_server, environment, node

PICTURES = ROOT / ".cache" / "pictures"
TIMEOUT_S = 60
REAL = [sys.executable, "-P", "-m", "dgemma_lsp"]
FAKE = [sys.executable, "-P", str(ROOT / "tests" / "support" / "fake_server.py")]
SCRIPTED = [sys.executable, "-P", str(ROOT / "tests" / "editors" / "nvim" / "scripted_server.py")]

GHOST = """
[...document.querySelectorAll('.monaco-editor [class*="ghost-text"]')]
  .filter((element) => !element.parentElement.closest('[class*="ghost-text"]'))
  .map((element) => element.innerText.replaceAll('\\u00a0', ' '))
  .filter((text) => text !== '')
"""
"""What is drawn in grey, piece by piece."""

SETTINGS: dict[str, Any] = {
    "workbench.startupEditor": "none",
    "workbench.secondarySideBar.defaultVisibility": "hidden",
    "chat.disableAIFeatures": True,
    "chat.commandCenter.enabled": False,
    "editor.minimap.enabled": False,
    "workbench.activityBar.location": "hidden",
    "workbench.enableExperiments": False,
    "workbench.tips.enabled": False,
    "workbench.colorTheme": "Default Dark Modern",
    "security.workspace.trust.enabled": False,
    "files.autoSave": "off",
    "git.enabled": False,
    "telemetry.telemetryLevel": "off",
    "window.restoreWindows": "none",
    "extensions.ignoreRecommendations": True,
    "editor.wordBasedSuggestions": "off",
    "editor.inlayHints.enabled": "off",
}


MACHINE = tuple(
    f"dgemma.{name}" for name in ("server.path", "engine", "engine_token_file", "checkpoint", "device", "quantize")
)
"""Settings that belong to the machine with the files, not to the one with the window."""


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def wrapped(command: list[str], script: Path, **more: str) -> Path:
    """A program that starts `command` with this checkout's packages."""
    variables = {"PYTHONPATH": f"{ROOT}:{ROOT / 'model'}", **more}
    exports = "".join(f"export {name}='{value}'\n" for name, value in variables.items())
    script.write_text("#!/bin/sh\n" + exports + f'exec {" ".join(command)} "$@"\n')
    script.chmod(0o755)
    return script


class Editor:
    """One window. Waiting is by looking again, never by the clock."""

    def __init__(
        self,
        home: Path,
        extensions: Path,
        command: list[str] | None = None,
        path: Sequence[str] = SYSTEM,
        **settings: Any,
    ) -> None:
        """`command` starts the server; None leaves the setting empty. `path` is where programs are found.

        `settings` are the user's.
        """
        self.path = path
        self.home, self.folder = home, home / "project"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.extensions = home / "extensions"
        shutil.copytree(extensions, self.extensions)
        self._relocate(extensions)
        of_machine = {name: value for name, value in settings.items() if name in MACHINE}
        if command is not None:
            of_machine["dgemma.server.path"] = str(wrapped(command, home / "server"))
        for name, values in (("User", SETTINGS | settings), ("Machine", of_machine)):
            file = home / "data" / name / "settings.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(values))
        self.port, self.probe_port = free_port(), free_port()
        (home / "config.yaml").write_text("auth: none\n")
        self.log = (home / "code-server.log").open("wb")
        self._processes: list[subprocess.Popen[Any]] = []
        self._start()

    def _relocate(self, installed_in: Path) -> None:
        index = self.extensions / "extensions.json"
        index.write_text(index.read_text().replace(str(installed_in), str(self.extensions)))

    def _start(self) -> None:
        folders = ["--extensions-dir", str(self.extensions), "--user-data-dir", str(self.home / "data")]
        address = ["--bind-addr", f"127.0.0.1:{self.port}", "--config", str(self.home / "config.yaml")]
        quiet = ["--disable-telemetry", "--disable-update-check"]
        self._server = subprocess.Popen(
            [*code_server(), "--auth", "none", *address, *quiet, *folders],
            env=environment(self.home, self.path) | {"PROBE_PORT": str(self.probe_port)},
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        self._browser = subprocess.Popen(
            [node(), str(HERE / "driver.mjs"), str(CODE_SERVER)],
            env=environment(self.home),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            start_new_session=True,
        )
        self.wait(self._listens, "code-server listens")
        self.open_window()
        self.wait(lambda: self.answers("return true"), "the extension host answers")
        self.command("workbench.action.closeSidebar")

    def close(self) -> None:
        for process in (self._browser, self._server):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.log.close()

    # ------------------------------------------------------------------ ways in

    def browser(self, method: str, *params: Any) -> Any:
        """Have the driver do something."""
        assert self._browser.stdin is not None and self._browser.stdout is not None
        self._browser.stdin.write(json.dumps({"method": method, "params": params}) + "\n")
        self._browser.stdin.flush()
        line = self._browser.stdout.readline()
        assert line, "the browser has ended\n" + (self.home / "code-server.log").read_text(errors="replace")[-3000:]
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def js(self, code: str) -> Any:
        """Run code in the extension host; its value."""
        connection = http.client.HTTPConnection("127.0.0.1", self.probe_port, timeout=TIMEOUT_S)
        connection.request("POST", "/", code.encode())
        answer = json.loads(connection.getresponse().read())
        connection.close()
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def command(self, name: str, *arguments: Any) -> Any:
        values = "".join(f", {json.dumps(value)}" for value in arguments)
        return self.js(f"return vscode.commands.executeCommand({json.dumps(name)}{values})")

    def start_command(self, name: str) -> None:
        """Run a command whose end is not waited for."""
        self.js(f"vscode.commands.executeCommand({json.dumps(name)})")

    def ours(self, code: str) -> Any:
        """Run code in the extension host with our extension's inside as `dgemma`."""
        return self.js(f"const dgemma = vscode.extensions.getExtension('dgemma.dgemma').exports; {code}")

    def open_window(self) -> None:
        """Open a window on the folder, which gets the keys from now on."""
        self.browser("open", f"http://127.0.0.1:{self.port}/?folder={self.folder}")

    def _listens(self) -> bool:
        with socket.socket() as trying:
            return trying.connect_ex(("127.0.0.1", self.port)) == 0

    def answers(self, code: str) -> bool:
        """Whether code in the extension host gives something true; False while there is none."""
        try:
            return bool(self.js(code))
        except (OSError, http.client.HTTPException):
            return False

    def wait(self, condition: Any, what: str, timeout_s: float | None = None) -> Any:
        """Look until the condition holds; its value."""
        timeout_s = timeout_s or TIMEOUT_S
        deadline = time.monotonic() + timeout_s
        for pause in itertools.chain([0.0, 0.02, 0.05], itertools.repeat(0.1)):
            if value := condition():
                return value
            assert time.monotonic() < deadline, f"not so in {timeout_s} s: {what}\n{self.report()}"
            time.sleep(pause)

    def report(self) -> str:
        try:
            self.picture("failure")
            return (
                f"ghost {self.ghost()}, status {self.status()}, notices {self.notices()}\n{self.server_log()[-3000:]}"
            )
        except (AssertionError, OSError) as error:
            return str(error)

    # ------------------------------------------------------------------ doing

    def open(self, text: str, name: str = "module.py") -> Path:
        """Open a file in the editor, the cursor at its end."""
        file = self.folder / name
        file.write_bytes(text.encode())
        self.js(
            f"const document = await vscode.workspace.openTextDocument({json.dumps(str(file))});"
            "const editor = await vscode.window.showTextDocument(document);"
            "const end = document.lineAt(document.lineCount - 1).range.end;"
            "editor.selection = new vscode.Selection(end, end); return true"
        )
        self.command("workbench.action.focusActiveEditorGroup")
        self.wait(
            lambda: self.browser("evaluate", "!!document.activeElement?.closest('.monaco-editor')"), "it has the focus"
        )
        return file

    def select(self, first: tuple[int, int], last: tuple[int, int] | None = None) -> None:
        """Put the cursor somewhere, or select; lines and characters count from 0."""
        ends = ", ".join(str(number) for number in (*first, *(last or first)))
        self.js(f"vscode.window.activeTextEditor.selection = new vscode.Selection({ends})")

    def press(self, *keys: str) -> None:
        self.browser("press", list(keys))

    def type(self, text: str, delay_ms: int = 0) -> None:
        self.browser("type", text, delay_ms)

    def configure(self, name: str, value: Any) -> None:
        self.js(f"await vscode.workspace.getConfiguration().update({json.dumps(name)}, {json.dumps(value)}, true)")

    def picture(self, name: str) -> Path:
        """A picture of the window, for people."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        path = PICTURES / f"{name}.png"
        self.browser("screenshot", str(path))
        return path

    # ------------------------------------------------------------------ seeing

    def shows(self, selector: str) -> bool:
        """Whether the window has an element of this kind."""
        return bool(self.browser("evaluate", f"!!document.querySelector({json.dumps(selector)})"))

    def text(self, name: str | None = None) -> str:
        """The editor's own buffer: the active one's, or that of a file in the folder."""
        if name is None:
            return str(self.js("return vscode.window.activeTextEditor.document.getText()"))
        named = f"({{ fileName }}) => fileName === {json.dumps(str(self.folder / name))}"
        return str(self.js(f"return vscode.workspace.textDocuments.find({named}).getText()"))

    def ghost(self) -> str:
        """What is drawn in grey."""
        return "".join(self.browser("evaluate", GHOST))

    def wait_ghost(self) -> str:
        return str(self.wait(self.ghost, "something is suggested"))

    def wait_no_ghost(self) -> None:
        self.wait(lambda: not self.ghost(), "nothing is drawn")

    def status(self) -> dict[str, Any]:
        """What the language status item shows."""
        shown = self.ours(
            "const { text, detail, busy, severity } = dgemma.status.item; return { text, detail, busy, severity }"
        )
        return dict(shown)

    def wait_ready(self) -> None:
        self.wait(
            lambda: self._is_active() and self.status()["text"] in ("dgemma: ready", "dgemma: quiet"), "it is ready"
        )

    def _is_active(self) -> bool:
        return bool(self.js("return vscode.extensions.getExtension('dgemma.dgemma')?.isActive"))

    def process_id(self) -> int | None:
        found = self.ours("return dgemma.server.processId")
        return None if found is None else int(found)

    def notices(self) -> list[str]:
        """The notifications in view."""
        found = "[...document.querySelectorAll('.notification-list-item-message')].map((element) => element.innerText)"
        return list(self.browser("evaluate", found))

    def wait_notice(self, pattern: str) -> str:
        def seen() -> str | None:
            return next((notice for notice in self.notices() if re.search(pattern, notice)), None)

        return str(self.wait(seen, f"a notification says {pattern}"))

    def click_button(self, label: str) -> None:
        """Click the first button with this label, in a notification or a dialog."""
        found = "[...document.querySelectorAll('.monaco-button')].find((button) => button.innerText.trim() === "
        found += f"{json.dumps(label)})"
        self.wait(lambda: self.browser("evaluate", f"!!{found}"), f"there is a button {label!r}")
        self.browser("evaluate", f"{found}.click()")

    def dialog(self) -> str:
        """Wait for a dialog; its text."""
        self.wait(lambda: self.shows(".monaco-dialog-box"), "it asks")
        return str(self.browser("evaluate", "document.querySelector('.monaco-dialog-box').innerText"))

    def listed(self) -> str:
        """Wait for a list to choose from; its text."""
        self.wait(lambda: self.shows(".quick-input-widget .monaco-list-row"), "the list is open")
        return str(self.browser("evaluate", "document.querySelector('.quick-input-widget').innerText"))

    def server_log(self) -> str:
        """The extension's log."""
        files = sorted((self.home / "data" / "logs").glob("**/*dgemma.log"))
        return "".join(file.read_text("utf-8", "replace") for file in files)


Open = Callable[..., Editor]
"""Opens a window; takes what `Editor` does, but for the folders."""
