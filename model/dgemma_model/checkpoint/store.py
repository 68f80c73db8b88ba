"""The folder where checkpoints are kept: what is there, what it takes, and how it is removed.

```
<data folder>/checkpoints/           or what DGEMMA_CHECKPOINTS names
  qwen2.5-coder-0.5b/
    source.json                      where the files came from, their hashes, and who vouches for them
    LICENSE  NOTICE  *.gguf
    converted/                       forms made from the files, ready to be mapped; may be deleted at any time
  owner@model/                       a repository of the hub that is not in the catalogue
  .converted/                        forms made from files outside this folder
  .pulling/                          downloads that have not ended; nothing in it is ever used
  .removing/                         what is being deleted
  .locks/
```

A folder gets its name only when all its files are there and checked, so what has a name is whole.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock, Timeout

from dgemma_model.checkpoint.errors import CheckpointError

logger = logging.getLogger(__name__)

Say = Callable[[str], object]
"""Is told in words what goes on, for the user."""

SOURCE_FILE = "source.json"
CONVERTED = "converted"
CONVERTED_ELSEWHERE = ".converted"
OTHER_FORMS = "converted"
"""What the forms made from files outside of the store are called in a table and when they are removed."""

_WORD = r"[A-Za-z0-9][\w.-]{0,95}"
_HUB_NAME = re.compile(f"{_WORD}/{_WORD}", re.ASCII)
_NAME = re.compile(f"{_WORD}(/{_WORD})?", re.ASCII)


def is_hub_name(checkpoint: str) -> bool:
    """Whether `checkpoint` has the form `owner/model`."""
    return _HUB_NAME.fullmatch(checkpoint) is not None


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of a stored checkpoint."""

    name: str
    size: int
    sha256: str
    verified_by: str | None
    """Who knew what the file should be: "catalogue" or "hub"; None if nobody did."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A checkpoint in the store."""

    name: str
    folder: Path
    source: str
    """Where it came from: "file", "hub cache", "hub" or "package index"."""
    repository: str | None
    revision: str | None
    files: tuple[StoredFile, ...]

    @property
    def path(self) -> Path:
        """What is loaded: the one `.gguf` file, or the folder of a published directory."""
        single = [file.name for file in self.files if file.name.endswith(".gguf")]
        return self.folder / single[0] if single else self.folder

    @property
    def verified(self) -> bool:
        """Whether somebody vouched for every file."""
        return all(file.verified_by is not None for file in self.files)

    @property
    def converted(self) -> Path:
        """The folder for forms that are made from its files; it may be missing."""
        return self.folder / CONVERTED

    def write(self) -> None:
        """Write its `source.json`."""
        content: dict[str, Any] = {
            "name": self.name,
            "source": self.source,
            "repository": self.repository,
            "revision": self.revision,
            "verified": self.verified,
            "files": [asdict(file) for file in self.files],
        }
        write_durably(self.folder / SOURCE_FILE, json.dumps(content, indent=1) + "\n")


def root() -> Path:
    """The store: what DGEMMA_CHECKPOINTS names, or a folder among the user's data; it may be missing."""
    if chosen := os.environ.get("DGEMMA_CHECKPOINTS"):
        return Path(chosen).expanduser().absolute()
    return platformdirs.user_data_path("dgemma-lsp", appauthor=False) / "checkpoints"


def folder_of(name: str) -> Path:
    """Where the checkpoint `name` is, or would be.

    Raises:
        CheckpointError: no checkpoint can have that name.
    """
    return root() / _folder_name(name)


def staging_of(name: str) -> Path:
    """Where `name` is put together while it is pulled.

    Raises:
        CheckpointError: no checkpoint can have that name.
    """
    return root() / ".pulling" / _folder_name(name)


def _folder_name(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        shown = name if len(name) <= 100 else f"{name[:100]}..."
        raise CheckpointError(
            f"{shown!r} is no name of a checkpoint; it is one of the catalogue (`dgemma-lsp checkpoints`) or "
            "owner/model on the Hugging Face hub"
        )
    return name.replace("/", "@")  # names have no @


def name_of(folder: Path) -> str:
    """The checkpoint that a folder of the store is for."""
    return folder.name.replace("@", "/")


def converted_folder(source: Path, sha256: str) -> Path:
    """Where forms of `source`, a file or directory whose content has that hash, belong: beside it if it is in the
    store."""
    folder = source if source.is_dir() else source.parent
    if folder.parent == root():
        return folder / CONVERTED
    return root() / CONVERTED_ELSEWHERE / sha256[:32]


def stored(name: str) -> Stored | None:
    """The checkpoint of that name, or None if it is not in the store.

    Raises:
        CheckpointError: its folder is damaged: a file is missing, or has another size than when it was pulled.
    """
    return _read(folder_of(name))


def stored_at(path: Path) -> Stored | None:
    """The stored checkpoint that `path`, its folder or its file, belongs to.

    Raises:
        CheckpointError: as `stored`.
    """
    folder = path if path.is_dir() else path.parent
    return _read(folder) if folder.parent == root() else None


def survey() -> tuple[list[Stored], dict[str, str]]:
    """Every whole checkpoint in the store, and what is wrong with each of the others, by name."""
    whole, damaged = [], {}
    for folder in _folders(root()):
        try:
            if (checkpoint := _read(folder)) is not None:
                whole.append(checkpoint)
        except CheckpointError as error:
            damaged[name_of(folder)] = str(error)
    return whole, damaged


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []


def _read(folder: Path) -> Stored | None:
    try:
        text = (folder / SOURCE_FILE).read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / SOURCE_FILE} cannot be read ({error})") from error
    name = name_of(folder)
    remedy = f"`dgemma-lsp remove {name}` and `dgemma-lsp pull {name}` put it right"
    try:
        content = json.loads(text)
        files = tuple(StoredFile(**file) for file in content["files"])
        checkpoint = Stored(name, folder, content["source"], content["repository"], content["revision"], files)
        names = [Path(file.name).name for file in files]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / SOURCE_FILE} is damaged; {remedy}") from error
    for file, plain in zip(files, names, strict=True):
        try:
            size = (folder / plain).stat().st_size
        except OSError as error:
            reason = error.strerror or str(error)
            raise CheckpointError(f"{plain} of the checkpoint {name} cannot be read ({reason}); {remedy}") from error
        if size != file.size:
            raise CheckpointError(
                f"{plain} of the checkpoint {name} has {size} bytes, and had {file.size} when it was pulled; {remedy}"
            )
    return checkpoint


