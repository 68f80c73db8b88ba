"""How many editors an engine serves: recorded sessions of VS Code and Neovim, typed again by 1, 8, 32 editors at once.

    python eval/engine_load.py                    # llama.cpp's server (xllamacpp) with the default checkpoint's file
    python eval/engine_load.py --engine URL --editors 1,8

Each editor has a server process of its own, which asks the one engine. The first rows say what our side adds to an
engine that answers at once: from the keystroke's snapshot to the text, with all that is masked and checked on the way.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from conversation import INLINE, Record, Replay, items_of, read  # noqa: E402
from real_engine import RealEngine  # noqa: E402
from small_engine import SmallEngine, completion_events  # noqa: E402

from dgemma_lsp.documents.documents import ParsedSnapshot, parsed  # noqa: E402
from dgemma_lsp.documents.edits import Snapshot  # noqa: E402
from dgemma_lsp.documents.text import Text  # noqa: E402
from dgemma_lsp.engine.address import Address  # noqa: E402
from dgemma_lsp.engine.infiller import PROMPT_TOKENS, EngineInfiller  # noqa: E402
from dgemma_lsp.pipeline.infiller import InfillerLike  # noqa: E402
from dgemma_lsp.pipeline.suggest import suggest  # noqa: E402
from dgemma_lsp.settings import Settings  # noqa: E402
from dgemma_model.request import Draft, FillRequest  # noqa: E402

OUTCOME = "dgemma/outcome"
_CANCELLED = -32800
_KEYS = 200
_LINES = 400


class Instant:
    """A model in this process that answers at once, with what the engine says."""

    name, device, languages, threshold = "instant", "none", None, -1.0
    prompt_tokens, uses_project_text, sends_text, reviewer = PROMPT_TOKENS, False, False, None

    def fill(self, request: FillRequest) -> Iterator[Draft]:
        yield Draft((" items + rate",), 2, done=True, complete=True, score=-0.1)


def milliseconds(infiller: InfillerLike, at_cursor: ParsedSnapshot) -> float:
    """Of one suggestion."""
    started = time.perf_counter()
    list(suggest(at_cursor, infiller, Settings(), invoked=True))
    return 1000 * (time.perf_counter() - started)


def added(url: str) -> list[float]:
    """Milliseconds that each keystroke in a long document takes longer with an engine that answers at once than with
    such a model in this process."""
    infiller = EngineInfiller(Address.parse(url))
    infiller.check_health()
    unit = "def total_{at}(items, rate={at}):\n    return sum(items) * rate\n\n\n"
    above = "".join(unit.format(at=at) for at in range(_LINES // 4))
    taken, line = [], "    value = total_1(items) + total_2(items)"
    for at in range(_KEYS):
        text = f"{above}def more_{at}(items):\n{line[: 8 + at % (len(line) - 8)]}"
        snapshot = Snapshot("file:///load.py", None, "python", Text(text + "\n"), len(text))
        at_cursor = parsed(snapshot)
        taken.append(milliseconds(infiller, at_cursor) - milliseconds(Instant(), at_cursor))
    infiller.close()
    return taken


def typed(number: int, trace: list[Record], url: str, speed: float) -> list[Record]:
    """What one editor and its server say to each other."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-P", "-m", "dgemma_lsp", "--engine", url]
        replay = Replay(trace, command, Path(folder), {})
        replay.run(speed)
        return replay.conversation


def outcome(conversation: list[Record]) -> tuple[list[float], Counter[str]]:
    """Milliseconds until something was shown, and how often each thing happened."""
    asked: dict[Any, float] = {}
    taken, counts = [], Counter[str]()
    for t, sender, message in conversation:
        if sender == "client" and message.get("method") == INLINE:
            asked[message["id"]] = t
            counts["requests"] += 1
        elif sender == "server" and "method" not in message and message.get("id") in asked:
            started = asked.pop(message["id"])
            if message.get("error"):
                counts["cancelled" if message["error"]["code"] == _CANCELLED else "refused"] += 1
            elif message["result"] is None:
                counts["replaced"] += 1
            elif items_of(message):
                counts["shown"] += 1
                taken.append(1000 * (t - started))
            else:
                counts["silent"] += 1
        elif message.get("method") == OUTCOME:
            params = message["params"]
            if "reason" in params:
                counts["reason: " + params["reason"]] += 1
            elif "ms" not in params:
                counts["typed through"] += 1
    counts["unanswered"] += len(asked)
    return taken, counts


def percentile(values: list[float], share: float) -> float:
    """Of some values; 0 where there are none."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)] if values else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", help="an engine that runs already; otherwise one is started")
    parser.add_argument("--editors", default="1,8,32")
    parser.add_argument("--slots", type=int, default=4, help="of the engine that is started")
    parser.add_argument("--speed", type=float, default=1.0, help="how many times as fast as it was recorded")
    parser.add_argument("--instant", action="store_true", help="be an engine that answers at once, for this script")
    arguments = parser.parse_args()
    if arguments.instant:
        with SmallEngine() as engine:
            engine.events = completion_events([" items", " + rate"])
            print(engine.url, flush=True)
            sys.stdin.read()
        return
    command = [sys.executable, __file__, "--instant"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as instant:
        assert instant.stdout is not None
        taken = added(instant.stdout.readline().strip())
        instant.terminate()
    p50, p95 = percentile(taken, 0.5), percentile(taken, 0.95)
    print(f"added to an engine that answers at once: p50 {p50:.1f} ms, p95 {p95:.1f} ms")
    traces = [read(path) for path in sorted((ROOT / "tests" / "traces").glob("*.jsonl"))]
    from default_writer import default_weights

    with nullcontext() if arguments.engine else RealEngine(default_weights(), arguments.slots) as started:
        url = arguments.engine or started.url
        for count in map(int, arguments.editors.split(",")):
            with ThreadPoolExecutor(count) as pool:
                work = [pool.submit(typed, at, traces[at % len(traces)], url, arguments.speed) for at in range(count)]
                found = [outcome(one.result()) for one in work]
            times = [ms for of_one, _ in found for ms in of_one]
            counts = sum((of_one for _, of_one in found), Counter[str]())
            told = ", ".join(f"{name} {number}" for name, number in counts.items())
            print(f"{count} editors: p50 {percentile(times, 0.5):.0f} ms, p95 {percentile(times, 0.95):.0f} ms; {told}")


if __name__ == "__main__":
    main()
