"""Suggestions in long files, in files with other line ends, and beside broken lines."""

from __future__ import annotations

import pytest
from test_suggest import answers, asked, check, done, shown

from dgemma_lsp.documents.documents import parsed
from dgemma_lsp.documents.edits import NoSuggestion, Snapshot
from dgemma_lsp.documents.text import Text
from dgemma_lsp.pipeline.fill_kind import FillKind, fill_kind
from dgemma_model.source.syntax import LastTree

LONG = "".join(f"def f{number}(request):\n    return request.path\n\n" for number in range(600))
"""Longer than what is parsed around a cursor before it, and than what follows it."""


@pytest.mark.parametrize(
    ("opening", "closing", "language"),
    [
        ('SOURCE = """\n', '"""\n', "python"),
        ("SOURCE = r'''\n", "'''\n", "python"),
        ('class A:\n    text = f"""{a}\n', '{b}"""\n', "python"),
        ('SOURCE = """\n', "", "python"),
        ("let source = `\n", "`\n", "javascript"),
        ("const source = `\n", "`\n", "go"),
    ],
)
def test_a_cursor_far_inside_a_string_is_in_it(opening: str, closing: str, language: str) -> None:
    marked = f"{opening}{LONG}def g():\n    result = request.▮\n{LONG}{closing}"
    check(marked, "path", "IN_STRING", language=language)
    assert asked("x = 1\n" + marked, language).one_line


def test_a_cursor_far_inside_a_comment_is_in_it() -> None:
    check(f"/*\n{LONG}x = ▮\n{LONG}*/\n", "path", "IN_COMMENT", language="c")


def test_a_cursor_far_below_a_string_is_in_code() -> None:
    check(f'TEXT = """\n"""\n{LONG}x = ▮\n{LONG}', "f1(1)", f'TEXT = """\n"""\n{LONG}x = f1(1)▮\n{LONG}')


def test_a_string_that_is_closed_later_is_one_no_more() -> None:
    text = f"{LONG}x = "
    last, kinds = LastTree(), []
    for start in ('"""\n', '"""\n"""'):
        at, tree = parsed(Snapshot("file:///case.py", 1, "python", Text(start + text), len(start + text)), last)
        kinds.append(fill_kind(tree, at.source, at.offset))
    assert kinds == [NoSuggestion.IN_STRING, FillKind.LINE]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("marked", "model", "expected"),
    [
        ("def f(x):\n    return ▮\n\n\ndef g():\n    pass\n", "x + 1", None),
        ("def f(x):\n    ▮\n", "y = x\n    return y", None),
        ("def f(x):\n    for y ▮\n    return x\n", "in x:", None),
        ("import os\n# a comment\nx = ▮\n", "os.sep", None),
        ("def f(x):\n    return ▮\n", "x x", "UNPARSEABLE"),
        ("def f(x):\n    y = x\n    ▮\n        z = y\n", "y = 1", "UNPARSEABLE"),
        ("import os\n# a comment▮\nx = 1\n", " that goes on", "IN_COMMENT"),
        ("import os\nx = ▮\n", "nowhere(1)", "UNRESOLVED"),
    ],
)
def test_line_ends_make_no_difference(marked: str, model: str, expected: str | None, newline: str) -> None:
    whole = marked.replace("▮", model + "▮")
    check(marked.replace("\n", newline), model, expected or whole.replace("\n", newline))


BROKEN = [
    *("y = 2 2", "y = = 2", "y = (", "y = )", "y = ]", "def", "a b c", "else:", "elif x:", "if", "return return"),
    *("x = [1,", "class:", "@", "y = f(a b)", "$ 1", "for x", "print 'x'", "y = {1: 2, 3}", 'y = "abc'),
]


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize(
    ("line", "model"),
    [
        ("    result = request.▮", "path"),
        ("    result = ▮", "x + 1"),
        ("    return f(▮", "x)"),
        ("    return f(▮)", "request"),
        ("    ▮", "y = 3"),
    ],
)
def test_a_broken_line_above_or_below_is_no_reason(line: str, model: str, broken: str) -> None:
    start, end = "def f(request, x):\n    z = 1\n", "    return x\n\n\ndef g():\n    return 1\n"
    above = [] if broken.endswith(("(", ",")) else [f"    {broken}\n{line}\n"]  # what may go on is no broken line
    for lines in (f"{line}\n    {broken}\n", f"{line}\n\n    # text\n    {broken}\n", *above):
        marked = start + lines + end
        check(marked, model, marked.replace("▮", f"{model}▮"))
        check(marked, f"{model} {model}", "UNPARSEABLE")


