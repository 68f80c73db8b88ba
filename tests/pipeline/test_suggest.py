"""The pipeline, with a model of three lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from dgemma_lsp.documents.documents import ParsedSnapshot, parsed
from dgemma_lsp.documents.edits import Edit, NoSuggestion, Snapshot, Suggestion
from dgemma_lsp.documents.text import Text
from dgemma_lsp.pipeline.suggest import candidates, suggest
from dgemma_lsp.settings import Settings
from dgemma_model.request import Draft, DraftToken, FillRequest


class FakeInfiller:
    """Yields the drafts it was made with, and remembers what it was asked."""

    name, device, threshold, prompt_tokens = "fake", "none", -1.0, 512
    uses_project_text = False
    sends_text = False
    reviewer = None

    def __init__(self, *drafts: Draft, languages: frozenset[str] | None = None) -> None:
        self.drafts, self.languages = drafts, languages
        self.requests: list[FillRequest] = []

    def fill(self, request: FillRequest) -> Iterator[Draft]:
        self.requests.append(request)
        yield from self.drafts


def snapshot(marked: str, language: str = "python") -> ParsedSnapshot:
    offset = marked.index("▮")
    text = marked.replace("▮", "")
    return parsed(Snapshot("file:///case.py", 7, language, Text(text), offset))


def done(text: str, score: float = -0.1) -> Draft:
    return Draft((text,), step=3, done=True, complete=True, score=score)


def draft(text: str, step: int, score: float = -0.1) -> Draft:
    return Draft((text,), step=step, score=score)


def answers(
    marked: str,
    *drafts: Draft,
    invoked: bool = False,
    language: str = "python",
    settings: Settings | None = None,
    languages: frozenset[str] | None = None,
) -> list[Suggestion | NoSuggestion]:
    infiller = FakeInfiller(*drafts, languages=languages)
    return list(suggest(snapshot(marked, language), infiller, settings or Settings(), invoked=invoked))


def shown(answer: Suggestion | NoSuggestion) -> str:
    """The text with the suggestion in it and the cursor after it, or the reason's name."""
    if isinstance(answer, NoSuggestion):
        return answer.name
    edit = answer.edit
    return Edit(edit.start, edit.end, edit.new_text + "▮").apply(answer.snapshot.text)


def check(marked: str, model: str, expected: str, *, invoked: bool = False, language: str = "python") -> None:
    assert shown(answers(marked, done(model), invoked=invoked, language=language)[-1]) == expected


def asked(marked: str, language: str = "python") -> FillRequest:
    infiller = FakeInfiller(done("value"))
    list(suggest(snapshot(marked, language), infiller, Settings(), invoked=True))
    return infiller.requests[0]


def test_a_line_is_filled() -> None:
    check("def f(x):\n    return ▮\n", "x + 1", "def f(x):\n    return x + 1▮\n")


def test_a_line_is_filled_between_brackets() -> None:
    check("print(▮)\n", '"hi")', 'print("hi")▮\n')


def test_a_suggestion_says_how_it_came_about() -> None:
    answer = answers("x = ▮\n", done("f(a)", score=-0.5))[-1]
    assert isinstance(answer, Suggestion)
    assert (answer.snapshot.version, answer.score, answer.steps) == (7, -0.5, 3)
    assert answer.edit == Edit(4, 4, "f(a)")
    assert answer.trace.keys() == {"context_ms", "model_ms", "check_ms"}


def test_an_empty_body_asks_for_a_block() -> None:
    assert not asked("def f(x):\n    ▮\n\ny = 1\n").one_line
    check("def f(x):\n    ▮\n", "y = x\n    return y", "def f(x):\n    y = x\n    return y▮\n")


@pytest.mark.parametrize("marked", ["x = ▮\n", "def f(x):\n    y = x\n    ▮\n", "f(▮)\n"])
def test_elsewhere_one_line_is_asked_for(marked: str) -> None:
    assert asked(marked).one_line
    check("x = ▮\n", "f(a)\ny = f(b)", "x = f(a)▮\n")


def test_the_model_sees_what_is_around_the_cursor() -> None:
    excerpt = asked("a = 1\r\nb = ▮ + 1\r\nc = 3\r\n").excerpt
    assert (excerpt.prefix, excerpt.suffix) == ("a = 1\nb = ", " + 1\nc = 3\n")


