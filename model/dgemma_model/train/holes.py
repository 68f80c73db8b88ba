"""Where holes are cut: the same kinds for training and evaluation. No torch."""

from __future__ import annotations

import random
import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal

from dgemma_model.request import Excerpt
from dgemma_model.source import structure, syntax
from dgemma_model.source.excerpt import ExcerptBudget, cut
from dgemma_model.source.syntax import CursorKind

HoleKind = Literal["rest_of_line", "line", "expression", "statement", "block", "span", "empty"]

MIX: dict[HoleKind, float] = {
    "rest_of_line": 0.26,
    "line": 0.24,
    "expression": 0.14,
    "statement": 0.08,
    "block": 0.10,
    "span": 0.13,
    "empty": 0.05,
}
"""Share of each kind in training. Lines lead, because that is what an editor asks for."""

MAX_HOLE_CHARS = 480

EXPRESSIONS = frozenset(
    [
        "argument_list",
        "attribute",
        "await",
        "binary_operator",
        "boolean_operator",
        "call",
        "comparison_operator",
        "conditional_expression",
        "dictionary",
        "dictionary_comprehension",
        "generator_expression",
        "integer",
        "keyword_argument",
        "lambda",
        "list",
        "list_comprehension",
        "not_operator",
        "parameters",
        "set",
        "string",
        "subscript",
        "tuple",
        "type",
        "unary_operator",
    ]
)
"""Node kinds of tree-sitter's Python grammar."""
STATEMENTS = frozenset(
    [
        "assert_statement",
        "assignment",
        "augmented_assignment",
        "expression_statement",
        "for_statement",
        "if_statement",
        "import_from_statement",
        "import_statement",
        "raise_statement",
        "return_statement",
        "try_statement",
        "while_statement",
        "with_statement",
    ]
)

DOCSTRING = re.compile(r"[rbuRBU]?(\"\"\"|\'\'\')")
WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class CutHole:
    """The piece `text[start:end]` of a file, in code points, and what kind of piece it is."""

    kind: HoleKind
    start: int
    end: int


