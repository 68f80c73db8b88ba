"""The walk of a user: the server as it is installed, its embedded checkpoint, and the plugin folder."""

from __future__ import annotations

import os
import signal

import pytest
from editor import REAL, Editor
from test_server_process import process_id

pytestmark = pytest.mark.editors

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


def suggest(editor: Editor) -> str:
    """Ask by the key, as often as it takes for the model to be there; what is drawn."""

    def asked() -> str:
        editor.keys("<M-\\>")
        editor.lua("vim.wait(1000, function() return require('dgemma').visible() end, 10)")
        return "".join(mark[2] for mark in editor.ghost())

    return str(editor.wait(asked, "the server suggests something"))


def test_the_walk(bare: Editor) -> None:
    bare.set_up(REAL)
    bare.open()
    bare.keys("idef area(width, height):<CR>")
    bare.keys("<C-u>    return ")
    line = "    return "
    ghost = suggest(bare)
    assert bare.lines() == ["def area(width, height):", line]

    # Type along, see the rest, accept a word, then all of it.
    bare.type(ghost[0])
    bare.wait_ghost(ghost[1:])
    bare.keys("<Tab>" if len(ghost) > 1 else "")
    assert "\n".join(bare.lines()[1:]) == line + ghost
    bare.keys("<Esc>:Dgemma why<CR>")
    bare.wait(lambda: "dgemma: " in bare.messages(), "the server says why")

    # It is killed, and comes back.
    bare.keys("o<C-u>")
    os.kill(process_id(bare), signal.SIGKILL)
    bare.wait(lambda: any("started again" in notice for notice in bare.notices()), "its end is noticed")
    bare.wait_attached()
    bare.keys("def volume(width, height, depth):<CR><C-u>    return ")
    assert suggest(bare)


def test_typing_with_it_switched_on(bare: Editor) -> None:
    bare.nvim.command("filetype indent off")
    bare.set_up(REAL, settings={"debounce_ms": 0})
    bare.open()
    bare.nvim.command("set noautoindent")
    bare.keys("idef f(x):<CR>    return ")
    suggest(bare)
    bare.keys("<C-u><C-w><C-w><C-u><Esc>ggdGi")
    bare.type(TYPED)
    bare.keys("<Esc>")
    assert "\n".join(bare.lines()) == TYPED
    assert len(TYPED) >= 200
    assert bare.ghost() == []
    bare.lua("vim.wait(300)")
    assert bare.ghost() == []
