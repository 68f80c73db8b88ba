"""Neovim, the server, and a real engine over HTTP: to the first suggestion, and on when it is killed and back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from editor import REAL, Editor
from real_engine import RealEngine, file_of_the_default
from test_real_server import wait_ready

pytestmark = pytest.mark.editors

BEFORE = """class Basket:
    def __init__(self):
        self.items = []

    def total(self):
        return sum(item.price for item in """


@pytest.fixture(scope="module")
def engine() -> Iterator[RealEngine]:
    with RealEngine(file_of_the_default()) as engine:
        yield engine


def suggested(editor: Editor) -> str:
    """What is drawn because it was asked for, once: an engine on a busy machine takes its time."""
    editor.keys("<M-\\>")
    editor.wait(lambda: editor.lua("return require('dgemma').visible()"), "something is drawn", timeout_s=120)
    return "".join(mark[2] for mark in editor.ghost())


def status(editor: Editor) -> str:
    return str(editor.lua("return require('dgemma').statusline()"))


def asks_and_is(editor: Editor, wanted: str) -> bool:
    if status(editor) != wanted:
        editor.keys("<M-\\>")
        editor.lua("vim.wait(3000, function() return require('dgemma').visible() end, 50)")
    return status(editor) == wanted


def test_the_walk_with_an_engine(bare: Editor, engine: RealEngine) -> None:
    bare.set_up(REAL, automatic=False, settings={"time_budget_ms": 60_000, "engine": engine.url})
    bare.open(BEFORE)
    wait_ready(bare)
    bare.keys("GA")
    assert suggested(bare).startswith("self.items")
    bare.keys("<Tab><Esc>")
    assert "\n".join(bare.lines()).startswith(BEFORE + "self.items")
    said = bare.nvim.command_output("Dgemma engine")
    assert f"text goes to {engine.url}, on this machine" in said and "named in the settings" in said
    assert "engine: qwen2.5-coder" in bare.nvim.command_output("Dgemma status")

    engine.kill()
    bare.keys("ox =<M-\\>")
    bare.wait(lambda: "no engine: " in status(bare), "its end is seen")
    bare.type(" 1")  # the editor goes on
    bare.keys("<Esc>")
    assert bare.lines()[-1].strip() == "x = 1"
    bare.keys("A +<M-\\>")
    bare.lua("vim.wait(2000)")
    bare.keys("<Esc><Cmd>Dgemma why<CR>")
    bare.wait(lambda: "(ENGINE_DOWN)" in bare.messages(), f"the reason is told, not {bare.messages()}")

    engine.start()
    bare.keys("oreturn sum(item.price for item in ")
    bare.wait(lambda: asks_and_is(bare, "dgemma: ready"), "it is asked again", timeout_s=120)
    assert suggested(bare)


def test_without_an_engine_text_goes_nowhere(editor: Editor) -> None:
    assert "text goes nowhere" in editor.nvim.command_output("Dgemma engine")
