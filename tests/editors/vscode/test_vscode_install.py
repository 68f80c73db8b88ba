"""The command that installs the server, with the Pythons that a machine may have."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_vscode_walk import BEFORE, suggested
from vscode import Editor, Open

pytestmark = pytest.mark.editors

INSTALLING_S = 900


def test_from_nothing_to_the_first_suggestion(window: Open) -> None:
    editor = window()
    editor.open(BEFORE)
    assert editor.wait_notice("^dgemma: the server is not installed")
    editor.start_command("dgemma.installServer")
    editor.wait(lambda: editor.shows(".monaco-dialog-box"), "it asks")
    asked = editor.browser("evaluate", "document.querySelector('.monaco-dialog-box').innerText")
    assert "GB to download" in asked
    assert shutil.which("nvidia-smi") or "the CPU build of torch" in asked
    editor.picture("install")
    editor.press("Enter")
    environment = editor.home / "data/User/globalStorage/dgemma.dgemma/server"
    editor.wait(lambda: (environment / "bin/python").exists(), "the environment is made")
    editor.picture("installing")
    editor.wait(lambda: (environment / "wheel.json").exists() or failure(editor), "it is installed", INSTALLING_S)
    assert failure(editor) is None
    editor.wait_ready()
    assert editor.ours("return dgemma.server.command.source") == "own"
    editor.command("workbench.action.focusActiveEditorGroup")
    assert suggested(editor)
    assert editor.text() == BEFORE


def failure(editor: Editor) -> str | None:
    return next((notice for notice in editor.notices() if "failed" in notice), None)


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
