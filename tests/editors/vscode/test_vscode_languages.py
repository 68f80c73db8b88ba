"""Several languages with the default checkpoint: what a user does in their files, and fast typing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from baskets import BASKETS, Basket
from code_server import ROOT
from conversation import FOLDER, Judge, read
from default_writer import default_weights
from test_vscode_walk import AS_TYPED, suggested
from typed_files import KEYS_A_SECOND, TYPED
from users_store import USERS_STORE
from vscode import REAL, Open

from dgemma_model.checkpoint.catalogue import DEFAULT, EMBEDDED

pytestmark = pytest.mark.editors


def test_the_walk_in_each_language_and_then_with_another_checkpoint(window: Open) -> None:
    default_weights()
    editor = window(["env", f"DGEMMA_CHECKPOINTS={USERS_STORE}", *REAL], **{"dgemma.time_budget_ms": 30000})
    for name, basket in BASKETS.items():
        editor.open(basket.before + basket.after, name)
        editor.select(basket.place)
        editor.wait_ready()
        assert editor.status()["detail"].startswith(f"{DEFAULT} on ")
        ghost = suggested(editor)
        assert ghost.startswith("item."), f"{name}: {ghost!r}"
        editor.picture(f"ghost-{name.partition('.')[2]}")

        def written(text: str, basket: Basket = basket) -> bool:
            return editor.text() == basket.before + text + basket.after

        assert written("")
        editor.press("Control+ArrowRight")
        editor.wait(lambda: written("item"), "a word is accepted")
        editor.wait(lambda ghost=ghost: editor.ghost() == ghost.removeprefix("item"), "the rest of it is drawn")
        editor.command("editor.action.inlineSuggest.acceptNextLine")
        editor.wait(lambda ghost=ghost: written(ghost.partition("\n")[0]), "its line is accepted")

        editor.open(basket.unfinished, f"unfinished_{name}")
        row, _ = basket.place
        editor.select((row, len(basket.unfinished.split("\n")[row])))
        editor.start_command("editor.action.quickFix")
        editor.wait(lambda: editor.shows(".action-widget .monaco-list-row"), "the menu is open")
        editor.browser("click", ".action-widget .monaco-list-row:has-text('Fill this hole')")
        editor.wait(lambda basket=basket: editor.text() != basket.unfinished, f"{name} is filled")
        assert "sum" in editor.text().split("\n")[row + 1]

        editor.open(f"{basket.comment} what", f"said_{name}")
        editor.type("e")
        editor.wait(lambda: "the cursor is in a comment" in editor.status()["detail"], "the silence is explained")

    editor.wait_ready()
    editor.configure("dgemma.checkpoint", EMBEDDED)
    editor.wait(lambda: editor.status()["detail"].startswith(f"{EMBEDDED} on "), "the other checkpoint is loaded")
    editor.open("package basket\n", "again.go")
    editor.command("editor.action.inlineSuggest.trigger")
    editor.wait(lambda: editor.status()["text"] == "dgemma: quiet", "it is quiet")
    editor.start_command("dgemma.why")
    editor.wait_notice("nothing was shown because the checkpoint does not know this language")
    editor.click_button("Choose checkpoint")
    assert "now embedded" in editor.listed()


NO_MENU = {
    "editor.quickSuggestions": "off",
    "editor.suggestOnTriggerCharacters": False,
    "editor.parameterHints.enabled": False,
}


@pytest.mark.parametrize("name", TYPED)
def test_typing_fast_with_the_default_checkpoint(window: Open, tmp_path: Path, name: str) -> None:
    """No character is dropped or in another place, nothing is left over, and no answer is for an older text."""
    default_weights()
    trace = tmp_path / "trace.jsonl"
    recorder = [sys.executable, str(ROOT / "tests" / "traces" / "record.py"), *REAL]
    server = ["env", f"DGEMMA_CHECKPOINTS={USERS_STORE}", f"DGEMMA_TRACE={trace}", *recorder]
    editor = window(server, **AS_TYPED, **NO_MENU)
    text = TYPED[name]
    editor.open("", name)
    editor.wait_ready()
    editor.type(text, 1000 // KEYS_A_SECOND)
    editor.press("Escape")
    editor.wait_no_ghost()
    assert editor.text() == text
    editor.wait(lambda: not Judge(accepts_what_was_shown=False).read(read(trace)).complaints, "all is well answered")
    judge = Judge().read(read(trace))
    assert judge.text((editor.folder / name).as_uri().replace(str(editor.folder), FOLDER)) == text
    assert judge.answered > len(text) // 2, "it was hardly ever asked"
    assert editor.ghost() == ""
