"""Questions about trees. `▮` is the cursor; in `check_scopes`, `»` marks each expected start."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma_model.source import bounded, structure, syntax
from dgemma_model.source.blocks import block_expected
from dgemma_model.source.nearby import nearby
from dgemma_model.source.syntax import CursorKind, SyntaxTree

NESTED = "class A:\n    def f(self):\n        x = foo(\n\n    def g(self):\n        return 1\n"
"""An error inside an error."""


def tree_of(text: str) -> SyntaxTree:
    tree = syntax.parse("python", text)
    assert tree is not None
    return tree


def check_kind(marked: str, expected: CursorKind) -> None:
    assert syntax.kind_at(tree_of(marked.replace("▮", "")), marked.index("▮")) is expected


def check_block(marked: str, expected: bool) -> None:
    assert block_expected(tree_of(marked.replace("▮", "")), marked.index("▮")) is expected


def check_scopes(marked: str) -> None:
    starts, text, cursor = [], "", 0
    for char in marked:
        if char == "»":
            starts.append(len(text))
        elif char == "▮":
            cursor = len(text)
        else:
            text += char
    assert syntax.scope_starts(tree_of(text), cursor) == starts


def test_an_unknown_language_has_no_tree() -> None:
    assert syntax.parse("plaintext", "x = 1") is None


@pytest.mark.parametrize("marked", ["#▮", "# some▮thing", "x = 1  # note▮\ny = 2", "# größe▮\n", "    # 😀 a▮ b\n"])
def test_comments(marked: str) -> None:
    check_kind(marked, CursorKind.COMMENT)


@pytest.mark.parametrize(
    "marked",
    [
        'x = "▮"',
        'x = "some ▮thing"',
        "x = '▮a'",
        'x = f"{a}▮"',
        'x = f"▮{a}"',
        'def f():\n    """Some▮\n    thing."""\n',
        'größe = "ä▮"',
        'x = "open▮',
        'x = "open▮\ny = 1\n',
        'def f():\n    """open\n\n    text▮\n',
        'x = f("a", "open▮',
    ],
)
def test_strings(marked: str) -> None:
    check_kind(marked, CursorKind.STRING)


@pytest.mark.parametrize(
    "marked",
    [
        "▮",
        "▮# note",
        "x = 1 ▮ # note",
        "# note\n▮",
        'x = ▮"a"',
        'x = "a"▮',
        'x = f"{▮}"',
        'x = f"{a▮}"',
        'x = "open\ny = ▮1\n',
        'f(a▮, "open',
        "x = ▮",
        "foo▮bar",
    ],
)
def test_code(marked: str) -> None:
    check_kind(marked, CursorKind.CODE)


@pytest.mark.parametrize(
    ("marked", "expected"),
    [
        ("foo▮bar", True),
        ("f▮_", True),
        ("grö▮ße", True),
        ("1▮2", True),
        ("foo▮", False),
        ("▮foo", False),
        ("foo▮ bar", False),
        ("foo▮.bar", False),
        ("▮", False),
    ],
)
def test_inside_word(marked: str, expected: bool) -> None:
    assert syntax.inside_word(marked.replace("▮", ""), marked.index("▮")) is expected


@pytest.mark.parametrize(
    "marked",
    [
        "x = ▮\n",
        "def f():\n    pass\n\nx = ▮\n",
        "»def f():\n    x = ▮\n    return x\n",
        "»def f():\n    ▮",
        "»def f():\n    x = 1\n\n    ▮\n\ny = 2\n",
        "def f():\n    x = 1\n\n▮\n",
        "»class A:\n»    def f(self):\n        return ▮\n",
        "»class A:\n    def f(self):\n        return 1\n\n    ▮\n",
        "»class A:\n    def f(self):\n        return 1\n\n▮\n    def g(self):\n        return 2\n",
        "»@first\n@second\ndef f():\n    return ▮\n",
        "»class A:\n»    @property\n    def f(self):\n        return ▮\n",
        "»async def f():\n    await ▮\n",
        "x = '😀'\n»def größe():\n    return ▮\n",
        "def f(x▮):\n    pass\n",
        "»def f(\n    a,\n    ▮\n):\n    pass\n",
        "»def f():\n\t▮\n",
        "»def f():\r\n    x = 1\r\n    ▮\r\n",
        "»def f():\n    # note\n    ▮",
        "»def f():\n    for x in xs:\n        if x:\n            ▮\n",
        "x = 1\r»def f():\r    y = ▮\r",
    ],
)
def test_scopes(marked: str) -> None:
    check_scopes(marked)