def size_of(folder: Path) -> int:
    """Bytes that the files in `folder`, at any depth, hold; 0 if it is missing. Others may write and delete there."""
    return sum(_size(Path(parent, name)) for parent, _, names in os.walk(folder) for name in names)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:  # deleted meanwhile
        return 0


def in_words(size: int) -> str:
    """A number of bytes for people, in decimal units."""
    value = float(size)
    for unit in ("bytes", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def unfinished() -> dict[str, int]:
    """Interrupted downloads: how many bytes have arrived, by name."""
    return {name_of(folder): size_of(folder) for folder in _folders(root() / ".pulling")}


def removable(name: str) -> dict[Path, int]:
    """The folders that removing `name` deletes, with their sizes in bytes; none that this program did not make."""
    if name == OTHER_FORMS:
        places = [root() / CONVERTED_ELSEWHERE]
    else:
        places = [folder for folder in [folder_of(name)] if (folder / SOURCE_FILE).is_file()] + [staging_of(name)]
    return {place: size_of(place) for place in places if place.is_dir()}


def remove(name: str) -> int:
    """Delete `name`, what was converted from it and what is left of a download of it; returns the bytes freed.

    Raises:
        CheckpointError: it is being pulled, or may not be deleted; nothing of it is deleted then.
    """
    with hold(name):
        freed = 0
        trash = root() / ".removing"
        for place, size in removable(name).items():
            try:
                shutil.rmtree(trash, ignore_errors=True)  # of a process that was killed
                place.replace(trash)  # nobody ever finds half of it
                shutil.rmtree(trash)
            except OSError as error:
                raise CheckpointError(
                    f"{place} cannot be deleted ({error.strerror or error}); end the editors that use it, or change "
                    "its permissions, and remove it again"
                ) from error
            freed += size
    return freed


def hold(name: str, *, wait: bool = False) -> AbstractContextManager[object]:
    """Keep other processes from pulling or removing `name` until the end of the `with` block, or of this process.

    Raises:
        BusyError: another process holds it, and `wait` is false.
        CheckpointError: the store cannot be written.
    """
    locks = root() / ".locks"
    try:
        locks.mkdir(parents=True, exist_ok=True)
        return FileLock(locks / f"{_folder_name(name)}.lock").acquire(timeout=-1 if wait else 0)
    except Timeout as error:
        raise BusyError(f"another process is pulling or removing {name}; try again when it has ended") from error
    except OSError as error:
        raise CheckpointError(unwritable(error)) from error


@contextmanager
def hold_form(folder: Path, say: Say = logger.warning) -> Iterator[None]:
    """Keep other processes from making the converted form `folder` until the end of the `with` block, or of this
    process. Waits as long as another one makes it, which `say` is told in words, and removes what one that was killed
    has left.

    Where nothing can be locked, nobody waits: forms are written beside their place, so no reader finds half of one.
    """
    locks, name = root() / ".locks", hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    lock = FileLock(locks / f"form-{name}.lock")
    try:
        locks.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"another process is making {folder}; waiting until it has ended")
            lock.acquire()
    except (OSError, NotImplementedError) as error:
        logger.info("%s cannot be locked: %s", folder, error)
        yield
        return
    try:
        for left in folder.parent.iterdir() if folder.parent.is_dir() else ():
            if left.name.startswith(unfinished_prefix(folder)):
                shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        lock.release()


def unfinished_prefix(folder: Path) -> str:
    """How the names of folders begin in which the converted form `folder` is being made."""
    return f".{folder.name}."


class BusyError(CheckpointError):
    """Another process holds the checkpoint."""


def unwritable(error: OSError) -> str:
    """That the store cannot be written, why, and what to do."""
    return (
        f"checkpoints cannot be stored in {root()} ({error.strerror or error}); set DGEMMA_CHECKPOINTS to a folder "
        "that you may write to and that has room"
    )


def write_durably(path: Path, text: str) -> None:
    """Write a small file and have it on the disk before returning."""
    with path.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have the names in `folder` on the disk; does nothing where folders cannot be opened, as on Windows."""
    try:
        opened = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
