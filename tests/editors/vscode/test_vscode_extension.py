"""What the extension does by itself, around a model that says what a test tells it to."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from vscode import FAKE, Editor, Open, wrapped

pytestmark = pytest.mark.editors


def say(editor: Editor, **said: Any) -> None:
    """What the model of the fake server does from now on."""
    editor.ours(f"return dgemma.server.client.sendRequest('test/say', {json.dumps(said)})")


@pytest.fixture
def editor(window: Open) -> Editor:
    """A window with the fake server, ready, in a file with holes."""
    editor = window(FAKE)
    editor.open("first = ...\nsecond = ...\n")
    editor.wait_ready()
    return editor


def test_a_hole_is_filled_from_the_quick_fixes_and_by_a_command(editor: Editor) -> None:
    editor.select((0, 9))
    titles = editor.js(
        "const editor = vscode.window.activeTextEditor;"
        "const found = await vscode.commands.executeCommand("
        "  'vscode.executeCodeActionProvider', editor.document.uri, editor.selection);"
        "return found.map((action) => action.title)"
    )
    assert titles[0].startswith("Fill this hole")
    editor.start_command("editor.action.quickFix")
    editor.wait(lambda: editor.shows(".action-widget"), "the menu is open")
    editor.press("Enter")
    editor.wait(lambda: editor.text() == "first = value\nsecond = ...\n", "the hole is filled")
    editor.select((1, 10))
    editor.command("dgemma.fillHole")
    assert editor.text() == "first = value\nsecond = value\n"


def test_several_places_are_previewed(editor: Editor) -> None:
    unfinished = "def f(x):\n    pass\n\n\ndef g(x):\n    ...\n"
    say(editor, text="return x")
    editor.open(unfinished, "two.py")
    editor.start_command("dgemma.fillAllHoles")
    editor.wait(lambda: editor.shows(".bulk-edit-panel"), "the refactor preview is open")
    assert editor.text("two.py") == unfinished
    editor.browser("click", ".bulk-edit-panel .edit-checkbox")  # of the file: all of them
    editor.picture("preview")
    editor.command("refactorPreview.apply")
    filled = unfinished.replace("pass", "return x").replace("...", "return x")
    editor.wait(lambda: editor.text("two.py") == filled, "both are filled")


def test_an_action_that_comes_to_nothing_says_so(editor: Editor) -> None:
    editor.open("done = 1\n", "done.py")
    editor.select((0, 0))
    editor.command("dgemma.fillHole")
    assert editor.wait_notice("^dgemma: there is nothing here")
    assert editor.text() == "done = 1\n"


def test_the_menu_pause_and_why(editor: Editor) -> None:
    editor.start_command("dgemma.menu")
    editor.wait(lambda: editor.shows(".quick-input-widget .monaco-list-row"), "the menu is open")
    editor.picture("menu")
    editor.press("Enter")  # the first is to pause
    editor.wait(lambda: editor.status()["text"] == "dgemma: paused", "it is paused")
    editor.open("name = ", "paused.py")
    editor.command("editor.action.inlineSuggest.trigger")
    editor.start_command("dgemma.why")
    assert editor.wait_notice("^dgemma: suggestions are paused")
    assert editor.ghost() == ""
    editor.command("notifications.clearAll")
    editor.command("dgemma.resume")
    assert editor.status()["text"] == "dgemma: ready"
    editor.open("# name", "comment.py")
    editor.type("s")
    editor.wait(lambda: editor.status()["text"] == "dgemma: quiet", "it is quiet")
    assert editor.status()["detail"].endswith("the cursor is in a comment")
    editor.browser("click", "#status\\.languageStatus")
    editor.wait(lambda: editor.shows(".monaco-hover .hover-language-status"), "the status is shown")
    editor.picture("quiet")
    editor.start_command("dgemma.why")
    assert editor.wait_notice("nothing was shown because the cursor is in a comment$")
    editor.click_button("What to do")
    heading = "document.querySelector('h1')?.innerText"
    editor.wait(
        lambda: editor.browser("evaluateInFrames", heading) == "Why is nothing shown?", "the page about it is open"
    )


def test_crashes_are_backed_off(editor: Editor) -> None:
    for seconds in (1, 2):
        process = editor.process_id()
        assert process is not None
        os.kill(process, signal.SIGSEGV)
        said = f"the server has ended (signal SIGSEGV); it is started again in {seconds} s"
        editor.wait(lambda said=said: said in editor.server_log(), said)
        editor.wait(lambda process=process: editor.process_id() not in (None, process), "there is another process")
        editor.wait_ready()
    editor.open("name = ", "again.py")
    editor.command("editor.action.inlineSuggest.trigger")
    assert editor.wait_ghost() == "value"


def test_restarts_come_one_after_the_other(editor: Editor) -> None:
    process = editor.process_id()
    editor.js("await Promise.all([1, 2, 3].map(() => vscode.commands.executeCommand('dgemma.restart')))")
    editor.wait_ready()
    assert editor.process_id() not in (None, process)
    assert editor.server_log().count("starting /") == 4
    assert editor.notices() == []


def test_a_file_that_is_renamed_while_it_is_filled_stays_as_it_is(editor: Editor) -> None:
    say(editor, held=True)
    editor.select((0, 9))
    editor.start_command("dgemma.fillHole")
    editor.ours("await dgemma.server.client.sendRequest('test/reached', {})")
    editor.js(
        "const edit = new vscode.WorkspaceEdit();"
        "const { uri } = vscode.window.activeTextEditor.document;"
        "edit.renameFile(uri, vscode.Uri.joinPath(uri, '../renamed.py')); await vscode.workspace.applyEdit(edit)"
    )
    editor.wait(
        lambda: editor.js("return vscode.window.activeTextEditor?.document.fileName.endsWith('renamed.py')"), "renamed"
    )
    say(editor, held=False)
    assert editor.wait_notice("^dgemma: the document has changed meanwhile")
    assert editor.text() == "first = ...\nsecond = ...\n"


def test_a_file_that_is_deleted_while_it_is_filled_stays_deleted(editor: Editor) -> None:
    say(editor, held=True)
    editor.select((0, 9))
    editor.start_command("dgemma.fillHole")
    editor.ours("await dgemma.server.client.sendRequest('test/reached', {})")
    editor.js(
        "const { uri } = vscode.window.activeTextEditor.document;"
        "await vscode.commands.executeCommand('workbench.action.closeActiveEditor');"
        "await vscode.workspace.fs.delete(uri)"
    )
    say(editor, held=False)
    editor.wait(lambda: "outcome=stale" in editor.server_log() or editor.notices(), "its end is noticed")
    assert not (editor.folder / "module.py").exists()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["false"], r"the server does not start \(exit code 1\); check it"),
        (["sh", "-c", "'kill -9 $$'"], r"the server does not start \(SIGKILL\); check it"),
        (["echo", "hello"], r"the server does not start \(exit code 0\); check it"),
    ],
)
def test_a_server_that_does_not_start(window: Open, command: list[str], said: str) -> None:
    editor = window(command)
    editor.open("name = ")
    assert editor.wait_notice(said)
    editor.type("1")
    editor.wait(lambda: editor.text() == "name = 1", "it is typed")
    assert editor.status()["text"] == "dgemma: not running"
    editor.command("dgemma.fillHole")
    editor.wait(lambda: len(editor.notices()) == 2, "asked for something, it says what is wrong again")


def test_a_server_that_hangs_at_start(window: Open) -> None:
    editor = window(["sleep", "1000"])
    editor.open("name = ")
    assert editor.wait_notice("the server has not answered for 30 s; see its log, then restart it")
    editor.type("1")
    editor.wait(lambda: editor.text() == "name = 1", "it is typed")
    wrapped(FAKE, editor.home / "server")
    editor.command("dgemma.restart")
    editor.wait_ready()
    assert editor.status()["text"] == "dgemma: ready"


def test_a_model_that_cannot_be_loaded(window: Open) -> None:
    editor = window(["env", "FAKE_LOAD=fail", *FAKE])
    editor.open("name = ")
    assert editor.wait_notice("^dgemma: no suggestions, the model could not be loaded: the weights are truncated")
    assert editor.status() == {
        "text": "dgemma: no model",
        "detail": "the weights are truncated",
        "busy": False,
        "severity": 2,
    }


def test_the_status_says_how_much_of_the_model_is_loaded(window: Open) -> None:
    editor = window(["env", "FAKE_LOAD=wait", *FAKE])
    editor.open("name = ")
    editor.wait(lambda: editor._is_active() and editor.status()["text"] == "dgemma: loading 25 %", "it is at 25 %")
    assert editor.status()["busy"]
    editor.ours("return dgemma.server.client.sendRequest('test/release', {})")
    editor.wait_ready()


def test_a_document_that_nobody_looks_at_does_not_start_it(window: Open) -> None:
    """VS Code and extensions open documents in the background."""
    editor = window(FAKE)
    editor.js("await vscode.workspace.openTextDocument({ language: 'python', content: 'name = ' }); return true")
    editor.wait(editor._is_active, "the extension is active")
    assert editor.process_id() is None and editor.server_log() == ""
    editor.open("name = ")
    editor.wait_ready()


def test_no_server_at_all(window: Open) -> None:
    editor = window()
    editor.open("name = ")
    assert editor.wait_notice("^dgemma: the server is not installed; run the command 'dgemma: Install server'$")
    editor.picture("no-server")
    editor.press("Escape")
    editor.start_command("dgemma.getStarted")
    editor.wait(lambda: editor.shows(".gettingStartedContainer"), "the walkthrough is open")
    editor.picture("walkthrough")


def environment_of_the_folder(editor_home: Path, says: Path) -> Path:
    """A folder with an environment that has the server; when that is started, it writes `says`."""
    binaries = editor_home / "project" / ".venv" / "bin"
    binaries.mkdir(parents=True)
    (binaries / "dgemma-lsp").write_text("")
    server = wrapped(FAKE, editor_home / "fake")
    (binaries / "python").write_text(f"#!/bin/sh\necho $@ > {says}\nexec {server}\n")
    (binaries / "python").chmod(0o755)
    settings = editor_home / "project" / ".vscode" / "settings.json"
    settings.parent.mkdir()
    settings.write_text(json.dumps({"dgemma.checkpoint": "/of/the/workspace"}))
    return binaries


@pytest.mark.parametrize("trusted", [True, False])
def test_the_environment_of_a_workspace(window: Open, tmp_path: Path, trusted: bool) -> None:
    says = tmp_path / "started"
    trust = {"security.workspace.trust.enabled": not trusted, "security.workspace.trust.startupPrompt": "never"}
    environment_of_the_folder(tmp_path / "home0", says)
    editor = window(None, **trust)
    editor.open("name = ")
    if trusted:
        editor.wait_ready()
        assert says.read_text().split() == ["-I", "-m", "dgemma_lsp"]
    else:
        assert editor.wait_notice("the server is not installed")
        assert not says.exists()
        assert editor.js("return vscode.workspace.getConfiguration('dgemma').get('checkpoint')") is None


def test_in_a_virtual_workspace_it_is_off(window: Open) -> None:
    editor = window(FAKE)
    editor.js("vscode.commands.executeCommand('vscode.openFolder', vscode.Uri.parse('memory:/'))")
    opened = "return vscode.workspace.workspaceFolders?.[0]?.uri.toString()"
    editor.wait(lambda: editor.answers(f"{opened} === 'memory:/'"), "the folder is open")
    editor.js(
        "const file = vscode.Uri.parse('memory:/module.py');"
        "const shown = await vscode.window.showTextDocument(await vscode.workspace.openTextDocument(file));"
        "shown.selection = new vscode.Selection(0, 7, 0, 7)"
    )
    editor.command("workbench.action.focusActiveEditorGroup")
    editor.wait(lambda: editor.shows(".monaco-editor.focused"), "it has the focus")
    editor.type("1")
    editor.wait(lambda: editor.text() == "name = 1", "it is typed")
    assert editor.js("return vscode.extensions.getExtension('dgemma.dgemma') === undefined")
    assert editor.server_log() == "" and editor.notices() == []


def test_two_windows_on_one_folder_have_a_server_each(editor: Editor) -> None:
    first = editor.process_id()
    editor.open_window()
    editor.wait(lambda: editor.shows(".monaco-workbench .editor-group-container"), "the other window is there")
    editor.press("Control+P")
    editor.wait(lambda: editor.shows(".quick-input-widget input"), "files can be opened")
    editor.type("module.py")
    editor.wait(lambda: editor.shows(".quick-input-list .monaco-list-row.focused"), "it is found")
    editor.press("Enter")
    editor.wait(lambda: editor.shows(".monaco-editor.focused"), "it is open")
    editor.press("Control+End")
    editor.type("third = ")

    def asked() -> str:
        editor.press("Backspace")
        editor.type(" ")
        time.sleep(1)
        return editor.ghost()

    assert editor.wait(asked, "something is suggested there") == "value"
    assert editor.process_id() == first, "the first window's goes on"
