"""Training batches: files -> holes -> excerpts -> rows of ids. Every batch is a function of (seed, step), so that a
resumed run sees what an uninterrupted one would have seen."""

from __future__ import annotations

import itertools
import json
import queue
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from dgemma_model.canvas import encode_fill, encode_prompt
from dgemma_model.excerpt import ExcerptBudget
from dgemma_model.tokenizer import Tokenizer
from dgemma_model.train.holes import HoleCutter, draw_kind

T = TypeVar("T")

CANVAS_LENGTHS = (16, 32, 64)

SHORTEST_PROMPT = 96
"""Room, in tokens, under which a row is not given another example."""


@dataclass(frozen=True, slots=True)
class Example:
    """One hole: what the encoder sees before it, and what fills it (ended by end-of-text)."""

    prompt: list[int]
    fill: list[int]


@dataclass(frozen=True, slots=True)
class Rows:
    """A batch of rows of prompts and fills for the causal loss."""

    ids: Tensor
    """[B, T + 1] int64: inputs are `ids[:, :-1]`, targets `ids[:, 1:]`."""
    weights: Tensor
    """[B, T] float32: the weight of each target; zero for padding."""
    spans: list[list[tuple[int, int, int]]]
    """For each row and example: where the prefix starts, where the fill starts, and the end behind the fill's
    end-of-text."""


@dataclass(frozen=True, slots=True)
class Canvases:
    """Clean canvases behind the rows of a batch, side by side in one long canvas per row: N canvases of L positions,
    M = N * L."""

    targets: Tensor
    """[B, M] int64: what stands in the row from the canvas' start on, then end-of-text."""
    positions: Tensor
    """[B, M] int64."""
    mask: Tensor
    """[B, M, T + M] bool: a canvas sees the row before its start, and itself."""
    number: Tensor
    """[M] int64: which canvas a position belongs to."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """The training files, ready for cutting."""

    cutters: list[HoleCutter]
    tokenizer: Tokenizer
    sizes: list[float]

    @classmethod
    def read(cls, folder: Path, name: str = "corpus") -> Corpus:
        """Read `corpus.jsonl` (or another name) and `tokenizer.json` as corpus.py writes them."""
        with (folder / f"{name}.jsonl").open() as lines:
            texts = [json.loads(line)["text"] for line in lines]
        # A file's share grows with its size, but a hundred-kilobyte file is not worth fifty small ones.
        sizes = [min(len(text), 40_000) ** 0.8 for text in texts]
        return cls([HoleCutter(text) for text in texts], Tokenizer.read(folder / "tokenizer.json"), sizes)

    def example(self, rng: random.Random, max_tokens: int) -> Example:
        """A random hole in a random file, prompt and fill within `max_tokens`."""
        while True:
            cutter = rng.choices(self.cutters, self.sizes)[0]
            hole = cutter.cut(draw_kind(rng), rng)
            if hole is None:
                continue
            excerpt = cutter.excerpt(hole, random_budget(rng))
            fill = encode_fill(excerpt, cutter.text[hole.start : hole.end], self.tokenizer)
            if len(fill) > max_tokens // 2:
                continue
            return Example(encode_prompt(excerpt, self.tokenizer, max_tokens - len(fill)).ids, fill)

    def rows(self, rng: random.Random, count: int, length: int, fill_weight: float) -> Rows:
        """`count` rows of `length` targets, each filled with examples; targets of a fill weigh `fill_weight`."""
        ids = torch.zeros(count, length + 1, dtype=torch.int64)
        weights = torch.zeros(count, length)
        spans: list[list[tuple[int, int, int]]] = []
        for row in range(count):
            at = 0
            spans.append([])
            while length + 1 - at > SHORTEST_PROMPT:
                example = self.example(rng, length + 1 - at)
                start, end = at + len(example.prompt), at + len(example.prompt) + len(example.fill)
                ids[row, at:end] = torch.tensor(example.prompt + example.fill)
                weights[row, at : start - 1] = 1.0
                weights[row, start - 1 : end - 1] = fill_weight
                prefix_start = at + example.prompt.index(self.tokenizer.prefix_id) + 1
                spans[row].append((prefix_start, start, end))
                at = end
        return Rows(ids, weights, spans)

    def canvases(self, rng: random.Random, rows: Rows, positions: int) -> Canvases:
        """Canvases of one drawn length, `positions` positions a row: half of them at holes, half anywhere between
        prefix start and fill end."""
        length = rng.choice(CANVAS_LENGTHS)
        batch, row_length = rows.weights.shape
        number = torch.arange(positions) // length
        starts = torch.empty(batch, positions // length, dtype=torch.int64)
        targets = torch.full((batch, positions), self.tokenizer.end_id)
        for row, spans in enumerate(rows.spans):
            for slot in range(starts.shape[1]):
                prefix_start, fill_start, end = rng.choice(spans)
                start = fill_start if slot % 2 == 0 else rng.randrange(min(prefix_start, fill_start), end)
                piece = rows.ids[row, start : min(end, start + length)]
                targets[row, slot * length : slot * length + len(piece)] = piece
                starts[row, slot] = start
        own_start = starts[:, number]
        prompt = torch.arange(row_length) < own_start[..., None]
        canvas = (number[:, None] == number[None, :]).expand(batch, -1, -1)
        return Canvases(
            targets, own_start + torch.arange(positions) % length, torch.cat((prompt, canvas), dim=2), number
        )


def random_budget(rng: random.Random) -> ExcerptBudget:
    """Mostly the serving budget; sometimes less, so that short files and early cursors are nothing new."""
    scale = 1.0 if rng.random() < 0.7 else rng.uniform(0.2, 1.0)
    served = ExcerptBudget()
    return ExcerptBudget(int(served.prefix_chars * scale), int(served.suffix_chars * scale))


def prefetched(make: Callable[[int], T], first_step: int, depth: int = 4) -> Iterator[T]:
    """`make(step)` for every step from `first_step` on, computed ahead on a thread; raises what `make` raises."""
    ready: queue.Queue[T | Exception] = queue.Queue(depth)
    stopped = threading.Event()

    def produce() -> None:
        for step in itertools.count(first_step):
            try:
                made: T | Exception = make(step)
            except Exception as error:  # goes to whoever waits for the batch
                made = error
            while not stopped.is_set():
                try:
                    ready.put(made, timeout=0.2)
                    break
                except queue.Full:
                    continue
            if stopped.is_set() or isinstance(made, Exception):
                return

    threading.Thread(target=produce, daemon=True).start()
    try:
        while True:
            made = ready.get()
            if isinstance(made, Exception):
                raise made
            yield made
    finally:
        stopped.set()
