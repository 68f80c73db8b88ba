"""What the command `eval` does: fills held-out holes as the server would, judges the fills, and prints tables.

The work is shared out over processes of one thread each, a few cases of one way to fill at a time.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from multiprocessing import active_children, get_context
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

from dgemma_lsp.command.check import weights_digest
from dgemma_lsp.command.eval_fill import Overrides, fill_case
from dgemma_lsp.command.eval_tables import comparisons, tables
from dgemma_lsp.command.loading import ModelOptions, UserError, load_infiller
from dgemma_lsp.command.opened import TASK_TOKENS, task_ends_with_line
from dgemma_model.checkpoint.config import Quantize
from dgemma_model.evaluation import calibration, confinement
from dgemma_model.evaluation.baselines import BASELINES
from dgemma_model.evaluation.cases import TASKS_FOLDER, Task, read_quiet, read_tasks
from dgemma_model.evaluation.held_out import (
    CLASSIC,
    SETS,
    Case,
    case_of_outside_task,
    case_of_quiet,
    case_of_task,
    read_set,
)
from dgemma_model.evaluation.judging import Fill
from dgemma_model.evaluation.report import DEFAULT_WAY, QUIET, rows, write_csv

if TYPE_CHECKING:
    from dgemma_model.infill import Infiller


WAYS: dict[str, Overrides] = {
    DEFAULT_WAY: {},
    "plain": {"verify": False, "together": True, "max_denoising_steps": 8},
    "token-by-token": {"verify": True, "together": False, "drafting": "none", "copy_weight": 0.0},
}
OTHER_WAYS: dict[str, Overrides] = {
    "alone": {},
    "token-by-token-copying": {"verify": True, "together": False, "drafting": "none"},
    "one-by-one": {"together": False},
    "together": {"together": True},
    "denoised": {"denoise": True, "together": True, "max_denoising_steps": 8},
    "renoised": {"verify": False, "max_denoising_steps": 8, "renoise": True},
    "drafts-copied": {"verify": True, "drafting": "copied"},
    "drafts-denoised": {"verify": True, "drafting": "denoised"},
    "drafts-both": {"verify": True, "drafting": "both"},
}
STEPS = (1, 2, 4, 8, 16, 48)
BUDGETS_MS = (10, 25, 50, 100, 200, 400)
DIALS: dict[str, Overrides] = {
    **{f"plain, {steps} steps": {**WAYS["plain"], "max_denoising_steps": steps} for steps in STEPS},
    **{f"plain, {ms} ms": {"verify": False, "together": True, "budget_ms": float(ms)} for ms in BUDGETS_MS},
    **{f"default, {ms} ms": {"budget_ms": float(ms)} for ms in BUDGETS_MS},
    DEFAULT_WAY: {},
}
"""Quality against steps and time."""
DIAL_KINDS = ("line", "rest_of_line", "expression", "statement", "block")


SAMPLE_SEED = 1
FEWEST = 10
"""Cases of a kind that stay in a sample, where there are so many."""
UNIT = 12
"""Cases that a process takes at once."""


def evaluate(
    checkpoint: str | None,
    device: str | None,
    quantize: Quantize | None = None,
    *,
    ways: Sequence[str] = (),
    kinds: Sequence[str] = (),
    sample: int | None = None,
    held_out: str = CLASSIC,
    tasks: Path | None = None,
    one_line: bool | None = None,
    dials: bool = False,
    output: Path | None = None,
    calibrate: Path | None = None,
    unconfined: bool = False,
) -> None:
    """Fill, judge, print, and write the table to `output`; a reliability plot of the default way to `calibrate`.

    `unconfined` says that programs written by the model may run with the user's rights where nothing confines them;
    otherwise cases that are judged by running them are left out there.

    Raises:
        UserError: no such way, kind or set, no such file, a broken one, or a checkpoint that cannot be used.
    """
    chosen = _chosen_ways(ways, dials=dials)
    if one_line is not None and tasks is None:
        raise UserError("--one-line and --no-one-line are about outside --tasks: the committed cases know how they end")
    if calibrate is not None and DEFAULT_WAY not in chosen:
        raise UserError(f"--calibration is about the way {DEFAULT_WAY!r}: leave it among the --ways")
    for path in (output, calibrate):
        if path is not None and not path.parent.is_dir():
            raise UserError(f"there is no folder {path.parent} for {path.name}")
    wanted = kinds or (DIAL_KINDS if dials and tasks is None else ())
    cases = drawn(_chosen_kinds(read_cases(tasks, held_out, one_line=one_line), wanted), sample)
    if not unconfined and confinement.find() is None:
        cases = without_programs(cases)
    infiller = load_infiller(checkpoint, device, quantize, cache_bytes=0)
    options = ModelOptions(checkpoint, device, quantize)
    started = perf_counter()
    runs = fill_all(cases, chosen, infiller, options, unconfined=unconfined)
    table = rows(checkpoint_name(infiller.name, checkpoint), runs)
    console = Console(width=160, highlight=False)
    for shown in tables(table):
        console.print(shown)
    for line in comparisons(table):
        console.print(line)
    for fill in [fill for fills in runs.values() for fill in fills if fill.failure][:5]:
        console.print(f"{fill.case.id} could not be filled: {fill.failure}", markup=False)
    console.print(f"{perf_counter() - started:.0f} s")
    if output is not None:
        write_csv(output, table)
    if calibrate is not None:
        reliability = calibration.measured(runs[DEFAULT_WAY], infiller.threshold)
        calibrate.write_text(calibration.svg(reliability), "utf-8")
        console.print(calibration.summary(reliability), markup=False)


def read_cases(tasks: Path | None, held_out: str = CLASSIC, *, one_line: bool | None = None) -> list[Case]:
    """All committed cases with the holes of one set; or those of a file of outside tasks, which end where
    `task_ends_with_line` says, or all of them as `one_line` says.

    Raises:
        UserError: a file is not there, or not as it should be; there is no such set.
    """
    if held_out not in SETS:
        raise UserError(f"there is no set {held_out!r} of held-out holes; there are: {', '.join(SETS)}")
    chosen = SETS[held_out]
    try:
        if tasks is not None:
            if tasks.is_dir():
                raise UserError(f"{tasks} is a folder; --tasks wants a file of JSON lines")
            return [_outside_case(task, one_line) for task in read_tasks(tasks)]
        return [
            *read_set(chosen),
            *map(case_of_task, read_tasks(TASKS_FOLDER)),
            *map(case_of_quiet, read_quiet(*chosen.quiet)),
        ]
    except OSError as error:
        where = "" if tasks is not None else f"; run it from a clone of the repository, where {chosen.holes} is"
        raise UserError(f"{error.filename}: {error.strerror or error}{where}") from error
    except ValueError as error:
        raise UserError(str(error)) from error


def _outside_case(task: Task, one_line: bool | None) -> Case:
    if one_line is None:
        one_line = task_ends_with_line(task.prefix, task.suffix, task.language)
    return case_of_outside_task(task, one_line=one_line, max_tokens=TASK_TOKENS)


def drawn(cases: Sequence[Case], count: int | None) -> list[Case]:
    """About `count` of the cases, each kind in proportion but with at least `FEWEST`; the same ones every time."""
    if count is None or count >= len(cases):
        return list(cases)
    rng = random.Random(SAMPLE_SEED)
    chosen: list[Case] = []
    for kind in dict.fromkeys(case.kind for case in cases):
        of_kind = [case for case in cases if case.kind == kind]
        wanted = min(len(of_kind), max(FEWEST, round(count * len(of_kind) / len(cases))))
        chosen += rng.sample(of_kind, wanted)
    return chosen


def without_programs(cases: Sequence[Case]) -> list[Case]:
    """The cases that are judged without running what the model wrote; says how many others there are.

    Raises:
        UserError: all are others.
    """
    kept = [case for case in cases if case.task is None]
    if len(kept) < len(cases):
        reason = (
            f"{len(cases) - len(kept)} cases run programs that the model writes, and nothing confines programs here: "
            "install bubblewrap, or allow user namespaces. --run-model-programs-unconfined runs them with your rights"
        )
        if not kept:
            raise UserError(reason)
        Console(stderr=True, highlight=False, markup=False).print(f"left out: {reason}", soft_wrap=True)
    return kept


def _chosen_ways(names: Sequence[str], *, dials: bool) -> dict[str, Overrides | None]:
    """Ways to fill by name, None for baselines, which know no requests."""
    baselines: dict[str, Overrides | None] = dict.fromkeys(BASELINES)
    known = WAYS | OTHER_WAYS | baselines
    if names and dials:
        raise UserError("--dials has ways of its own: leave out --ways")
    for name in names:
        if name not in known:
            raise UserError(f"there is no way {name!r} to fill; there are: {', '.join(known)}")
    if dials:
        return {**DIALS}
    return {name: known[name] for name in names} if names else {**WAYS, **baselines}


def _chosen_kinds(cases: list[Case], kinds: Sequence[str]) -> list[Case]:
    known = dict.fromkeys(case.kind for case in cases)
    for kind in kinds:
        if kind not in known:
            raise UserError(f"there is no kind {kind!r} among the cases; there are: {', '.join(known)}")
    return [case for case in cases if not kinds or case.kind in kinds]


def checkpoint_name(name: str, checkpoint: str | None) -> str:
    """The checkpoint's name and the beginning of its weights' hash: what the table calls it."""
    from dgemma_model.checkpoint.selection import find

    path = find(checkpoint)
    digest = weights_digest(sorted(path.glob("*.safetensors")) if path.is_dir() else [path])
    return f"{name} {digest[:8]}" if digest else name


# ------------------------------------------------------------------ filling


@dataclass(frozen=True, slots=True)
class Unit:
    """What one process does at a time: some cases, filled in one way."""

    way: str
    overrides: Overrides | None
    cases: Sequence[Case]
    unconfined: bool


def fill_all(
    cases: Sequence[Case],
    ways: Mapping[str, Overrides | None],
    infiller: Infiller,
    options: ModelOptions,
    *,
    unconfined: bool = False,
) -> dict[str, list[Fill]]:
    """Every case in every way, in their order; baselines leave out what only a server can decide."""
    units: list[Unit] = []
    for way, overrides in ways.items():
        fillable = [case for case in cases if overrides is not None or case.kind != QUIET]
        units += [Unit(way, overrides, fillable[at : at + UNIT], unconfined) for at in range(0, len(fillable), UNIT)]
    processes = min(_cores(), len(units)) if infiller.device == "cpu" else 1
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    done: dict[int, list[Fill]] = {}
    total = sum(len(unit.cases) for unit in units)
    console = Console(stderr=True, highlight=False)
    console.print(f"{total} fills: {len(cases)} cases, {len(ways)} ways, {processes} at a time")
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("filling", total=total)
        for number, fills in _work(units, infiller, processes, options):
            done[number] = fills
            progress.update(task, advance=len(fills), description=units[number].way)
    runs: dict[str, list[Fill]] = {way: [] for way in ways}
    for number, unit in enumerate(units):
        runs[unit.way] += done[number]
    return runs


def _cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _work(
    units: Sequence[Unit], infiller: Infiller, processes: int, options: ModelOptions
) -> Iterator[tuple[int, list[Fill]]]:
    """The number of each unit and its fills, as they come. What ends this early ends the processes, too."""
    if processes <= 1:
        for number, unit in enumerate(units):
            yield number, _filled(unit, infiller)
        return
    before = signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # from before there is anything to be left behind
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_begin)
    is_done = False
    try:
        numbers = {pool.submit(_fill_unit, unit, options): at for at, unit in enumerate(units)}
        for future in as_completed(numbers):
            yield numbers[future], future.result()
        is_done = True
    except BrokenProcessPool as error:
        raise UserError("a process ended that was filling; is there memory enough? try --device cpu") from error
    finally:
        pool.shutdown(wait=is_done, cancel_futures=True)
        for child in () if is_done else active_children():
            child.terminate()
        signal.signal(signal.SIGTERM, before)


def _begin() -> None:
    """Each process has one thread, and leaves it to the first one to be interrupted."""
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@cache
def _infiller(options: ModelOptions) -> Infiller:
    return load_infiller(options.checkpoint, options.device, options.quantize, cache_bytes=0)


def _fill_unit(unit: Unit, options: ModelOptions) -> list[Fill]:
    return _filled(unit, _infiller(options))


def _filled(unit: Unit, infiller: Infiller) -> list[Fill]:
    return [fill_case(case, unit.way, unit.overrides, infiller, unconfined=unit.unconfined) for case in unit.cases]


# ------------------------------------------------------------------- tables
