"""What an engine is asked and what becomes of its answers: over real connections to a small engine."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_engine import (
    MARKER_IDS,
    Handler,
    SmallEngine,
    chat_events,
    completion_events,
    llama_events,
)

from dgemma_lsp.documents.edits import NoSuggestion
from dgemma_lsp.engine import connection
from dgemma_lsp.engine.address import Address
from dgemma_lsp.engine.errors import EngineError
from dgemma_lsp.engine.infiller import EngineInfiller
from dgemma_lsp.engine.prompts import MARKERS, Chat, Prompt, break_markers
from dgemma_lsp.pipeline.watched import Frame, Frames, TokenState
from dgemma_model.request import Draft, Excerpt, FillRequest, InfillError

LINE = FillRequest(Excerpt("def area(width, height):\n    return ", "\n"), one_line=True)
BLOCK = FillRequest(Excerpt("def area(width, height):\n    ", "\n\n\ndef other():\n    pass\n"))
PATIENCE_S = 30.0


@pytest.fixture
def engine() -> Iterator[SmallEngine]:
    with SmallEngine() as engine:
        yield engine


def filled(engine: SmallEngine, request: FillRequest = LINE, address: str = "") -> Draft:
    infiller = EngineInfiller(Address.parse(address or engine.url))
    *_, draft = infiller.fill(request)
    infiller.close()
    return draft


def test_completions_are_asked_with_qwens_markers(engine: SmallEngine) -> None:
    engine.events = completion_events([" width", " * height"], -0.25)
    draft = filled(engine)
    assert (draft.texts, draft.done, draft.complete, draft.score) == (("width * height",), True, True, -0.25)
    (asked,) = engine.questions()
    assert asked.json["prompt"] == ("<|fim_prefix|>def area(width, height):\n<|fim_suffix|>\n<|fim_middle|>    return")
    assert asked.json["model"] == "Qwen/Qwen2.5-Coder-7B" and asked.json["max_tokens"] == LINE.max_tokens
    assert asked.json["stop"] == ["\n"] and asked.json["stop_token_ids"] == MARKER_IDS
    assert asked.json["temperature"] == 0.0


def test_llama_cpp_infills_with_models_of_other_markers() -> None:
    with SmallEngine(kind="llama", model="codellama") as engine:
        engine.has_markers, engine.events = False, llama_events(["width", " * ", "height"])
        draft = filled(engine)
        (asked,) = engine.questions()
    assert draft.text == "width * height" and draft.score == pytest.approx(-0.1) and draft.complete
    assert asked.path == "/infill"
    assert (asked.json["input_prefix"], asked.json["prompt"]) == ("def area(width, height):\n", "    return ")


def test_diffusion_gemma_is_asked_in_a_chat() -> None:
    with SmallEngine(model="google/diffusiongemma-26B-A4B-it") as engine:
        engine.has_markers = False
        engine.events = chat_events([" width * height\n", "\n\ndef other():\n    pass\n```\n"])
        draft = filled(engine, FillRequest(Excerpt("def area(width, height):\n    return ", "\n\n\ndef other():\n")))
        (asked,) = engine.questions()
    assert draft.text.strip() == "width * height" and draft.complete
    user, model = asked.json["messages"]
    assert user["role"] == "user" and "def other():" in user["content"]
    assert model == {"role": "assistant", "content": "```python\ndef area(width, height):\n    return"}
    assert asked.json["continue_final_message"] is True and asked.json["add_generation_prompt"] is False
    assert "logprobs" not in asked.json  # engines of diffusion models fail on them


def test_every_chunk_is_a_draft_and_waiting_gives_empty_ones(engine: SmallEngine) -> None:
    gates = [threading.Event() for _ in range(8)]
    engine.events = completion_events(["a", "b", "c"])
    engine.between = lambda number: gates[number].wait(PATIENCE_S) and None
    infiller = EngineInfiller(Address.parse(engine.url))
    drafts = infiller.fill(FillRequest(Excerpt("x =", "\n"), one_line=True))
    seen = [next(drafts) for _ in range(4)]
    assert {(draft.text, draft.step) for draft in seen} == {("", 0)}
    for gate, text in zip(gates, ("a", "ab", "abc"), strict=False):
        gate.set()
        while (draft := next(drafts)).text != text:
            assert text.startswith(draft.text)
    for gate in gates:
        gate.set()
    *_, last = drafts
    assert last.done and last.text == "abc"


def test_an_answer_that_is_not_wanted_any_more_is_ended_at_the_engine(engine: SmallEngine) -> None:
    engine.events, engine.answer = completion_events([" x"])[:1], Handler.begin_and_wait
    drafts = EngineInfiller(Address.parse(engine.url)).fill(BLOCK)
    while not next(drafts).text:
        pass
    drafts.close()
    assert engine.closed_by_client.wait(PATIENCE_S)


def test_the_same_while_the_engine_reads_the_prompt(engine: SmallEngine) -> None:
    engine.answer = Handler.wait_until_closed
    drafts = EngineInfiller(Address.parse(engine.url)).fill(BLOCK)
    while not engine.questions():
        assert next(drafts) == Draft(("",), 0, tokens=((),))
    drafts.close()
    assert engine.closed_by_client.wait(PATIENCE_S)


def test_an_engine_that_writes_on_is_stopped_where_the_suffix_begins(engine: SmallEngine) -> None:
    engine.events = completion_events([" return width", " * height\n", "\n\ndef other():\n"])[:3]
    engine.answer = Handler.begin_and_wait
    draft = filled(engine, BLOCK)
    assert draft.text.strip() == "return width * height" and draft.complete and draft.done
    assert engine.closed_by_client.wait(PATIENCE_S)


@pytest.mark.parametrize("text", ["a\nb", "a<|fim_pad|>b", "a\n```\nb"])
def test_a_text_ends_at_its_line_at_markers_and_at_fences(engine: SmallEngine, text: str) -> None:
    engine.events = completion_events(list(text))
    assert filled(engine, FillRequest(Excerpt("x =", "\n"), one_line=True)).text == "a"


def test_a_limit_of_tokens_leaves_a_text_incomplete(engine: SmallEngine) -> None:
    engine.events = completion_events([" width", " *"], finish="length")
    draft = filled(engine, FillRequest(LINE.excerpt, one_line=True, max_tokens=2))
    assert draft.done and not draft.complete and engine.questions()[0].json["max_tokens"] == 2


def test_an_engine_that_forgets_to_say_why_it_ends(engine: SmallEngine) -> None:
    engine.events = chat_events([" width"], finish=None)
    assert filled(engine, LINE, f"chat+{engine.url}").text == "width"


def test_without_log_probabilities_there_is_no_score_and_no_threshold(engine: SmallEngine) -> None:
    engine.events = completion_events([" width"], None)
    infiller = EngineInfiller(Address.parse(engine.url))
    *_, draft = infiller.fill(LINE)
    assert draft.score == infiller.threshold == -math.inf and not draft.score < infiller.threshold
    engine.events = completion_events([" width"], -0.1)
    *_, draft = infiller.fill(LINE)
    assert draft.score > infiller.threshold > -math.inf


def test_a_chat_has_no_threshold_although_its_first_event_comes_alone(engine: SmallEngine) -> None:
    go_on = threading.Event()
    engine.events = chat_events([" width"])
    engine.between = lambda number: number == 1 and go_on.wait(PATIENCE_S) and None
    infiller = EngineInfiller(Address.parse(f"chat+{engine.url}"))
    for draft in infiller.fill(LINE):
        if draft.step:  # the role has been read
            go_on.set()
    assert draft.text == "width" and infiller.threshold == -math.inf


def test_several_holes_are_filled_from_left_to_right(engine: SmallEngine) -> None:
    engine.events = completion_events(["1"])
    draft = filled(engine, FillRequest(Excerpt("a =", "\n", between=("\nb =",)), one_line=True))
    assert draft.texts == ("1", "1") and draft.done
    first, second = (asked.json["prompt"] for asked in engine.questions())
    assert first == "<|fim_prefix|><|fim_suffix|>\nb =\n<|fim_middle|>a ="
    assert second == "<|fim_prefix|>a =1\n<|fim_suffix|>\n<|fim_middle|>b ="


def test_another_candidate_is_drawn(engine: SmallEngine) -> None:
    filled(engine, FillRequest(LINE.excerpt, one_line=True, seed=2))
    (asked,) = engine.questions()
    assert asked.json["temperature"] > 0 and asked.json["seed"] == 2


def test_a_time_budget_ends_a_fill(engine: SmallEngine) -> None:
    engine.events, engine.answer = completion_events([" width", " *"])[:2], Handler.begin_and_wait
    draft = filled(engine, FillRequest(LINE.excerpt, one_line=True, budget_ms=0.0))
    assert draft.done and draft.text == "width" and engine.closed_by_client.wait(PATIENCE_S)


def test_connections_are_used_again(engine: SmallEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_POLL_S", PATIENCE_S)  # however late the end of an answer comes
    infiller = EngineInfiller(Address.parse(engine.url))
    for _ in range(5):
        list(infiller.fill(LINE))
    assert len(engine.questions()) == 5 and engine.connections == 1


def test_nonsense_is_refused_before_anything_is_sent(engine: SmallEngine) -> None:
    with pytest.raises(InfillError, match="max_tokens"):
        list(EngineInfiller(Address.parse(engine.url)).fill(FillRequest(Excerpt("", ""), max_tokens=0)))
    assert engine.asked == []


def test_each_part_of_an_answer_is_watched_as_written(engine: SmallEngine) -> None:
    engine.events = completion_events([" width", " * height"], -0.25)
    infiller, seen = EngineInfiller(Address.parse(engine.url)), list[Frame]()
    frames = Frames(seen.append)
    for draft in infiller.fill(LINE):
        frames.see(draft)
    infiller.close()
    assert {state for frame in seen for state in frame.states} == {TokenState.WRITTEN}
    assert sum(frame.check.written for frame in seen if frame.check is not None) == 2
    assert "".join(token.text for token in seen[-1].tokens) == "width * height"


def test_an_engine_does_not_denoise(engine: SmallEngine) -> None:
    with pytest.raises(InfillError, match="shows no canvas"):
        filled(engine, replace(LINE, denoise=True))
    assert not engine.questions()


def test_how_much_context_is_sent_follows_the_engine(engine: SmallEngine) -> None:
    engine.context_tokens = 600
    infiller = EngineInfiller(Address.parse(engine.url))
    assert infiller.check_health().well and infiller.prompt_tokens == 300


def test_the_named_model_is_asked_for_or_missed(engine: SmallEngine) -> None:
    engine.models = ["other", "mine/x"]
    filled(engine, LINE, f"{engine.url}#mine/x")
    assert engine.questions()[0].json["model"] == "mine/x"
    with pytest.raises(EngineError, match="no model none; it has other, mine/x") as missed:
        filled(engine, LINE, f"{engine.url}#none")
    assert missed.value.reason is NoSuggestion.ENGINE_MODEL


def test_a_model_that_nobody_knows_how_to_ask(engine: SmallEngine) -> None:
    engine.models, engine.has_markers = ["llama-3"], False
    with pytest.raises(EngineError, match=r"completions\+http.* for Qwen2.5-Coder"):
        filled(engine)
    engine.events = completion_events([" x"])
    assert filled(engine, LINE, f"completions+{engine.url}").text == "x"


@pytest.mark.parametrize("marker", [*MARKERS, "<|turn>", "<turn|>", "<bos>", "<end_of_turn>"])
def test_a_marker_that_is_spelled_in_a_file_stays_letters(engine: SmallEngine, marker: str) -> None:
    for address, events in ((engine.url, completion_events), (f"chat+{engine.url}", chat_events)):
        engine.asked.clear()
        engine.events = events(["value"])
        filled(engine, FillRequest(Excerpt(f"x = '{marker}'\ny =", f"\nz = '{marker}'\n"), one_line=True), address)
        sent = engine.questions()[0].body.decode()
        expected = 1 if address == engine.url and marker in MARKERS[:3] else 0
        assert sent.count(marker) == expected and marker.replace("<", "< ") in sent


@given(st.text("<|>abc_\n t", max_size=40))
def test_letters_are_kept_but_for_blanks_in_markers(text: str) -> None:
    kept = break_markers(text)
    assert kept.replace("< ", "<") == text.replace("< ", "<")
    assert break_markers(kept) == kept


@given(st.text("ab \t\n", max_size=40), st.text("ab \n", max_size=20))
def test_what_is_sent_is_the_excerpt(prefix: str, suffix: str) -> None:
    prompt = Prompt.of(Excerpt(prefix, suffix))
    assert prompt.above + prompt.typed + prompt.healed == prefix and prompt.suffix == suffix
    assert "\n" not in prompt.typed and len(prompt.healed) <= 1
    chat = Chat.of(Excerpt(prefix, suffix))
    assert (chat.answer + chat.healed).endswith(prefix) and not chat.answer[-1:].isspace()
