"""The walk of a user who writes TypeScript, Go and Rust, with the default checkpoint."""

from __future__ import annotations

import re

import pytest
from baskets import BASKETS, Basket
from default_writer import default_weights
from test_vscode_walk import AS_TYPED, suggested
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

        editor.open("// what", f"said_{name}")
        editor.type("e")
        editor.wait(lambda: "the cursor is in a comment" in editor.status()["detail"], "the silence is explained")

    editor.configure("dgemma.checkpoint", EMBEDDED)
    editor.wait(lambda: editor.status()["detail"].startswith(f"{EMBEDDED} on "), "the other checkpoint is loaded")
    editor.open("package basket\n", "again.go")
    editor.command("editor.action.inlineSuggest.trigger")
    editor.wait(lambda: editor.status()["text"] == "dgemma: quiet", "it is quiet")
    editor.start_command("dgemma.why")
    editor.wait_notice("nothing was shown because the checkpoint does not know this language")
    editor.click_button("Choose checkpoint")
    assert "now embedded" in editor.listed()


TYPED = {
    "typed.py": "def area(width, height):\n    return width * height\n\n\nclass Item:\n"
    "    def __init__(self, name, price):\n        self.name = name\n        self.price = price\n\n"
    "    def label(self):\n        return self.name.title() + str(self.price)\n",
    "typed.ts": "export function area(width: number, height: number): number {\n  return width * height;\n}\n\n"
    "export class Item {\n  constructor(readonly name: string, readonly price: number) {}\n\n  label(): string {\n"
    "    return this.name + this.price;\n  }\n}\n",
}
KEYS_A_SECOND = 12
NO_MENU = {
    "editor.quickSuggestions": "off",
    "editor.suggestOnTriggerCharacters": False,
    "editor.parameterHints.enabled": False,
}


@pytest.mark.parametrize("name", TYPED)
def test_typing_fast_with_the_default_checkpoint(window: Open, name: str) -> None:
    """No character is dropped or in another place, nothing is left over, and no answer is for an older text."""
    default_weights()
    server = ["env", f"DGEMMA_CHECKPOINTS={USERS_STORE}", *REAL]
    editor = window(server, **AS_TYPED, **NO_MENU)
    text = TYPED[name]
    assert len(text) >= 200
    editor.open("", name)
    editor.wait_ready()
    editor.type(text, 1000 // KEYS_A_SECOND)
    editor.press("Escape")
    editor.wait_no_ghost()
    assert editor.text() == text
    shown = [int(version) for version in re.findall(r"outcome=shown version=(\d+)", editor.server_log())]
    assert "outcome=" in editor.server_log(), "it was never asked"
    assert shown == sorted(shown)
