"""The server's own work per keystroke in a long file: everything but the model, and what it copies.

    python eval/keystrokes.py [--lines 100000] [--keys 200] [--further]

Types a line of code at several places of a generated Python file, as an editor does (a change of one character, then a
request), through the same objects as the server: `Documents`, `parsed`, `suggest` and `protocol`. The model is replaced
by one that writes a fixed line in three drafts. Prints milliseconds per stage; the memory row is the most that was
allocated at once during one keystroke (tracemalloc), which a copy of the document would exceed.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc
from collections.abc import Iterator

from dgemma_lsp import protocol
from dgemma_lsp.documents import Documents, Position, TextChange, parsed
from dgemma_lsp.edits import Suggestion, rebase
from dgemma_lsp.settings import Settings
from dgemma_lsp.suggest import suggest
from dgemma_model.request import Draft, FillRequest

URI = "file:///long.py"
CLASS = '''class Shop{number}(Base):
    """What shop {number} sells."""

    def total(self, items, rate=0.1):
        result = 0
        for item in items:
            if item.price > 10 and item.name != "gift":
                result += item.price * (1 + rate)
        return result

    def find(self, name):
        return next((item for item in self.items if item.name == name), None)


'''
TYPED = "value = self.find(name) + total(items)"


class Writer:
    """Three drafts of one line, at no cost."""

    name, device, threshold, languages = "writer", "none", -1.0, frozenset({"python"})

    def __init__(self, prompt_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens

    def fill(self, request: FillRequest) -> Iterator[Draft]:
        yield Draft(("item.pri",), step=1, score=-0.3)
        yield Draft(("item.price * self.",), step=2, score=-0.2)
        yield Draft(("item.price * self.rate",), step=3, done=True, complete=True, score=-0.1)


def long_file(lines: int) -> str:
    """A Python file of at least that many lines."""
    count = -(-lines // CLASS.count("\n"))
    return "".join(CLASS.format(number=number) for number in range(count))


def typing_places(text: str, keys: int) -> Iterator[tuple[int, int]]:
    """Line and column of each keystroke: `TYPED` on a line of its own, near the start, in the middle and at the end."""
    total = text.count("\n")
    per_class = CLASS.count("\n")
    for nth in range(-(-keys // len(TYPED))):
        line = (1 + nth * 7 % 9) * total // 10 // per_class * per_class + 8 + nth
        yield from ((line, column) for column in range(len(TYPED)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--keys", type=int, default=200)
    parser.add_argument("--further", action="store_true", help="with context from elsewhere, as for a large checkpoint")
    args = parser.parse_args()
    text, infiller = long_file(args.lines), Writer(4096 if args.further else 512)
    documents = Documents("utf-16")
    began = time.perf_counter()
    documents.open(URI, "python", 1, text)
    print(f"{text.count(chr(10)):,} lines, {len(text):,} characters; opened in {_ms(began):.1f} ms")
    times: dict[str, list[float]] = {}
    most = 0
    places = list(typing_places(text, args.keys))[: args.keys]
    for version, (line, column) in enumerate(places, 2):
        char = "        " + TYPED[0] if column == 0 else TYPED[column]
        at = Position(line, 0 if column == 0 else column + 8)
        if column == 0:
            documents.change(URI, version, [TextChange("\n", (at, at))])
        if version % 10 == 0:  # tracing makes everything slower: those keystrokes are not timed
            tracemalloc.start()
            keystroke(documents, infiller, version, at, char, {})
            most = max(most, tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        else:
            keystroke(documents, infiller, version, at, char, times)
    print(f"{'stage':<12}{'median':>8}{'p95':>8}{'max':>8}  ms")
    for stage, values in times.items():
        values.sort()
        median, p95 = values[len(values) // 2], values[int(len(values) * 0.95)]
        print(f"{stage:<12}{median:8.2f}{p95:8.2f}{values[-1]:8.2f}")
    print(f"most memory at once: {most / 1e6:.2f} MB, a copy would be {len(text) / 1e6:.2f} MB")


def keystroke(
    documents: Documents, infiller: Writer, version: int, at: Position, char: str, times: dict[str, list[float]]
) -> None:
    """One change and one request; the milliseconds of each stage are appended to `times`."""
    start = began = time.perf_counter()
    documents.change(URI, version, [TextChange(char, (at, at))])
    snapshot = documents.snapshot(URI, Position(at.line, at.character + len(char)))
    assert snapshot is not None
    times.setdefault("change", []).append(_ms(began))
    began = time.perf_counter()
    with_tree = parsed(snapshot)
    times.setdefault("parse", []).append(_ms(began))
    began = time.perf_counter()
    *_, answer = suggest(with_tree, infiller, Settings(), invoked=False)
    times.setdefault("suggest", []).append(_ms(began))
    began = time.perf_counter()
    if isinstance(answer, Suggestion):
        rebase(answer, snapshot)
    protocol.inline_answer(answer, documents.encoding)
    times.setdefault("answer", []).append(_ms(began))
    times.setdefault("all", []).append(_ms(start))


def _ms(since: float) -> float:
    return 1000 * (time.perf_counter() - since)


if __name__ == "__main__":
    main()
