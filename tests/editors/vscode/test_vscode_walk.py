"""The walk of a user: the packaged extension, and the server with its embedded checkpoint."""

from __future__ import annotations

import os
import signal
import time

import pytest
from default_writer import ALIKE, default_weights
from users_store import USERS_STORE
from vscode import FAKE, REAL, Editor, Open

pytestmark = pytest.mark.editors

BEFORE = """class A:
    def __init__(self, name, price):
        self.name = name
        self."""

UNFINISHED = """def area(width, height):
    ...


def name_of(item):
    if item is None:
        return ...
    return item.name
"""

TYPED = """def area(width, height):
    return width * height


def perimeter(width, height):
    return 2 * (width + height)


class Item:
    def __init__(self, name):
        self.name = name

    def title(self):
        return self.name.title()
"""

AS_TYPED = {
    "editor.autoIndent": "none",
    "editor.autoClosingBrackets": "never",
    "editor.autoClosingQuotes": "never",
    "editor.acceptSuggestionOnEnter": "off",
    "editor.trimAutoWhitespace": False,
}
"""Then a key writes itself and nothing else."""

PATIENT = {"dgemma.time_budget_ms": 5000}


def suggested(editor: Editor) -> str:
    """What is drawn, because it was asked for."""
    editor.command("editor.action.inlineSuggest.trigger")
    return editor.wait_ghost()


def test_the_walk(window: Open) -> None:
    editor = window(REAL, **PATIENT)
    editor.open(BEFORE)
    editor.wait_ready()
    ghost = suggested(editor)
    editor.picture("ghost")
    assert editor.text() == BEFORE

    # Type along, see the rest, accept a word, then the rest of it.
    editor.type(ghost[:2])
    editor.wait(lambda: editor.ghost() == ghost[2:], "the rest is drawn")
    editor.press("Control+ArrowRight")
    editor.wait(lambda: len(editor.text()) > len(BEFORE) + 2, "a word is accepted")
    accepted = editor.text()
    assert (BEFORE + ghost).startswith(accepted)
    if accepted != BEFORE + ghost:
        editor.wait(lambda: editor.ghost() == (BEFORE + ghost)[len(accepted) :], "the rest of it is drawn")
        editor.picture("word")
        editor.press("Tab")
    editor.wait(lambda: editor.text() == BEFORE + ghost, "all of it is accepted")
    assert "embedded on" in editor.status()["detail"]
    editor.browser("click", "#status\\.languageStatus")
    editor.wait(lambda: editor.shows(".monaco-hover .hover-language-status"), "the status is shown")
    editor.picture("status")
    editor.press("Escape")

    # It is killed, and comes back.
    process = editor.process_id()
    assert process is not None
    os.kill(process, signal.SIGKILL)
    editor.wait(lambda: editor.process_id() not in (None, process), "there is another process")
    editor.wait_ready()
    assert "the server has ended (signal SIGKILL); it is started again in 1 s" in editor.server_log()
    editor.open(BEFORE, "another.py")
    assert suggested(editor)


def test_typing_with_it_switched_on(window: Open) -> None:
    """The buffer is what was typed, and nothing is left on the screen."""
    editor = window(REAL, **AS_TYPED, **{"dgemma.debounce_ms": 0})
    editor.open("")
    editor.wait_ready()
    for line in TYPED.splitlines(keepends=True):
        editor.type(line)
        time.sleep(0.25)  # people pause; what is suggested then is in the way of the next key
    editor.press("Escape")
    editor.wait_no_ghost()
    assert editor.text() == TYPED
    assert len(TYPED) >= 200
    file = editor.folder / "module.py"
    editor.command("workbench.action.files.save")
    editor.wait(lambda: file.read_text() == TYPED, "it is saved")
    assert editor.ghost() == ""
    assert "outcome=" in editor.server_log(), "it was never asked"


def test_actions_of_the_real_server(window: Open) -> None:
    """Each either changes the text or says why not."""
    editor = window(REAL, **{"dgemma.checkpoint": "embedded"})  # nothing better is told of then
    editor.open(UNFINISHED)
    editor.wait_ready()
    editor.select((1, 5))
    editor.start_command("editor.action.quickFix")
    editor.wait(lambda: editor.shows(".action-widget"), "the menu is open")
    editor.picture("quickfix")
    shown = editor.browser("evaluate", "document.querySelector('.action-widget').innerText")
    assert "Fill this hole" in shown
    editor.press("Enter")
    editor.wait(lambda: editor.text() != UNFINISHED or editor.notices(), "it is filled, or it is said why not")


def test_how_a_suggestion_comes_about_is_shown(window: Open) -> None:
    default_weights()
    editor = window(["env", f"DGEMMA_CHECKPOINTS={USERS_STORE}", *REAL], **{"dgemma.time_budget_ms": 30000})
    editor.open(ALIKE)
    editor.wait_ready()
    editor.select((5, 4))
    editor.command("dgemma.watch")
    counted = "document.querySelectorAll('#canvas .token.drafted, #canvas .token.written').length"
    editor.wait(lambda: editor.browser("evaluateInFrames", counted), "what is written is shown")
    ended = "document.querySelector('#end')?.innerText.match(/\\d+ tokens in \\d+ pass/)?.length"
    editor.wait(lambda: editor.browser("evaluateInFrames", ended), "it comes to an end")
    shown = "[...document.querySelectorAll('#canvas .token:not(.refused)')].map((token) => token.innerText).join('')"
    written = editor.browser("evaluateInFrames", shown)

    # Back to the first pass, which had a draft: the function above begins alike.
    slid = "(() => { const s = document.querySelector('#step'); if (!s) return null; s.value = 0;"
    slid += "s.dispatchEvent(new Event('input')); return document.querySelector('#counts').innerText })()"
    counts = editor.wait(lambda: editor.browser("evaluateInFrames", slid), "the first pass is told of")
    editor.picture("watching")
    assert "pass 1" in counts and " ms " in counts and "copies drafted" in counts

    # What was watched is what is suggested.
    editor.command("workbench.action.focusFirstEditorGroup")
    editor.select((5, 4))
    assert suggested(editor).split("\n")[0] in written

    # It follows the cursor, and what is typed goes first.
    place = "document.querySelector('#place')?.innerText"
    editor.select((1, 24))
    editor.wait(lambda: editor.browser("evaluateInFrames", place) == "module.py:2:25", "it has followed")
    assert "return width" not in editor.server_log(), "no text is logged"


def test_of_a_checkpoint_that_denoises_the_canvas_is_shown(window: Open) -> None:
    editor = window(FAKE)
    editor.open("name = ")
    editor.wait_ready()
    editor.select((0, 7))
    editor.command("dgemma.watch")
    ended = "document.querySelector('#end')?.innerText.includes('3 steps')"
    editor.wait(lambda: editor.browser("evaluateInFrames", ended), "it comes to an end")
    slid = "(() => { const s = document.querySelector('#step'); if (!s) return null; s.value = 0;"
    slid += "s.dispatchEvent(new Event('input')); return document.querySelectorAll('#canvas .token.noise').length })()"
    assert editor.browser("evaluateInFrames", slid) == 1, "the first step has noise"
    keys = "[...document.querySelectorAll('.legend')].map((key) => getComputedStyle(key).display).join()"
    assert editor.browser("evaluateInFrames", keys) == "none,block", "the key to a canvas is shown"
