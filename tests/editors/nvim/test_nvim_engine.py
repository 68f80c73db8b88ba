"""Neovim, the server, and a real engine over HTTP: the first suggestion, and going on when the engine is killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from editor import REAL, Editor
from real_engine import RealEngine, file_of_the_default
from test_real_server import suggested, wait_ready

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


def status(editor: Editor) -> str:
    return str(editor.lua("return require('dgemma').statusline()"))


def test_the_walk_with_an_engine(bare: Editor, engine: RealEngine) -> None:
    bare.set_up(REAL, settings={"time_budget_ms": 20_000, "engine": engine.url})
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
    bare.keys("o    x =<M-\\>")
    bare.wait(lambda: "no engine: " in status(bare), "its end is seen")
    bare.type(" 1")  # the editor goes on
    bare.keys("<Esc>")
    assert bare.lines()[-1] == "    x = 1"
    assert "ENGINE_DOWN" in bare.nvim.command_output("Dgemma why") or bare.wait(
        lambda: "the engine cannot be reached" in bare.messages(), "the reason is told"
    )

    engine.start()
    bare.keys("oreturn sum(item.price for item in ")
    assert suggested(bare)
    wait_ready(bare)


def test_without_an_engine_text_goes_nowhere(editor: Editor) -> None:
    assert "text goes nowhere" in editor.nvim.command_output("Dgemma engine")
