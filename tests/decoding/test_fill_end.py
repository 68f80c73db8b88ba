"""Where fills end that do not end by themselves; `|` is the hole, and what is written goes on after its end."""

from __future__ import annotations

import pytest

from dgemma_model.decoding.fill_end import FillEnd


def kept(suffix: str, written: str, *, one_line: bool, prefix: str = "    ") -> str | None:
    """What is kept of a text that is written sign by sign; None if it never ends."""
    end = FillEnd.of(prefix, suffix, one_line=one_line)
    for size in range(1, len(written) + 1):
        if (cut := end.cut(written[:size])) is not None:
            return written[:cut]
    return None


@pytest.mark.parametrize(
    ("suffix", "written", "expected"),
    [
        ("\n    return x\n", "x = 1\n    return x\n", "x = 1"),
        (")\n", "a, b)\nfoo()", "a, b"),
        (")\n", "g(a), b)\n", "g(a), b"),
        (", key=key)\n", "items, key=key)\n", "items"),
        ("]\n", "x for x in y if x[0]]\n", "x for x in y if x[0]"),
        (":\n    pass\n", "x == 1:\n", "x == 1"),
        (":\n    pass\n", "d[1:2] == 1:\n", "d[1:2] == 1"),
        ('")\n', 'hello")\n', "hello"),
        (",\n    b=2,\n", "f(1, 2),\n    b=2,\n", "f(1, 2)"),
        (" + 1\n", "value + 1\n", "value"),
        (")\n", '"("), c)', '"("'),  # a bracket in a string opens nothing
        ("", "x = 1\ny = 2\n", "x = 1"),
        ("count)\n", "total, count)\n", "total, "),
        ("  # why\n", "value  # why\n", "value"),
        ("items)\n", "f(items)\n", "f("),
        ("th * height\n", "th * height\n", ""),  # nothing is missing
        ("x\n", "x + x\n", "x + "),
    ],
)
def test_one_line(suffix: str, written: str, expected: str) -> None:
    assert kept(suffix, written, one_line=True) == expected


@pytest.mark.parametrize(
    ("suffix", "written", "expected"),
    [
        (
            "\n    return total\n",
            "for x in y:\n        total += x\n    return total\n",
            "for x in y:\n        total += x",
        ),
        ("\n\n    return total\n", "a = 1\n\n    return total\n", "a = 1\n"),
        ("\n    return total\n", "a = 1\n    b = 2\ndef other():\n", "a = 1\n    b = 2"),
        ("\n}\n", "x();\n    y();\n}\n", "x();\n    y();"),
        (")\n", "1,\n    2)\n", "1,\n    2"),
        ("th * height\n", "th * height\n\n# Usage\n", ""),
        (")\n", "f(1,\n    2\n))\n", "f(1,\n    2\n)"),  # its own bracket may be closed on another line
        (
            "e_name}' lost\")\n    x\n",
            "if y:\n        raise E(f\"'{table_name}' lost\")\n    x\n",
            "if y:\n        raise E(f\"'{tabl",
        ),
        ("  b=2,\n)\n", "a=1,\n        b=2,\n)\n", "a=1,\n      "),
        (
            "s e:\n        pass\n",
            "a()\ntry:\n    b()\nexcept A as e:\n        pass\n",
            "a()\ntry:\n    b()\nexcept A a",
        ),
        ("\n    return total\n", "a = 1\n    b = 2\n", None),
        ("", "a = 1\n    b = 2\n", None),
    ],
)
def test_several_lines(suffix: str, written: str, expected: str | None) -> None:
    assert kept(suffix, written, one_line=False) == expected


def test_a_line_deeper_below_the_hole_says_nothing_of_lines_in_it() -> None:
    suffix, written = "\n        return 0\n", "first()\n    if last():\n        return 0\n"
    assert kept(suffix, written, one_line=False) == "first()\n    if last():"
    assert kept(suffix, "first()\nelse:\n", one_line=False) == "first()"


def test_the_indentation_of_a_hole_may_be_its_own() -> None:
    assert kept("\n    return 0\n", "    first()\nelse:\n", one_line=False, prefix="if x:\n") == "    first()"


def test_a_bracket_that_the_fill_opened_is_not_the_one_below() -> None:
    end = FillEnd.of("while x {\n    ", "\n    }\n}\n", one_line=False)
    assert end.cut("if y {\n        z();\n    }\n") is None
    assert end.cut("if y {\n        z();\n    }\n    }\n") == len("if y {\n        z();\n    }")


@pytest.mark.parametrize("step", [1, 2, 5, 100])
def test_a_token_may_end_beyond_the_end(step: int) -> None:
    written = "a()\n    b(one, two)\n\n    c()\n"
    end = FillEnd.of("    ", "two)\n", one_line=False)
    cuts = (end.cut(written[:size]) for size in range(step, len(written) + step, step))
    assert next(cut for cut in cuts if cut is not None) == len("a()\n    b(one, ")
