"""What the command `pull` does: bring a checkpoint into the store, and say how it goes to people or to programs."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from dgemma_lsp.command.checkpoints import say, vouched
from dgemma_model.checkpoint import catalogue, store
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.checkpoint.machine import this_machine
from dgemma_model.checkpoint.pulling import pull as pulling
from dgemma_model.checkpoint.selection import shortage
from dgemma_model.checkpoint.store import Stored, in_words

_EVERY_BYTES = 1_000_000
"""How often programs hear of a file whose size is not known."""


class Teller(pulling.Listener, Protocol):
    """Who tells how a pull goes, to its end."""

    def converting(self, share: float) -> None:
        """This share of the form that is served has been made, from 0 to 1."""

    def ended(self, checkpoint: Stored) -> None:
        """It is here."""


def pull(name: str, given: Path | None) -> None:
    """Bring a checkpoint into the store, with a bar for each of its files on standard error.

    Raises:
        CheckpointError: it cannot be had; the message says why.
    """
    console = Console(stderr=True, highlight=False)
    columns = (
        TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1)),
        BarColumn(bar_width=20),
        TextColumn("{task.percentage:>3.0f} %", table_column=Column(no_wrap=True)),
        DownloadColumn(table_column=Column(no_wrap=True)),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, expand=True) as progress:
        _pull(name, given, _Shown(console, progress))


def pull_for_programs(name: str, given: Path | None) -> int:
    """The same with one JSON document a line on standard output; the exit code.

    Each has an `event`: `said` with a `message`; `progress` with what it is `doing`, the `share` from 0 to 1 or null,
    and the `bytes` that are here; and at the end `done`, `failed` or `interrupted` with a `message`. Whoever reads them
    may end the process by SIGTERM, and need not read to the end: what has arrived is kept.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _pull(name, given, _Events())
    except CheckpointError as error:
        _emit("failed", message=str(error))
        return 2
    except KeyboardInterrupt:
        _emit("interrupted", message="what has arrived is kept, and pulling again continues")
        return 130
    return 0


def _pull(name: str, given: Path | None, teller: Teller) -> None:
    entry = catalogue.named(name)
    if entry is not None and (lack := shortage(entry, this_machine())):
        teller.say(f"{name} may be too large for this machine: {lack}")
    checkpoint = pulling.pull(name, teller, given=given)
    if checkpoint.path.suffix == ".gguf":
        _convert(checkpoint.path, teller)
    teller.ended(checkpoint)


def _convert(path: Path, teller: Teller) -> None:
    """Make the form that is served now, so that the first start takes as long as every other one. A file that cannot be
    converted stays, and `load` says why."""
    from dgemma_model.checkpoint.causal_code import converted_form  # imports torch

    try:
        converted_form(path, teller.converting, teller.say)
    except CheckpointError as error:
        teller.say(f"it cannot be converted: {error}")


def _in_words(checkpoint: Stored) -> str:
    size = in_words(store.size_of(checkpoint.folder))
    return f"{checkpoint.name} is in {checkpoint.folder}, {size}, from the {checkpoint.source}; {vouched(checkpoint)}"


class _Shown:
    """Shows a pull: a bar for each file in a terminal, otherwise a line at every tenth."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._console = console
        self._progress = progress
        self._file, self._size, self._tenth = "", 0, 0
        self._task = TaskID(0)
        self._converting: TaskID | None = None

    def say(self, message: str) -> None:
        say(self._console, message)

    def begin(self, file: str, size: int | None) -> None:
        self._file, self._size, self._tenth = file, size or 0, 0
        self._task = self._progress.add_task(file, total=size)

    def arrived(self, count: int) -> None:
        self._progress.update(self._task, completed=count)
        tenth = 10 * count // self._size if self._size else 0
        if tenth > self._tenth and not self._console.is_terminal:
            say(self._console, f"{self._file}: {10 * tenth} % of {in_words(self._size)}")
        self._tenth = max(tenth, self._tenth)

    def converting(self, share: float) -> None:
        if self._converting is None:
            self._converting = self._progress.add_task("converting", total=self._size)
        self._progress.update(self._converting, completed=share * self._size)

    def ended(self, checkpoint: Stored) -> None:
        self.say(_in_words(checkpoint))


class _Events:
    """Tells programs of a pull; of progress at every per cent."""

    def __init__(self) -> None:
        self._file, self._size, self._told = "", 0, -1

    def say(self, message: str) -> None:
        _emit("said", message=message)

    def begin(self, file: str, size: int | None) -> None:
        self._file, self._size, self._told = file, size or 0, -1

    def arrived(self, count: int) -> None:
        share = min(1.0, count / self._size) if self._size else None
        self._progress(self._file, share, count if share is None else round(share * self._size))

    def converting(self, share: float) -> None:
        if self._file:
            self._file, self._told = "", -1
        self._progress("converting", share, 0)

    def _progress(self, doing: str, share: float | None, count: int) -> None:
        step = count // _EVERY_BYTES if share is None else int(100 * share)
        if step > self._told:
            self._told = step
            _emit("progress", doing=doing, share=share, bytes=count)

    def ended(self, checkpoint: Stored) -> None:
        _emit("done", message=_in_words(checkpoint), name=checkpoint.name, path=str(checkpoint.path))


def _emit(event: str, **content: object) -> None:
    """Print a line. When nobody reads any more, that is an interruption; as an error it would pass for one of the
    network, which is tried again."""
    try:
        print(json.dumps({"event": event, **content}), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise KeyboardInterrupt from None
