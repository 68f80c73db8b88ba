"""Taking times, in turns, and the places in real files that are filled."""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch

from dgemma_model.request import Excerpt
from dgemma_model.source.excerpt import ExcerptBudget, cut


def peak_memory_mb(device: torch.device) -> int:
    """The most memory that was held so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit >> 20


Times = dict[str, float]


NEARBY = ("inspect", "configparser", "optparse")
"""Modules of the standard library that are taken for files near the one that is filled, the nearest last."""


class BenchError(Exception):
    """What was asked for cannot be measured here; the message says why."""


def summary(times: list[float]) -> Times:
    """Median and 95th percentile of seconds, in milliseconds."""
    ordered = sorted(1000 * seconds for seconds in times)
    return {"median_ms": round(statistics.median(ordered), 3), "p95_ms": round(ordered[int(0.95 * len(ordered))], 3)}


def timed(work: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each of `repeats` runs, after one that does not count."""
    work()
    return [once(work) for _ in range(repeats)]


def finish_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def excerpts(count: int) -> list[Excerpt]:
    """Places at line starts, spread over a source file, each with a full prompt."""
    return [excerpt for excerpt, _ in places(count, 0)]


def places(count: int, missing: int, prompt_tokens: int = 512) -> list[tuple[Excerpt, tuple[str, ...]]]:
    """Places at line starts, spread over a source file, with about `missing` code points of lines missing at each; and
    what may be copied from: the rest of the file and some others, as many code points as the server reads. Excerpts are
    for a checkpoint that reads `prompt_tokens`."""
    source = Path(argparse.__file__)
    text = source.read_text("utf-8")
    others = [(source.parent / f"{name}.py").read_text("utf-8") for name in NEARBY]
    found = []
    for place in list(range(4000, len(text) - 4000, (len(text) - 8000) // count))[:count]:
        start = text.index("\n", place) + 1
        end = text.index("\n", start + missing) if missing else start
        excerpt = cut(text, [(start, end)], ExcerptBudget.within(prompt_tokens))
        rest = text[end + len(excerpt.suffix) :], text[: start - len(excerpt.prefix)]
        found.append((excerpt, (*others, *rest)))
    return found


Work = Callable[[], object]


def side_by_side(work: Mapping[str, Work], repeats: int, burst: int = 1) -> dict[str, Times]:
    """Times of each of several ways to do the same thing, taken in turns so that whatever else the machine does falls
    on all of them; the first round does not count.

    A turn is `burst` runs on end, timed together: what runs many times on end in use, as denoising steps do, finds its
    weights in the processor's cache, and would not when it came after another one's.
    """
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for index in range(repeats + 1):
        for name in list(work) if index % 2 else reversed(list(work)):
            seconds[name].append(once(partial(_burst, work[name], burst)) / burst)
    return {name: summary(taken[1:]) for name, taken in seconds.items()}


def _burst(work: Work, runs: int) -> None:
    for _ in range(runs):
        work()


def once(work: Callable[[], object]) -> float:
    """Seconds of one run."""
    finish_gpu()
    started = time.perf_counter()
    work()
    finish_gpu()
    return time.perf_counter() - started
