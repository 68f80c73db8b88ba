"""Looking for a wrong word: which words are looked at, in which function, and what comes of it."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma_lsp.documents.documents import parsed
from dgemma_lsp.documents.edits import NoSuggestion, Rewrite, Snapshot
from dgemma_lsp.documents.text import Text
from dgemma_lsp.pipeline import proofreading
from dgemma_lsp.pipeline.actions import ActionKind, offered, rewrite
from dgemma_model.request import Doubt, Excerpt, Places

FUNCTION = """\
def area(width, height=2):
    # the width
    total = width * other.size  # "x" < 3
    for name in names:
        print("{name}", sep="é" + end, end=None)
    return total <= 10
"""


@pytest.mark.parametrize("indent", ["", "    ", "\t"])
def test_words_that_could_be_wrong(indent: str) -> None:
    text = "".join(f"{indent}{line}" for line in FUNCTION.splitlines(keepends=True))
    found = proofreading.words(text)
    assert [word.text for word in found if word.text not in ("def", "for", "return")] == [
        *("2", "width", "*", "other", "size", "in", "names", "print", "+", "end", "None", "total", "<=", "10")
    ]
    assert all(text[word.start : word.end] == word.text for word in found)


SEPARATORS = st.sampled_from(["\n", "\r\n", "\r", "\x0c", "\x1c", "\u2028", " ", "\t", "\\\n", "    ", "\n\n"])
PIECES = st.sampled_from(
    ["x = a < 1", "'\u2028'", '"""', "return é", "#", "f(b=c)", "if x:", "def g(y):", "😀", "lambda z: z"]
)


@given(parts=st.lists(PIECES | SEPARATORS, max_size=12), indent=st.sampled_from(["", "  ", "\t"]))
def test_a_word_is_where_it_is_said_to_be(parts: list[str], indent: str) -> None:
    text = f"{indent}def f(a):\n{indent} x = 1{''.join(parts)}\n"
    assert all(text[word.start : word.end] == word.text for word in proofreading.words(text))


@pytest.mark.parametrize("text", ["", "def f(:\n", "  x\n y\n", "def f():\n    '''\n", "x = 1\0", "(" * 5000])
def test_what_does_not_parse_has_none(text: str) -> None:
    assert proofreading.words(text) == []


def test_what_may_stand_there_instead() -> None:
    found = proofreading.others("self.total += amount_1 # é")
    assert {"self", "total", "self.total", "amount_1", "é", "<=", "not in"} <= set(found)


class Doubting:
    """Doubts what it is told to, in whatever it is shown."""

    def __init__(self, *doubted: tuple[str, str, float]) -> None:
        self.doubted = doubted
        self.asked: list[tuple[Excerpt, str, list[str]]] = []

    def review(
        self, excerpt: Excerpt, span: str, words: Places, others: Collection[str], min_nats: float
    ) -> Iterator[list[Doubt]]:
        self.asked.append((excerpt, span, [span[start:end] for start, end in words]))
        for word, instead, nats in self.doubted:
            places = [place for place in words if span[slice(*place)] == word]
            yield [Doubt(*places[0], nats, instead)] if places and nats >= min_nats else []


class Writer:
    """An infiller that is asked for nothing but its reviewer."""

    def __init__(self, reviewer: Doubting | None) -> None:
        self.reviewer = reviewer


def done(
    marked: str, *doubted: tuple[str, str, float], reviewer: Doubting | None = None, language: str = "python"
) -> str:
    """The document after proofreading at the cursor `▮`, or the name of the reason why it stays as it is."""
    snapshot = Snapshot("file:///case", 7, language, Text(marked.replace("▮", "")), marked.index("▮"))
    writer = Writer(Doubting(*doubted) if reviewer is None and doubted else reviewer)
    *_, answer = rewrite(ActionKind.PROOFREAD, snapshot, snapshot.offset, writer)  # type: ignore[arg-type]
    return answer.apply() if isinstance(answer, Rewrite) else answer.name


