"""What Python's own parser says of an edit."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from dgemma_model.source import python_parser, syntax
from dgemma_model.source.python_parser import finds_fault, python_rejects

SOURCES = sorted(Path(python_parser.__file__).parents[1].rglob("*.py"))


def objected(marked: str, new: str, *, may_be_newer: bool = False) -> bool:
    before, after = marked.split("▮")
    return python_rejects(before + after, len(before), len(before), new, may_be_newer=may_be_newer)


@pytest.mark.parametrize(
    ("marked", "new", "expected"),
    [
        ("x = ▮\n", "f(a)", False),
        ("x = ▮\n", "f(a b)", True),
        ("x = ▮\n", "f(a", True),
        # indentation, which tree-sitter forgives
        ("def f():\n    ▮\n        y = 1\n", "x = 2", True),
        ("def f():\n    ▮\n        y = 1\n", "if x:", False),
        ("def f():\n    y = 1\n▮", "      z = 2", True),
        # what opens a block
        ("def f():\n    if ▮\n    return 1\n", "x:", False),
        ("def f():\n    ▮\n    return 1\n", "if x:", True),
        ("def f():\n    y = 1\n    ▮\n\n\nx = 1\n", "if x:", False),
        ("def f():\n    for y in z:\n        ▮\n    return 1\n", "if x:", True),
        ("class A:\n    def f():\n        y = 1\n        ▮\n\n    def g():\n        pass\n", "if x:", False),
        ("def f():\n    y = 1\n    ▮\n    # no code\n\n\nx = 1\n", "if x:", False),
        ("def f():\n    y = 1\n    ▮\n\n\nx = 1\n", "try:", False),
        ("def f():\n    y = 1\n    ▮\n", "for x in y:", False),
        ("def ▮\n", "f(a, b):", False),
        ("def f():\n    while ▮\n", "a b:", True),
        ("@cached\n▮\n@other\ndef f(): ...\n", "def g():", True),
        ("@cached\n▮\n@other\ndef f(): ...\n", "@third", False),
        # whatever is wrong elsewhere
        ("def broken(:\n\nx = ▮\n", "f(a)", False),
        ("f(a,\n  ▮\n\ndef g():\n    return 1\n", "b,", False),
        ("x = ▮\n\n\ndef broken(:\n    pass\n", "f(a)", False),
        # what has to be opened or closed here
        ("def f():\n    ▮\n        y = 1\n    except E:\n        z = 1\n", "if x:", True),
        ("def f():\n    ▮\n        y = 1\n    except E:\n        z = 1\n", "try:", False),
        ("x = [\n    1,\n    ▮\n        2,\n    ),\n]\n", "3,", True),
        ("x = [\n    1,\n    ▮\n        2,\n    ),\n]\n", "(", False),
        ("for a in f(▮\n    pass\n", "b), c)", True),
        # what Python complains of further down
        ("x = f(\n    a=1,\n    ▮\n    b=2,\n    c=3,\n)\n", "d,", True),
        ("x = f(\n    a=1,\n    ▮\n    b=2,\n    c=3,\n)\n", "d=4,", False),
        ("def f(\n    ▮\n    a: int,\n    *,\n    b: int,\n): ...\n", "*,", True),
        # the statement around it is found
        ("x = [\n    1,\n]\nif a:\n    b = 1\nelse:\n    ▮\n", "b = 2", False),
        ("@a\n@b\ndef f():\n    ▮\n\n@c\ndef g():\n    pass\n", "return 1", False),
        ('def f():\n    ▮\n    """Text\nthat goes on\n"""\n', "pass", False),
    ],
)
def test_what_python_objects_to(marked: str, new: str, expected: bool) -> None:
    assert objected(marked, new) is expected


@pytest.mark.parametrize(("marked", "new"), [("type X = ▮\n", "list[int]"), ("print 'x', ▮\n", "y")])
def test_code_may_be_of_another_python(marked: str, new: str) -> None:
    assert not objected(marked, new, may_be_newer=True)


def test_nothing_is_said_of_an_endless_statement() -> None:
    rows = "    1,\n" * 5_000
    assert not objected(f"x = [\n{rows}    ▮\n{rows}]\n", "a b c")
    assert not objected(f"x = [\n    ▮\n{rows}]\n", "a b c")
    assert objected(f"{rows.replace('    1,', 'x = 1')}y = [\n    ▮\n]\n{rows.replace('    1,', 'x = 1')}", "a b c")


@pytest.mark.parametrize(("new", "expected"), [("if x:", True), ("y = 1", False), ("y = = 1", True)])
def test_a_method_of_a_long_class_is_judged_by_itself(new: str, *, expected: bool) -> None:
    methods = "    def g(self):\n        return 1\n\n" * 2_000
    method = "    @a\n    def f(self):\n        ▮\n        return 2\n\n"
    assert objected(f"class A:\n{methods}{method}{methods}", new) is expected
    assert objected(f"class A:\n{method}{methods}", new) is expected
    assert objected(f"class A:\n{methods}{method}", new) is expected


def test_faults_are_near_or_reach_down() -> None:
    assert finds_fault("x = 1\ny = = 2\n", 2, 2)
    assert finds_fault("x = 1\ny = = 2\n", 1, 1)  # what is wrong may show on the next line
    assert finds_fault("x = 1\n# text\n\ny = = 2\n", 1, 1)
    assert not finds_fault("x = 1\nz = 1\ny = = 2\n", 1, 1)
    assert not finds_fault("y = = 2\nx = 1\n", 2, 2)
    assert finds_fault("y = (\nx = 1\n", 2, 2)
    assert not finds_fault("y = = 2\0\n", 1, 1)
    assert not finds_fault("y = = 2\n" * 100_000, 1, 1)


def test_no_line_that_someone_wrote_is_objected_to() -> None:
    rng = random.Random(1)
    judged = 0
    for path in SOURCES:
        text = path.read_text("utf-8")
        lines, tree = text.split("\n"), syntax.parse("python", text)
        assert tree is not None
        for number in rng.sample(range(len(lines)), min(12, len(lines))):
            line = lines[number]
            start = sum(len(each) + 1 for each in lines[:number])
            for at in {len(line) - len(line.lstrip()), len(line) // 2}:
                if (
                    line[at:].strip()
                    and '"""' not in line
                    and syntax.kind_at(tree, start + at) is syntax.CursorKind.CODE
                ):
                    without = text[: start + at] + text[start + len(line) :]
                    assert not python_rejects(without, start + at, start + at, line[at:]), (path.name, number + 1, at)
                    judged += 1
    assert judged > 300
