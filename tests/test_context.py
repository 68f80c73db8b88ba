"""Snapshot -> what the model sees."""

from __future__ import annotations

from dgemma_lsp import context
from dgemma_lsp.documents import parsed
from dgemma_lsp.edits import Snapshot
from dgemma_model.request import Excerpt


def excerpt_of(marked: str, language: str = "python") -> Excerpt:
    offset = marked.index("▮")
    return context.excerpt(parsed(Snapshot("file:///a", 1, language, marked.replace("▮", ""), offset)))


def test_a_small_file_is_seen_whole() -> None:
    assert excerpt_of("a = 1\nb = ▮\nc = 3\n") == Excerpt("a = 1\nb = ", "\nc = 3\n", (), "python", "a")


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
    snapshot = parsed(Snapshot("file:///a", 1, "python", text, second))
    assert context.excerpt(snapshot, [(first, first), (second, second)]).prefix == body + "    return "


def test_several_holes() -> None:
    text = "a = \nb = \nc = 3\n"
    snapshot = parsed(Snapshot("file:///a", 1, "python", text, 0))
    assert context.excerpt(snapshot, [(4, 4), (9, 9)]) == Excerpt("a = ", "\nc = 3\n", ("\nb = ",), "python", "a")
    assert context.excerpt(snapshot, [(0, 3)]).suffix == " \nb = \nc = 3\n"
