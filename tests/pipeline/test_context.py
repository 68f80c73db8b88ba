"""Snapshot -> what the model sees."""

from __future__ import annotations

import pytest

from dgemma_lsp.documents.documents import Documents, ParsedSnapshot, Position, TextChange, parsed
from dgemma_lsp.documents.edits import Snapshot, Surroundings
from dgemma_lsp.documents.text import Text
from dgemma_lsp.pipeline import context
from dgemma_model.request import Excerpt
from dgemma_model.source.excerpt import ExcerptBudget

MORE = ExcerptBudget(prefix_chars=400, suffix_chars=100, further_chars=600)
FAR = "filler = 0\n" * 60
LINES = "\n        other = 0" * 8
SHOP = f"""import os
from prices import rate


class Shop(Base):
    def total(self, items: list[Item]) -> int:
        return 0

{FAR.replace("filler", "    filler")}
    def report(self, items):
        first = total(items)
{"        other = 0" + LINES}
        compute(▮)
        return 1


{FAR}
def rate_of(item):
    return 2
"""


def excerpt_of(marked: str, language: str = "python") -> Excerpt:
    offset = marked.index("▮")
    return context.view(parsed(Snapshot("file:///a", 1, language, Text(marked.replace("▮", "")), offset))).excerpt


def test_a_small_file_is_seen_whole() -> None:
    assert excerpt_of("a = 1\nb = ▮\nc = 3\n") == Excerpt("a = 1\nb = ", "\nc = 3\n", (), "python", "a")


LONG = "".join(f"line_{n} = {n}\n" for n in range(2000))


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_project_text_is_the_rest_of_the_document_but_for_the_line_itself(share: float) -> None:
    at = LONG.rfind("\n", 0, int(share * len(LONG))) + 1
    marked = f"{LONG[:at]}here = {LONG[at:]}"
    seen = context.view(ParsedSnapshot(Snapshot("file:///a.py", 1, "python", Text(marked), at + 7), None))
    whole = "".join(sorted(seen.project_text, key=marked.index))
    assert whole == marked[: at + 7 - len(seen.excerpt.prefix)] + marked[at + 7 + len(seen.excerpt.suffix) :]
    assert "here" not in whole


def test_typing_leaves_the_strings_of_the_project_text_as_they_are() -> None:
    documents, end = Documents("utf-16"), LONG.count("\n") // 2
    documents.open("file:///a.py", "python", 1, LONG)
    known: set[int] = set()
    fresh = 0
    for column, char in enumerate("total = line_1 + line_2"):
        at = Position(end, column)
        documents.change("file:///a.py", column + 2, [TextChange(char if column else f"{char}\n", (at, at))])
        snapshot = documents.snapshot("file:///a.py", Position(end, column + 1))
        assert snapshot is not None
        texts = {hash(text) for text in context.view(ParsedSnapshot(snapshot, None)).project_text}
        fresh += len(texts - known) if known else 0
        known |= texts
    assert fresh <= 6, "what was read once is read again at an edge only"


def test_the_nearest_project_text_is_the_last() -> None:
    near = Snapshot("file:///b.py", 1, "python", Text("b = 1\r\n"), 0)
    far = Snapshot("file:///c.py", 1, "python", Text("c = 1\n"), 0)
    at = len(LONG) // 2
    snapshot = Snapshot("file:///a.py", 1, "python", Text(LONG), at)
    around = Surroundings(others=(near, far), nearby=("d = 1\n",))
    texts = context.view(ParsedSnapshot(snapshot, None), surroundings=around).project_text
    assert texts[:3] == ("d = 1\n", "c = 1\n", "b = 1\n")
    places = [LONG.index(text) for text in texts[3:]]
    before = sum(place < at for place in places)
    assert places == sorted(places[:-before], reverse=True) + sorted(places[-before:])
    assert len(texts) > 8


