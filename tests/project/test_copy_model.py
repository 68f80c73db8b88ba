"""The memory of the prompt."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma_model.checkpoint.selection import embedded_directory
from dgemma_model.project.copy_model import IN_PROMPT, LONGEST_MATCH, CopyModel, CopyWeights, PromptCopies
from dgemma_model.project.similar_lines import most_similar_line, similar_lines
from dgemma_model.project.text_index import IndexedText, TextIndex
from dgemma_model.project.texts_between import occurrences, texts_between
from dgemma_model.prompt.format import FillVocabulary
from dgemma_model.prompt.tokenizer import Tokenizer

ids = st.lists(st.integers(0, 4), max_size=30)
TOKENIZER = Tokenizer.read(embedded_directory() / "tokenizer.json")


def common_end(a: list[int], b: list[int]) -> int:
    """How many tokens at the ends of both are the same, at most `LONGEST_MATCH`."""
    length = 0
    while length < min(len(a), len(b), LONGEST_MATCH) and a[-length - 1] == b[-length - 1]:
        length += 1
    return length


@given(ids, ids, st.lists(ids, max_size=3), st.lists(st.booleans(), min_size=30, max_size=30))
def test_every_place_is_found_where_the_last_tokens_stood_before(
    prompt: list[int], written: list[int], texts: list[list[int]], asked: list[bool]
) -> None:
    copies = PromptCopies(prompt, [IndexedText("", text) for text in texts])
    for token, is_asked in zip(written, asked, strict=False):
        copies.append(token)
        if is_asked:  # what is found is built on
            copies.places()
    said = prompt + written
    expected = []
    for number, text in [*enumerate(texts), (IN_PROMPT, said)]:
        lengths = {at: common_end(text[: at + 1], said) for at in range(len(text) - 1)}
        if matches := {at: length for at, length in lengths.items() if length > (number != IN_PROMPT)}:
            expected.append((number, text, matches))
    assert copies.places() == expected


def suggestions(before: str, after: str, *texts: str, weight: float = 1.0, one_line: bool = True) -> CopyModel:
    project_text = TextIndex(TOKENIZER).read(texts)
    prompt = TOKENIZER.encode(before)
    return CopyModel(
        FillVocabulary(TOKENIZER, [TOKENIZER.end_id]),
        prompt,
        project_text,
        weight=weight,
        weights=CopyWeights(),
        before=before,
        after=after,
        one_line=one_line,
    )


def shares_of(said: CopyModel, *, likeliest: float = -1.0, head: Mapping[str, float] | None = None) -> dict[str, float]:
    """What is suggested, as text, and how much of the next token's probability each has; "" has the rest."""
    share, shares = said.predict(likeliest, lambda token: (head or {}).get(TOKENIZER.decode([token]), -5.0))
    assert sum(shares.values()) == (pytest.approx(1.0) if shares else 0.0)
    return {TOKENIZER.decode([token]): share * each for token, each in shares.items()} | {"": 1 - share}


BEFORE = "value = one.two"


def test_nothing_is_suggested_where_nothing_was_before() -> None:
    assert shares_of(suggestions(BEFORE, "\n")) == {"": 1.0}
    assert shares_of(suggestions(BEFORE, "\n", "value = one.two(3)\n", weight=0.0)) == {"": 1.0}


def test_the_longer_the_match_the_more_it_says() -> None:
    short = shares_of(suggestions(BEFORE, "\n", "x.two[1]\n"))
    long = shares_of(suggestions(BEFORE, "\n", "value = one.two[1]\n"))
    assert long["["] > short["["] > 0
    both = shares_of(suggestions(BEFORE, "\n", "value = one.two(1)\nx.two[1]\n"))
    assert both["("] > both["["] > 0


def test_the_more_places_say_the_same_the_more_it_counts() -> None:
    said = shares_of(suggestions(BEFORE, "\n", "a.two[1]\nb.two(1)\nc.two(1)\n"))
    assert said["("] > said["["] > 0
    assert shares_of(suggestions(BEFORE, "\n", "b.two(1)\nc.two(1)\n"))["("] > said["("]


def test_what_is_near_says_more() -> None:
    said = shares_of(suggestions(BEFORE, "\n", "x.two[1]\n", "x.two(1)\n"))
    assert said["("] > said["["] > 0


