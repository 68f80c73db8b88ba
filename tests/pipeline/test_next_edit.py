"""What should change after a rename, and when there is nothing to say."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire import Wire, insertion

from dgemma_lsp.documents.documents import parsed, parsed_whole
from dgemma_lsp.documents.edits import Snapshot
from dgemma_lsp.documents.text import Text
from dgemma_lsp.pipeline.next_edit import Renames
from dgemma_model.source import syntax
from dgemma_model.source.rename_sites import left_behind

URI = "file:///project/module.py"


def left(text: str, old: str, new: str) -> str:
    """The text with every place marked that still has the old name."""
    tree = syntax.parse("python", text)
    assert tree is not None
    for start, end in reversed(left_behind(tree, old, new)):
        text = text[:start] + "▮" + text[start:end] + "▮" + text[end:]
    return text


@pytest.mark.parametrize(
    "marked",
    [
        "def f(new):\n    return ▮old▮ + g(▮old▮)\n",
        "def f(new):\n    return 1\n\nf(▮old▮=2)\nold = 3\ng(old=2)\n",
        "new = 1\nprint(▮old▮, x.old, 'old', old_er)\n",
        "def new():\n    return 1\n\nx = ▮old▮() + y.old()\n",
        "class A:\n    def new(self):\n        return self.▮old▮() + other.old()\n",
        "import new\n▮old▮.path\n",
        "from a import b as new\n▮old▮()\n",
        "for new in xs:\n    print(▮old▮)\n",
        "with open(x) as new:\n    print(▮old▮)\n",
        "def f():\n    new, b = 1, 2\n    return ▮old▮\n\nold()\n",
        "def f(new: int = 1):\n    # old ü\n    return ▮old▮\n",
    ],
)
def test_what_is_left_behind(marked: str) -> None:
    assert left(marked.replace("▮", ""), "old", "new") == marked


@pytest.mark.parametrize(
    "text",
    [
        "def f(new):\n    old = 1\n    return old\n",  # still defined
        "def f(new):\n    return old\n\ndef g(new):\n    return old\n",  # which of the two?
        "print(new)\nprint(old)\n",  # nothing was renamed: another name was used
        "def f(new):\n    return old\nx = (\n",  # does not parse
        "def f(new):\n    return [old for old in xs]\n",
        "class A:\n    new = 1\n    def f(self):\n        return old\n",
    ],
)
def test_in_doubt_nothing(text: str) -> None:
    assert left(text, "old", "new") == text


def typed(*texts: str) -> Renames:
    renames = Renames()
    for before, after in pairwise(texts):
        renames.note(URI, Text(before), Text(after))
    return renames


def after_next(renames: Renames, text: str, cursor: int = 0) -> str | None:
    edit = renames.next_edit(parsed(Snapshot(URI, 1, "python", Text(text), cursor)))
    return None if edit is None else edit.apply(text)


START = "def f(count):\n    return count + count\n"


def test_a_word_that_is_typed_anew_letter_by_letter() -> None:
    steps = [START.replace("(count)", f"({word})") for word in ("count", "coun", "c", "", "t", "to", "total")]
    renames = typed(*steps)
    assert after_next(renames, steps[-1]) == "def f(total):\n    return total + count\n"


def test_a_word_far_down_in_a_long_file() -> None:
    before, renames = Text("line = 1\n" * 5_000 + START + "line = 1\n" * 5_000), Renames()
    at = 9 * 5_000 + START.index("count")
    for end, letter in ((at + 5, ""), *((at + number, letter) for number, letter in enumerate("total"))):
        after = before.replaced(at if not letter else end, end, letter)
        renames.note(URI, before, after)
        before = after
    edit = renames.next_edit(parsed_whole(Snapshot(URI, 1, "python", before, at)))
    assert edit is not None
    assert str(before)[: edit.start].endswith("(total):\n    return ") and edit.new_text == "total"


def test_one_place_after_the_other_until_all_is_done() -> None:
    first = START.replace("(count)", "(total)")
    renames = typed(START, first)
    second = after_next(renames, first)
    assert second is not None
    renames.note(URI, Text(first), Text(second))
    third = after_next(renames, second, cursor=second.index("return"))
    assert third == "def f(total):\n    return total + total\n"
    renames.note(URI, Text(second), Text(third))
    assert after_next(renames, third) is None


def test_the_first_place_after_the_cursor_comes_first() -> None:
    text = START.replace("(count)", "(total)")
    assert after_next(typed(START, text), text, cursor=text.index("+")) == "def f(total):\n    return count + total\n"


def test_undoing_is_not_undone() -> None:
    changed = START.replace("(count)", "(total)")
    assert after_next(typed(START, changed, START), START) is None


def test_other_changes_end_it() -> None:
    changed = START.replace("(count)", "(total)")
    assert after_next(typed(START, changed, changed + "\nx = 1\n"), changed + "\nx = 1\n") is None


def test_another_text_is_not_what_was_typed() -> None:
    changed = START.replace("(count)", "(total)")
    assert after_next(typed(START, changed), changed + "\n") is None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(alphabet="ab (=)\n:", max_size=12), min_size=2, max_size=6), st.data())
def test_an_edit_never_touches_what_was_just_typed(texts: list[str], data: st.DataObject) -> None:
    renames, last = typed(*texts), texts[-1]
    cursor = data.draw(st.integers(0, len(last)))
    edit = renames.next_edit(parsed(Snapshot(URI, 1, "python", Text(last), cursor)))
    if edit is not None:
        assert edit.apply(last) not in texts
        assert last[edit.start : edit.end] != edit.new_text


@pytest.mark.parametrize(
    ("before", "changed"),
    [
        ("def f(a, b):\n    return a + b\n", "def f(b, b):\n    return a + b\n"),
        ("def f(a, *b):\n    return a + b\n", "def f(b, *b):\n    return a + b\n"),
        ("def f(a):\n    b = 1\n    return a + b\n", "def f(b):\n    b = 1\n    return a + b\n"),
        ("def f(a):\n    return a + b\n", "def f(b):\n    return a + b\n"),
        ("a = 1\nb = 2\nprint(a, b)\n", "b = 1\nb = 2\nprint(a, b)\n"),
        ("f = lambda a, b: a + b\n", "f = lambda b, b: a + b\n"),
        ("def a(): pass\ndef b(): pass\na()\n", "def b(): pass\ndef b(): pass\na()\n"),
        (
            "class A:\n    def a(self): pass\n    def b(self): pass\n    def c(self): self.a()\n",
            "class A:\n    def b(self): pass\n    def b(self): pass\n    def c(self): self.a()\n",
        ),
    ],
)
def test_two_names_never_become_one(before: str, changed: str) -> None:
    assert after_next(typed(before, changed), changed) is None


def test_the_name_may_mean_something_elsewhere() -> None:
    before = "def g():\n    return x.b + b\n\n\ndef f(a):\n    return a + x.b + h(b=1)\n"
    changed = before.replace("(a)", "(b)")
    assert after_next(typed(before, changed), changed) == changed.replace("return a", "return b")


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    with Wire() as wire:
        wire.initialize(initializationOptions={"next_edit": True})
        wire.wait_until_loaded()
        yield wire


def ask(wire: Wire, version: int | None, method: str = "textDocument/copilotInlineEdit", **extra: Any) -> Any:
    position = {"line": 0, "character": 0}
    return wire.request(method, {"textDocument": {"uri": URI, "version": version}, "position": position} | extra)


def rename(wire: Wire) -> None:
    wire.open(URI, START)
    place = {"start": {"line": 0, "character": 6}, "end": {"line": 0, "character": 11}}
    wire.change(URI, 2, {"range": place, "text": "total"})


@pytest.mark.parametrize("method", ["textDocument/copilotInlineEdit", "dgemma/nextEdit"])
def test_the_published_shape(wire: Wire, method: str) -> None:
    rename(wire)
    (edit,) = ask(wire, 2, method)["edits"]
    start, end = {"line": 1, "character": 11}, {"line": 1, "character": 16}
    assert edit == {"text": "total", "textDocument": {"uri": URI, "version": 2}, "range": {"start": start, "end": end}}


def test_versions_are_checked(wire: Wire) -> None:
    rename(wire)
    assert ask(wire, 1) == {"edits": []}
    assert ask(wire, None)["edits"]
    wire.change(URI, 3, insertion(0, 0, "\n"))
    assert ask(wire, 3) == {"edits": []}


@pytest.mark.parametrize("params", [None, 7, {}, {"textDocument": {"uri": URI}}, {"textDocument": 7, "position": {}}])
def test_nonsense_is_refused(wire: Wire, params: object) -> None:
    assert wire.error(wire.start("textDocument/copilotInlineEdit", params)) == -32602


def test_it_is_off_by_default(own_wire: Wire) -> None:
    rename(own_wire)
    assert ask(own_wire, 2) == {"edits": []}
