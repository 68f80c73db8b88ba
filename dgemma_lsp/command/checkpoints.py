"""What the commands `checkpoints` and `remove` do."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict

from rich.console import Console
from rich.padding import Padding
from rich.prompt import Confirm
from rich.table import Table
from rich.text import Text

from dgemma_model.checkpoint import catalogue, store
from dgemma_model.checkpoint.catalogue import Entry
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.checkpoint.machine import Machine, this_machine
from dgemma_model.checkpoint.selection import DefaultCheckpoint, default_checkpoint, offer, recommended, shortage
from dgemma_model.checkpoint.store import Stored, in_words

UNKNOWN = "–"


def show(*, as_json: bool) -> None:
    """Print which checkpoints there are, which are here, and which one this machine should use."""
    machine = this_machine()
    whole, damaged = store.survey()
    here, unfinished = {checkpoint.name: checkpoint for checkpoint in whole}, store.unfinished()
    used = default_checkpoint(machine=machine)
    if as_json:
        print(json.dumps(_as_json(machine, here, damaged, unfinished, used), indent=1))
        return
    console = Console(highlight=False)
    console.print(_line("name", "here", "download", "memory", "right", "licence"), style="bold")
    for entry in catalogue.ENTRIES:
        download = in_words(entry.disk_bytes) if entry.sha256 else f"~{in_words(entry.disk_bytes)}"
        numbers = ("in the package", UNKNOWN) if entry.repository is None else (_size(entry.name, here), download)
        memory, quality = in_words(entry.memory_bytes), entry.quality or UNKNOWN
        console.print(_line(entry.name, *numbers, memory, quality, entry.licence))
        speed = f"; {entry.speed}" if entry.speed else ""
        _detail(console, f"{entry.about}; {entry.languages}; for {entry.suits}{speed}")
        if lack := shortage(entry, machine):
            _detail(console, f"too large for this machine now: {lack}")
        for sentence in _disk(entry.name, here, damaged, unfinished):
            _detail(console, sentence)
    known = {entry.name for entry in catalogue.ENTRIES}
    for name in sorted((here.keys() | damaged.keys() | unfinished.keys()) - known):
        console.print(_line(name, _size(name, here), *(UNKNOWN,) * 4))
        for sentence in _disk(name, here, damaged, unfinished):
            _detail(console, sentence)
    console.print(
        "\nright: tasks of HumanEval-Infilling, single line, whose first line was right, of how many; "
        f"{UNKNOWN} was not measured",
        style="dim",
    )
    if other := sum(store.removable(store.OTHER_FORMS).values()):
        say(
            console,
            f"Converted forms of files outside of the store: {in_words(other)} "
            f"(`dgemma-lsp remove {store.OTHER_FORMS}` deletes them).",
        )
    for sentence in (f"Kept in {store.root()}.", *_advice(machine, used)):
        say(console, sentence)


def _line(*cells: str) -> Table:
    """A row of the table; its description is printed below it."""
    table = Table.grid(padding=(0, 1))
    for width in (24, 14, 8, 7, 11, 10):
        table.add_column(width=width, overflow="fold")
    table.add_row(*cells)
    return table


def _detail(console: Console, sentence: str) -> None:
    console.print(Padding(Text(sentence, style="dim"), (0, 0, 0, 2)))


def say(console: Console, sentence: str) -> None:
    console.print(sentence, markup=False, soft_wrap=True)


def _size(name: str, here: dict[str, Stored]) -> str:
    return in_words(store.size_of(here[name].folder)) if name in here else "no"


def _disk(name: str, here: dict[str, Stored], damaged: dict[str, str], unfinished: dict[str, int]) -> Iterator[str]:
    """What is on the disk of a checkpoint, in sentences."""
    if name in here:
        converted = store.size_of(here[name].converted)
        form = f", {in_words(converted)} of it converted" if converted else ""
        yield f"here from the {here[name].source}{form}, {vouched(here[name])}"
    if name in damaged:
        yield f"cannot be used: {damaged[name]}"
    if name in unfinished:
        yield f"{in_words(unfinished[name])} have arrived; `dgemma-lsp pull {name}` continues"


def _advice(machine: Machine, used: DefaultCheckpoint) -> Iterator[str]:
    """What this machine has, what it should use, and what it uses."""
    memory = ", ".join(
        f"{in_words(size)} {what}"
        for size, what in ((machine.total_bytes, "memory"), (machine.free_bytes, "free"))
        if size
    )
    gpu = (
        f"{machine.gpu} with {in_words(machine.gpu_free_bytes or 0)} free"
        if machine.gpu
        else "no GPU that torch can use"
    )
    best = recommended(machine)
    yield f"This machine: {memory or 'memory unknown'}; {gpu}."
    yield f"It should use {best.entry.name}: {best.why}."
    yield f"Without a checkpoint in the settings it uses {used.name}" + (f"; {used.advice}." if used.advice else ".")


def _as_json(
    machine: Machine,
    here: dict[str, Stored],
    damaged: dict[str, str],
    unfinished: dict[str, int],
    used: DefaultCheckpoint,
) -> dict[str, object]:
    best = recommended(machine)
    rows: list[dict[str, object]] = [_row_json(entry, machine) for entry in catalogue.ENTRIES]
    known = {entry.name for entry in catalogue.ENTRIES}
    rows += [{"name": name} for name in sorted((here.keys() | damaged.keys() | unfinished.keys()) - known)]
    for row in rows:
        name = str(row["name"])
        row["path"] = str(here[name].path) if name in here else None
        row["stored_bytes"] = store.size_of(here[name].folder) if name in here else 0
        row["converted_bytes"] = store.size_of(here[name].converted) if name in here else 0
        row["verified"] = here[name].verified if name in here else None
        row["unfinished_bytes"] = unfinished.get(name, 0)
        row["problem"] = damaged.get(name)
    return {
        "store": str(store.root()),
        "machine": asdict(machine),
        "recommended": {"name": best.entry.name, "why": best.why},
        "used": {"name": used.name, "path": str(used.path), "why": used.why, "advice": used.advice},
        "converted_elsewhere_bytes": sum(store.removable(store.OTHER_FORMS).values()),
        "checkpoints": rows,
    }


def _row_json(entry: Entry, machine: Machine) -> dict[str, object]:
    row = asdict(entry)
    del row["wheels"]
    return row | {"offer": offer(entry), "shortage": shortage(entry, machine)}


def vouched(checkpoint: Stored) -> str:
    """Whether the files are what they should be, in words."""
    if not checkpoint.verified:
        return "unverified: nobody knows a hash of it to compare"
    who = " and ".join(sorted({f"the {file.verified_by}" for file in checkpoint.files}))
    return f"verified: size and hash are what {who} says"


def remove(name: str, *, unasked: bool) -> bool:
    """Delete a checkpoint, its converted forms and what is left of a pull of it, after asking; whether that was done.

    Raises:
        CheckpointError: nothing of it is here, it is in use, it may not be deleted, or nobody can be asked.
    """
    console = Console(stderr=True, highlight=False)
    places = store.removable(name)
    if not places:
        raise CheckpointError(f"nothing of {name} is in {store.root()}")
    for place, size in places.items():
        say(console, f"{place}  {in_words(size)}")
    if not unasked:
        if not sys.stdin.isatty():
            raise CheckpointError("nothing is deleted, because nobody can be asked here; pass --yes")
        if not Confirm.ask("Delete this?", console=console, default=False):
            return False
    freed = store.remove(name)
    say(console, f"{name} is deleted; {in_words(freed)} are free again")
    return True
