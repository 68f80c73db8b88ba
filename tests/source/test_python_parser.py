"""What Python's own parser says of an edit."""

from __future__ import annotations

import ast
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
        # whatever is wrong at other places
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


REFUSED = [
    ("▮\n", "return x"),
    ("x = 1\n▮\n", "await x"),
    ("▮\n", "yield x"),
    ("▮\n", "break"),
    ("if a:\n    ▮\n", "continue"),
    ("class A:\n    ▮\n", "return 1"),
    ("class A:\n    ▮\n", "yield 1"),
    ("def f():\n    ▮\n", "await g()"),
    ("def f():\n    ▮\n", "async with a: pass"),
    ("def f():\n    return ▮\n", "[x async for x in y]"),
    ("for x in y:\n    def f():\n        ▮\n", "break"),
    ("for x in y:\n    pass\n▮\n", "continue"),
    ("async def f():\n    yield 1\n    ▮\n", "return 2"),
    ("def f(a, ▮):\n    return a\n", "b, a"),
    ("f = lambda a, ▮: a\n", "a"),
    ("def f(a▮\n    return a\n", ", a):"),
    ("f(a=1, ▮)\n", "a=2"),
    ("class A(metaclass=B, ▮): pass\n", "metaclass=C"),
    ("▮\n", "None = 1"),
    ("▮\n", "f() = 1"),
    ("▮\n", "__debug__ = 1"),
    ("def f(▮): pass\n", "__debug__"),
    ("x.▮\n", "__debug__ = 1"),
    ("▮\n", "*a = b"),
    ("▮ = c\n", "*a, *b"),
    ("x = ▮\n", "*a"),
    ("▮\n", "del f()"),
    ("def f():\n    x = 1\n    ▮\n", "global x"),
    ("def f(x):\n    ▮\n", "global x"),
    ("def f():\n    ▮\n", "nonlocal x"),
    ("▮\n", "nonlocal x"),
    ("def f(x):\n    ▮\n", "nonlocal x"),
    ("def f():\n    ▮\n", "from a import *"),
    ("import a\n▮\n", "from __future__ import annotations"),
    ("▮\nfrom __future__ import annotations\n", "import a"),
    ("import a\n\n\ndef f():\n    ▮\n", "from __future__ import annotations"),
    ("▮\n", "from __future__ import nothing_like_it"),
    ("match x:\n    case ▮:\n        pass\n    case 1:\n        pass\n", "a"),
    ("match x:\n    case ▮:\n        pass\n", "[a, a]"),
    ("match x:\n    case (▮):\n        pass\n", "a | b"),
    ("x = [▮ for a in b]\n", "(a := 1)"),
    ("try:\n    pass\n▮\n    pass\nexcept E:\n    pass\n", "except:"),
    ("a: int = 1\n▮\n", "(b, c): int"),
]
"""What parses, and is refused all the same: by the compiler's second stage, or by the second half of its first."""


@pytest.mark.parametrize(("marked", "new"), REFUSED)
def test_what_python_refuses_to_compile(marked: str, new: str) -> None:
    assert objected(marked, new)


@pytest.mark.parametrize(
    ("marked", "new"),
    [
        ("return ▮\n", "x"),
        ("if a:\n    return 1\n    ▮\n", "return 2"),
        ("x = 1\nawait ▮\n", "f(x)"),
        ("def f(a, a):\n    return ▮\n", "a"),
        ("def f():\n    nonlocal x\n    ▮\n", "x = 1"),
        ("import a\nfrom __future__ import annotations\n▮\n", "x = 1"),
        ("import a\n▮\nfrom __future__ import annotations\n", "import b"),
    ],
)
def test_what_was_refused_before_is_no_reason(marked: str, new: str) -> None:
    assert not objected(marked, new)


@pytest.mark.parametrize(
    ("marked", "new"),
    [
        ('"""Text."""\n▮\n', "from __future__ import annotations"),
        ("# text\n▮\nfrom __future__ import annotations\n", '"""Text."""'),
        ("from __future__ import annotations\n▮\n", "from __future__ import division"),
        ("from __future__ import (\n    ▮\n)\nimport a\n", "annotations,"),
        ("def f():\n    for x in y:\n        ▮\n", "return x"),
        ("async def f():\n    return ▮\n", "[x async for x in y]"),
        ("def f():\n    x = 1\n    def g():\n        ▮\n", "nonlocal x"),
        ("class A:\n    def f(self):\n        ▮\n", "yield super().f()"),
    ],
)
def test_what_python_compiles(marked: str, new: str) -> None:
    assert not objected(marked, new)


@pytest.mark.parametrize(("marked", "new"), REFUSED)
def test_half_a_line_may_not_parse_but_must_compile(marked: str, new: str) -> None:
    before, after = marked.split("▮")
    text = before + after
    assert not python_rejects(text, len(before), len(before), "f(a b", may_be_half=True)
    try:
        ast.parse(before + new + after)
    except SyntaxError:
        return
    assert python_rejects(text, len(before), len(before), new, may_be_half=True)


def test_a_cell_of_a_notebook_may_await() -> None:
    assert not python_rejects("x = ", 4, 4, "await f()", in_notebook=True)
    assert python_rejects("", 0, 0, "return 1", in_notebook=True)


def test_a_fault_of_the_second_stage_is_new_or_none() -> None:
    assert finds_fault("x = 1\nreturn x\n", 2, 2, before="x = 1\n\n")
    assert not finds_fault("x = 1\nreturn x\n", 2, 2)
    assert not finds_fault("return 1\nx = 1\n", 2, 2, before="return 1\nx = \n")
    assert not finds_fault("return 1\nx = 1\n", 2, 2, before="return 1\n\n")
    assert finds_fault("return 1\ndef f(a, a): pass\n", 2, 2, before="return 1\n\n")
    assert finds_fault("try:\n    pass\nexcept E:\n    pass\nfrom __future__ import division\n", 1, 4, before='"a"\n')


def test_nothing_is_executed_or_folded_without_end(tmp_path: Path) -> None:
    made = tmp_path / "made"
    assert not objected("▮\n", f"open({str(made)!r}, 'w')")
    assert not made.exists()
    assert not objected("x = ▮\n", "'a' * 10**12 + 'b' * (1 << 10**9)")


def test_no_nesting_takes_python_for_ever() -> None:
    lines = [f"{' ' * depth}try:\n{' ' * depth} x\n{' ' * depth}finally:\n" for depth in range(1, 19)]
    nested = f"def f():\n{''.join(lines)}{' ' * 19}"
    assert not objected(f"{nested}▮\n", "y = 1")
    assert objected(f"{nested}▮\n", "y = = 1")
    assert not finds_fault(f"{nested}y = 1\n", 57, 57, before=f"{nested}pass\n")