@pytest.mark.parametrize("below", ["      y = 1", "  y = 1"])
def test_wrong_indentation_below_is_no_reason(below: str) -> None:
    marked = f"def f(x):\n    z = 1\n    y = x.▮\n{below}\n    return y\n"
    check(marked, "path", marked.replace("▮", "path▮"))


@pytest.mark.parametrize("invoked", [False, True])
def test_an_argument_by_name_is_not_given_twice(*, invoked: bool) -> None:
    check("open(path, encoding=x, ▮)\n", "encoding=y", "UNPARSEABLE", invoked=invoked)
    check("open(path, encoding=x, ▮)\n", "errors=path", "open(path, encoding=x, errors=path▮)\n", invoked=invoked)
    check("<?php\nf(a: 1, ▮);\n", "a: 2", "UNPARSEABLE", invoked=invoked, language="php")


def test_what_python_refuses_is_not_shown_to_who_asks_either() -> None:
    check("class A:\n    ▮\n", "return 1", "UNPARSEABLE", invoked=True)
    check("▮\n", "await f()", "UNPARSEABLE", invoked=True)


MISSING_HEADER = "package a\n\n// Twice doubles.\n▮\n\treturn 2 * x\n}\n\nfunc Other() int {\n\treturn 1\n}\n"
MISSING_END = "run((done) => {\n  done()\n▮\n\nfunction stop () {\n  return 1\n}\n"


@pytest.mark.parametrize(
    ("language", "marked", "model"), [("go", MISSING_HEADER, "return 1"), ("javascript", MISSING_END, "again()")]
)
def test_what_mends_nothing_must_be_surer(language: str, marked: str, model: str) -> None:
    unsure, sure = -0.5, -0.3  # of a threshold of -1
    assert answers(marked, done(model, score=unsure), language=language)[-1] is NoSuggestion.LOW_CONFIDENCE
    for score, invoked in ((sure, False), (unsure, True)):
        answer = answers(marked, done(model, score=score), language=language, invoked=invoked)[-1]
        assert shown(answer) == marked.replace("▮", f"{model}▮")


def test_what_mends_the_text_need_not_be_surer() -> None:
    header = "func Twice(x int) int {"
    answer = answers(MISSING_HEADER, done(header, score=-0.9), language="go")[-1]
    assert shown(answer) == MISSING_HEADER.replace("▮", f"{header}▮")


def test_a_text_that_ends_at_the_cursor_is_only_unfinished() -> None:
    marked = "func f() {\n\tif ready() {\n\t\t▮"
    assert shown(answers(marked, done("go()", score=-0.9), language="go")[-1]) == marked.replace("▮", "go()▮")


@pytest.mark.parametrize(
    ("language", "marked", "model"),
    [
        ("php", "<?php\nclass A\n{\n    ▮\n    /** Why. */\n    public $b = 1;\n}\n", "/**"),
        ("javascript", "f(1)\n▮\ng(2)\n/* why */\nh(3)\n", "/* what"),
        ("lua", "f(1)\n▮\ng(2) -- ]]\nh(3)\n", "--[["),
    ],
)
def test_no_suggestion_takes_the_code_below_into_a_comment(language: str, marked: str, model: str) -> None:
    assert answers(marked, done(model), language=language)[-1] is NoSuggestion.UNPARSEABLE


def test_what_ends_on_its_own_line_may_be_a_comment() -> None:
    marked = "f(1)\n▮\ng(2)\n"
    assert shown(answers(marked, done("/* twice */ f(2)"), language="javascript")[-1]) == marked.replace(
        "▮", "/* twice */ f(2)▮"
    )
