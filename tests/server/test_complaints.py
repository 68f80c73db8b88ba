"""The twelve things that users of such tools complain of most, each with what happens here instead."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire import Wire, inline, insertion

from dgemma_lsp.documents.documents import parsed
from dgemma_lsp.documents.edits import NoSuggestion, Snapshot, Suggestion
from dgemma_lsp.documents.text import Text
from dgemma_lsp.pipeline.suggest import suggest
from dgemma_lsp.settings import Settings
from dgemma_model.request import Draft, FillRequest

URI = "file:///project/module.py"
INLINE = "textDocument/inlineCompletion"


class FakeInfiller:
    """Says one thing."""

    name, device, threshold, languages, prompt_tokens = "fake", "none", -1.0, None, 512
    uses_project_text = False
    sends_text = False
    reviewer = None

    def __init__(self, text: str) -> None:
        self.text = text

    def fill(self, request: FillRequest) -> Iterator[Draft]:
        yield Draft((self.text,), step=1, done=True, complete=True, score=-0.1)


def suggested(marked: str, model: str, language: str = "python") -> Suggestion | NoSuggestion:
    at = parsed(Snapshot(URI, 1, language, Text(marked.replace("▮", "")), marked.index("▮")))
    return list(suggest(at, FakeInfiller(model), Settings(), invoked=False))[-1]


def accepted(marked: str, model: str, language: str = "python") -> str:
    """The text after the suggestion was accepted, or the name of the reason why there is none."""
    answer = suggested(marked, model, language)
    return answer.name if isinstance(answer, NoSuggestion) else answer.edit.apply(answer.snapshot.text)


def silence(wire: Wire, uri: str = URI) -> str | None:
    asked = {"command": "dgemma.explainSilence", "arguments": [uri]}
    found = wire.request("workspace/executeCommand", asked)
    return None if found is None else str(found["name"])


def test_01_no_bracket_or_quote_is_doubled_or_lost() -> None:
    assert accepted("print(▮)", '"hi")') == 'print("hi")'
    assert accepted("print(▮)", '"hi"') == 'print("hi")'
    assert accepted("x = foo(▮)", "a, b") == "x = foo(a, b)"
    assert accepted("x = [f(▮)]", "ab)]") == "x = [f(ab)]"
    assert accepted("x = f(g(▮))", "h(a))") == "x = f(g(h(a)))"
    assert accepted('d["▮"]', 'key"]') == "IN_STRING"


def test_02_the_middle_of_a_line_is_filled() -> None:
    assert accepted("total = ▮ + tax\n", "price * count") == "total = price * count + tax\n"
    assert accepted("if ▮ and ready:\n    go()\n", "steps > 0") == "if steps > 0 and ready:\n    go()\n"
    assert accepted("area(▮, height=2)\n", "3") == "EMPTY"  # one character is not worth an interruption
    assert accepted("area(▮, height=2)\n", "width") == "area(width, height=2)\n"


def test_03_indentation_is_that_of_the_file() -> None:
    tabs = "def g(x):\n\treturn x\n\ndef f(x):\n\t"
    assert accepted(tabs + "▮\n", "if x:\n        return 1") == tabs + "if x:\n\t\treturn 1\n"
    assert accepted("def f(x):\n    ▮\n", "    return x") == "def f(x):\n    return x\n"
    assert accepted("def f(x):\r\n    ▮\r\n", "y = x\n    return y") == "def f(x):\r\n    y = x\r\n    return y\r\n"


def test_04_the_model_is_not_asked_for_every_key(own_wire: Wire) -> None:
    own_wire.notify("workspace/didChangeConfiguration", {"settings": {"debounce_ms": 200}})
    own_wire.open(URI, "x = ")
    before = own_wire.request("test/counts", {})["fills"]
    asked = []
    for number, key in enumerate("some_long_name"):
        own_wire.change(URI, number + 2, insertion(0, 4 + number, key))
        asked.append(own_wire.start(INLINE, inline(URI, 0, 5 + number)))
    *replaced, last = [own_wire.response(msg_id)["result"] for msg_id in asked]
    assert not any(replaced) and last
    assert own_wire.request("test/counts", {})["fills"] == before + 1


def test_05_comments_strings_and_prose_are_left_alone() -> None:
    assert accepted("# some ▮", "more words") == "IN_COMMENT"
    assert accepted('x = "some ▮"', "more words") == "IN_STRING"
    assert accepted('def f():\n    """Do ▮', "more words") == "IN_STRING"


def test_06_the_menu_and_the_ghost_text_agree(own_wire: Wire) -> None:
    own_wire.request("test/say", {"text": "_name", "steps": 1})
    own_wire.open(URI, "x = fi")
    params = inline(URI, 0, 6)
    place = {"start": {"line": 0, "character": 4}, "end": {"line": 0, "character": 6}}
    params["context"]["selectedCompletionInfo"] = {"range": place, "text": "first"}
    (item,) = own_wire.request(INLINE, params)
    assert (item["insertText"], item["range"]) == ("first_name", place)
    with Wire() as other:  # who shows ghost text gets no second copy of it in the menu
        result = other.initialize(capabilities={"textDocument": {"inlineCompletion": {}}})
        assert "completionProvider" not in result["capabilities"]