@pytest.mark.parametrize(
    "marked",
    [
        "»class A:\n»    def f(self):\n        x = foo(▮\n\n    def g(self):\n        return 1\n",
        "»class A:\n»    def f(self):\n        x = ▮\n\n    def g(self):\n        return 1\n",
        "»@first\ndef f(a):\n    x = [▮\n",
        "»class A:\n»    def f(self, x):\n        if (x▮",
        "x = 1\n»def f(a, b):\n    return {a: [b, ▮",
        "»@first\n@second(1)\nclass A:\n    x = [▮\n",
        "def f(\n) ▮",
        "def f(\n▮  @first\n",
        "@first\n  ▮def f(a)\n",
        "»def f(@first\n  def g(▮",
    ],
)
def test_scopes_of_a_text_that_is_being_typed(marked: str) -> None:
    check_scopes(marked)


@pytest.mark.parametrize(
    "marked",
    [
        "def f():▮",
        "def f():\n    ▮",
        "def f():\n    ▮\n\ny = 1\n",
        "def f():  # note\n    ▮\n",
        "def f(\n    a,\n):\n    ▮\n",
        'def f():\n    """What it does."""\n    ▮\n',
        "def f():\n    # note\n    ▮\n",
        "class A:\n    @property\n    def f(self):\n        ▮\n\n    def g(self):\n        return 1\n",
        "for x in xs:\n    ▮\n",
        "if a:\n    b()\nelse:\n    ▮\n",
        "else:\n    ▮",
        "try:\n    f(\nexcept E:\n    ▮",
        "try:\n    ▮\nexcept E:\n    pass\n",
        "with a as b:\n    ▮",
        "match a:\n    case 1:\n        ▮\n",
        "async def f():\n    ▮\n",
        "def f():\r\n    ▮\r\n",
        "class A:\n    ▮",
    ],
)
def test_a_block_is_expected(marked: str) -> None:
    check_block(marked, True)


@pytest.mark.parametrize(
    "marked",
    [
        "▮",
        "x = ▮\n",
        "def f():▮ pass\n",
        "def f():\n    ▮\n    return 1\n",
        "def f():\n    x = 1\n    ▮\n",
        'def f():\n    """What it does."""\n    ▮\n    return 1\n',
        'x = {\n    "a":\n    ▮\n}\n',
        "x = {a: ▮",
        "f = lambda: ▮",
        "x: ▮",
        'x = "a"\n▮\n',
        "x[a:▮",
        "def f(▮\n",
        "if x: ▮y()\n",
        'if x: "a"\n    ▮',
        "def f():\n    ▮return 1\n",
    ],
)
def test_no_block_is_expected(marked: str) -> None:
    check_block(marked, False)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("x = 1\n", 0),
        ("def f():\n    ", 0),
        ("x = \n", 1),
        ("x = = 1\ny = (\n", 2),
        ("f(a", 1),
        ("x = 1\rdef f():\r    y = 1\r", 0),
        (NESTED, 2),
    ],
)
def test_errors_are_counted(text: str, count: int) -> None:
    assert syntax.error_count(tree_of(text)) == count


def test_a_spliced_tree_is_that_of_the_new_text() -> None:
    tree = syntax.spliced(tree_of("größe = '😀'\nx = 1\n"), 16, 17, "f(\n  ä)")
    assert tree is not None
    assert tree.data.decode() == "größe = '😀'\nx = f(\n  ä)\n"
    assert list(structure.named_nodes(tree)) == list(structure.named_nodes(tree_of(tree.data.decode())))


def test_a_missing_token_without_a_node_is_an_error() -> None:
    tree = syntax.spliced(tree_of("def f(x):\n"), 0, 0, "def f(x):\nf(a, b)")
    assert tree.data == b"def f(x):\nf(a, b)def f(x):\n"
    assert syntax.error_count(tree) == 1


def test_splicing_leaves_the_old_tree_as_it_was() -> None:
    tree = tree_of("x = 1\n")
    syntax.spliced(tree, 4, 5, "(((")
    assert (syntax.error_count(tree), tree.data) == (0, b"x = 1\n")
    assert list(structure.named_nodes(tree)) == list(structure.named_nodes(tree_of("x = 1\n")))


snippets = st.sampled_from(
    ["def f(x):\n", "    return x\n", "x = 1\n", "class A:\n", "f(a, b)", "{x}", "@a\n", "# é\n", ":", "(", ")"]
) | st.sampled_from(
    ["\n", "\r\n", "\r", "  ", "\t", "\f", "\u2028", "😀", "\ud800", "\x00", '"', "'''", "f'{", "\\"],
)
texts = st.lists(snippets, max_size=12).map("".join)


@given(text=texts, data=st.data())
def test_any_text_at_any_offset(text: str, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, len(text)))
    tree = tree_of(text)
    assert syntax.kind_at(tree, offset) in CursorKind
    assert block_expected(tree, offset) in (True, False)
    starts = syntax.scope_starts(tree, offset)
    assert starts == sorted(set(starts)) and all(start <= offset for start in starts)
    assert all(start == 0 or text[start - 1] in "\r\n" for start in starts)


