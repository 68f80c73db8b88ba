"""The lines of editors/README.md, in the editors that Debian has: started for real, driven by keys."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from others import HELIX, Emacs, Kate, home_with_server, lines, needed, project
from terminal import Terminal, wait

pytestmark = pytest.mark.editors

TAB, RETURN, ESCAPE = "\t", "\r", "\x1b"
ALT_TAB, TO_THE_END, SAVE = ESCAPE + TAB, ESCAPE + ">", "\x18\x13"
"""As terminals send Emacs's keys."""

EMACS = {
    "eglot": (
        "Emacs with eglot",
        "(and (fboundp 'eglot-current-server) (eglot-current-server) t)",
        "eglot-code-actions",
    ),
    "lsp-mode": (
        "Emacs with lsp-mode",
        "(and (fboundp 'lsp-workspaces) (equal (mapcar #'lsp--workspace-status (lsp-workspaces)) '(initialized)))",
        "lsp-execute-code-action",
    ),
}


@pytest.fixture(params=EMACS)
def emacs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], tuple[Emacs, str]]]:
    """Opens a file in an Emacs with a client that is connected; also the command for code actions."""
    needed("emacs", "emacsclient")
    heading, is_ready, actions = EMACS[request.param]
    started: list[Emacs] = []

    def open_file(text: str) -> tuple[Emacs, str]:
        editor = Emacs(tmp_path, lines(heading), text)
        started.append(editor)
        if editor.lisp(f'(locate-library "{request.param}")') == "nil":
            pytest.skip(f"NOT TESTED, not installed: {request.param} (tests/editors/other/fetch_editors.sh)")
        editor.wait(is_ready, "the server is connected")
        return editor, actions

    yield open_file
    for editor in started:
        editor.terminal.close()


def settled(text: Callable[[], str], before: str) -> str:
    """What a text has become once it is another one, or a moment later: the model may still have been loading."""
    deadline = time.monotonic() + 3
    while text() == before and time.monotonic() < deadline:
        time.sleep(0.1)
    return text()


def test_emacs_writes_a_suggestion(emacs: Callable[[str], tuple[Emacs, str]]) -> None:
    editor, _ = emacs("name = ")

    def is_written() -> bool:
        editor.terminal.press(TO_THE_END, ALT_TAB)
        return settled(editor.text, "name = ") == "name = value"

    wait(is_written, "the suggestion is written", editor.report)
    editor.terminal.press(SAVE)
    wait(lambda: editor.file.read_text() == "name = value\n", "it is saved", editor.report)


def test_emacs_fills_a_hole(emacs: Callable[[str], tuple[Emacs, str]]) -> None:
    editor, actions = emacs("first = ...\nsecond = 2\n")
    editor.lisp('(progn (search-forward "= ") (set-window-point (get-buffer-window) (point)))')
    editor.terminal.press(ESCAPE + "x", actions, RETURN)
    if actions.startswith("eglot"):  # lsp-mode does at once what is the only thing to do
        editor.terminal.press("Fill this hole", TAB, RETURN)
        wait(lambda: "Proceed?" in editor.terminal.report(), "it asks before it makes a server's edit", editor.report)
        editor.terminal.press("y")
    editor.wait_text("first = value\nsecond = 2\n")


def test_helix(tmp_path: Path) -> None:
    needed(str(HELIX))
    environment = home_with_server(tmp_path)
    settings = tmp_path / "config" / "helix" / "languages.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text(lines("Helix"))
    file = project(tmp_path, "name = \nfirst = ...\n")
    with closing(Terminal([str(HELIX), "-vv", str(file)], file.parent, **environment)) as helix:

        def saved(text: str) -> None:
            def is_saved() -> bool:
                helix.press(ESCAPE, ":w", RETURN)
                return file.read_text() == text

            wait(is_saved, f"it says {text!r}", lambda: f"{file.read_text()!r}\n{helix.report()}")

        log = tmp_path / "cache" / "helix" / "helix.log"
        wait(lambda: log.exists() and '"kind": "end"' in log.read_text(), "the model is loaded", helix.report)
        helix.press("A", "\x18")
        wait(lambda: "value" in helix.report(), "the menu is open", helix.report)
        helix.press("\x0e", RETURN)
        saved("name = value\nfirst = ...\n")
        helix.press("j", "g", "l", " ", "a")
        wait(lambda: "Fill this hole" in helix.report(), "the actions are listed", helix.report)
        helix.press(RETURN)
        saved("name = value\nfirst = value\n")


def test_kate(tmp_path: Path) -> None:
    needed("kate", "Xvfb", "xdotool", "dbus-run-session")
    before = "name =\n"
    with closing(Kate(tmp_path, lines("Kate"), before)) as kate:
        kate.focus("LSP server start requested")
        kate.press("Return")
        kate.focus("module.py")

        def is_written() -> bool:
            kate.press("ctrl+Home", "End", "space", "ctrl+space")
            time.sleep(1.5)  # nothing says that its menu is open
            kate.press("Return", "ctrl+s")
            if settled(kate.file.read_text, before) == "name = value\n":
                return True
            kate.press("ctrl+z", "ctrl+z", "ctrl+s")
            return False

        wait(is_written, "the suggestion is written", kate.report)
