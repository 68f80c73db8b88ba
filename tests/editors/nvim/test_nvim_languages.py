"""Several languages with the default checkpoint: what a user does in their files, and fast typing."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from baskets import BASKETS, Basket
from conftest import name_of
from conversation import Judge, read
from default_writer import default_weights
from editor import REAL, ROOT, Editor, neovims
from test_nvim_checkpoints import run
from test_real_server import LOADING_S, wait_ready
from typed_files import KEYS_A_SECOND, TYPED
from users_store import USERS_STORE

from dgemma_model.checkpoint.catalogue import DEFAULT, EMBEDDED

pytestmark = pytest.mark.editors

SERVER = ["env", f"DGEMMA_CHECKPOINTS={USERS_STORE}", *REAL]
DRAWS = {neovim.path for neovim in neovims() if neovim.native} or {neovims()[-1].path}
NEWEST = pytest.mark.parametrize("neovim", [one for one in neovims() if one.path in DRAWS], ids=name_of)
"""Both ways to draw, in the Neovim that draws by itself, if there is one."""

FILL_HOLE = """
local function fills(action) return vim.startswith(action.title, 'Fill this hole') end
vim.lsp.buf.code_action({ apply = true, filter = fills })
"""


@pytest.fixture
def editor(bare: Editor) -> Editor:
    """Set up with the default checkpoint, and time enough for a machine that does other things, too."""
    default_weights()
    bare.nvim.command("filetype on")
    bare.set_up(SERVER, settings={"time_budget_ms": 30000})
    return bare


def asked(editor: Editor) -> str:
    """What is drawn because it was asked for."""
    editor.lua("vim.wait(500)")  # the cursor has moved, and Neovim asks by itself

    def drawn() -> bool:
        editor.keys("<M-\\>")
        return bool(editor.lua("return vim.wait(10000, require('dgemma').visible, 10)"))

    editor.wait(drawn, "something is drawn", LOADING_S)
    return "".join(mark[2] for mark in editor.ghost())


def written(editor: Editor, basket: Basket) -> str:
    """The text between the two parts of the file."""
    text = "\n".join([*editor.lines(), ""])
    assert text.startswith(basket.before) and text.endswith(basket.after)
    return text.removeprefix(basket.before).removesuffix(basket.after)


def wait_why(editor: Editor, reason: str) -> None:
    """Ask why nothing is shown until the answer is this."""

    def told() -> bool:
        editor.nvim.command("messages clear | Dgemma why")
        editor.lua("vim.wait(300)")
        return f"nothing was shown because {reason}" in editor.messages()

    editor.wait(told, "the silence is explained")


@NEWEST
def test_the_walk_in_each_language_and_then_with_another_checkpoint(editor: Editor) -> None:
    for name, basket in BASKETS.items():
        editor.open(basket.before + basket.after, name)
        wait_ready(editor)
        row, _ = basket.place
        editor.keys(f"{row + 1}GA")
        ghost = asked(editor)
        assert ghost.startswith("item."), f"{name}: {ghost!r}"
        editor.keys("<M-Right>")
        word = written(editor, basket)
        assert word and ghost.startswith(word)
        editor.keys("<M-C-Right><Esc>")
        assert written(editor, basket) == ghost.partition("\n")[0]

        editor.open(basket.unfinished, f"unfinished_{name}")
        editor.keys(f"{row + 1}G")
        editor.lua(FILL_HOLE)
        filled = f"{name} is filled"
        editor.wait(lambda basket=basket: "\n".join([*editor.lines(), ""]) != basket.unfinished, filled)
        assert "TODO" in editor.lines()[row] and "sum" in editor.lines()[row + 1]

        editor.keys(f"A{basket.comment} what")
        wait_why(editor, "the cursor is in a comment")
        editor.keys("<Esc>")
    assert f"checkpoint: {DEFAULT}, because " in editor.nvim.command_output("Dgemma status")

    run(editor, "checkpoint", EMBEDDED)
    is_used = f"checkpoint: {EMBEDDED}, because "
    editor.wait(lambda: is_used in editor.nvim.command_output("Dgemma status"), "the other one is loaded", LOADING_S)
    wait_ready(editor)
    editor.keys("Go")
    editor.keys("<M-\\>")
    wait_why(editor, "the checkpoint does not know this language")
    editor.keys("<Esc>")


@NEWEST
@pytest.mark.parametrize("name", TYPED)
def test_typing_fast(bare: Editor, tmp_path: Path, name: str) -> None:
    """No character is dropped or in another place, nothing is left over, and no answer is for an older text."""
    default_weights()
    trace = tmp_path / "trace.jsonl"
    recorder = [sys.executable, str(ROOT / "tests" / "traces" / "record.py"), *REAL]
    bare.nvim.command("filetype on | filetype indent off | set noautoindent")
    bare.set_up(["env", f"DGEMMA_CHECKPOINTS={USERS_STORE}", f"DGEMMA_TRACE={trace}", *recorder])
    bare.open("", name)
    wait_ready(bare)
    bare.keys("i")
    for key in TYPED[name]:
        bare.type(key)
        time.sleep(1 / KEYS_A_SECOND)
    bare.keys("<Esc>")
    assert "\n".join(bare.lines()) == TYPED[name]
    bare.wait_no_ghost()

    def judged() -> Judge:
        return Judge(accepts_what_was_shown=False).read(read(trace))  # several keys may come in one message

    bare.wait(lambda: not judged().complaints, "all is well answered")
    assert judged().answered > 0, "it was never asked"
    assert bare.ghost() == []
