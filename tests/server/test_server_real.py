"""The server as it is installed, with the checkpoint that ships with it."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from default_writer import default_weights
from users_store import USERS_STORE
from wire import Wire, inline, insertion

from dgemma_lsp.server.loading import ChosenModel
from dgemma_lsp.server.server import _infiller_loader
from dgemma_lsp.settings import Settings
from dgemma_model.checkpoint.catalogue import DEFAULT

ROOT = Path(__file__).parents[2]
INLINE = "textDocument/inlineCompletion"
URI = "file:///project/stack.py"
STACK = '''class Stack:
    """A last-in, first-out collection."""

    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)

    def pop(self):
        if not self.items:
            raise IndexError("pop from an empty stack")
        return self.items.pop()

    def __len__(self):
        '''


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with Wire(sys.executable, "-P", "-m", "dgemma_lsp") as wire:
        # A busy machine may take longer for a fill than a user would wait: time is not what is tested here.
        wire.initialize(initializationOptions={"time_budget_ms": 20_000})
        wire.wait_until_loaded()
        yield wire


def test_initialize_is_answered_without_torch() -> None:
    with Wire(sys.executable, "-P", "-X", "importtime", "-m", "dgemma_lsp") as wire:
        wire.request("initialize", {"processId": None, "rootUri": None, "capabilities": {}})
        wire.notify("exit", None)
        assert wire.exit_code() == 1
        imported = {line.rpartition("|")[2].strip() for line in wire.final_log().splitlines()}
    assert "dgemma_lsp.server.server" in imported
    assert not {"torch", "transformers"} & imported


def test_a_fill_arrives_for_a_python_file(wire: Wire) -> None:
    wire.open(URI, STACK)
    line, character = STACK.count("\n"), len(STACK.rpartition("\n")[2])
    (item,) = wire.request(INLINE, inline(URI, line, character))
    assert item["insertText"].strip()
    assert item["range"]["start"] == {"line": line, "character": character}


def test_fifty_keystrokes_get_fifty_answers_and_the_newest_wins(wire: Wire) -> None:
    above, below = STACK + "return len(self.items)\n\n", "\n"
    typed = "    def count_all_items(self):\n        return len("
    assert len(typed) == 50
    wire.open(URI, above + below)
    line, character = above.count("\n"), 0
    requests = []
    for version, key in enumerate(typed, start=2):
        wire.change(URI, version, insertion(line, character, key))
        line, character = (line + 1, 0) if key == "\n" else (line, character + 1)
        requests.append(wire.start(INLINE, inline(URI, line, character)))
    *earlier, last = [wire.response(request)["result"] for request in requests]
    assert len(earlier) == 49
    assert not any(earlier)
    (item,) = last
    assert item["insertText"].strip()
    assert item["range"]["start"] == {"line": line, "character": character}


def test_typing_along_needs_no_model(wire: Wire) -> None:
    wire.open(URI, STACK)
    line, character = STACK.count("\n"), len(STACK.rpartition("\n")[2])
    (item,) = wire.request(INLINE, inline(URI, line, character))
    text = item["insertText"]
    wire.change(URI, 2, insertion(line, character, text[:3]))
    msg_id = wire.start(INLINE, inline(URI, line, character + 3))
    (rest,) = wire.response(msg_id)["result"]
    assert rest["insertText"] == text[3:]
    wire.wait_for_log(f"request={msg_id} file='stack.py' outcome=typed_through")


def test_the_hole_of_the_demo_is_filled() -> None:
    command = [sys.executable, "-P", "-m", "dgemma_lsp", "fill", "--json", "examples/inventory.py:26:13"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"] == "item in self.items:"


class Heard:
    """Remembers what is said while a checkpoint is loaded."""

    def __init__(self) -> None:
        self.chosen: list[ChosenModel] = []

    def chose(self, choice: ChosenModel) -> None:
        self.chosen.append(choice)

    def read(self, share: float) -> None:
        pass


def test_the_garbage_collector_is_spared_what_was_loaded() -> None:
    heard = Heard()
    try:
        _infiller_loader("embedded", "cpu")(Settings(), heard)
        assert gc.get_freeze_count() > 100_000
        assert [choice.checkpoint for choice in heard.chosen] == ["embedded"]
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("wait_s", [0.0, 0.1, 0.3])
def test_an_interrupt_during_a_fill_ends_the_process_without_an_abort(wait_s: float) -> None:
    with Wire(sys.executable, "-P", "-m", "dgemma_lsp", "--checkpoint", "embedded") as wire:
        wire.initialize(initializationOptions={"time_budget_ms": 20_000})
        wire.wait_until_loaded()
        for number in range(8):  # one after the other
            wire.open(f"file:///project/{number}.py", STACK)
            line, character = STACK.count("\n"), len(STACK.rpartition("\n")[2])
            wire.start(INLINE, inline(f"file:///project/{number}.py", line, character, kind=1))
        wire.request("dgemma/stats", {})  # all of them have arrived
        time.sleep(wait_s)
        wire.process.send_signal(signal.SIGINT)
        assert wire.exit_code() == 130, wire.final_log()
        assert "terminate called" not in wire.final_log()


def filled(wire: Wire, uri: str, text: str, language: str) -> str:
    """What the server offers at the end of a document, asked for."""
    wire.open(uri, text, language)
    line, character = text.count("\n"), len(text.rpartition("\n")[2])
    items = wire.request(INLINE, inline(uri, line, character, kind=1))
    return str(items[0]["insertText"]) if items else ""


def test_a_checkpoint_that_is_removed_while_it_runs(tmp_path: Path) -> None:
    """What runs goes on with the weights that it holds; the next start uses what is left, and says what was better."""
    default_weights()
    store = tmp_path / "store"
    shutil.copytree(USERS_STORE, store, copy_function=os.link)
    server = [sys.executable, "-P", "-m", "dgemma_lsp"]
    environment = os.environ | {"DGEMMA_CHECKPOINTS": str(store)}
    total = "function total(prices: number[]): number {\n  let sum = 0;\n  for (const price of prices) {\n    sum += "
    with Wire(*server, env=environment) as wire:
        wire.initialize(initializationOptions={"time_budget_ms": 20_000})
        wire.wait_until_loaded()
        assert filled(wire, "file:///before.ts", total, "typescript").startswith("price")
        removed = subprocess.run([*server, "remove", DEFAULT, "--yes"], env=environment, capture_output=True, text=True)
        assert removed.returncode == 0, removed.stderr
        assert not (store / DEFAULT).exists()
        other = total.replace("price", "weight")
        assert filled(wire, "file:///after.ts", other, "typescript").startswith("weight")
        assert wire.request("dgemma/status", {})["checkpoint"] == DEFAULT
    with Wire(*server, env=environment) as wire:
        wire.initialize()
        wire.wait_until_loaded()
        found = wire.request("dgemma/status", {})
        assert (found["checkpoint"], found["better"]) == ("embedded", DEFAULT)
