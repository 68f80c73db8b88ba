"""VS Code, the server, and a real engine over HTTP: to the first suggestion, and on when it is killed and back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from baskets import BASKETS
from real_engine import RealEngine, file_of_the_default
from test_vscode_walk import AS_TYPED, suggested
from vscode import REAL, Editor, Open

pytestmark = pytest.mark.editors

PATIENCE_S = 120
"""For an engine on a busy machine; and it is asked again in growing intervals."""


@pytest.fixture(scope="module")
def engine() -> Iterator[RealEngine]:
    with RealEngine(file_of_the_default()) as engine:
        yield engine


def asks_and_is(editor: Editor, text: str) -> bool:
    """Whether the status says `text` after something was asked for."""
    editor.command("editor.action.inlineSuggest.trigger")
    return bool(editor.status()["text"] == text)


def test_the_walk_with_an_engine(window: Open, engine: RealEngine) -> None:
    settings = {"dgemma.engine": engine.url, "dgemma.time_budget_ms": 60_000, "dgemma.trigger": "manual"}
    editor = window(REAL, **AS_TYPED, **settings)
    basket = BASKETS["basket.ts"]
    editor.open(basket.before + basket.after, "basket.ts")
    editor.select(basket.place)
    editor.wait_ready()
    ghost = suggested(editor)
    assert ghost.startswith("item.")
    editor.press("Tab")
    editor.wait(lambda: editor.text() == basket.before + ghost + basket.after, "it is accepted")
    editor.start_command("dgemma.engine")
    editor.wait_notice(f"text goes to {engine.url}, on this machine")

    engine.kill()
    editor.wait(lambda: asks_and_is(editor, "dgemma: no engine"), "its end is seen", PATIENCE_S)
    editor.type(" // paid")  # the editor goes on
    editor.wait(lambda: editor.text() == basket.before + ghost + " // paid" + basket.after, "it is typed")
    editor.start_command("dgemma.why")
    editor.wait_notice("nothing was shown because the engine cannot be reached")

    engine.start()
    editor.open(basket.before + basket.after, "again.ts")
    editor.select(basket.place)
    editor.wait(lambda: asks_and_is(editor, "dgemma: ready"), "it is asked again", PATIENCE_S)
    assert suggested(editor).startswith("item.")
