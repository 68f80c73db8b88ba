"""What `dgemma-lsp fill --batch` makes of tasks like those of public benchmarks, cut from our own held-out files.

    python eval/batch_tasks.py run MODEL.gguf ROWS.jsonl --tasks 120
    python eval/batch_tasks.py table ROWS.jsonl

From functions of the Python files of `eval/fresh`, three kinds of holes are cut: one whole line, two to six whole
lines, and a piece that begins and ends at any character. A task is the text before the hole and the text after it, and
nothing else of the package. Each is filled in three ways: with the default options; told whether it ends with its line
(`--one-line` or `--no-one-line`); and by a greedy reading of the same weights in float32 that is cut at the hole's true
end (a line: at its first line break), which no engine can know. A text counts if it is the author's, but for blanks at
its ends. `run` goes on where it stopped. Intervals are of 95 %. Results are in log/ends.md.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import torch
from product_forms import float32
from rich.console import Console
from rich.table import Table
from shipped_form import CPU, Greedy, network_of, shown

from dgemma_lsp.command.opened import TASK_TOKENS, opened
from dgemma_lsp.pipeline.request_for import request_for
from dgemma_model.checkpoint import load
from dgemma_model.evaluation.held_out import SETS, json_lines
from dgemma_model.infill import Infiller
from dgemma_model.network.cache import Cache
from dgemma_model.network.kernels import fastest_products
from dgemma_model.prompt.format import EncodedPrompt

KINDS = ("line", "lines", "piece")
MOST_LINES = 6
FUNCTION_LINES = range(5, 40)


@dataclass(frozen=True, slots=True)
class BatchTask:
    """A hole of a file."""

    id: str
    kind: str
    prefix: str
    middle: str
    suffix: str


def cut(count: int) -> list[BatchTask]:
    """So many tasks of each kind, the same ones every time, each of another function."""
    rng = random.Random(0)
    texts = [row["text"] for row in json_lines(SETS["fresh"].files) if row["path"].endswith(".py")]
    functions = [(text, *lines) for text in texts for lines in functions_of(text)]
    rng.shuffle(functions)
    found = list[BatchTask]()
    for number, (text, first, last) in enumerate(functions):
        if len(found) == count * len(KINDS):
            break
        kind = KINDS[len(found) % len(KINDS)]
        start, end = hole_of(kind, text, first, last, rng)
        if text[start:end].strip():
            found.append(BatchTask(f"{kind}/{number}", kind, text[:start], text[start:end], text[end:]))
    return found


def functions_of(text: str) -> list[tuple[int, int]]:
    """The first and the last line of the body of each function, without its docstring; both count from 0."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return []
    bodies = list[tuple[int, int]]()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
            if body and (body[-1].end_lineno or 0) - body[0].lineno in FUNCTION_LINES:
                bodies.append((body[0].lineno - 1, (body[-1].end_lineno or 0) - 1))
    return bodies


def hole_of(kind: str, text: str, first: int, last: int, rng: random.Random) -> tuple[int, int]:
    """Where a hole of this kind begins and ends in a function's body, in code points."""
    lines = text.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    if kind == "piece":
        places = sorted(rng.sample(range(starts[first], starts[last + 1]), 2))
        return places[0], min(places[1], places[0] + 200)
    at = rng.randint(first, last)
    end = at if kind == "line" else min(at + rng.randint(1, MOST_LINES - 1), last)
    return starts[at], starts[end + 1] - len(lines[end]) + len(lines[end].rstrip("\r\n"))


def run(model: Path, output: Path, tasks: Sequence[BatchTask]) -> None:
    """Fill the tasks that `output` does not have yet, and append a row for each."""
    done = {json.loads(line)["id"] for line in output.read_text("utf-8").splitlines()} if output.exists() else set()
    tasks = [task for task in tasks if task.id not in done]
    checkpoint = load.load(model, CPU, torch.float32)
    infiller = Infiller(checkpoint, CPU, fastest_products(CPU))
    reading = Greedy(network_of(model, float32), checkpoint.format.vocabulary)
    for at in range(0, len(tasks), 30):
        some = tasks[at : at + 30]
        default, told = batch(some, None), batch(some, "line")
        for task in some:
            request = request_for(opened((task.prefix, task.suffix), "python")[0], infiller)
            prompt = checkpoint.format.encode(request.excerpt, infiller.prompt_tokens)
            read = read_greedily(reading, prompt, task)
            texts = {"default": default[task.id], "told": told[task.id], "cut at the true end": read}
            row = {"id": task.id, "kind": task.kind, "truth": task.middle} | texts
            with output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")


def batch(tasks: Sequence[BatchTask], told: str | None) -> dict[str, str]:
    """The texts of `dgemma-lsp fill --batch`, by the tasks' ids; `told` is the kind that ends with its line."""
    found = dict[str, str]()
    for kind in KINDS:
        some = [task for task in tasks if task.kind == kind]
        options = [] if told is None else ["--one-line" if kind == told else "--no-one-line"]
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
            for task in some:
                file.write(json.dumps({"id": task.id, "prefix": task.prefix, "suffix": task.suffix}) + "\n")
            file.flush()
            command = [sys.executable, "-m", "dgemma_lsp", "fill", "--batch", file.name, *options]
            answers = subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout
        found |= {answer["id"]: answer["text"] for answer in map(json.loads, answers.splitlines())}
    return found


def read_greedily(greedy: Greedy, prompt: EncodedPrompt, task: BatchTask) -> str:
    """What the weights write until the true end, or until a line ends; no further than the first wrong character."""
    cache, ids, text = Cache(), list[int](), ""
    hidden = greedy.network.encode(torch.tensor([prompt.ids]), cache)
    while len(ids) < TASK_TOKENS:
        ids.append(int(greedy.allowed(greedy.network.logits(hidden[:, -1:]), prompt, ids).argmax()))
        text, has_ended = greedy.vocabulary.read(ids, prompt.forced)
        if has_ended or not (text.startswith(task.middle) or task.middle.startswith(text)):
            break
        if "\n" in text if task.kind == "line" else len(text) >= len(task.middle):
            break
        hidden = greedy.network.encode(torch.tensor([ids[-1:]]), cache)
    return text.partition("\n")[0] if task.kind == "line" else text[: len(task.middle)]


WAYS = ("default", "told", "cut at the true end")


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """By kind and way: how many texts are the author's, and the ratio to those that are cut at the true end."""
    found = Table("kind", "of", *(f"{way}, % exact" for way in WAYS), "default / cut", "told / cut")
    for kind in KINDS:
        some = [row for row in rows if row["kind"] == kind]
        right = {way: [row[way].strip() == row["truth"].strip() for row in some] for way in WAYS}
        cells = [shown(right[way]) for way in WAYS]
        ratios = [f"{sum(right[way]) / max(1, sum(right[WAYS[-1]])):.2f}" for way in WAYS[:-1]]
        found.add_row(kind, str(len(some)), *cells, *ratios)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    runs, tables = commands.add_parser("run"), commands.add_parser("table")
    runs.add_argument("model", type=Path)
    for command in (runs, tables):
        command.add_argument("rows", type=Path)
    runs.add_argument("--tasks", type=int, default=120, help="of each kind")
    asked = parser.parse_args()
    if asked.command == "run":
        with torch.inference_mode():
            run(asked.model, asked.rows, cut(asked.tasks))
        return
    Console(width=150).print(table([json.loads(line) for line in asked.rows.read_text("utf-8").splitlines()]))


if __name__ == "__main__":
    main()
