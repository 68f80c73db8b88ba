"""Each character of a document outside the holes is shown once: in the excerpt, or as project text."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dgemma_lsp.documents.documents import ParsedSnapshot, parsed
from dgemma_lsp.documents.edits import Snapshot, Surroundings
from dgemma_lsp.documents.text import Text
from dgemma_lsp.pipeline import context
from dgemma_model.source.excerpt import ExcerptBudget

PROMPT_TOKENS = (512, 1024, 4096)
LINE_BREAKS = (("\n",), ("\r\n",), ("\r",), ("\n", "\r\n", "\r"))
LINES = 600


LETTERS = "".join(map(chr, (*range(0x4E00, 0x9FA6), *range(0xAC00, 0xD7A4))))


def words() -> Iterator[str]:
    """Names of four letters that are in no other name."""
    return (LETTERS[at : at + 4] for at in range(0, len(LETTERS), 4))


def document(rng: random.Random, line_breaks: tuple[str, ...]) -> str:
    """Python in which names say where they are: imports, functions that are used again, and very long lines."""
    new = words()
    defined, lines = [next(new)], list[str]()
    for _ in range(rng.randrange(LINES)):
        name = next(new)
        kind = rng.choices(("import", "def", "class", "blank", "long", "use", "new"), (1, 2, 1, 2, 0.1, 1, 4))[0]
        match kind:
            case "import":
                lines.append(f"import {name}")
            case "def":
                defined.append(name)
                lines += [f"def {name}({next(new)},", f"        {next(new)}) -> {next(new)}:", f"    {next(new)} = 1"]
            case "class":
                lines += [f"class {name}:", f"    def {next(new)}(self): return {next(new)}"]
            case "blank":
                lines.append(" " * rng.randrange(3))
            case "long":
                lines.append(f"{name} = " + " + ".join(next(new) for _ in range(rng.randrange(400))))
            case "use":
                lines.append(f"{name} = {rng.choice(defined)}()")
            case "new":
                lines.append(f"{name} = {next(new)}")
    return "".join(line + rng.choice(line_breaks) for line in lines)


def line_feeds(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    line_breaks=st.sampled_from(LINE_BREAKS),
    prompt_tokens=st.sampled_from(PROMPT_TOKENS),
    hole_count=st.integers(1, 4),
)
@example(seed=1, line_breaks=("\r\n",), prompt_tokens=1024, hole_count=3)
@example(seed=166, line_breaks=("\n", "\r\n", "\r"), prompt_tokens=1024, hole_count=2)
def test_no_character_is_lost_or_shown_twice(
    seed: int, line_breaks: tuple[str, ...], prompt_tokens: int, hole_count: int
) -> None:
    rng = random.Random(seed)
    text = document(rng, line_breaks)
    offsets = [at for at in range(len(text) + 1) if text[max(at - 1, 0) : at + 1] != "\r\n"]  # a cursor is in no break
    first = rng.randrange(len(offsets))
    near = offsets[first : first + 40 * hole_count]
    edges = sorted(rng.choice(near) for _ in range(2 * hole_count))
    holes = [(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True)]
    edited_at = tuple(rng.choice(offsets) for _ in range(3))
    at = parsed(Snapshot("file:///a.py", 1, "python", Text(text), holes[0][0]))
    seen = context.view(at, holes, ExcerptBudget.within(prompt_tokens), Surroundings(edited_at=edited_at))

    edges = [0, *edges, len(text)]
    outside = [line_feeds(text[start:end]) for start, end in zip(edges[::2], edges[1::2], strict=True)]
    excerpt = (seen.excerpt.prefix, *seen.excerpt.between, seen.excerpt.suffix)
    expected, shown = Counter("".join(outside)), Counter("".join((*excerpt, *seen.project_text)))
    assert not expected - shown, "lost"
    notes, (before, *_) = seen.shown[: -hole_count - 1], seen.shown[-hole_count - 1 :]
    assert not notes or prompt_tokens > 512
    added = sum(not line_feeds(text[start:end]).endswith("\n") for start, end in notes)
    assert shown - expected == Counter("\n" * added), "twice"
    ended = (line_feeds(text[start:end]).removesuffix("\n") + "\n" for start, end in notes)
    assert seen.excerpt.prefix == "".join(ended) + line_feeds(text[slice(*before)])
    assert all(end <= start for (_, end), (start, _) in pairwise(sorted(seen.shown)))


def test_an_excerpt_ends_in_no_line_break() -> None:
    text = "x" * 2000
    after = "y" * (ExcerptBudget().suffix_chars - 1) + "\r\nz\r\n"
    seen = context.view(ParsedSnapshot(Snapshot("file:///a.py", 1, "python", Text(text + after), len(text)), None))
    assert seen.excerpt.suffix == "y" * (ExcerptBudget().suffix_chars - 1) + "\n"
    assert "z\n" in seen.project_text


@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
def test_what_is_put_before_the_excerpt_is_no_project_text(line_break: str) -> None:
    filler = "".join(f"filler_{number} = {number}\n" for number in range(400))
    text = f"import prices\n\ndef total_of(item):\n    return 2\n\n{filler}x = \ny = total_of(x)\n{filler}".replace(
        "\n", line_break
    )
    snapshot = parsed(Snapshot("file:///a.py", 1, "python", Text(text), text.index("x = ") + 4))
    seen = context.view(snapshot, budget=ExcerptBudget.within(1024))
    assert seen.excerpt.prefix.startswith("def total_of(item):\nimport prices\n")
    assert [text[start:end].rstrip() for start, end in seen.shown[:2]] == ["def total_of(item):", "import prices"]
    assert any("\n    return 2\n\nfiller_0 = 0\n" in part for part in seen.project_text)
    assert not any("import" in part or "def" in part for part in seen.project_text)


def test_text_far_away_is_left_out() -> None:
    text = "".join(f"filler_{number} = {number}\n" for number in range(12_000))
    seen = context.view(ParsedSnapshot(Snapshot("file:///a.py", 1, "python", Text(text), len(text) // 2), None))
    start, end = (text.index(part) for part in (min(seen.project_text, key=text.index), seen.excerpt.prefix))
    assert context.REACH <= end - start < context.REACH + 10_000