CLASS = """\
import os


class Shop:
    def price(self, item):
        lowest = self.prices[item]
        retu▮rn highest


x = 1
"""


def test_the_word_that_is_doubted_most_is_replaced() -> None:
    expected = CLASS.replace("▮", "").replace("return highest", "return lowest")
    assert done(CLASS, ("item", "lowest", 13.0), ("highest", "lowest", 14.0)) == expected


def test_a_replacement_that_does_not_parse_is_left_out() -> None:
    expected = CLASS.replace("▮", "").replace("[item]", "[lowest]")
    assert done(CLASS, ("item", "lowest", 13.0), ("highest", "not in", 14.0)) == expected


def test_the_function_around_the_cursor_is_read_with_what_surrounds_it() -> None:
    reviewer = Doubting()
    assert done(CLASS, reviewer=reviewer) == "NOTHING_DOUBTED"
    ((excerpt, span, words),) = reviewer.asked
    assert excerpt.prefix + span + excerpt.suffix == CLASS.replace("▮", "")
    assert span.startswith("    def price") and span.endswith("return highest\n")
    assert "highest" in words and "lowest" not in words[:2] and "price" not in words


@pytest.mark.parametrize("doubted", [("highest", "lowest", 11.0), ("nowhere", "lowest", 20.0)])
def test_weak_doubts_are_not_told(doubted: tuple[str, str, float]) -> None:
    assert done(CLASS, doubted) == "NOTHING_DOUBTED"


def test_another_checkpoint_says_that_it_cannot() -> None:
    assert done(CLASS) == "NO_REVIEW"


@pytest.mark.parametrize(
    "marked", ["x = ▮1\n", "def f():\n    return (▮\n", "def long():\n" + "    x = 1\n" * 60 + "    y▮ = 2\n"]
)
def test_elsewhere_there_is_nothing_to_read(marked: str) -> None:
    assert done(marked, ("x", "y", 14.0)) == "NOTHING_HERE"


@pytest.mark.parametrize(
    ("marked", "proofreads", "is_offered"),
    [(CLASS, True, True), (CLASS, False, False), ("x = ▮1\n", True, False)],
)
def test_it_is_offered_in_a_function_where_the_checkpoint_can(marked: str, proofreads: bool, is_offered: bool) -> None:
    offset = marked.index("▮")
    document = parsed(Snapshot("file:///case.py", 7, "python", Text(marked.replace("▮", "")), offset))
    kinds = [action.kind for action in offered(document, offset, proofreads=proofreads)]
    assert (ActionKind.PROOFREAD in kinds) is is_offered


def test_the_reader_may_stop_between_two_pieces() -> None:
    snapshot = Snapshot("file:///case.py", 7, "python", Text(CLASS.replace("▮", "")), CLASS.index("▮"))
    reviewer = Doubting(("item", "lowest", 13.0), ("highest", "lowest", 14.0))
    steps = rewrite(ActionKind.PROOFREAD, snapshot, snapshot.offset, Writer(reviewer))  # type: ignore[arg-type]
    assert next(steps) is NoSuggestion.OUT_OF_TIME
    steps.close()


def test_line_ends_of_windows_and_other_letters_are_counted() -> None:
    text = CLASS.replace("import os", "é = 'é😀'").replace("lowest =", "\n        lowest =").replace("\n", "\r\n")
    assert "\r\n        \r\n" in text
    assert done(text, ("highest", "lowest", 14.0)) == text.replace("▮", "").replace("return highest", "return lowest")


def test_a_function_in_another_language_is_not_said_to_be_right() -> None:
    reviewer = Doubting()
    assert done("int area(int width) {\n    return wi▮dth;\n}\n", reviewer=reviewer, language="c") == "NOTHING_HERE"
    assert reviewer.asked == []
