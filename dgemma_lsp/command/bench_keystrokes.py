"""The server's own work per keystroke in a long file: everything but the model, and what it copies.

Types a line of code at several places of a generated file, as an editor does (a change of one character, then a
request), through the same objects as the server: `Documents`, `Memory`, `parsed`, `suggest` and `protocol`. The model
is replaced by one that writes a fixed line in three drafts.
"""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

from dgemma_lsp.documents.documents import Documents, Position, TextChange, parsed
from dgemma_lsp.documents.edits import Suggestion, rebase
from dgemma_lsp.pipeline.suggest import suggest
from dgemma_lsp.server import to_client
from dgemma_lsp.server.memory import Memory
from dgemma_lsp.settings import Settings
from dgemma_model.request import Draft, FillRequest

EMBEDDED_TOKENS, LARGE_TOKENS = 512, 4096
"""Prompt sizes of two checkpoints: the embedded one, and one whose prompts also have context notes."""

Result = TypeVar("Result")

_URI = "file:///long"
_TRACED = 10
"""One keystroke of so many is watched for what it allocates; to watch takes time, so that one is not timed."""


class Sample(NamedTuple):
    """Of what a long file is made, and what is typed into it."""

    unit: str
    """Repeated, with `{number}` in it."""
    at: int
    """The line of a unit before which there is typing."""
    typed: str
    """With the indentation before it."""
    drafts: tuple[str, str, str]


SAMPLES = {
    "python": Sample(
        unit='''class Shop{number}(Base):
    """What shop {number} sells."""

    def total(self, items, rate=0.1):
        result = 0
        for item in items:
            if item.price > 10 and item.name != "gift":
                result += item.price * (1 + rate)
        return result

    def find(self, name):
        return next((item for item in self.items if item.name == name), None)


''',
        at=8,
        typed="        value = self.find(name) + total(items)",
        drafts=("item.pri", "item.price * self.", "item.price * self.rate"),
    ),
    "javascript": Sample(
        unit="""class Shop{number} extends Base {{
  /** What shop {number} sells. */
  total(items, rate = 0.1) {{
    let result = 0;
    for (const item of items) {{
      if (item.price > 10 && item.name !== "gift") {{
        result += item.price * (1 + rate);
      }}
    }}
    return result;
  }}

  find(name) {{
    return this.items.filter((item) => item.name === name).map(({{ price }}) => price)[0];
  }}
}}

""",
        at=8,
        typed="    const value = this.find(name) + total(items);",
        drafts=("item.pri", "item.price * this.", "item.price * this.rate"),
    ),
    "c": Sample(
        unit="""/* What shop {number} sells. */
struct shop_{number} {{
    struct item *items;
    size_t count;
}};

static double total_{number}(const struct shop_{number} *shop, double rate) {{
    double result = 0;
    for (size_t i = 0; i < shop->count; i++) {{
        const struct item *item = &shop->items[i];
        if (item->price > 10 && strcmp(item->name, "gift") != 0)
            result += item->price * (1 + rate);
    }}
    return result;
}}

""",
        at=12,
        typed="    double value = find(shop, name) + total(shop, rate);",
        drafts=("item->pri", "item->price * shop->", "item->price * shop->rate"),
    ),
}


class _Writer:
    """Three drafts of one line, at no cost."""

    name, device, threshold, uses_project_text, sends_text = "writer", "none", -1.0, True, False
    languages: frozenset[str] | None = None
    reviewer = None

    def __init__(self, drafts: tuple[str, str, str], prompt_tokens: int) -> None:
        self.drafts, self.prompt_tokens = drafts, prompt_tokens

    def fill(self, request: FillRequest) -> Iterator[Draft]:
        first, second, last = self.drafts
        yield Draft((first,), step=1, score=-0.3)
        yield Draft((second,), step=2, score=-0.2)
        yield Draft((last,), step=3, done=True, complete=True, score=-0.1)


def measure(language: str, lines: int, keys: int, prompt_tokens: int = EMBEDDED_TOKENS) -> dict[str, Any]:
    """Milliseconds per stage of `keys` keystrokes in a file of at least so many lines, and the most memory, in MB, that
    one keystroke allocated at once: less than the text's own size, or it was copied."""
    sample = SAMPLES[language]
    units = -(-lines // sample.unit.count("\n"))
    text = "".join(sample.unit.format(number=number) for number in range(units))
    documents, memory, writer = Documents("utf-16"), Memory(), _Writer(sample.drafts, prompt_tokens)
    documents.open(_URI, language, 1, text)
    times: dict[str, list[float]] = {}
    most = 0
    for version, (at, typed) in enumerate(_typing(sample, units, keys), 2):
        is_traced = version % _TRACED == 0
        if is_traced:
            tracemalloc.start()
        _keystroke(documents, memory, writer, version, at, typed, {} if is_traced else times)
        if is_traced:
            most = max(most, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    stages = {stage: _summary(values) for stage, values in times.items()}
    return {"stages": stages, "memory_mb": round(most / 1e6, 2), "text_mb": round(len(text) / 1e6, 2)}


def _typing(sample: Sample, units: int, keys: int) -> Iterator[tuple[Position, str]]:
    """Where each key is pressed, and what it types: a new line's characters, near the start, in the middle, near the
    end and so on, at different lines of a unit."""
    size, indent = sample.unit.count("\n"), len(sample.typed) - len(sample.typed.lstrip())
    per_place = len(sample.typed) - indent
    for place in range(-(-keys // per_place)):
        line = (1 + place * 7 % 9) * units // 10 * size + sample.at + place % 3
        yield Position(line, 0), sample.typed[: indent + 1] + "\n"
        for column in range(indent + 1, len(sample.typed)):
            yield Position(line, column), sample.typed[column]


def _keystroke(
    documents: Documents, memory: Memory, writer: _Writer, version: int, at: Position, typed: str,
    times: dict[str, list[float]],
) -> None:  # fmt: skip
    """One change and one request; the milliseconds of each stage are appended to `times`."""

    def timed(stage: str, work: Callable[[], Result]) -> Result:
        began = time.perf_counter()
        result = work()
        times.setdefault(stage, []).append(1000 * (time.perf_counter() - began))
        return result

    cursor = Position(at.line, at.character + len(typed.rstrip("\n")))
    started = time.perf_counter()
    timed("change", lambda: documents.change(_URI, version, [TextChange(typed, (at, at))]))
    snapshot = timed("snapshot", lambda: documents.snapshot(_URI, cursor))
    assert snapshot is not None
    timed("memory", lambda: memory.find(snapshot))
    with_tree = timed("parse", lambda: parsed(snapshot, documents.last_tree(_URI)))
    *_, answer = timed("suggest", lambda: list(suggest(with_tree, writer, Settings(), invoked=False)))
    timed("answer", lambda: to_client.inline_answer(answer, documents.encoding))
    if isinstance(answer, Suggestion):
        timed("rebase", lambda: rebase(answer, snapshot))
    memory.remember(snapshot, answer)
    times.setdefault("all", []).append(1000 * (time.perf_counter() - started))


def _summary(times: list[float]) -> dict[str, float]:
    times = sorted(times)
    return {
        "median_ms": round(statistics.median(times), 2),
        "p95_ms": round(times[int(0.95 * len(times))], 2),
        "max_ms": round(times[-1], 2),
    }