def test_comments_and_strings_are_left_alone() -> None:
    check("# some▮\n", " more words", "IN_COMMENT")
    check('x = "some▮"\n', " more words", "IN_STRING")
    check('def f():\n    """some▮\n    """\n', " more words", "IN_STRING")


def test_comments_and_strings_are_filled_for_who_asks() -> None:
    check("# some▮\n", " more words", "# some more words▮\n", invoked=True)
    check('x = "some▮"\n', " more words", 'x = "some more words▮"\n', invoked=True)


@pytest.mark.parametrize("invoked", [False, True])
def test_words_are_not_split(invoked: bool) -> None:
    check("x = foo▮bar\n", "value", "IN_WORD", invoked=invoked)
    check("x = foo▮\n", "_value", "x = foo_value▮\n", invoked=invoked)


def test_what_is_switched_off_stays_off() -> None:
    off = Settings(enabled=False)
    no_python = Settings(disabled_languages=frozenset({"python"}))
    assert answers("x = ▮", done("f(a)"), settings=off) == [NoSuggestion.DISABLED]
    assert answers("x = ▮", done("f(a)"), settings=no_python, invoked=True) == [NoSuggestion.DISABLED]
    assert shown(answers("x = ▮", done("f(a)"), settings=no_python, language="go")[-1]) == "x = f(a)▮"


def test_a_checkpoint_may_know_some_languages_only() -> None:
    known = frozenset({"python"})
    assert answers("x = ▮", done("f(a)"), languages=known, language="go") == [NoSuggestion.LANGUAGE]
    assert shown(answers("x = ▮", done("f(a)"), languages=known)[-1]) == "x = f(a)▮"


def test_a_gate_that_is_closed_costs_no_model_run() -> None:
    infiller = FakeInfiller(done("words"))
    assert list(suggest(snapshot("# ▮"), infiller, Settings(), invoked=False)) == [NoSuggestion.IN_COMMENT]
    assert infiller.requests == []


def test_what_would_not_parse_is_not_shown() -> None:
    check("def f():\n    ▮\n", "return return", "UNPARSEABLE")
    check("x = 1\n▮\ny = 2\n", "print(x", "UNPARSEABLE")


@pytest.mark.parametrize("model", ["a b c", '"""', "f(a", ") ("])
def test_a_text_broken_at_the_cursor_is_mended_or_left(model: str) -> None:
    check("def f():\n    x = ▮\n\ndef g():\n    return 1\n", model, "UNPARSEABLE", invoked=True)


LOOPS = {
    "typescript": (
        "function total(items: Item[]): number {\n  let sum = 0;\n  for (const item of items) {\n    sum += ▮",
        ";",
    ),
    "javascript": ("function total(items) {\n  let sum = 0;\n  for (const item of items) {\n    sum += ▮", ";"),
    "java": (
        "class A {\n  int total(Item[] items) {\n    int sum = 0;\n    for (Item item : items) {\n      sum += ▮",
        ";",
    ),
    "go": ("package a\n\nfunc total(items []Item) int {\n\tsum := 0\n\tfor _, item := range items {\n\t\tsum += ▮", ""),
    "rust": ("fn total(items: &[Item]) -> u32 {\n    let mut sum = 0;\n    for item in items {\n        sum += ▮", ";"),
    "c": ("int total(struct item *item) {\n  int sum = 0;\n  while (item) {\n    sum += ▮", ";"),
}


@pytest.mark.parametrize("language", LOOPS)
def test_at_the_end_of_a_file_blocks_may_be_open(language: str) -> None:
    marked, end = LOOPS[language]
    for after in ("", "\n"):
        answer = answers(marked + after, done(f"item.price{end}"), language=language)[-1]
        assert shown(answer) == marked.replace("▮", f"item.price{end}▮{after}")


@pytest.mark.parametrize("language", ["typescript", "javascript", "java"])
@pytest.mark.parametrize("model", ["f({", "[item.price;", "item.price }} }"])
def test_a_suggestion_opens_no_block_of_its_own_there(language: str, model: str) -> None:
    assert answers(LOOPS[language][0], done(model), language=language)[-1] is NoSuggestion.UNPARSEABLE


def test_a_text_broken_at_the_cursor_gets_no_worse() -> None:
    check("class A:\n    def f(self):\n        for x in ▮\n            y(x)\n", "self.xs", "UNPARSEABLE")


