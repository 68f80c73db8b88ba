"""What was suggested before is found again by the text on both sides; the user's rhythm; counts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dgemma_lsp.documents.edits import Edit, NoSuggestion, Snapshot, Suggestion
from dgemma_lsp.documents.text import Text
from dgemma_lsp.server.memory import Memory, Rhythm, Silences, Statistics

URI = "file:///a.py"


def snapshot(marked: str, uri: str = URI) -> Snapshot:
    before, after = marked.split("|")
    return Snapshot(uri, 1, "python", Text(before + after), len(before))


def suggestion(marked: str, text: str) -> Suggestion:
    at = snapshot(marked)
    return Suggestion(at, Edit(at.offset, at.offset, text), score=-0.1, steps=3)


def remembering(*suggestions: Suggestion) -> Memory:
    memory = Memory()
    for known in suggestions:
        memory.remember(known.snapshot, known)
    return memory


def found(memory: Memory, marked: str, uri: str = URI) -> str | None:
    answer = memory.find(snapshot(marked, uri))
    if isinstance(answer, NoSuggestion):
        return answer.name
    return answer and answer.edit.new_text


def test_the_same_text_gives_the_same_suggestion() -> None:
    memory = remembering(suggestion("x = |\n", "value"))
    assert found(memory, "x = |\n") == "value"
    assert found(memory, "x = va|\n") == "lue"


def test_both_sides_count_and_so_does_the_document() -> None:
    memory = remembering(suggestion("x = |\n", "value"))
    assert found(memory, "x = |\ny") is None
    assert found(memory, "y = |\n") is None
    assert found(memory, "x = |\n", "file:///b.py") is None


def test_typing_away_and_back_finds_it_again() -> None:
    memory = remembering(suggestion("x = |\n", "value"), suggestion("x = z|\n", "ero"))
    assert found(memory, "x = |\n") == "value"
    assert found(memory, "x = z|\n") == "ero"


def test_the_newest_comes_first() -> None:
    assert found(remembering(suggestion("x = |", "old"), suggestion("x = |", "new")), "x = |") == "new"


def test_a_silence_of_the_model_is_remembered_and_others_are_not() -> None:
    memory = Memory()
    memory.remember(snapshot("x = |"), NoSuggestion.EMPTY)
    memory.remember(snapshot("y = |"), NoSuggestion.LOADING)
    memory.remember(snapshot("z = |"), NoSuggestion.OUT_OF_TIME)
    assert [found(memory, marked) for marked in ("x = |", "y = |", "z = |", "x =| ")] == ["EMPTY", None, None, None]


def test_it_does_not_grow_without_end() -> None:
    memory = Memory()
    for number in range(200):
        memory.remember(*(lambda known: (known.snapshot, known))(suggestion(f"{number} = |", "value")))
    assert found(memory, "0 = |") is None and found(memory, "199 = |") == "value"
    large = "#" * 10_000_000
    for number in range(3):
        memory.remember(snapshot(f"{large}{number}|"), NoSuggestion.EMPTY)
    assert found(memory, f"{large}0|") is None and found(memory, f"{large}2|") == "EMPTY"


def test_what_is_forgotten_is_gone() -> None:
    memory = remembering(suggestion("x = |", "value"))
    memory.forget("file:///b.py")
    assert found(memory, "x = |") == "value"
    memory.forget(URI)
    assert found(memory, "x = |") is None


@given(st.text("ab(\n", max_size=6), st.text("ab)", min_size=1, max_size=6), st.text("ab)\n", max_size=6), st.data())
def test_what_is_found_leads_to_what_was_suggested(before: str, text: str, after: str, data: st.DataObject) -> None:
    memory = remembering(suggestion(f"{before}|{after}", text))
    typed = data.draw(st.text("ab)\n(", max_size=4))
    answer = memory.find(snapshot(f"{before}{typed}|{after}"))
    if isinstance(answer, Suggestion):
        assert answer.edit.apply(answer.snapshot.text) == before + text + after
    assert (answer is not None) == (text.startswith(typed) and text != typed)


def rhythm(*intervals: float) -> Rhythm:
    known, now = Rhythm(), 100.0
    known.note(now)
    for interval in intervals:
        now += interval
        known.note(now)
    return known


def test_silences_of_documents_that_are_open_are_kept_and_of_others_the_latest() -> None:
    silences, opened = Silences(), {f"file:///open/{number}.py" for number in range(600)}
    for uri in sorted(opened):
        silences.note(uri, NoSuggestion.IN_WORD, opened)
    for number in range(2000):
        silences.note(f"file:///closed/{number}.py", NoSuggestion.NOT_OPEN, opened)
    assert {silences.get(uri) for uri in opened} == {NoSuggestion.IN_WORD}
    opened.clear()
    silences.note("file:///closed/last.py", NoSuggestion.NOT_OPEN, opened)
    kept = [uri for uri in (f"file:///closed/{number}.py" for number in range(2000)) if silences.get(uri)]
    assert silences.get("file:///open/0.py") is None and len(kept) < 512
    assert silences.get("file:///closed/last.py") is NoSuggestion.NOT_OPEN


def test_a_fast_typist_is_waited_for_and_nobody_longer_than_four_times() -> None:
    assert rhythm().delay_s(0.06) == 0.06
    assert rhythm(*[0.1] * 5).delay_s(0.06) == 0.06  # too little is known
    assert round(rhythm(*[0.1] * 10).delay_s(0.06), 3) == 0.12
    assert rhythm(*[0.02] * 10).delay_s(0.06) == 0.06
    assert rhythm(*[0.5] * 10).delay_s(0.06) == 0.06  # every key is a pause
    assert rhythm(*[0.1] * 10).delay_s(0.0) == 0.0


def test_pauses_are_no_typing() -> None:
    assert round(rhythm(*[0.1, 30.0] * 10).delay_s(0.06), 3) == 0.12


def test_counts() -> None:
    statistics = Statistics()
    number = statistics.offer(suggestion("x = |", "value"))
    silent = statistics.offer(NoSuggestion.EMPTY)
    statistics.show(number)
    statistics.accept_partly(number, 2)
    statistics.accept_partly(number, 4)
    for odd in (number, number, silent, None, "1", 4711, [1]):
        statistics.accept(odd)
        statistics.accept_partly(odd, 1)
    assert statistics.counts == {"offered": 1, "shown": 1, "partly_accepted": 1, "accepted": 1}
    assert statistics.silences == {"EMPTY": 1}
