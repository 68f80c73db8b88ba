"""The default checkpoint's real weights: what they fill, and what a keystroke costs."""

from __future__ import annotations

import re
import sys
import time
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from default_writer import ALIKE, default_infiller, default_weights
from rich.console import Console
from test_code_actions import CAPABILITIES, chosen, edits, place
from torch import Tensor
from users_store import USERS_STORE
from wire import Wire, inline

from dgemma_lsp.command.fill import parsed_at, view_of
from dgemma_lsp.documents.edits import Suggestion
from dgemma_lsp.pipeline.suggest import suggest
from dgemma_lsp.pipeline.watched import Frame, Frames, TokenState, WatchedInfiller, before_cursor
from dgemma_lsp.settings import Settings
from dgemma_model.checkpoint import catalogue
from dgemma_model.network.cache import Cache
from dgemma_model.prompt.fim import ENDS
from dgemma_model.request import Draft, Excerpt, FillRequest

PICTURES = Path(__file__).parents[2] / ".cache" / "pictures"
KEPT = (TokenState.DRAFTED, TokenState.WRITTEN)

FILLS = [
    ("python", "def area(width, height):\n    return ", "\n", "width * height"),
    (
        "python",
        "import os\n\ndef walk(folder):\n    for name in os.listdir(folder):\n        pa",
        "\n        print(path)\n",
        "th = os.path.join(folder, name)",
    ),
    ("typescript", "function area(width: number, height: number): number {\n  return ", ";\n}\n", "width * height"),
    ("go", "func area(width, height int) int {\n\treturn ", "\n}\n", "width * height"),
    ("rust", "fn area(width: u32, height: u32) -> u32 {\n    ", "\n}\n", "width * height"),
]


def last(prefix: str, suffix: str, **knobs: Any) -> Draft:
    *_, draft = default_infiller().fill(FillRequest(Excerpt(prefix, suffix), **knobs))
    return draft


@pytest.mark.parametrize(("language", "prefix", "suffix", "expected"), FILLS)
def test_lines_in_several_languages(language: str, prefix: str, suffix: str, expected: str) -> None:
    draft = last(prefix, suffix, one_line=True)
    assert (draft.text, draft.complete) == (expected, True)


@pytest.mark.parametrize(
    ("prefix", "suffix", "expected"),
    [
        ("def greet(name):\n    print(f'hello {name}')\n\n\ngreet(", ")\n", "'world'"),
        ("numbers = [1, 2, 3]\nfirst = numbers[", "]\n", "0"),
    ],
)
def test_a_fill_ends_before_the_rest_of_its_line(prefix: str, suffix: str, expected: str) -> None:
    draft = last(prefix, suffix, one_line=True)
    assert draft.complete and draft.text.strip("\"'") == expected.strip("\"'")


def test_a_terminal_shows_how_a_suggestion_comes_about(tmp_path: Path) -> None:
    (tmp_path / "shapes.py").write_text(ALIKE)
    parsed = parsed_at(f"{tmp_path}/shapes.py:6:5")
    before, seen = before_cursor(parsed.snapshot), list[Frame]()
    watched = WatchedInfiller(default_infiller(), Frames(seen.append, before).see)
    *_, answer = suggest(parsed, watched, Settings(), invoked=True)
    console = Console(record=True, force_terminal=True, width=92, file=StringIO())
    console.print(view_of(seen, before), end="")
    drawn = console.export_svg(title="dgemma-lsp fill shapes.py:6:5 --watch", clear=False, unique_id="watching")
    PICTURES.mkdir(parents=True, exist_ok=True)  # of fonts that readers have
    (PICTURES / "watching-terminal.svg").write_text(re.sub(r"@font-face {.*?}", "", drawn, flags=re.DOTALL), "utf-8")
    said = console.export_text()
    assert isinstance(answer, Suggestion) and answer.edit.new_text == "return 2 * (width + height)"
    assert re.search(r"pass 1 · [\d.]+ ms · copies drafted [1-9]\d*, 1 accepted: return width", said)
    assert re.search(r"pass 2 · [\d.]+ ms · drafter drafted \d+, \d+ accepted: ", said)
    final = "".join(token.text for token, state in zip(seen[-1].tokens, seen[-1].states, strict=True) if state in KEPT)
    assert final.startswith(answer.edit.new_text)


def test_what_the_suffix_has_is_not_written_again() -> None:
    draft = last("def add(values):\n    total = 0\n    ", "\n    return total\n", max_tokens=32)
    assert draft.complete and draft.text and "return total" not in draft.text


def test_a_fill_of_unknown_kind_ends_inside_its_line() -> None:
    suffix = ":\n        raise ValueError('no values')\n    return sum(values) / len(values)\n"
    assert last("def mean(values):\n    if not ", suffix, max_tokens=32).text == "values"


