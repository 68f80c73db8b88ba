"""Which checkpoint is meant by a name, and which one this machine should use."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from dgemma_model.checkpoint import catalogue, store
from dgemma_model.checkpoint.catalogue import Entry
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.checkpoint.machine import Machine, this_machine
from dgemma_model.checkpoint.pulling import hub
from dgemma_model.checkpoint.store import in_words


def embedded_directory() -> Path:
    """The checkpoint that ships inside this package."""
    return Path(str(files("dgemma_model") / "embedded"))


def find(checkpoint: str | None, device: str | None = None) -> Path:
    """The directory or `.gguf` file of the checkpoint that a user named; nothing is downloaded.

    That is a name of the catalogue, a directory or file, or a name on the hub that was pulled or is in the hub's own
    cache. Without a name, it is the best of those that are here for this machine, or for `device`
    (`default_checkpoint`).

    Raises:
        CheckpointError: it is not here; the message says how to get it.
    """
    if not checkpoint:
        return default_checkpoint(device).path
    if checkpoint == catalogue.EMBEDDED:
        return embedded_directory()
    if catalogue.named(checkpoint) is not None:
        if (there := store.stored(checkpoint)) is not None:
            return there.path
        raise CheckpointError(f"{checkpoint} is not on this machine; get it with `dgemma-lsp pull {checkpoint}`")
    try:
        path = Path(checkpoint).expanduser()
    except RuntimeError as error:
        raise CheckpointError(
            f"no checkpoint {checkpoint[:200]}: there is no such user; pass the whole path"
        ) from error
    if _exists(path):
        return path
    if store.is_hub_name(checkpoint) and not Path(checkpoint.partition("/")[0]).exists():
        if (there := store.stored(checkpoint)) is not None:
            return there.path
        if (cached := hub.cached_directory(checkpoint)) is not None:
            return cached
        raise CheckpointError(
            f"{checkpoint} is not on this machine; get it from the Hugging Face hub with `dgemma-lsp pull {checkpoint}`"
        )
    shown = checkpoint if len(checkpoint) <= 200 else f"{checkpoint[:200]}..."
    raise CheckpointError(
        f"no checkpoint {shown}; pass a directory, a .gguf file, owner/model on the Hugging Face hub, or one of "
        f"{catalogue.names()}"
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long for the file system
        return False


def name_of(path: Path) -> str:
    """What to call the checkpoint at `path`: its name in the store or on the hub, or else its file name."""
    folder = path if path.is_dir() else path.parent
    if folder.parent == store.root():
        return store.name_of(folder)
    return hub.name_in_cache(folder) or (path.name if path.is_dir() else path.stem)


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The row of the catalogue that a machine should use, and why."""

    entry: Entry
    why: str


def recommended(machine: Machine) -> Recommendation:
    """The checkpoint for `machine`: the largest GPU model that fits, else the default, else the embedded one."""
    for entry in catalogue.ENTRIES:
        if entry.on_gpu and machine.gpu_free_bytes is not None and entry.memory_bytes <= machine.gpu_free_bytes:
            free = f"{machine.gpu} has {in_words(machine.gpu_free_bytes)} free"
            return Recommendation(entry, f"{free}, and it needs {in_words(entry.memory_bytes)}")
    default = catalogue.named(catalogue.DEFAULT)
    embedded = catalogue.named(catalogue.EMBEDDED)
    assert default is not None and embedded is not None
    needs = in_words(default.memory_bytes)
    if machine.free_bytes is None:
        return Recommendation(default, f"it needs {needs} of memory (how much is free is unknown here)")
    free = f"{in_words(machine.free_bytes)} of memory are free"
    if default.memory_bytes <= machine.free_bytes:
        return Recommendation(default, f"{free}, and it needs {needs}")
    return Recommendation(embedded, f"{free}, and {default.name} needs {needs}")


def shortage(entry: Entry, machine: Machine) -> str | None:
    """What `machine` lacks to serve a row of the catalogue, in words; None where it lacks nothing that is known."""
    what = "GPU memory" if entry.on_gpu else "memory"
    free = machine.gpu_free_bytes if entry.on_gpu else machine.free_bytes
    if free is None:
        return f"it needs a GPU with {in_words(entry.memory_bytes)} free, and there is none" if entry.on_gpu else None
    if entry.memory_bytes <= free:
        return None
    return f"it needs {in_words(entry.memory_bytes)} of {what}, and {in_words(free)} are free"


def offer(entry: Entry) -> str:
    """What a user gets with a row of the catalogue: size, languages, quality and licence, in words."""
    size = in_words(entry.disk_bytes) if entry.sha256 or not entry.repository else f"about {in_words(entry.disk_bytes)}"
    right = f"{entry.quality} tasks right" if entry.quality else "not measured"
    return f"{size}, {entry.languages}, {right}, {entry.licence}"


@dataclass(frozen=True, slots=True)
class DefaultCheckpoint:
    """What is used where the user named no checkpoint."""

    name: str
    path: Path
    why: str
    better: Entry | None
    """What this machine should use instead, if it is not here or cannot be used."""
    advice: str | None
    """How to get it, in a sentence for the user."""


def default_checkpoint(device: str | None = None, machine: Machine | None = None) -> DefaultCheckpoint:
    """The recommended checkpoint if it is here, else the catalogue's default if that is, else the embedded one.

    `device` is where it will run, the GPU by default if there is one; `machine` is what to choose for instead of this
    one.
    """
    recommendation = recommended(machine or this_machine(look_for_gpu=device is None or device.startswith("cuda")))
    best, advice = recommendation.entry, None
    for name in dict.fromkeys((best.name, catalogue.DEFAULT)):
        if name == catalogue.EMBEDDED:
            break
        try:
            there = store.stored(name)
        except CheckpointError as error:
            advice = advice or str(error)
            continue
        if there is not None:
            why, better = (recommendation.why, None) if name == best.name else (_NO_BETTER, best)
            return DefaultCheckpoint(name, there.path, why, better, advice)
        advice = advice or f"{name} fills better on this machine; get it with `dgemma-lsp pull {name}` ({offer(best)})"
    why, better = (recommendation.why, None) if best.name == catalogue.EMBEDDED else (_NO_BETTER, best)
    return DefaultCheckpoint(catalogue.EMBEDDED, embedded_directory(), why, better, advice)


_NO_BETTER = "no better one that can be used is on this machine"
