"""A fill that is watched: what becomes of each token, and how it reaches the client that asked, and nobody else."""

from __future__ import annotations

import sys
from typing import Any

import pytest
from wire import Wire, inline, insertion

from dgemma_lsp.pipeline.watched import Frame, Frames, TokenState
from dgemma_model.request import Check, Draft, DraftToken

URI = "file:///project/module.py"
INLINE = "textDocument/inlineCompletion"
WATCH = "dgemma/watch"
SECRET = "sesame = "
INVALID_PARAMS, REQUEST_CANCELLED = -32602, -32800


def place(uri: str = URI, character: int = len(SECRET), watch: object = 7) -> dict[str, Any]:
    return {"textDocument": {"uri": uri}, "position": {"line": 0, "character": character}, "watch": watch}


def canvases(wire: Wire) -> list[dict[str, Any]]:
    """What has come so far, once the server has answered something later."""
    wire.request("dgemma/status", {})
    return [found["params"] for found in wire._waiting if found.get("method") == "dgemma/canvas"]


def framed(*drafts: str) -> list[list[str]]:
    """The states of drafts' tokens. A draft is written as tokens, in capitals where they are settled."""
    seen: list[Frame] = []
    frames = Frames(seen.append, clock=iter(range(100)).__next__)
    for step, draft in enumerate(drafts, start=1):
        tokens = tuple(DraftToken(token.lower(), 0.5, token.isupper()) for token in draft.split())
        frames.see(Draft((draft,), step, tokens=(tokens,)))
    assert [frame.ms for frame in seen] == [1000.0] * len(seen)
    return [[state.value for state in frame.states] for frame in seen]


def test_what_becomes_of_a_token() -> None:
    assert framed("A b c", "A B c", "A b C") == [
        ["accepted", "noise", "noise"],
        ["accepted", "accepted", "noise"],
        ["accepted", "renoised", "accepted"],
    ]


def test_a_token_that_was_accepted_and_is_another_one_is_revised_for_good() -> None:
    assert framed("A", "B", "b", "B", "A") == [["accepted"], ["revised"], ["renoised"], ["revised"], ["revised"]]


def test_a_pass_that_writes_the_healed_piece_is_shown() -> None:
    check = Check((" ",), "copies", 1, 0)
    assert written(Draft(("",), 0, tokens=((),)), Draft(("",), 1, tokens=((),), check=check)) == [("|", check)]


def test_a_canvas_may_grow_and_drafts_without_one_are_left_out() -> None:
    seen: list[Frame] = []
    frames = Frames(seen.append)
    for tokens in ((), (DraftToken("a", 1.0, True),), (DraftToken("a", 1.0, True), DraftToken("b", 0.1, False))):
        frames.see(Draft(("",), 1, tokens=(tokens,)))
    assert [frame.states for frame in seen] == [(TokenState.ACCEPTED,), (TokenState.ACCEPTED, TokenState.NOISE)]


def test_text_before_the_cursor_is_not_shown_again() -> None:
    """Token healing: the canvas begins with what was taken away from the prompt."""

    def shown(before: str, text: str, *tokens: str) -> list[tuple[str, str]]:
        seen: list[Frame] = []
        drafted = tuple(DraftToken(token, 0.5, at > 0) for at, token in enumerate(tokens))
        Frames(seen.append, before).see(Draft((text,), 1, tokens=(drafted,)))
        return [(token.text, state.value) for token, state in zip(seen[0].tokens, seen[0].states, strict=True)]

    item, dot, end = ("item", "noise"), (".x", "accepted"), ("", "accepted")
    assert shown("return ", "item.x", " item", ".x", "") == [item, dot, end]
    assert shown("\n    ret", "urn item", "\n    ", "return", " item", "") == [
        ("urn", "accepted"),
        (" item", "accepted"),
        end,
    ]
    assert shown("x = ", "item.x", "item", ".x", "") == [item, dot, end], "nothing was taken away"
    assert shown("x = ", "item", "!item", "") == [("!item", "noise"), end], "it is not before the cursor"
    assert shown("f(x ", "", " ") == [(" ", "noise")]
    assert shown("x ", "y", " ", "y") == [("y", "accepted")]


def written(*drafts: Draft) -> list[tuple[str, Check | None]]:
    """Frames of a fill that is written: each token as its state's first letter and its text, those of the pass after
    a bar."""
    seen: list[Frame] = []
    frames = Frames(seen.append)
    for draft in drafts:
        frames.see(draft)
    found = []
    for frame in seen:
        said = [f"{state.value[0]}:{token.text}" for token, state in zip(frame.tokens, frame.states, strict=True)]
        found.append((" ".join([*said[: frame.pass_start], "|", *said[frame.pass_start :]]), frame.check))
    return found