def test_a_text_broken_elsewhere_does_not_matter() -> None:
    check("a = = 1\n\nx = ▮\n", "f(a)", "a = = 1\n\nx = f(a)▮\n")
    check("f(a,\n  ▮\n\ndef g():\n    return 1\n", "bcd,", "f(a,\n  bcd,▮\n\ndef g():\n    return 1\n")


@pytest.mark.parametrize(
    ("marked", "model", "expected"),
    [
        ("if x ▮\n    pass\n", "== y", "UNPARSEABLE"),
        ("if x ▮\n    pass\n", "== y:", "if x == y:▮\n    pass\n"),
        ("value = first(a▮\n\nx = 1\n", ", b", "UNPARSEABLE"),
        ("value = first(a▮\n\nx = 1\n", ", b)", "value = first(a, b)▮\n\nx = 1\n"),
        ("@cached\n▮\n\nx = 1\n", "def total(", "UNPARSEABLE"),
        ("value = ▮\n    a,\n)\n", "first(", "value = first(▮\n    a,\n)\n"),
        ('ages = {\n    "a": ▮\n', "value,", 'ages = {\n    "a": value,▮\n'),
        ("def broken(:\n\n\ntotal = ▮\n", "first + 1", "def broken(:\n\n\ntotal = first + 1▮\n"),
    ],
)
def test_what_nobody_asked_for_leaves_its_line_sound(marked: str, model: str, expected: str) -> None:
    """What has been broken since an earlier line is no matter."""
    last = list(suggest(snapshot(marked), FakeInfiller(done(model)), Settings(), invoked=False, names=False))[-1]
    assert shown(last) == expected


def test_who_asks_may_have_half_a_line() -> None:
    check("value = first(a▮\n\nx = 1\n", ", b", "value = first(a, b▮\n\nx = 1\n", invoked=True)


def test_texts_without_a_tree_are_not_parsed() -> None:
    check("x = ▮", "a b (", "x = a b (▮", language="plaintext")


def test_an_unsure_model_is_quiet_unless_asked() -> None:
    assert answers("x = ▮", done("f(a)", score=-1.1)) == [NoSuggestion.LOW_CONFIDENCE]
    assert shown(answers("x = ▮", done("f(a)", score=-1.1), invoked=True)[-1]) == "x = f(a)▮"
    assert shown(answers("x = ▮", done("f(a)", score=-1.0))[-1]) == "x = f(a)▮"


@pytest.mark.parametrize(("eagerness", "doubtful"), [("low", -0.41), ("normal", -1.01), ("high", -1.61)])
def test_eagerness_moves_the_threshold(eagerness: str, doubtful: float) -> None:
    """That of the model is -1."""
    using = Settings(eagerness=eagerness)
    assert answers("x = ▮", done("f(a)", score=doubtful), settings=using) == [NoSuggestion.LOW_CONFIDENCE]
    assert shown(answers("x = ▮", done("f(a)", score=doubtful + 0.02), settings=using)[-1]) == "x = f(a)▮"


def test_nothing_and_repetition_have_their_names() -> None:
    check("x = ▮\n", "", "EMPTY")
    check("▮\nreturn x\n", "return x", "REPEATS")


def steps(marked: str, drafts: Sequence[Draft]) -> list[str]:
    return [shown(answer) for answer in answers(marked, *drafts)]


def test_every_step_has_an_answer() -> None:
    drafts = [draft("", 1), draft("f(a)", 2), draft("f(ab)", 3), done("f(abc)")]
    assert steps("x = ▮", drafts) == ["EMPTY", "x = f(a)▮", "x = f(ab)▮", "x = f(abc)▮"]


def test_a_good_draft_outlives_a_bad_one_but_not_the_end() -> None:
    drafts = [draft("f(a)", 1), draft(") b (", 2), draft("f(ab)", 3, score=-9.0), done("a b")]
    assert steps("x = ▮", drafts) == ["x = f(a)▮", "x = f(a)▮", "x = f(a)▮", "UNPARSEABLE"]


def test_the_latest_reason_counts() -> None:
    assert steps("x = ▮", [draft("a b )", 1), draft("", 2)]) == ["UNPARSEABLE", "EMPTY"]


