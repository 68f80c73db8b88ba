"""Measures wall times of several ways in turns, and finds the places in real files that are filled."""

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
    """Peak memory so far in MiB: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit >> 20


Times = dict[str, float]


NEARBY = ("inspect", "configparser", "optparse")
"""Modules of the standard library that play the files near the one that is filled, the nearest last."""


class BenchError(Exception):
    """Something cannot be measured on this machine. The message is for users."""


def summary(times: list[float]) -> Times:
    """Median and 95th percentile in milliseconds, of times in seconds."""
    ordered = sorted(1000 * seconds for seconds in times)
    return {"median_ms": round(statistics.median(ordered), 3), "p95_ms": round(ordered[int(0.95 * len(ordered))], 3)}


def timed(work: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each of `repeats` runs, after one run that does not count."""
    work()
    return [once(work) for _ in range(repeats)]


def finish_gpu() -> None:
    """Wait until the GPU, if there is one, has done all its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def excerpts(count: int) -> list[Excerpt]:
    """Holes at line starts, spread over a source file, each with a full prompt and nothing missing."""
    return [excerpt for excerpt, _ in places(count, 0)]


def places(count: int, missing: int, prompt_tokens: int = 512) -> list[tuple[Excerpt, tuple[str, ...]]]:
    """`count` holes at line starts, spread over a source file, each with its project text.

    At each, lines of about `missing` code points are missing. The excerpts are for a checkpoint that reads
    `prompt_tokens`. Project text is the rest of the file and `NEARBY`, about as much as the server reads.
    """
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
    """Times of several ways to do the same work, by their names. They take turns, so that other load on the machine
    falls on all of them. The first round does not count.

    A turn is `burst` runs in a row, timed together. Work that in use runs many times in a row, as denoising steps do,
    finds its weights in the processor's cache. It would not if another way ran in between.
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
    """Wall seconds of one run, the GPU's work included."""
    finish_gpu()
    started = time.perf_counter()
    work()
    finish_gpu()
    return time.perf_counter() - started