def test_a_keystroke_costs_its_own_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    infiller = default_infiller()
    network, counts = infiller._checkpoint.network, list[int]()
    encode = network.encode

    def counted(ids: Tensor, cache: Cache, **more: Any) -> Tensor:
        counts.append(ids.shape[1])
        return encode(ids, cache, **more)

    above = "".join(f"value_{number} = compute({number})\n" for number in range(20))
    for at, typed in enumerate(("x = comp", "x = compu", "x = compute")):
        monkeypatch.setattr(network, "encode", counted)
        counts.clear()
        drafts = infiller.fill(FillRequest(Excerpt(above + typed, "\nprint(x)\n"), one_line=True, max_tokens=1))
        while not next(drafts).step:
            pass
        drafts.close()
        if at:
            assert counts[0] <= 3 + 23, counts  # what was typed, the healed piece, and a draft
        monkeypatch.undo()


def test_a_long_prompt_is_read_in_pieces_and_may_be_given_up() -> None:
    infiller = default_infiller()
    text = "".join(f"name_{number} = {number * 7919}\n" for number in range(400))
    drafts = infiller.fill(FillRequest(Excerpt(text, "\n"), one_line=True))
    first = next(drafts)
    assert (first.step, first.done) == (0, False)
    drafts.close()
    assert last("def area(width, height):\n    return ", "\n", one_line=True).text == "width * height"


NOTHING_TO_COPY = [
    "def is_prime(number):\n    if number < 2:\n        return False\n    for ",
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n    def push(self, item):\n        ",
    "import json\n\n\ndef read_settings(path):\n    with ",
    "const squares = numbers.map(",
    "def mean(values):\n    return ",
]


def test_drafts_of_the_package_take_fewer_passes_and_change_nothing() -> None:
    passes = dict.fromkeys(("none", "denoised", "both"), 0)
    for prefix in NOTHING_TO_COPY:
        drafts = {way: last(prefix, "\n", one_line=True, drafting=way) for way in passes}
        assert len({draft.text for draft in drafts.values()}) == 1, drafts
        for way, draft in drafts.items():
            passes[way] += draft.step
    assert passes["both"] <= passes["denoised"] < 0.8 * passes["none"], passes


def test_markers_in_a_file_are_letters() -> None:
    written = default_infiller()._checkpoint.format
    text = "".join(ENDS) + "<|endoftext|>"
    prompt = written.encode(Excerpt(f"# {text}\n", f"\n# {text}\n"), 512)
    markers = {*written.vocabulary.ends, *written.vocabulary.never}
    assert [token for token in prompt.ids if token in markers] == [prompt.ids[0], *_marks(prompt.ids, markers)]
    assert len([token for token in prompt.ids if token in markers]) == 3
    assert written.vocabulary.tokenizer.decode(written.vocabulary.tokenizer.encode(text)) == text


def _marks(ids: list[int], markers: set[int]) -> list[int]:
    return [token for token in ids[1:] if token in markers]


def test_it_serves_an_editor() -> None:
    default_weights()
    uri = "file:///space/area.go"
    with Wire(sys.executable, "-P", "-m", "dgemma_lsp", env={"DGEMMA_CHECKPOINTS": str(USERS_STORE)}) as wire:
        wire.initialize(initializationOptions={"time_budget_ms": 20_000})  # whatever else the machine does
        while wire.request("dgemma/status", {"uri": uri})["state"] != "ready":  # loading takes seconds
            time.sleep(0.2)
        wire.open(uri, "package main\n\nfunc area(width, height int) int {\n\treturn \n}\n", language="go")
        first, *_ = wire.request("textDocument/inlineCompletion", inline(uri, 3, 8, kind=1))
        assert first["insertText"] == "width * height"
    wire.wait_for_log(catalogue.DEFAULT)


SWAPPED = """\
def total_price(items, tax_rate):
    total = 0
    for item in items:
        total += item.price
    return items * (1 + tax_rate)
"""


def test_a_swapped_name_is_found_when_an_editor_asks() -> None:
    default_weights()
    uri = "file:///space/prices.py"
    with Wire(sys.executable, "-P", "-m", "dgemma_lsp", env={"DGEMMA_CHECKPOINTS": str(USERS_STORE)}) as wire:
        wire.initialize(capabilities=CAPABILITIES)
        while wire.request("dgemma/status", {"uri": uri})["state"] != "ready":
            time.sleep(0.2)
        wire.open(uri, SWAPPED)
        action = chosen(wire, place(2, 5), "Look for a wrong word", uri=uri)
        (edit,) = edits(wire.request("codeAction/resolve", action))
        assert (edit["range"], edit["newText"]) == (place(4, 11, (4, 16)), "total")
        wire.open(other := "file:///space/right.py", SWAPPED.replace("return items", "return total"))
        action = chosen(wire, place(2, 5), "Look for a wrong word", uri=other)
        answer = wire.response(wire.start("codeAction/resolve", action))
        assert "no wrong word" in answer["error"]["message"]


def test_another_seed_is_another_text() -> None:
    prefix, suffix = "total = 0\nfor item in items:\n    ", "\nprint(total)\n"
    texts = [last(prefix, suffix, one_line=True, seed=seed, verify=False if seed else None).text for seed in range(3)]
    assert texts[0] == "total += item" and len(set(texts)) == 3