def test_a_block_is_done_as_soon_as_something_less_indented_follows_for_good() -> None:
    body = "def f(x):\n    ▮\n"
    settled = [
        replace(draft(text, step), tokens=((DraftToken(text, 1.0, settled=True),),))
        for step, text in enumerate(["y = x", "y = x\n    return y", "y = x\n    return y\nz", "never read"])
    ]
    expected = ["UNPARSEABLE", "def f(x):\n    y = x▮\n", "def f(x):\n    y = x\n    return y▮\n"]
    assert steps(body, settled) == expected
    revisable = [replace(one, tokens=((DraftToken("", 0.5, settled=False),),)) for one in settled]
    assert len(steps(body, revisable)) == 4


def test_an_unfinished_draft_is_cut_to_what_can_be_inserted() -> None:
    block = "def f(x):\n    ▮\n"
    assert steps(block, [draft("y = x\n    retu", 1)]) == ["def f(x):\n    y = x▮\n"]
    assert steps("x = ▮", [draft("f(a) + othe", 1)]) == ["x = f(a)▮"]
    assert steps("x = ▮", [draft("f((a + othe", 1)]) == ["UNPARSEABLE"]


def test_the_same_text_twice_may_become_sure() -> None:
    drafts = [draft("f(a)", 1, score=-5.0), draft("f(a)", 2, score=-0.2)]
    assert steps("x = ▮", drafts) == ["LOW_CONFIDENCE", "x = f(a)▮"]


@pytest.mark.parametrize(
    "text",
    ["▮", "\x00\x01\x02▮\xff", "x = 1\f\n▮", "a\u2028b ▮", "\ud800 = ▮\udfff", "def f():\r    ▮\r", "😀 = ▮\n😀"],
)
def test_no_text_is_too_odd(text: str) -> None:
    answer = answers(text, done("value"), invoked=True)[-1]
    cursor = text.index("▮")
    assert isinstance(answer, NoSuggestion) or answer.edit == Edit(cursor, cursor, "value")


def chosen(marked: str, *said: Draft) -> Suggestion | NoSuggestion:
    """The last answer for a user who asked, where the model says something else each time."""

    class Changing(FakeInfiller):
        def fill(self, request: FillRequest) -> Iterator[Draft]:
            self.requests.append(request)
            yield self.drafts[request.seed]

    return list(candidates(snapshot(marked), Changing(*said), Settings(), len(said)))[-1]


def test_candidates_differ_and_the_first_comes_first() -> None:
    answer = chosen("x = ▮", done("f(a)"), done("f(a)"), done("g(b)"))
    assert isinstance(answer, Suggestion)
    assert (answer.edit.new_text, [other.new_text for other in answer.others]) == ("f(a)", ["g(b)"])


def test_a_candidate_stands_in_for_a_first_one_that_is_no_good() -> None:
    answer = chosen("x = ▮", done(""), done("a b"), done("g(b)"))
    assert isinstance(answer, Suggestion)
    assert (answer.edit.new_text, answer.others) == ("g(b)", ())


def test_without_any_candidate_the_reason_is_the_last() -> None:
    assert chosen("x = ▮", done(""), done("a b ("), done("")) is NoSuggestion.EMPTY


def test_a_closed_gate_is_not_knocked_at_again() -> None:
    infiller = FakeInfiller(done("value"))
    assert list(candidates(snapshot("foo▮bar"), infiller, Settings(), 3)) == [NoSuggestion.IN_WORD]
    assert infiller.requests == []


def test_comments_and_strings_by_setting() -> None:
    comments, strings = Settings(in_comments=True), Settings(in_strings=True)
    assert shown(answers("# some ▮", done("more words"), settings=comments)[-1]) == "# some more words▮"
    assert answers("# some ▮", done("more words"), settings=strings) == [NoSuggestion.IN_COMMENT]
    assert shown(answers('x = "some ▮"', done("more words"), settings=strings)[-1]) == 'x = "some more words▮"'
    assert answers('x = "some ▮"', done("more words"), settings=comments) == [NoSuggestion.IN_STRING]


def test_a_setting_may_name_languages_that_the_checkpoint_does_not_know() -> None:
    python, go = frozenset({"python"}), Settings(languages=frozenset({"go"}))
    assert shown(answers("x = ▮", done("f(a)"), languages=python, language="go", settings=go)[-1]) == "x = f(a)▮"
    assert answers("x = ▮", done("f(a)"), languages=python, settings=go) == [NoSuggestion.LANGUAGE]
