"""The walk of a user: the server as it is installed, its embedded checkpoint, and the plugin folder."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from editor import REAL, Editor
from test_server_process import process_id

pytestmark = pytest.mark.editors

LOADING_S = 120
"""How long a busy machine may take to load a checkpoint."""

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


BEFORE = """class A:
    def __init__(self, name, price):
        self.name = name
        self."""


def wait_ready(editor: Editor) -> None:
    line = "return require('dgemma').statusline()"
    editor.wait(lambda: editor.lua(line) == "dgemma: ready", "the model is there", LOADING_S)


def suggested(editor: Editor) -> str:
    """What is drawn, while typing or because it was asked for."""

    def drawn() -> bool:
        visible = "return require('dgemma').visible()"
        editor.lua("vim.wait(2000, function() return require('dgemma').visible() end, 10)")
        if not editor.lua(visible):
            editor.keys("<M-\\>")
        return bool(editor.lua(visible))

    editor.wait(drawn, "something is drawn")
    return "".join(mark[2] for mark in editor.ghost())


def test_the_walk(bare: Editor) -> None:
    bare.set_up(REAL, settings={"time_budget_ms": 5000})
    bare.open(BEFORE)
    wait_ready(bare)
    bare.keys("GA")
    ghost = suggested(bare)
    assert "\n".join(bare.lines()) == BEFORE

    # Type along, see the rest, accept a word, then the rest of it.
    bare.type(ghost[:2])
    bare.wait_ghost(ghost[2:])
    bare.keys("<M-Right><Tab>")
    assert "\n".join(bare.lines()) == BEFORE + ghost
    bare.keys("<Esc>")

    # It is killed, and comes back.
    os.kill(process_id(bare), signal.SIGKILL)
    bare.wait(lambda: any("started again" in notice for notice in bare.notices()), "its end is noticed")
    bare.wait_attached()
    wait_ready(bare)
    bare.lua("vim.api.nvim_buf_set_lines(0, 0, -1, true, vim.split(..., '\\n'))", BEFORE)
    bare.keys("GA")
    assert suggested(bare)


def test_typing_with_it_switched_on(bare: Editor) -> None:
    """The buffer is what was typed, and nothing is left on the screen."""
    bare.nvim.command("filetype indent off")
    bare.set_up(REAL, settings={"debounce_ms": 0})
    bare.open()
    bare.nvim.command("set noautoindent")
    wait_ready(bare)
    bare.keys("i")
    for line in TYPED.splitlines(keepends=True):
        bare.type(line)
        bare.lua("vim.wait(250)")  # people pause; then Neovim asks
    bare.keys("<Esc>")
    assert "\n".join(bare.lines()) == TYPED
    assert len(TYPED) >= 200
    assert bare.ghost() == []
    bare.lua("vim.wait(300)")
    assert bare.ghost() == []
    log = Path(bare.lua("return require('dgemma.command').log_path()"))
    bare.wait(lambda: log.exists() and "outcome=" in log.read_text(), "it was asked")
