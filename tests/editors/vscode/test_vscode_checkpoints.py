"""Checkpoints in VS Code: got, cancelled, continued, chosen and removed, with a hub of the tests' own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import FakeHub, fake_hub
from tiny_checkpoints import CONTENT, FILE, NAME, REPOSITORY, TinyWorld
from vscode import Editor, Open

from dgemma_model.checkpoint import catalogue

pytestmark = pytest.mark.editors


@pytest.fixture
def world(tmp_path: Path) -> TinyWorld:
    folder = tmp_path / "world"
    folder.mkdir()
    return TinyWorld.build(folder)


@pytest.fixture
def hub(world: TinyWorld) -> Iterator[FakeHub]:
    with fake_hub(REPOSITORY, world.folder / "published") as running:
        yield running


@pytest.fixture
def editor(window: Open, world: TinyWorld, hub: FakeHub) -> Editor:
    """A window whose server says that the row would fill better."""
    editor = window(world.server(hub.url, FAKE_BETTER=NAME))
    editor.open("name = ")
    editor.wait_ready()
    return editor


def arrived(world: TinyWorld) -> bytes:
    (path,) = (world.store / ".pulling" / NAME).glob("*.partial")
    return path.read_bytes()


def test_the_better_one_is_told_once_and_got_while_the_other_fills(
    editor: Editor, world: TinyWorld, hub: FakeHub
) -> None:
    hub.holds[FILE] = 2_000_000
    assert editor.status()["severity"] == 1
    assert "tiny would fill better" in editor.status()["detail"]
    editor.wait_notice(r"^dgemma: fake fills now, and tiny would fill better \(3 MB, all languages\)$")
    editor.picture("better")
    process = editor.process_id()
    editor.click_button("Get it")
    editor.wait_notice(r"dgemma: getting tiny: tiny.gguf: \d+ %, [12] MB")
    editor.picture("getting")
    editor.command("workbench.action.focusActiveEditorGroup")
    editor.command("editor.action.inlineSuggest.trigger")
    assert editor.wait_ghost() == "value"
    hub.released.set()
    editor.wait(lambda: world.file.exists(), "it is here")
    editor.wait(lambda: editor.process_id() not in (None, process), "the server has been started again")
    editor.wait_ready()
    editor.command("dgemma.restart")
    editor.wait_ready()
    assert not [notice for notice in editor.notices() if "fills now" in notice], "it is told again"


def test_cancelled_and_continued(editor: Editor, world: TinyWorld, hub: FakeHub) -> None:
    editor.command("notifications.clearAll")
    hub.holds[FILE] = 2_000_000
    editor.start_command("dgemma.getCheckpoint")  # the default one: no source here has it
    editor.wait_notice("cannot be pulled: ")
    editor.command("notifications.clearAll")
    editor.js(f"vscode.commands.executeCommand('dgemma.getCheckpoint', '{NAME}')")
    editor.wait_notice(r"tiny.gguf: \d+ %")
    editor.js(f"vscode.commands.executeCommand('dgemma.getCheckpoint', '{NAME}')")
    editor.wait_notice("tiny is on its way already")
    editor.click_button("Cancel")
    editor.wait_notice("cancelled; what has arrived is kept")
    begun = arrived(world)
    assert begun and CONTENT.startswith(begun) and not world.file.exists()
    hub.holds.clear()
    hub.ranges.clear()
    editor.js(f"vscode.commands.executeCommand('dgemma.getCheckpoint', '{NAME}')")
    editor.wait(lambda: world.file.exists(), "it is here")
    assert hub.ranges[0] == (FILE, f"bytes={len(begun)}-")


def test_one_is_chosen_that_is_not_here(editor: Editor, world: TinyWorld) -> None:
    editor.start_command("dgemma.chooseCheckpoint")
    shown = editor.listed()
    assert "Automatic" in shown and "the best that is here: embedded" in shown
    assert "491 MB, 92 programming languages" in shown and "not on this machine" in shown
    assert all(entry.name in shown for entry in catalogue.ENTRIES[:4])
    editor.picture("choose")
    editor.type("tiny")
    editor.wait(lambda: "qwen" not in editor.listed().partition("\n")[2], "the list is narrowed")
    editor.press("Enter")
    asked = editor.dialog()
    assert "Get tiny?" in asked and "3 MB, none" in asked
    assert not world.file.exists()
    editor.press("Enter")
    editor.wait(lambda: world.file.exists(), "it is here")
    chosen = "return vscode.workspace.getConfiguration('dgemma').get('checkpoint')"
    editor.wait(lambda: editor.js(chosen) == NAME, "it is chosen")
    editor.wait(lambda: "loading checkpoint=tiny" in editor.server_log(), "it is loaded")


def test_who_does_not_want_it_gets_nothing(editor: Editor, world: TinyWorld, hub: FakeHub) -> None:
    editor.start_command("dgemma.chooseCheckpoint")
    editor.listed()
    editor.type("tiny")
    editor.wait(lambda: "qwen" not in editor.listed().partition("\n")[2], "the list is narrowed")
    editor.press("Enter")
    editor.dialog()
    editor.press("Escape")
    editor.wait(lambda: not editor.shows(".monaco-dialog-box"), "it is answered")
    assert hub.asked == [] and not world.store.exists()


def test_what_is_on_the_disk_is_said_and_removed(editor: Editor, world: TinyWorld) -> None:
    assert world.run("pull", NAME, "--from", world.folder / "published" / FILE).returncode == 0
    editor.command("notifications.clearAll")
    process = editor.process_id()
    editor.start_command("dgemma.remove")
    shown = editor.listed()
    assert "tiny" in shown and "3 MB" in shown and str(world.store) in shown
    editor.browser("click", ".quick-input-widget .monaco-list-row .monaco-checkbox")
    editor.picture("remove")
    editor.click_button("OK")
    assert "Delete 3 MB?" in editor.dialog()
    editor.click_button("Delete")
    editor.wait_notice("3 MB are free again")
    assert not world.file.parent.exists()
    editor.wait(lambda: editor.process_id() not in (None, process), "the server has been started again")
    editor.start_command("dgemma.remove")
    editor.wait_notice("nothing of it is on this disk but the extension itself")
