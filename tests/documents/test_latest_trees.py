"""Trees that are kept up to date are the trees of the texts."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from dgemma_lsp.documents.documents import ParsedSnapshot, Trees, parsed
from dgemma_lsp.documents.edits import Snapshot, common_start
from dgemma_lsp.documents.text import Text

texts = st.text(alphabet="def f():\n\r x=1(é😀#", max_size=30)


def shape(parsed: ParsedSnapshot) -> str:
    assert parsed.tree is not None
    return f"{parsed.tree.data!r} {parsed.tree.tree.root_node}"


def assert_same(found: ParsedSnapshot, expected: ParsedSnapshot) -> None:
    """The same tree. In a text that does not parse, tree-sitter may recover at another place the second time."""
    assert found.tree is not None and expected.tree is not None
    assert found.tree.data == expected.tree.data
    if not expected.tree.tree.root_node.has_error:
        assert shape(found) == shape(expected)


@settings(max_examples=100, deadline=None)
@given(st.lists(texts, min_size=1, max_size=5))
def test_a_tree_is_that_of_its_text(contents: list[str]) -> None:
    async def check() -> None:
        trees = Trees()
        for text in contents:
            snapshot = Snapshot("file:///a.py", 1, "python", Text(text), 0)
            assert_same(await trees.parsed(snapshot), parsed(snapshot))

    asyncio.run(check())


def test_long_texts_other_languages_and_many_documents() -> None:
    async def check() -> None:
        trees = Trees()
        long = Snapshot("file:///a.py", 1, "python", Text("x = 1\n" * 5_000), 0)
        assert shape(await trees.parsed(long)) == shape(parsed(long))
        assert (await trees.parsed(Snapshot("file:///a.py", 2, "plaintext", Text("x"), 0))).tree is None
        for number in range(100):
            await trees.parsed(Snapshot(f"file:///{number}.py", 1, "python", Text("x"), 0))
        assert len(trees) <= 16
        trees.forget("file:///99.py")
        assert len(trees) <= 15

    asyncio.run(check())


@given(texts, texts)
def test_the_common_start(one: str, other: str) -> None:
    length = common_start(one, other)
    assert one[:length] == other[:length]
    assert length in (len(one), len(other)) or one[length] != other[length]
