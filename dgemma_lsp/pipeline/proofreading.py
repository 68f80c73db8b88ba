"""Looking for a wrong word in a function: a swapped name, a comparison the wrong way round, a number off by one.

Only what could be mistaken is looked at: words that use something, not those that name it, and nothing in strings and
comments. `eval/proofreading.py` measures this on planted bugs (log/denoiser.md), in Python alone.
"""

from __future__ import annotations

import ast
import io
import itertools
import re
import tokenize
import warnings
from collections.abc import Generator, Iterator
from typing import NamedTuple

from dgemma_lsp.documents.edits import Edit, NoSuggestion, Rewrite, Snapshot
from dgemma_lsp.pipeline.infiller import InfillerLike, Reviewer
from dgemma_model.request import DOUBT_NATS, Doubt, Excerpt
from dgemma_model.source import fill_sites, syntax
from dgemma_model.source.syntax import SyntaxTree

MOST_LINES = 60
"""Of a function; reading a longer one takes too long."""
BEFORE_CHARS, AFTER_CHARS = 1280, 320
"""Of the text around the function, what the model sees."""
OPERATORS = (
    *("+", "-", "*", "/", "//", "+=", "-=", "==", "!=", "<", "<=", ">", ">="),
    *("and", "or", "in", "not in", "is", "is not"),
)


class Word(NamedTuple):
    """A word, number or operator that could be wrong, at `text[start:end]` of a function."""

    start: int
    end: int
    text: str


def function_at(tree: SyntaxTree, offset: int) -> tuple[int, int] | None:
    """Where the function around an offset begins and ends, from the beginning of its first line to that of the line
    after it; None where there is none, or too long a one."""
    data, at = tree.data, fill_sites.byte_at(tree, offset)
    for node in syntax.upwards(tree, tree.tree.root_node.named_descendant_for_byte_range(at, at)):
        if node.type == "function_definition":
            if node.end_point[0] - node.start_point[0] >= MOST_LINES or node.has_error:
                return None
            start = fill_sites.line_start(data, node.start_byte)
            end = data.find(b"\n", node.end_byte) + 1 or len(data)
            return fill_sites.code_points(tree, start), fill_sites.code_points(tree, end)
    return None


def words(text: str) -> list[Word]:
    """What could be wrong in a function: not where a name is made up, nor in a string. Nothing where the function does
    not parse on its own."""
    lines, indent = text.split("\n"), text[: len(text) - len(text.lstrip(" \t"))]
    if any(line.strip() and not line.startswith(indent) for line in lines) or re.search(r"\r(?!\n)", text):
        return []  # Python ends lines at a lone carriage return
    starts = [0, *itertools.accumulate(len(line) + 1 for line in lines)]
    plain = [line.removeprefix(indent) for line in lines]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse("\n".join(plain))
        tokens = list(tokenize.generate_tokens(io.StringIO("\n".join(plain)).readline))
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError):
        return []
    made_up = set[tuple[int, int]]()
    for node in ast.walk(tree):
        is_stored = isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)
        if is_stored or isinstance(node, ast.arg | ast.keyword | ast.alias):
            line, column = node.lineno, node.col_offset  # type: ignore[attr-defined]
            made_up.add((line, len(plain[line - 1].encode()[:column].decode("utf-8", "replace"))))
    found = []
    for number, token in enumerate(tokens):
        is_word = token.type in (tokenize.NAME, tokenize.NUMBER) or token.string in OPERATORS
        is_new = token.start in made_up or (number and tokens[number - 1].string in ("def", "class"))
        if is_word and not is_new:
            start = starts[token.start[0] - 1] + len(indent) + token.start[1]
            found.append(Word(start, start + len(token.string), token.string))
    return found


def others(near: str) -> frozenset[str]:
    """What may stand in place of a word: the words of the text near it, and operators."""
    return frozenset((*re.findall(r"\w+", near), *re.findall(r"\bself\.\w+", near), *OPERATORS))


def doubts(
    before: str, function: str, after: str, reviewer: Reviewer, min_nats: float = DOUBT_NATS
) -> Iterator[list[Doubt]]:
    """What the model would replace in a function: see `Infiller.review`."""
    excerpt = Excerpt(before[-BEFORE_CHARS:], after[:AFTER_CHARS])
    places = [(word.start, word.end) for word in words(function)]
    return reviewer.review(excerpt, function, places, others(excerpt.prefix + function + excerpt.suffix), min_nats)


def proofread(
    snapshot: Snapshot, tree: SyntaxTree, infiller: InfillerLike
) -> Generator[Rewrite | NoSuggestion, None, None]:
    """Replace the word of the function at the cursor that the model doubts most; the last value is the result."""
    text = snapshot.text
    place = function_at(tree, snapshot.offset) if snapshot.language == "python" else None
    if place is None or not words(text[slice(*place)]):
        yield NoSuggestion.NOTHING_HERE
        return
    if (reviewer := infiller.reviewer) is None:
        yield NoSuggestion.NO_REVIEW
        return
    start, end = place
    found, steps = list[Doubt](), 0
    for some in doubts(text[:start], text[start:end], text[end:], reviewer):
        found += some
        steps += 1
        yield NoSuggestion.OUT_OF_TIME
    for doubt in sorted(found, key=lambda doubt: -doubt.nats):
        edit = Edit(start + doubt.start, start + doubt.end, doubt.instead)
        if words(edit.apply(text)[start : end + len(doubt.instead) - (doubt.end - doubt.start)]):  # still parses
            yield Rewrite(snapshot, (edit,), steps)
            return
    yield NoSuggestion.NOTHING_DOUBTED