def test_a_pass_shows_what_was_drafted_what_was_accepted_and_what_came_instead() -> None:
    tokens = (
        DraftToken("a", 0.9, True),
        DraftToken("=", 0.9, True, "copies"),
        DraftToken("b", 0.9, True, "copies"),
        DraftToken("+", 0.9, True),
        DraftToken(")\n", 0.9, True),
    )
    first, second, third = (
        Check((), None, 0, 1),
        Check(("=", "b", "c", "d"), "copies", 2, 3),
        Check(("c",), "drafter", 0, 1),
    )
    drafts = [
        Draft(("a",), 1, tokens=(tokens[:1],), check=first),
        Draft(("a=b+",), 2, tokens=(tokens[:4],), check=second),
        Draft(("a=b+)",), 3, tokens=(tokens,), complete=True, check=third),
        Draft(("a=b+)",), 3, tokens=(tokens,), complete=True, done=True, check=third),
    ]
    assert written(*drafts) == [
        ("| w:a", first),
        ("w:a | d:= d:b r:c r:d w:+", second),
        ("w:a d:= d:b w:+ | r:c w:) w:", third),
        ("w:a d:= d:b w:+ w:) | w:", None),
    ]


def test_a_pass_whose_drafts_are_all_accepted_refuses_nothing() -> None:
    tokens = (DraftToken("a", 0.9, True, "drafter"), DraftToken("b", 0.9, True, "drafter"))
    check = Check(("a", "b"), "drafter", 2, 2)
    assert written(Draft(("ab",), 1, tokens=(tokens,), check=check)) == [("| d:a d:b", check)]


def test_where_the_writer_ends_the_text_what_was_drafted_is_refused() -> None:
    tokens, check = (DraftToken("a", 0.9, True),), Check(("b",), "copies", 0, 0)
    drafts = [
        Draft(("a",), 1, tokens=(tokens,), check=Check(written=1)),
        Draft(("a",), 2, tokens=(tokens,), complete=True, check=check),
    ]
    assert written(*drafts)[1] == ("w:a | r:b w:", check)


def test_what_the_judge_chose_and_a_draft_on_its_way_are_told_apart() -> None:
    chosen = (DraftToken("else", 0.4, True, "judge"),)
    assert written(Draft(("else",), 4, tokens=(chosen,), complete=True, check=Check()))[0][0] == "c:else | w:"
    on_its_way = (DraftToken("a", 0.9, True), DraftToken("b", 0.2, False))
    assert written(Draft(("a",), 2, tokens=(on_its_way,), check=Check()))[0][0] == "w:a n:b |"


def test_the_time_that_showing_takes_is_not_the_steps() -> None:
    now = [0.0]

    def show(frame: Frame) -> None:
        seen.append(frame.ms)
        now[0] += 5.0

    seen: list[float] = []
    frames = Frames(show, clock=lambda: now[0])
    for step in range(3):
        now[0] += 0.25
        frames.see(Draft(("",), step, tokens=((DraftToken("a", 1.0, True),),)))
    assert seen == [250.0] * 3


def test_each_step_reaches_who_asked(own_wire: Wire) -> None:
    own_wire.open(URI, SECRET)
    assert own_wire.request(WATCH, place()) == {"text": "value"}
    shown = canvases(own_wire)
    assert [(one["watch"], one["step"], one["done"]) for one in shown] == [(7, 1, False), (7, 2, False), (7, 3, True)]
    assert all(one["ms"] >= 0 for one in shown)
    assert [one["tokens"] for one in shown] == [
        [{"text": "value", "confidence": 0.333, "state": "noise"}],
        [{"text": "value", "confidence": 0.667, "state": "noise"}],
        [{"text": "value", "confidence": 1.0, "state": "accepted"}],
    ]
    watched = own_wire.request("test/asked", {})
    own_wire.change(URI, 2, insertion(0, len(SECRET), "x"))
    own_wire.request(INLINE, inline(URI, 0, len(SECRET) + 1))
    assert watched == own_wire.request("test/asked", {}) != "", "it is asked for what is suggested"


def test_who_does_not_ask_gets_nothing(own_wire: Wire) -> None:
    own_wire.open(URI, SECRET)
    assert own_wire.request(INLINE, inline(URI, 0, len(SECRET)))
    assert canvases(own_wire) == []


def test_typing_goes_first(own_wire: Wire) -> None:
    own_wire.open(URI, SECRET)
    own_wire.request("test/say", {"held": True})
    watching = own_wire.start(WATCH, place())
    own_wire.request("test/reached", {})
    typing = own_wire.start(INLINE, inline(URI, 0, len(SECRET)))
    assert own_wire.response(watching)["result"] == {"reason": "a newer request replaced this one"}
    own_wire.request("test/release", {})
    assert [item["insertText"] for item in own_wire.response(typing)["result"]] == ["value"]
    assert len(canvases(own_wire)) <= 1, "the work ended with its step"


