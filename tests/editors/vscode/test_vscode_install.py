"""The command that installs the server, with the Pythons that a machine may have."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from first_suggestion import assert_in_time
from test_vscode_walk import BEFORE, suggested
from vscode import Editor, Open

from dgemma_model.checkpoint.catalogue import DEFAULT

pytestmark = pytest.mark.editors

INSTALLING_S = 900


UNFINISHED_TS = """interface Item {
  name: string;
  price: number;
  count: number;
}

export function total(items: Item[]): number {
  return """


def test_from_nothing_to_the_first_suggestion_of_the_default_checkpoint(window: Open) -> None:
    """As the README says, in TypeScript, which only the default checkpoint knows. The one inside the package fills
    Python meanwhile."""
    began = time.monotonic()
    editor = window(**{"dgemma.time_budget_ms": 30000})  # a busy machine is no reason to fail
    editor.open(UNFINISHED_TS, "basket.ts")
    assert editor.wait_notice("^dgemma: the server is not installed")
    editor.start_command("dgemma.installServer")
    asked = editor.dialog()
    assert "GB to download" in asked
    assert shutil.which("nvidia-smi") or "the CPU build of torch" in asked
    assert "491 MB, 92 programming languages" in asked and "far weaker" in asked and "27 MB, Python" in asked
    editor.picture("install")
    editor.press("Enter")
    environment = editor.home / "data/User/globalStorage/dgemma.dgemma/server"
    editor.wait(lambda: (environment / "bin/python").exists(), "the environment is made")
    editor.picture("installing")
    editor.wait(lambda: (environment / "wheel.json").exists() or failure(editor), "it is installed", INSTALLING_S)
    assert failure(editor) is None

    editor.wait_ready()
    assert editor.ours("return dgemma.server.command.source") == "own"
    editor.wait_notice(rf"^dgemma: getting {DEFAULT}: .*\d %")
    editor.picture("pulling")
    assert editor.status()["detail"].startswith("embedded on ")
    editor.open(BEFORE)
    assert suggested(editor)

    stored = editor.home / ".local/share/dgemma-lsp/checkpoints" / DEFAULT
    editor.wait(lambda: (stored / "source.json").exists() or failure(editor), "it is here", INSTALLING_S)
    assert failure(editor) is None
    editor.wait(lambda: editor.status()["detail"].startswith(f"{DEFAULT} on "), "it is used", INSTALLING_S)
    editor.wait_ready()
    assert editor.status()["severity"] == 0
    editor.open(UNFINISHED_TS, "basket.ts")
    assert suggested(editor)
    assert_in_time(began)
    editor.picture("typescript")
    assert editor.text() == UNFINISHED_TS

    # All of it goes away again.
    editor.start_command("dgemma.remove")
    shown = editor.listed()
    assert DEFAULT in shown and "The server" in shown
    editor.browser("click", ".quick-input-widget .quick-input-header .monaco-checkbox")
    editor.click_button("OK")
    asked = editor.dialog()
    assert "GB?" in asked and str(environment) not in asked
    editor.click_button("Delete")
    editor.wait_notice("GB are free again")
    assert not environment.exists() and not stored.exists()
    assert editor.process_id() is None


def test_another_window_is_installing(window: Open) -> None:
    editor = window()
    editor.open("name = ")
    lock = editor.home / "data/User/globalStorage/dgemma.dgemma/server.installing"
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text(str(os.getpid()))
    editor.start_command("dgemma.installServer")
    editor.dialog()
    editor.press("Enter")
    editor.wait_notice("another window is installing the server; wait for it")
    assert lock.exists() and not (lock.parent / "server").exists()


def failure(editor: Editor) -> str | None:
    return next((notice for notice in editor.notices() if "failed" in notice or "cannot be" in notice), None)


def test_who_says_no_gets_nothing(window: Open) -> None:
    editor = window()
    editor.open(BEFORE)
    editor.start_command("dgemma.installServer")
    editor.wait(lambda: editor.shows(".monaco-dialog-box"), "it asks")
    editor.press("Escape")
    editor.wait(lambda: not editor.shows(".monaco-dialog-box"), "it is answered")
    assert not (editor.home / "data/User/globalStorage/dgemma.dgemma/server").exists()


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """Where the first window's extension keeps its own, on a disk of its own that has no room."""
    folder = tmp_path / "home0/data/User/globalStorage/dgemma.dgemma"
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("NOT TESTED: nothing may be mounted here, so that no disk can be full")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_without_room(window: Open, full_disk: Path) -> None:
    editor = window()
    editor.open("name = ")
    editor.start_command("dgemma.installServer")
    assert editor.wait_notice(r"there are 0\.0 GB free in .* and [\d.]+ are needed; free some, then run this again")
    editor.type("1")
    editor.wait(lambda: editor.text() == "name = 1", "it is typed")
    assert list(full_disk.iterdir()) == []


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        (
            None,
            "Python 3.11 or later was not found; install it from python.org or your system, then run this again",
        ),
        ("3 8\nvenv", "python3 is Python 3.8, and 3.11 or later is needed; install that, then run this again"),
        ("3 12", "python3 cannot make environments; install python3.12-venv, then run this again"),
    ],
)
def test_a_machine_without_the_right_python(window: Open, tmp_path: Path, printed: str | None, said: str) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "env", "uname", "cat"):
        (programs / name).symlink_to(shutil.which(name) or name)
    if printed is not None:
        (programs / "python3").write_text(f"#!{programs}/sh\ncat <<EOF\n{printed}\nEOF\n")
        (programs / "python3").chmod(0o755)
    editor = window(path=[str(programs)])
    editor.open("name = ")
    editor.start_command("dgemma.installServer")
    assert editor.wait_notice(said)