class HoleCutter:
    """Cuts random holes into one file, with the syntax found once. Expressions and statements are those of Python.

    `code_lines` draws lines as an editor meets them: every line of code is equally likely, and none that begins in a
    comment or string is taken. Otherwise lines are drawn by their length, which gives training more to learn from
    each.
    """

    def __init__(self, text: str, *, language: str = "python", code_lines: bool = False) -> None:
        self.text, self.language = text, language
        self.line_starts = [0, *(m.end() for m in re.finditer("\n", text))]
        tree = syntax.parse(language, text)
        assert tree is not None
        self._ascii = len(tree.data) == len(text)
        self._tree = tree
        self._data = tree.data
        self._spans: dict[HoleKind, list[tuple[int, int]]] = {"expression": [], "statement": []}
        for kind, start, end in structure.named_nodes(tree):
            if not 2 <= end - start <= MAX_HOLE_CHARS:
                continue
            if kind in EXPRESSIONS:
                self._spans["expression"].append((start, end))
            elif kind in STATEMENTS:
                self._spans["statement"].append((start, end))
        self._lines_of_code = list(filter(self._is_code, range(len(self.line_starts)))) if code_lines else None

    @property
    def expressions(self) -> list[tuple[int, int]]:
        """Start and end of each expression that is cut, in code points."""
        return [self._in_code_points(*span) for span in self._spans["expression"]]

    def cut(self, kind: HoleKind, rng: random.Random) -> CutHole | None:
        """A random hole of that kind, or None where this file (or this try) has none."""
        span = getattr(self, f"_cut_{kind}")(rng)
        if span is None or span[1] - span[0] > MAX_HOLE_CHARS:
            return None
        return CutHole(kind, *span)

    def excerpt(self, hole: CutHole, budget: ExcerptBudget) -> Excerpt:
        """What the model sees around `hole`: as in serving, scopes kept whole."""
        scopes = syntax.scope_starts(self._tree, hole.start)
        return cut(self.text, [(hole.start, hole.end)], budget, scope_starts=scopes)

    def _cut_rest_of_line(self, rng: random.Random) -> tuple[int, int] | None:
        start, end = self._random_line(rng)
        content = self._indent_end(start, end)
        if end - content < 2:
            return None
        words = [m.start() for m in WORD.finditer(self.text, content + 1, end)]
        at_border = bool(words) and rng.random() < 0.7
        return (rng.choice(words) if at_border else rng.randrange(content + 1, end), end)

    def _cut_line(self, rng: random.Random) -> tuple[int, int] | None:
        start, end = self._random_line(rng)
        content = self._indent_end(start, end)
        return (content, end) if end - content >= 2 else None

    def _cut_expression(self, rng: random.Random) -> tuple[int, int] | None:
        return self._random_node("expression", rng)

    def _cut_statement(self, rng: random.Random) -> tuple[int, int] | None:
        return self._random_node("statement", rng)

    def _cut_block(self, rng: random.Random) -> tuple[int, int] | None:
        """Two to eight whole lines, none of them indented less than the first: the code after a header, or part of
        it."""
        index = rng.randrange(len(self.line_starts))
        start, end = self._line(index)
        content = self._indent_end(start, end)
        if content == end:
            return None
        indent, last_end, taken = content - start, end, 1
        for following in range(index + 1, min(index + rng.randint(2, 8), len(self.line_starts))):
            line_start, line_end = self._line(following)
            line_content = self._indent_end(line_start, line_end)
            if line_content < line_end:
                if line_content - line_start < indent:
                    break
                last_end = line_end
            taken += 1
        return (content, last_end) if taken >= 2 and last_end > end else None

    def _cut_span(self, rng: random.Random) -> tuple[int, int] | None:
        if len(self.text) < 8:
            return None
        start = rng.randrange(len(self.text) - 4)
        return (start, min(len(self.text), start + 1 + int(rng.expovariate(1 / 40))))

    def _cut_empty(self, rng: random.Random) -> tuple[int, int] | None:
        start, end = self._random_line(rng)
        at = end if rng.random() < 0.6 else rng.randrange(start, end + 1)
        return (at, at)

    def _random_node(self, kind: HoleKind, rng: random.Random) -> tuple[int, int] | None:
        if not self._spans[kind]:
            return None
        return self._in_code_points(*rng.choice(self._spans[kind]))

    def _in_code_points(self, start: int, end: int) -> tuple[int, int]:
        if self._ascii:
            return start, end
        chars_before = len(self._data[:start].decode("utf-8", "surrogatepass"))
        return chars_before, chars_before + len(self._data[start:end].decode("utf-8", "surrogatepass"))

    def _random_line(self, rng: random.Random) -> tuple[int, int]:
        if self._lines_of_code is None:
            return self._line(bisect_right(self.line_starts, rng.randrange(len(self.text))) - 1)
        return self._line(rng.choice(self._lines_of_code)) if self._lines_of_code else (0, 0)

    def _is_code(self, index: int) -> bool:
        """Whether a line holds code: not blank, no comment, no part of a docstring."""
        start, end = self._line(index)
        content = self._indent_end(start, end)
        if content == end or DOCSTRING.match(self.text, content):
            return False
        begins_comment = syntax.kind_at(self._tree, content + 1) is CursorKind.COMMENT
        return syntax.kind_at(self._tree, content) is CursorKind.CODE and not begins_comment

    def _line(self, index: int) -> tuple[int, int]:
        start = self.line_starts[index]
        end = self.line_starts[index + 1] - 1 if index + 1 < len(self.line_starts) else len(self.text)
        return start, end

    def _indent_end(self, start: int, end: int) -> int:
        line = self.text[start:end]
        return start + len(line) - len(line.lstrip())


def draw_kind(rng: random.Random) -> HoleKind:
    """A hole kind drawn from `MIX`."""
    return rng.choices(list(MIX), list(MIX.values()))[0]