def test_it_can_be_cancelled(own_wire: Wire) -> None:
    own_wire.open(URI, SECRET)
    own_wire.request("test/say", {"held": True})
    watching = own_wire.start(WATCH, place())
    own_wire.request("test/reached", {})
    own_wire.notify("$/cancelRequest", {"id": watching})
    assert own_wire.error(watching) == REQUEST_CANCELLED
    own_wire.request("test/release", {})
    assert own_wire.request(WATCH, place()) == {"text": "value"}


@pytest.mark.parametrize("params", [None, {}, [], {"watch": 1}, place(watch="x"), place(character=-1)])
def test_what_cannot_be_read_is_refused(own_wire: Wire, params: object) -> None:
    assert own_wire.error(own_wire.start(WATCH, params)) == INVALID_PARAMS


def test_where_there_is_nothing_to_watch_it_says_why(own_wire: Wire) -> None:
    assert "not opened" in own_wire.request(WATCH, place())["reason"]
    own_wire.open("file:///project/.env", SECRET)
    assert "never read" in own_wire.request(WATCH, place("file:///project/.env"))["reason"]
    own_wire.request("test/say", {"fails": True})
    own_wire.open(URI, SECRET)
    assert "failed" in own_wire.request(WATCH, place())["reason"]
    assert canvases(own_wire) == []


def test_while_the_model_loads_it_says_so() -> None:
    with Wire(env={"FAKE_LOAD": "wait"}) as wire:
        wire.initialize()
        wire.open(URI, SECRET)
        assert "loading" in wire.request(WATCH, place())["reason"]
        wire.request("test/release", {})


def test_nothing_of_it_is_logged(own_wire: Wire) -> None:
    own_wire.request("test/say", {"text": "open_sesame"})
    own_wire.open(URI, SECRET)
    own_wire.request(WATCH, place())
    own_wire.request("shutdown", None)
    own_wire.notify("exit", None)
    own_wire.exit_code()
    assert "watch=filled steps=3" in own_wire.final_log()
    assert "sesame" not in own_wire.final_log()


def test_what_came_of_a_request_is_told_to_who_shows_it() -> None:
    with Wire() as wire:
        wire.initialize(capabilities={"experimental": {"dgemma": {"status": True}}})
        wire.wait_until_loaded()
        wire.drop_unread()
        wire.open(URI, "name = # x")
        wire.request(INLINE, inline(URI, 0, 7))
        wire.request(INLINE, inline(URI, 0, 10))
        told = [wire.wait(lambda message: message.get("method") == "dgemma/outcome")["params"] for _ in range(2)]
    assert told[0].keys() == {"uri", "ms"} and told[0]["ms"] > 0
    assert told[1] == {"uri": URI, "reason": "the cursor is in a comment"}


def test_others_are_not_told(own_wire: Wire) -> None:
    own_wire.open(URI, SECRET)
    own_wire.request(INLINE, inline(URI, 0, len(SECRET)))
    own_wire.request("dgemma/status", {})
    assert not [found for found in own_wire._waiting if found.get("method") == "dgemma/outcome"]


def test_what_is_watched_is_what_is_suggested() -> None:
    with Wire(sys.executable, "-P", "-m", "dgemma_lsp", "--checkpoint", "embedded") as wire:
        wire.initialize()
        wire.wait_until_loaded()
        text = "def area(width, height):\n    return width * height\n\n\ndef perimeter(width, height):\n    \n"
        wire.open(URI, text)
        params = place() | {"position": {"line": 5, "character": 4}}
        answer = wire.request(WATCH, params)
        shown = canvases(wire)
        suggested = wire.request(INLINE, inline(URI, 5, 4, kind=1))
    assert [answer["text"]] == [item["insertText"] for item in suggested[:1]]
    assert [one["done"] for one in shown[:-1]] == [False] * (len(shown) - 1)
    checks = [one["check"] for one in shown if "check" in one]
    assert checks and all(0 <= check["accepted"] <= check["drafted"] for check in checks)
    assert all((check["by"] is None) == (check["drafted"] == 0) for check in checks)
    states = {token["state"] for one in shown for token in one["tokens"]}
    assert states <= {"drafted", "written", "refused", "chosen"}
    last = "".join(token["text"] for token in shown[-1]["tokens"] if token["state"] != "refused")
    assert last.startswith(answer["text"])
    assert all(0.0 <= token["confidence"] <= 1.0 for one in shown for token in one["tokens"])