def test_a_very_long_document_is_copied_from_around_the_cursor() -> None:
    text = LONG * 30
    snapshot = Snapshot("file:///a.py", 1, "python", Text(text), len(text) // 2)
    texts = context.view(ParsedSnapshot(snapshot, None)).project_text
    assert 100_000 < sum(map(len, texts)) < 140_000


def test_an_empty_file_is_an_empty_excerpt() -> None:
    assert excerpt_of("▮") == Excerpt("", "", (), "python", "a")


def test_an_unknown_language_is_plain_text() -> None:
    assert excerpt_of("some ▮ words", "klingon") == Excerpt("some ", " words", (), "klingon", "a")


def test_the_model_sees_line_feeds_only() -> None:
    assert excerpt_of("a\r\nb\rc▮\r\nd\r") == Excerpt("a\nb\nc", "\nd\n", (), "python", "a")


def test_form_feeds_and_other_separators_are_text() -> None:
    assert excerpt_of("a\fb\u2028c▮\x85d") == Excerpt("a\fb\u2028c", "\x85d", (), "python", "a")


def test_a_function_that_fits_is_kept_whole() -> None:
    before = "before = 1\n" * 200
    body = "def function(x):\n" + "    y = compute(x)\n" * 52
    excerpt = excerpt_of(before + body + "    return ▮\n")
    assert excerpt.prefix == body + "    return "
    plain = excerpt_of(before + body + "    return ▮\n", "plaintext")
    assert plain.prefix != excerpt.prefix and excerpt.prefix.endswith(plain.prefix)


def test_of_several_holes_the_first_ones_function_is_kept_whole() -> None:
    before = "before = 1\n" * 200
    body = "def function(x):\n" + "    y = compute(x)\n" * 52
    text = before + body + "    return \n\ndef other():\n    return \n"
    first, second = text.index("return ") + 7, len(text) - 1
    snapshot = parsed(Snapshot("file:///a", 1, "python", Text(text), second))
    assert context.view(snapshot, [(first, first), (second, second)]).excerpt.prefix == body + "    return "


def test_several_holes() -> None:
    text = "a = \nb = \nc = 3\n"
    snapshot = parsed(Snapshot("file:///a", 1, "python", Text(text), 0))
    seen = context.view(snapshot, [(4, 4), (9, 9)])
    assert seen.excerpt == Excerpt("a = ", "\nc = 3\n", ("\nb = ",), "python", "a")
    assert seen.shown == ((0, 4), (4, 9), (9, 16))
    assert context.view(snapshot, [(0, 3)]).excerpt.suffix == " \nb = \nc = 3\n"


def further(marked: str, budget: ExcerptBudget = MORE) -> str:
    """The notes before the text next to the cursor."""
    offset = marked.index("▮")
    snapshot = parsed(Snapshot("file:///a", 1, "python", Text(marked.replace("▮", "")), offset))
    with_more = context.view(snapshot, budget=budget).excerpt.prefix
    plain = context.view(snapshot, budget=ExcerptBudget(budget.prefix_chars, budget.suffix_chars)).excerpt.prefix
    assert with_more.endswith(plain)
    return with_more.removesuffix(plain)


def test_the_embedded_checkpoint_sees_only_what_is_next_to_the_cursor() -> None:
    assert further(SHOP, ExcerptBudget.within(512)) == ""


def test_imports_headers_and_signatures_that_were_cut_off_come_first() -> None:
    assert further(SHOP) == (
        "def total(self, items: list[Item]) -> int:\nfrom prices import rate\nimport os\nclass Shop(Base):\n"
    )


def test_what_does_not_fit_is_left_out_the_least_relevant_first() -> None:
    small = ExcerptBudget(prefix_chars=400, suffix_chars=100, further_chars=30)
    assert further(SHOP, small) == "import os\nclass Shop(Base):\n"


def test_what_is_in_sight_is_not_said_twice() -> None:
    assert further("import os\n\n\ndef f():\n    return 1\n\n\nx = f▮\n") == ""


def test_other_open_files_say_what_is_used_and_where_the_user_was_busy() -> None:
    documents = Documents()
    documents.open("file:///a.py", "python", 1, "import shop\n\nx = total_of(items)\ny = \n")
    documents.open("file:///shop.py", "python", 1, f"def total_of(items):\n    return 1\n\n{FAR}last = 1\n")
    documents.open("file:///b.go", "go", 1, "package b\n\nfunc total_of(x int) {}\n")
    line = 3 + FAR.count("\n")
    documents.change("file:///shop.py", 2, [TextChange("busy = 1\n", (Position(line, 0), Position(line, 0)))])
    documents.change("file:///a.py", 2, [TextChange("1", (Position(3, 4), Position(3, 4)))])
    snapshot = documents.snapshot("file:///a.py", Position(3, 5))
    assert snapshot is not None
    around = documents.surroundings(snapshot)
    prefix = context.view(parsed(snapshot), budget=MORE, surroundings=around).excerpt.prefix
    assert "busy = 1\nlast = 1\n" in prefix
    assert "func" not in prefix


def test_other_open_files_are_parsed_once(parsed_anew: list[bytes]) -> None:
    other = "def parsed_once(items):\n    return 1\n"
    around = Surroundings(others=(Snapshot("file:///b.py", 1, "python", Text(other), 0),))
    for text in ("x = parsed_once(1)\n", "x = parsed_once(12)\n"):
        at = parsed(Snapshot("file:///a.py", 1, "python", Text(text), 0))
        prefix = context.view(at, budget=MORE, surroundings=around).excerpt.prefix
        assert prefix == "def parsed_once(items):\n"
    assert parsed_anew.count(other.encode()) == 1


@pytest.mark.parametrize("typed", ["x", "items", "items, key=rate_of, rate"])
def test_typing_only_appends(typed: str) -> None:
    before = further(SHOP)
    for count in range(1, len(typed) + 1):
        assert further(SHOP.replace("▮", typed[:count] + "▮")) == before
