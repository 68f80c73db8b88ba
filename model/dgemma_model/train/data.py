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

from dgemma_model.prompt.format import EncodedPrompt
from dgemma_model.prompt.suffix_first import SuffixFirst
from dgemma_model.prompt.tokenizer import Tokenizer
from dgemma_model.source.excerpt import ExcerptBudget
from dgemma_model.train.holes import HoleCutter, draw_kind

T = TypeVar("T")

CANVAS_LENGTHS = (16, 32, 64)

SEVERAL_HOLES = 0.35
"""Share of the canvases at holes that have several, where the fill can be split."""

SHORTEST_PROMPT = 96
"""Room, in tokens, under which a row is not given another example."""


@dataclass(frozen=True, slots=True)
class Example:
    """One hole: what the encoder sees before it, and what fills it (ended by end-of-text)."""

    prompt: EncodedPrompt
    fill: list[int]


@dataclass(frozen=True, slots=True)
class Span:
    """The place of an example in its row; the cue is between prefix and fill."""

    prefix_start: int
    prefix_end: int
    fill_start: int
    end: int
    """After the fill's end-of-text."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A batch of rows of prompts and fills for the causal loss."""

    ids: Tensor
    """[B, T + 1] int64: inputs are `ids[:, :-1]`, targets `ids[:, 1:]`."""
    weights: Tensor
    """[B, T] float32: the weight of each target; zero for padding."""
    spans: list[list[Span]]
    """The examples' places in each row."""


@dataclass(frozen=True, slots=True)
class Canvases:
    """Clean canvases after the rows of a batch, side by side in one long canvas per row: N canvases of L positions,
    M = N * L."""

    targets: Tensor
    """[B, M] int64: the row's tokens from the canvas' start on, then end-of-text."""
    positions: Tensor
    """[B, M] int64."""
    mask: Tensor
    """[B, M, T + M] bool: a canvas sees the row before its start, and itself."""
    number: Tensor
    """[M] int64: which canvas a position belongs to."""
    pinned: Tensor
    """[B, M] bool: the given text between the holes of a canvas with several."""


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
            written = SuffixFirst(self.tokenizer)
            fill = written.encode_fill(excerpt, cutter.text[hole.start : hole.end])
            if len(fill) > max_tokens // 2:
                continue
            return Example(written.encode(excerpt, max_tokens - len(fill)), fill)

    def rows(self, rng: random.Random, count: int, length: int, fill_weight: float) -> Rows:
        """`count` rows of `length` targets, each filled with examples; targets of a fill weigh `fill_weight`."""
        ids = torch.zeros(count, length + 1, dtype=torch.int64)
        weights = torch.zeros(count, length)
        spans: list[list[Span]] = []
        for row in range(count):
            at = 0
            spans.append([])
            while length + 1 - at > SHORTEST_PROMPT:
                example = self.example(rng, length + 1 - at)
                text, prompt, fill = example.prompt.text, example.prompt.ids, example.fill
                prefix_end, start = at + len(text), at + len(prompt)
                end = start + len(fill)
                ids[row, at:end] = torch.tensor(prompt + fill)
                weights[row, at : prefix_end - 1] = 1.0
                weights[row, start - 1 : end - 1] = fill_weight
                prefix_start = at + text.index(self.tokenizer.prefix_id) + 1
                spans[row].append(Span(prefix_start, prefix_end, start, end))
                at = end
        return Rows(ids, weights, spans)

    def canvases(self, rng: random.Random, rows: Rows, positions: int) -> Canvases:
        """Canvases of one drawn length, `positions` positions a row: half of them at holes (and a third of those with
        several holes in the place of one, where the fill is short enough), a quarter anywhere in a fill, a quarter
        anywhere in a prefix (and on into its fill, without the cue)."""
        length = rng.choice(CANVAS_LENGTHS)
        batch, row_length = rows.weights.shape
        number = torch.arange(positions) // length
        starts = torch.empty(batch, positions // length, dtype=torch.int64)
        targets = torch.full((batch, positions), self.tokenizer.end_id)
        pinned = torch.zeros(batch, positions, dtype=torch.bool)
        for row, spans in enumerate(rows.spans):
            for slot in range(starts.shape[1]):
                span = rng.choice(spans)
                if slot % 4 == 3 and span.prefix_start < span.prefix_end:
                    start = rng.randrange(span.prefix_start, span.prefix_end)
                    piece = torch.cat(
                        (rows.ids[row, start : span.prefix_end], rows.ids[row, span.fill_start : span.end])
                    )[:length]
                else:
                    start = span.fill_start if slot % 2 == 0 else rng.randrange(span.fill_start, span.end)
                    piece = rows.ids[row, start : min(span.end, start + length)]
                at = slot * length
                targets[row, at : at + len(piece)] = piece
                starts[row, slot] = start
                fill = rows.ids[row, span.fill_start : span.end - 1].tolist()
                if slot % 2 == 0 and rng.random() < SEVERAL_HOLES and (split := split_fill(fill, length, rng)):
                    ids, pins = split
                    targets[row, at : at + length] = torch.tensor(
                        [self.tokenizer.end_id if i is None else i for i in ids]
                    )
                    pinned[row, at : at + length] = torch.tensor(pins)
        own_start = starts[:, number]
        prompt = torch.arange(row_length) < own_start[..., None]
        canvas = (number[:, None] == number[None, :]).expand(batch, -1, -1)
        return Canvases(
            targets, own_start + torch.arange(positions) % length, torch.cat((prompt, canvas), dim=2), number, pinned
        )


def split_fill(fill: list[int], length: int, rng: random.Random) -> tuple[list[int | None], list[bool]] | None:
    """Two or three holes in the place of one: pieces of `fill` stay as pinned text, the others become holes of any
    width that has room for them and their end, filled up with None where end-of-text goes.

    The ids of a canvas of `length`, and which of them are pinned; None where a few tries find no split that fits.
    """
    for _ in range(4):
        holes = 2 if rng.random() < 0.7 else 3
        cuts = sorted(rng.randrange(len(fill) + 1) for _ in range(2 * (holes - 1)))
        pieces = [fill[a:b] for a, b in itertools.pairwise([0, *cuts, len(fill)])]
        spare = length - len(fill) - holes
        if not all(pieces[1::2]) or spare < 0:
            continue
        shares = [0, *sorted(rng.randint(0, spare) for _ in range(holes - 1)), spare]
        ids: list[int | None] = []
        pins: list[bool] = []
        for index, piece in enumerate(pieces):
            is_given = index % 2 == 1
            padding = 0 if is_given else 1 + shares[index // 2 + 1] - shares[index // 2]
            ids += piece + [None] * padding
            pins += [is_given] * (len(piece) + padding)
        return ids, pins
    return None


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