def test_places_between_like_lines_say_more() -> None:
    text = "check(name)\nx = a.two[1]\nwrite(name)\n\n\nx = a.two(1)\n"
    said = shares_of(suggestions("check(name)\n" + BEFORE, "\nwrite(name)\n", text))
    assert said["["] > said["("] > 0
    said = shares_of(suggestions(BEFORE, "\n", text))
    assert said["["] == said["("] > 0


def test_the_head_has_its_say() -> None:
    of = suggestions(BEFORE, "\n", "a.two[1]\nb.two(1)\n")
    assert shares_of(of, head={"(": -0.1})["("] > shares_of(of, head={"(": -9.0})["("]
    assert shares_of(of, likeliest=-0.1)[""] > shares_of(of, likeliest=-3.0)[""]


def test_only_what_is_allowed_is_suggested() -> None:
    of = suggestions(BEFORE, "\n", "a.two[1]\nb.two(1)\n")
    [bracket] = TOKENIZER.encode("[")
    assert set(of.predict(-1.0, lambda token: -5.0, [bracket])[1]) == {bracket}
    assert of.predict(-1.0, lambda token: -5.0, []) == (0.0, {})


@pytest.mark.parametrize(
    ("marked", "line"),
    [
        ("open(a)\nread(a)\nclose(a)\nopen(a)\n▮\nclose(a)\n", "read(a)"),
        ("▮\nclose(a)\nopen(a)\nread(a)\nclose(a)\n", "read(a)"),
        ("x = 1\nlog(x)\ny = 2\nlo▮\n", "g(x)"),
        ("def f():\n    return 1\n\ndef g():\n    ▮\n", "return 1"),
        ("x = 1\nwhat▮\n", ""),
        ("▮", ""),
    ],
)
def test_the_most_similar_line_is_the_one_with_the_same_neighbours(marked: str, line: str) -> None:
    prefix, suffix = marked.split("▮")
    assert most_similar_line(prefix, suffix) == line


def test_similar_lines_come_in_order_and_none_twice() -> None:
    prefix = "open(a)\nread(a)\nclose(a)\nopen(a)\nread(b)\nstop()\nbegin()\nread(c)\nopen(a)\n"
    found = similar_lines(prefix, "\nclose(a)\n", count=3)
    assert [line.text for line in found][:2] == ["read(a)", "read(b)"]
    assert len({line.text for line in found}) == len(found) == 3
    assert [line.likeness for line in found] == sorted((line.likeness for line in found), reverse=True)
    assert similar_lines(prefix, "\nclose(a)\n") == found[:1]


@given(st.lists(st.sampled_from(["open(a)", "read(a)", "ad", "", "  x = read(b)"]), max_size=12), st.integers(1, 4))
def test_the_most_similar_of_all_lines_are_found(lines: list[str], count: int) -> None:
    prefix, suffix = "\n".join([*lines, ""]), "\nclose()\nread(c)\n"
    every = similar_lines(prefix, suffix, count=100)
    assert similar_lines(prefix, suffix, count=count)[:1] == every[:1]
    assert len(similar_lines(prefix, suffix, count=count)) == min(count, len(every))


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([], (0, [])),
        ([1], (0, [])),
        ([1, 2, 3], (0, [])),
        ([1, 2, 1], (1, [2, 1])),
        ([1, 2, 9, 1, 3, 9, 1], (2, [3, 9, 1])),
        ([5, 1, 2, 9, 8, 7, 6, 4, 5, 1, 3, 5, 1, 2], (3, [9, 8, 7, 6, 4, 5])),
        ([1, 2, 3, 1, 4, 5, 1], (1, [4, 5])),
        ([*range(40), *range(25)], (20, [*range(25, 40), *range(8)])),
    ],
)
def test_what_followed_the_longest_and_latest_match_is_copied(ids: list[int], expected: tuple[int, list[int]]) -> None:
    assert PromptCopies(ids).continuation() == expected


