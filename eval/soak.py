"""A long session with the real server: nothing may be lost on the way.

    python eval/soak.py                 # 20,000 edits, 5,000 requests, random cancellations
    python eval/soak.py --edits 2000 --requests 500 --seed 7
    python eval/soak.py --edits 5000 --requests 1000 --checkpoint qwen2.5-coder-0.5b

Without `--checkpoint` the model says what it is told, and the server's texts can be asked for.

Several documents are edited at random and compared with a text that is computed the slow and obvious way; requests of
every kind are sent in between and cancelled at random. The last line is one JSON document; the exit code is 1 where a
request stays unanswered, a text differs, or memory at the end is more than 10 % above that after a fifth of the edits.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent.parent / "tests" / "support"
sys.path.insert(0, str(TESTS))

import wire as wires  # noqa: E402
from reference_text import RandomEdit, random_edits  # noqa: E402
from wire import Wire, inline  # noqa: E402

ENCODING = "utf-16"
ALLOWED_GROWTH = 1.10
PATIENCE_S = 600
"""How long the answer of real weights to one of many requests may take on a busy machine."""


def resident_kb(process_id: int) -> int:
    """Memory of a process that is in RAM, in kB; 0 where the system does not say."""
    try:
        status = Path(f"/proc/{process_id}/status").read_text()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


class Documents:
    """Documents under random edits, each reopened when its edits are used up."""

    def __init__(self, wire: Wire, count: int, chance: random.Random) -> None:
        self.wire, self.chance = wire, chance
        self.uris = [f"file:///soak/module_{number}.py" for number in range(count)]
        self.texts: dict[str, str] = {}
        self.versions: dict[str, int] = {}
        self._edits: dict[str, list[tuple[RandomEdit, str]]] = {}
        for uri in self.uris:
            self.open(uri)

    def open(self, uri: str) -> None:
        """Open a document, or open it again without closing it, as some clients do."""
        if uri in self.texts and self.chance.random() < 0.5:
            self.wire.notify("textDocument/didClose", {"textDocument": {"uri": uri}})
        self.wire.open(uri, "")
        self.texts[uri], self.versions[uri] = "", 1
        self._edits[uri] = list(random_edits(self.chance.randrange(1 << 30), 200, ENCODING))[::-1]

    def edit(self) -> str:
        """One edit of one document; its uri."""
        uri = self.chance.choice(self.uris)
        if not self._edits[uri]:
            self.open(uri)
        change, self.texts[uri] = self._edits[uri].pop()
        self.versions[uri] += 1
        self.wire.change(uri, self.versions[uri], change.lsp())
        return uri


def request(wire: Wire, uri: str, text: str, chance: random.Random) -> int:
    """Ask for something at some place; the request's id."""
    at = {"line": chance.randint(0, text.count("\n") + 1), "character": chance.randint(0, 30)}
    document = {"textDocument": {"uri": uri}}
    match chance.randrange(10):
        case 0:
            context = {"range": {"start": at, "end": at}, "context": {"diagnostics": []}}
            return wire.start("textDocument/codeAction", document | context)
        case 1:
            command = chance.choice(["fillHole", "rewriteSelection", "addTypeAnnotations", "fillAllHoles"])
            argument = {"uri": uri, "range": {"start": {"line": 0, "character": 0}, "end": at}}
            return wire.start("workspace/executeCommand", {"command": f"dgemma.{command}", "arguments": [argument]})
        case 2:
            return wire.start("textDocument/copilotInlineEdit", document | {"position": at})
        case 3:
            return wire.start("textDocument/completion", document | {"position": at})
        case 4:
            return wire.start("textDocument/inlineCompletion", inline(uri, at["line"], at["character"], kind=1))
        case _:
            return wire.start("textDocument/inlineCompletion", inline(uri, at["line"], at["character"]))


def outcome(response: dict[str, Any]) -> str:
    """What became of a request, in a word."""
    if "error" in response:
        return str(response["error"]["code"])
    result = response["result"]
    items = result.get("items", result.get("edits", result)) if isinstance(result, dict) else result
    return "null" if result is None else "something" if items else "nothing"


def started_server(checkpoint: str | None) -> Wire:
    """The server around that checkpoint, or around a model that says what it is told."""
    if checkpoint is None:
        return Wire(env={"FAKE_AHEAD": "1"})
    wires.TIMEOUT_S = PATIENCE_S
    return Wire(sys.executable, "-P", "-m", "dgemma_lsp", "--checkpoint", checkpoint)


def soak(edits: int, requests: int, seed: int, checkpoint: str | None = None) -> dict[str, Any]:
    """Run it; what happened."""
    chance = random.Random(seed)
    started = time.perf_counter()
    outcomes: Counter[str] = Counter()
    differences = 0
    memory_kb = list[int]()
    with started_server(checkpoint) as wire:
        wire.initialize(initializationOptions={"debounce_ms": 1, "next_edit": True, "log_level": "error"})
        wire.wait_until_loaded()
        if checkpoint is None:
            wire.request("test/say", {"text": "value", "steps": 3})
        documents = Documents(wire, 6, chance)
        waiting: list[int] = []
        asked = 0
        for number in range(1, edits + 1):
            uri = documents.edit()
            while asked < requests * number // edits:
                waiting.append(request(wire, uri, documents.texts[uri], chance))
                asked += 1
                if chance.random() < 0.4:
                    wire.notify("$/cancelRequest", {"id": chance.choice(waiting[-5:])})
            if len(waiting) >= 50 or number == edits:
                outcomes.update(outcome(wire.response(msg_id)) for msg_id in waiting)
                waiting.clear()
                wire.drop_unread()
            if number % 250 == 0 and checkpoint is None:
                differences += wire.text(uri) != documents.texts[uri]
            if number % max(1, edits // 10) == 0:
                memory_kb.append(resident_kb(wire.process.pid))
        if checkpoint is None:
            differences += sum(wire.text(uri) != documents.texts[uri] for uri in documents.uris)
        wire.request("shutdown", None)
        wire.notify("exit", None)
        exit_code = wire.exit_code()
    return {
        "edits": edits,
        "requests": asked,
        "unanswered": asked - outcomes.total(),
        "differences": differences,
        "outcomes": dict(outcomes),
        "memory_mb": [kb >> 10 for kb in memory_kb],
        "growth": round(memory_kb[-1] / memory_kb[1], 3) if memory_kb[1:] and memory_kb[1] else None,
        "seconds": round(time.perf_counter() - started, 1),
        "exit_code": exit_code,
    }


def main() -> int:
    """Run with the arguments of the command line; 0 where all went well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, default=20_000)
    parser.add_argument("--requests", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", help="real weights; the texts that the server holds are not compared then")
    arguments = parser.parse_args()
    report = soak(arguments.edits, arguments.requests, arguments.seed, arguments.checkpoint)
    print(json.dumps(report))
    grown = report["growth"] is not None and report["growth"] > ALLOWED_GROWTH
    failed = report["unanswered"] or report["differences"] or report["exit_code"] or grown
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
