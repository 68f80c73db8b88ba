"""Arguments, fields and attributes that are there twice. `▮` marks both ends of an edit."""

from __future__ import annotations

import pytest

from dgemma_model.source import syntax
from dgemma_model.source.repeated_arguments import repeats_argument


def repeats(language: str, marked: str) -> bool:
    before, edit, after = marked.split("▮")
    tree = syntax.parse(language, before + edit + after)
    assert tree is not None
    return repeats_argument(tree, len(before), len(before + edit))


@pytest.mark.parametrize(
    ("language", "marked"),
    [
        ("python", "f(a=1, ▮a=2▮)\n"),
        ("python", "f(▮a=1▮, b=3, a=2)\n"),
        ("python", "f(▮g(1), a=1, b=2, a=3▮)\n"),
        ("python", "class A(metaclass=B, ▮metaclass=C▮): pass\n"),
        ("python", "x = '😀'\nf(a=1, g(b=2), ▮a=2▮)\n"),
        ("php", "<?php\nf(a: 1, ▮a: 2▮);\n"),
        ("csharp", "class A { void M() { F(a: 1, ▮a: 2▮); } }\n"),
        ("ruby", "f(a: 1, ▮a: 2▮)\n"),
        ("rust", "fn f() { let x = P { a: 1, ▮a: 2▮ }; }\n"),
        ("java", "@A(a = 1, ▮a = 2▮)\nclass B {}\n"),
        ("html", '<a href="x" ▮href="y"▮>z</a>\n'),
        ("tsx", 'let x = <a b="1" ▮b="2"▮/>;\n'),
        ("javascript", 'let x = <a b="1" ▮b="2"▮/>;\n'),
    ],
)
def test_a_name_twice(language: str, marked: str) -> None:
    assert repeats(language, marked)


@pytest.mark.parametrize(
    ("language", "marked"),
    [
        ("python", "f(a=1, ▮b=2▮)\n"),
        ("python", "f(a=1, b=▮g(a=2)▮)\n"),
        ("python", "f(a, ▮a, a▮)\n"),
        ("python", "f(a=1, a=2, ▮b=3▮)\n"),
        ("python", "f(a=1, a=2)\n▮x = 1▮\n"),
        ("python", "f(a=1, g(▮a=2▮\n"),
        ("php", "<?php\nf(1, ▮1, 1▮);\n"),
        ("csharp", "class A { void M() { F(a, ▮a▮); } }\n"),
        ("json", '{"a": 1, ▮"a": 2▮}'),
    ],
)
def test_no_name_twice(language: str, marked: str) -> None:
    assert not repeats(language, marked)
