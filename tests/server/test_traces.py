"""Recorded sessions with real editors, timings included, said again to the server.

Each trace (tests/traces/, recorded by record.py there) is judged as it was recorded, and replayed twice: in its own
time against the server around a model that says what the recorded one said, and several times as fast against the
server as it is installed, with its own model.
"""

from __future__ import annotations

import copy
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from conversation import INLINE, Judge, Record, Replay, items_of, read, script
from wire import FAKE_SERVER

TRACES = {path.stem: read(path) for path in sorted((Path(__file__).parents[1] / "traces").glob("*.jsonl"))}
FAST = 5.0


def said_again(trace: list[Record], folder: Path) -> tuple[Judge, int]:
    """In its own time, with a model that says what the recorded one said."""
    replay = Replay(trace, [sys.executable, "-P", str(FAKE_SERVER)], folder, {"FAKE_AHEAD": "1"})
    exit_code = replay.run(1.0, lambda replay: replay.ask("test/say", {"script": script(trace)}))
    return Judge().read(replay.conversation), exit_code


def said_fast(trace: list[Record], folder: Path) -> tuple[Judge, int]:
    """Fast, to the server as it is installed. What the client accepts is what the recorded server said."""
    replay = Replay(trace, [sys.executable, "-P", "-m", "dgemma_lsp", "--device", "cpu"], folder, {})
    exit_code = replay.run(FAST)
    return Judge(accepts_what_was_shown=False).read(replay.conversation), exit_code


@pytest.fixture(scope="module")
def replays(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Future[tuple[Judge, int]]]:
    """All of them at the same time: mostly they wait for somebody to press a key."""
    with ThreadPoolExecutor() as pool:
        return {
            (name, how.__name__): pool.submit(how, trace, tmp_path_factory.mktemp(name))
            for name, trace in TRACES.items()
            for how in (said_again, said_fast)
        }


def test_there_is_a_session_of_each_editor() -> None:
    assert TRACES.keys() == {"neovim", "vscode"}
    for trace in TRACES.values():
        asked = sum(record.message.get("method") == INLINE for record in trace)
        assert asked > 80 and trace[-1].t > 20.0


@pytest.mark.parametrize("name", TRACES)
def test_as_it_was_recorded(name: str) -> None:
    judge = Judge().read(TRACES[name])
    assert judge.complaints == []
    assert judge.shown > 10 and judge.accepted > 0 and judge.parts > judge.accepted


@pytest.mark.parametrize("name", TRACES)
def test_said_again_in_its_own_time(name: str, replays: dict[tuple[str, str], Future[tuple[Judge, int]]]) -> None:
    judge, exit_code = replays[name, "said_again"].result()
    assert judge.complaints == [] and exit_code == 0
    recorded = Judge().read(TRACES[name])
    assert judge.shown > recorded.shown // 2 and judge.accepted == recorded.accepted and judge.parts == recorded.parts


@pytest.mark.parametrize("name", TRACES)
def test_said_fast_to_the_real_model(name: str, replays: dict[tuple[str, str], Future[tuple[Judge, int]]]) -> None:
    judge, exit_code = replays[name, "said_fast"].result()
    assert judge.complaints == [] and exit_code == 0
    assert judge.answered > 160  # with the requests that tell what was read


# ---------------------------------------------------------------------------------- what the judge would not let pass

TRACE = next(iter(TRACES.values()))


def answers(trace: list[Record], *, shown: bool) -> list[int]:
    """Where in a trace requests for a suggestion are answered, with or without one."""
    asked = {record.message["id"] for record in trace if record.message.get("method") == INLINE}
    return [
        number
        for number, (_, sender, message) in enumerate(trace)
        if sender == "server" and message.get("id") in asked and bool(items_of(message)) is shown
    ]


@pytest.mark.parametrize("name", TRACES)
def test_a_missing_answer_is_noticed(name: str) -> None:
    for shown in (False, True):
        trace = TRACES[name].copy()
        gone = trace.pop(answers(trace, shown=shown)[3])
        (complaint,) = Judge(accepts_what_was_shown=False).read(trace).complaints
        assert f"{gone.message['id']} was never answered" in complaint


@pytest.mark.parametrize("name", TRACES)
def test_a_second_answer_is_noticed(name: str) -> None:
    trace = TRACES[name].copy()
    number = answers(trace, shown=True)[3]
    trace.insert(number + 2, trace[number])
    (complaint,) = Judge().read(trace).complaints
    assert "nobody waits" in complaint


@pytest.mark.parametrize("name", TRACES)
def test_an_answer_after_that_to_a_newer_request_is_noticed(name: str) -> None:
    trace = TRACES[name].copy()
    late, *_, newer = answers(trace, shown=True)[3:6]
    trace.insert(newer, trace.pop(late))
    complaints = Judge(accepts_what_was_shown=False).read(trace).complaints
    assert any("a newer request had been read" in complaint for complaint in complaints)


@pytest.mark.parametrize("name", TRACES)
def test_an_answer_for_a_text_that_is_no_longer_there_is_noticed(name: str) -> None:
    """The server has read the change (it answered a request that was sent later), and answers for the text before."""
    trace = TRACES[name].copy()
    number = answers(trace, shown=True)[3]
    answer = trace.pop(number)
    change = next(n for n in range(number, len(trace)) if trace[n].message.get("method") == "textDocument/didChange")
    ask = {"jsonrpc": "2.0", "id": "fence", "method": "dgemma/status", "params": {}}
    said = {"jsonrpc": "2.0", "id": "fence", "result": {}}
    trace[change + 1 : change + 1] = [Record(0.0, "client", ask), Record(0.0, "server", said), answer]
    complaints = Judge(accepts_what_was_shown=False).read(trace).complaints
    assert any("no longer there" in complaint for complaint in complaints)


@pytest.mark.parametrize("name", TRACES)
@pytest.mark.parametrize(
    "change",
    [
        lambda item: item.update(insertText="another " + item["insertText"]),
        lambda item: item["range"]["end"].update(line=item["range"]["end"]["line"] + 1),
        lambda item: item["range"]["start"].update(line=9999),
    ],
)
def test_an_item_that_is_not_what_was_accepted_or_cannot_be_shown_is_noticed(name: str, change: object) -> None:
    trace = copy.deepcopy(TRACES[name])
    for number in answers(trace, shown=True):
        change(items_of(trace[number].message)[0])  # type: ignore[operator]
    assert Judge().read(trace).complaints