def test_07_the_next_edit_is_off_until_wanted_and_never_undoes(own_wire: Wire) -> None:
    def ask() -> list[Any]:
        document = {"uri": URI, "version": 2}
        position = {"line": 0, "character": 0}
        found: list[Any] = own_wire.request(
            "textDocument/copilotInlineEdit", {"textDocument": document, "position": position}
        )["edits"]
        return found

    for wanted, expected in [(False, []), (True, ["total"])]:
        own_wire.notify("workspace/didChangeConfiguration", {"settings": {"next_edit": wanted}})
        own_wire.open(URI, "def f(count):\n    return count\n")
        place = {"start": {"line": 0, "character": 6}, "end": {"line": 0, "character": 11}}
        own_wire.change(URI, 2, {"range": place, "text": "total"})
        assert [edit["text"] for edit in ask()] == expected


def test_08_memory_does_not_grow_with_documents_that_are_closed(own_wire: Wire) -> None:
    text = "x = compute(1)\n" * 2_000
    sizes = []
    for _ in range(3):
        for number in range(40):
            uri = f"file:///project/module_{number}.py"
            own_wire.open(uri, text)
            own_wire.request(INLINE, inline(uri, 0, 4, kind=1))
            own_wire.notify("textDocument/didClose", {"textDocument": {"uri": uri}})
        status = Path(f"/proc/{own_wire.process.pid}/statm")
        sizes.append(int(status.read_text().split()[1]) if status.exists() else 0)
    assert sizes[2] <= sizes[0] * 1.1


def test_09_nothing_late_lands_in_the_wrong_place(own_wire: Wire) -> None:
    own_wire.open(URI, "x = ")
    own_wire.request("test/say", {"text": "value", "held": True})
    asked = own_wire.start(INLINE, inline(URI, 0, 4))
    own_wire.request("test/reached", {})
    own_wire.change(URI, 2, insertion(0, 0, "# "))
    own_wire.request("test/release", {})
    assert own_wire.response(asked)["result"] == []
    assert silence(own_wire) == "STALE"


def test_10_what_is_private_is_never_read(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("local/\n")
    with Wire() as wire:
        wire.initialize(rootUri=tmp_path.as_uri())
        wire.wait_until_loaded()
        before = wire.request("test/counts", {})["fills"]
        for name in (".env", "local/a.py", "id_rsa"):
            uri = (tmp_path / name).as_uri()
            wire.open(uri, "password = ")
            assert wire.request(INLINE, inline(uri, 0, 11, kind=1)) == []
            assert silence(wire, uri) == "EXCLUDED"
        assert wire.request("test/counts", {})["fills"] == before


def test_11_every_silence_says_why(own_wire: Wire) -> None:
    for text, reason in [("# a ", "IN_COMMENT"), ("a = 'b ", "IN_STRING"), ("foobar", "IN_WORD")]:
        own_wire.open(URI, text)
        assert own_wire.request(INLINE, inline(URI, 0, len(text) - (reason == "IN_WORD"))) == []
        assert silence(own_wire) == reason
    assert own_wire.request(INLINE, inline("file:///not/open.py", 0, 0)) == []
    assert silence(own_wire, "file:///not/open.py") == "NOT_OPEN"
    assert all(reason.value and reason.value[0].islower() for reason in NoSuggestion)


def test_12_a_part_may_be_accepted_and_trifles_are_not_offered(own_wire: Wire) -> None:
    own_wire.request("test/say", {"text": "first + second"})
    own_wire.open(URI, '"😀"% ')
    assert [item["insertText"] for item in own_wire.request(INLINE, inline(URI, 0, 6))] == ["first + second"]
    own_wire.change(URI, 2, insertion(0, 6, "first"))
    (item,) = own_wire.request(INLINE, inline(URI, 0, 11))
    assert item["insertText"] == " + second"
    assert item["range"]["start"] == {"line": 0, "character": 11}  # in UTF-16 units
    assert accepted("x = f(▮", ")") == "EMPTY"
    assert accepted("x = ▮", "})") == "EMPTY"


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["x = ", "f(", "def f(x):\n    ", "if x", 'd["a', "", "é(", "\t"]),
    st.text(alphabet=' ab()]"\n:,=', max_size=14),
    st.sampled_from(["", ")", "]\n", '")', ", b)\ny = 1", ":\n    pass\n", "\r\n"]),
)
def test_every_item_is_additive_and_on_one_line(before: str, model: str, after: str) -> None:
    """What VS Code 1.139 displays: the range is within one line, and what it covers is a subsequence of the text."""
    answer = suggested(f"{before}▮{after}", model)
    if isinstance(answer, Suggestion):
        text, edit = answer.snapshot.text, answer.edit
        covered = text[edit.start : edit.end]
        assert edit.start <= answer.snapshot.offset <= edit.end
        assert "\n" not in covered and "\r" not in covered
        remaining = iter(edit.new_text)
        assert all(char in remaining for char in covered)


@pytest.mark.parametrize("language", ["python", "plaintext", "go"])
def test_ranges_are_additive_in_every_language(language: str) -> None:
    assert accepted("f(▮)", "first)", language) == "f(first)"
