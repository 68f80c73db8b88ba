"""Whether two versions of the program fill equally fast: the embedded checkpoint, in turns.

    python eval/same_speed.py CLONE_OF_ONE CLONE_OF_THE_OTHER [--rounds 3]

Each round starts a process of each version, which fills 14 places of `argparse.py`; prints the medians of the rounds in
milliseconds, and their ratio. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import inspect
import json
import optparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

WARM_UP, PLACES = 2, 16
BEFORE, AFTER = 1200, 400
"""Code points of an excerpt around a hole."""


def measured(checkpoint: str) -> dict[str, float]:
    """Median milliseconds of each kind of fill, by the version that is imported."""
    from dgemma_model.infill import Infiller
    from dgemma_model.request import Excerpt, FillRequest

    infiller = Infiller.load(checkpoint, "cpu")
    text = Path(argparse.__file__).read_text("utf-8")
    project = tuple(Path(module.__file__).read_text("utf-8") for module in (inspect, optparse))
    known = {field.name for field in fields(FillRequest)} & {"project_text", "elsewhere"}  # its name in older versions
    reading = dict.fromkeys(known, project)
    if hasattr(infiller, "index_ahead"):
        infiller.index_ahead(project)

    def fill(request: FillRequest) -> None:
        for _ in infiller.fill(request):
            pass

    def timed(request: FillRequest, before: FillRequest | None = None) -> float:
        if before is not None:
            fill(before)
        began = time.perf_counter()
        fill(request)
        return 1000 * (time.perf_counter() - began)

    taken: dict[str, list[float]] = {}
    for place in range(5000, len(text) - 5000, (len(text) - 10_000) // (PLACES - 2)):
        start = text.index("\n", place) + 1
        line = text[start : text.index("\n", start)]
        half, end = max(2, len(line) // 2), start + len(line)

        def typed(count: int, start: int = start, line: str = line, end: int = end) -> Excerpt:
            return Excerpt(text[start - BEFORE : start] + line[:count], text[end : end + AFTER])

        line_of: Callable[..., FillRequest] = lambda count, **more: FillRequest(  # noqa: E731
            typed(count), one_line=True, max_tokens=48, **more
        )
        times = {
            "a line, cold": timed(line_of(half - 1)),
            "a line after a keystroke": timed(line_of(half)),
            "the same, with other files": timed(line_of(half, **reading), line_of(half - 1, **reading)),
            "64 tokens": timed(FillRequest(typed(0), max_tokens=64, **reading)),
            "a canvas of 64": timed(FillRequest(typed(0), max_tokens=64, verify=False)),
        }
        for name, value in times.items():
            taken.setdefault(name, []).append(value)
    return {name: statistics.median(values[WARM_UP:]) for name, values in taken.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clones", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if len(arguments.clones) == 1:  # a process of a round
        print(json.dumps(measured(str(arguments.clones[0] / "model" / "dgemma_model" / "embedded"))))
        return
    rounds: dict[Path, list[dict[str, float]]] = {clone.resolve(): [] for clone in arguments.clones}
    for _ in range(arguments.rounds):
        for clone, found in rounds.items():
            paths = os.pathsep.join(map(str, (clone, clone / "model")))
            ran = subprocess.run(
                [sys.executable, str(Path(__file__).resolve()), str(clone)],
                env=os.environ | {"PYTHONPATH": paths},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            found.append(json.loads(ran.stdout))
    one, other = ([statistics.median(each[name] for each in found) for name in found[0]] for found in rounds.values())
    for name, first, second in zip(next(iter(rounds.values()))[0], one, other, strict=True):
        print(f"{name}: {first:.1f} {second:.1f} ms, {second / first:.2f}")


if __name__ == "__main__":
    main()