@given(text=texts, new=texts, data=st.data())
def test_splicing_any_text(text: str, new: str, data: st.DataObject) -> None:
    start, end = sorted((data.draw(st.integers(0, len(text))), data.draw(st.integers(0, len(text)))))
    tree = syntax.spliced(tree_of(text), start, end, new)
    assert tree is not None
    data = tree.data.decode("utf-8", "surrogatepass")
    assert data.replace("\r", "\n") == (text[:start] + new + text[end:]).replace("\r", "\n")
    assert (syntax.error_count(tree) > 0) == tree.tree.root_node.has_error


def test_large_files_are_no_burden(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question at the end of a text takes a few calls for each of its statements, and reads it twice at most."""
    functions, read, calls, real = 15_000, list[int](), 0, bounded._Source.read
    text = "def größe(x):\n    return x + 1\n\n\n" * functions + "def f():\n    return ("

    def counted(self: bounded._Source, offset: int, point: object) -> bytes | memoryview:
        part = real(self, offset, point)
        read.append(len(part))
        return part

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    monkeypatch.setattr(bounded._Source, "read", counted)
    tree, before = tree_of(text), sys.getprofile()
    read.clear()
    sys.setprofile(count)
    try:
        starts, kind = syntax.scope_starts(tree, len(text)), syntax.kind_at(tree, len(text))
        expected, edited = block_expected(tree, len(text)), syntax.spliced(tree, len(text), len(text), "x)")
        errors = syntax.error_count(edited) if edited is not None else None
    finally:
        sys.setprofile(before)
    assert (starts, kind, expected, errors) == ([text.rindex("def f")], CursorKind.CODE, False, 0)
    assert calls < 5 * functions
    assert sum(read) < 2 * len(text.encode())


@pytest.mark.parametrize("length", [1, 1_023, 1_024, 1_025, 200_000])
def test_a_node_has_all_of_its_text(length: int) -> None:
    name = "é" * length
    (statement,) = tree_of(f"{name} = 1\n").tree.root_node.children
    assert (statement.text or b"").decode() == f"{name} = 1"


FAR = {
    "python": "class A:\n" + "".join(f"    def f{n}(self):\n        return {n}\n\n" for n in range(400)),
    "javascript": "class A {\n" + "".join(f"  f{n}() {{\n    return {n};\n  }}\n" for n in range(400)) + "}\n",
    "c": "".join(f"struct s{n} {{\n    int x;\n}};\nint f{n}(int x) {{\n    return {n};\n}}\n" for n in range(300)),
    "java": "class A {\n" + "".join(f"  int f{n}() {{\n    return {n};\n  }}\n" for n in range(400)) + "}\n",
    "go": "package a\n\n" + "".join(f"func f{n}() int {{\n\treturn {n}\n}}\n" for n in range(400)),
}


@given(
    language=st.sampled_from(sorted(FAR)),
    place=st.floats(0, 1),
    before=st.sampled_from(["", "é", "(", '"', "{", "x = ["]),
    edit=st.sampled_from(["", " + 1", "(", ")", "f(1)", '"', "}", "\n", "x", "return", '"""', "{ f(); }"]),
)
def test_an_edit_is_judged_nearby_as_in_the_whole(language: str, place: float, before: str, edit: str) -> None:
    """By what it adds to the errors, from none to some and back."""
    lines = FAR[language].splitlines(keepends=True)
    line = next(n for n in range(int(place * (len(lines) - 8)), len(lines)) if "return" in lines[n])
    start = sum(map(len, lines[:line])) + len(lines[line].rstrip("\n;"))
    text = FAR[language][:start] + before + FAR[language][start:]
    at = start + len(before)
    whole = syntax.parse(language, text)
    assert whole is not None
    near = nearby(whole, at)
    assert len(near.data) < 0.6 * len(whole.data)
    errors = [
        (syntax.error_count(tree), syntax.error_count(syntax.spliced(tree, at, at, edit))) for tree in (whole, near)
    ]
    assert len({(now == 0, then == 0, then > now) for now, then in errors}) == 1, errors


def test_nothing_is_left_out_of_what_is_short_or_broken_all_over() -> None:
    assert nearby(short := tree_of(NESTED), 30) is short
    broken = tree_of("def f(:\n    return (\n\n" * 400)
    assert nearby(broken, 5000) is broken


def test_a_tree_that_is_gone_leaves_no_text_behind() -> None:
    """The parser's library keeps what it reads in parts: 120 parses of a text were 120 copies of it."""
    text = "x = compute(1)\n" * 2_000
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("NOT TESTED: no /proc to read memory from")
    sizes = []
    for _ in range(3):
        for _ in range(40):
            assert syntax.parse("python", text) is not None
        sizes.append(int(statm.read_text().split()[1]) * 4096)
    assert sizes[2] - sizes[0] < 20 * len(text), sizes  # and not 80 copies