@pytest.mark.parametrize(
    ("marked", "written", "project_text", "ends"),
    [
        ("x = load(▮)\n", "path", "y = load(path)\n", True),
        ("x = load(▮, mode)\n", "path", "y = load(path)\n", False),
        ("x = load(▮, mode)\n", "path", "y = load(path, mode)\n", True),
        ("x = load(▮)\n", "first(path", "y = load(first(path))\n", False),
        ("x = load▮\n", "(path)", "y = load(path)\n", True),
        ("x = (▮ + 1)\n", "rate", "y = (rate + 1)\n", True),
    ],
)
def test_a_copy_that_goes_on_as_the_text_behind_the_hole_ends_the_fill(
    marked: str, written: str, project_text: str, *, ends: bool
) -> None:
    before, after = marked.split("▮")
    said = suggestions(before, after, project_text)
    for token in TOKENIZER.encode(before + written)[len(TOKENIZER.encode(before)) :]:
        said.append(token)
    share, suggested = said.predict(-1.0, lambda token: -5.0)
    assert share > 0
    assert (TOKENIZER.end_id in suggested) is ends


@pytest.mark.parametrize(("before", "closes"), [("    for item", False), ("    x = sum(y for item", True)])
def test_a_copied_bracket_closes_one_that_is_open(before: str, *, closes: bool) -> None:
    said = suggestions(before, "\n", "    return sum(x for item)\n")
    assert any(text.startswith(")") for text in shares_of(said)) is closes


@pytest.mark.parametrize(
    ("marked", "texts"),
    [
        ("y = load(path, mode)\nx = load(▮, mode)\n", ["path"]),
        ("y = load(path, mode)\nx = load(▮)\n", ["path, mode"]),
        ("a = self.go(bar(1), 2)\nb = self.go(▮)\n", ["bar(1), 2"]),
        ("x = go(first(a + b))\ny = go(▮ + 1)\n", []),  # there, the text after the hole is in a bracket
        ("return self.items[0]\nif x:\n    return sel▮\n", ["f.items[0]"]),
        ("return a.b\nx = a.c\nreturn a.c\n    return a.▮\n", ["c", "b"]),  # the oftener, then the nearer
        ("    return old\nbegin\n    return▮\n", []),  # one word before the hole
        ("x = 1\ny = 2\n▮\n", []),
        ("(x)\n(▮)\n", []),  # only signs before the hole
        ("x.y()\nx.y(▮)\n", []),  # nothing is there
        ("▮", []),
    ],
)
def test_texts_between_the_same_words_are_found(marked: str, texts: list[str]) -> None:
    prefix, suffix = marked.split("▮")
    assert [each.text for each in texts_between(prefix, suffix, count=3)] == texts


def test_the_closest_text_between_comes_first() -> None:
    near, far = IndexedText("x = load(near, mode)\n", []), IndexedText("value = load(far, 0)\n", [])
    found = texts_between("value = load(", ", 0)\n", [near, far], 2)
    assert [each.text for each in found] == ["far", "near"]
    assert found[0].closeness > found[1].closeness
    assert texts_between("value = load(", ", 0)\n", [near, far], 1) == found[:1]


@given(st.lists(st.sampled_from(["f(a)", "f(b, c)", "  g = f(a)", "f(", "", "f(f(d))"]), max_size=12))
def test_a_text_between_is_so_in_some_place(lines: list[str]) -> None:
    text = "\n".join([*lines, ""])
    for each in texts_between(text + "  x = f(", ")\n" + text, [IndexedText(text, [])], 9):
        assert f"f({each.text})" in text
        assert each.text and "\n" not in each.text


@pytest.mark.parametrize(
    ("marked", "text", "expected"),
    [
        ("x = f(▮)\n", "name", (3, 2, 2, 2)),
        ("x = ▮\n", "name", (3, 0, 1, 0)),
        ("▮\n", "g(name)", (1, 0, 1, 0)),
        ("x = f(▮)\n", "nobody", (0, 0, 0, 0)),
        ("x = f(▮)\n", " ", (0, 0, 0, 0)),
        ("x = f(▮", "name", (3, 2, 1, 0)),
    ],
)
def test_how_often_a_text_occurs(marked: str, text: str, expected: tuple[int, ...]) -> None:
    prefix, suffix = marked.split("▮")
    pieces = TextIndex(TOKENIZER).read(["y = f(name)\n", "g(name)\nother name\n"])
    assert occurrences([text], prefix, suffix, pieces) == [expected]
