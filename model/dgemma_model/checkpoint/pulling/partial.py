"""A file on its way into the store: bytes are appended, the whole is checked, and only then it gets its name."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from dgemma_model.checkpoint import store
from dgemma_model.checkpoint.errors import CheckpointError

CHUNK_BYTES = 1 << 20

Progress = Callable[[int], None]
"""Is told how many bytes of the file have arrived."""


class UnavailableError(Exception):
    """A source cannot give the file; the message is for users, and the next source is tried."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file that is to be fetched; what is None is not known."""

    name: str
    size: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None
    """Of the object in which git keeps the file, for small files of the hub."""
    verified_by: str | None = None
    """Who says so: "catalogue" or "hub"."""


class Partial:
    """The part of `wanted` that has arrived in `folder`; it outlives the process and is continued by the next one.

    Its name holds the hash that is expected, so that another version of the file never continues it. Every source of
    that hash has the same bytes, so one source may continue what another one began.
    """

    def __init__(self, folder: Path, wanted: Wanted) -> None:
        self.wanted = wanted
        known = wanted.sha256 or wanted.git_sha1 or "unknown"
        self.folder = folder
        self.path = folder / f"{wanted.name}.{known[:16]}.partial"

    @property
    def size(self) -> int:
        """Bytes that have arrived."""
        return self.path.stat().st_size if self.path.exists() else 0

    @property
    def missing(self) -> int:
        """Bytes that are still to come; 0 where the size is unknown."""
        return max(0, (self.wanted.size or 0) - self.size)

    def append(self, chunks: Iterable[bytes], at: int, progress: Progress) -> None:
        """Write `chunks` from the byte `at` on, which must have been reached; bytes after it are dropped first.

        Raises:
            CheckpointError: the disk is full or cannot be written; what has arrived is kept.
        """
        try:
            file = self.path.open("r+b" if self.path.exists() else "wb")
        except OSError as error:
            raise CheckpointError(store.unwritable(error)) from error
        with file:
            for chunk in itertools.chain([b""], chunks):  # chunks may raise errors of their own
                try:
                    if not chunk:
                        file.truncate(at)
                        file.seek(at)
                    file.write(chunk)
                    file.flush()
                except OSError as error:
                    raise CheckpointError(store.unwritable(error)) from error
                progress(file.tell())
            try:
                os.fsync(file.fileno())
            except OSError as error:
                raise CheckpointError(store.unwritable(error)) from error

    def link(self, file: Path) -> None:
        """Take the whole of `file`, which nobody writes to any more: as a second name of it, or copied to another disk.

        Raises:
            CheckpointError: the disk is full or cannot be written.
        """
        self.discard()
        try:
            try:
                os.link(file.resolve(), self.path)
            except OSError:  # another disk, or one without links
                shutil.copyfile(file, self.path)
                with self.path.open("r+b") as copied:
                    os.fsync(copied.fileno())
        except OSError as error:
            raise CheckpointError(store.unwritable(error)) from error

    def discard(self) -> None:
        """Forget what has arrived."""
        self.path.unlink(missing_ok=True)

    def checked(self) -> store.StoredFile:
        """What has arrived, after its size and the hash of all its bytes, as they are on the disk, were checked.

        Raises:
            UnavailableError: they are not what was wanted; they are deleted.
            CheckpointError: the disk cannot be read.
        """
        wanted = self.wanted
        try:
            size = self.size
            whole, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
            with self.path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    whole.update(chunk)
                    if wanted.git_sha1 is not None:
                        git.update(chunk)
        except OSError as error:
            raise CheckpointError(store.unwritable(error)) from error
        self._check("size in bytes", wanted.size, size)
        self._check("sha256", wanted.sha256, whole.hexdigest())
        self._check("git hash", wanted.git_sha1, git.hexdigest())
        return store.StoredFile(wanted.name, size, whole.hexdigest(), wanted.verified_by)

    def _check(self, what: str, expected: int | str | None, found: int | str) -> None:
        if expected is not None and expected != found:
            self.discard()
            raise UnavailableError(
                f"{self.wanted.name} from there is not the right file, and what came was deleted: its {what} "
                f"should be {expected}, but is {found}"
            )


def check_room(name: str, needed: int, transient: int = 0) -> None:
    """Refuse to write `needed` bytes to the store, and `transient` more that are deleted again, if they do not fit.

    Raises:
        CheckpointError: it says the numbers and what to do.
    """
    free = shutil.disk_usage(store.root()).free
    if needed + transient > free:
        more = f" and {store.in_words(transient)} while it is put together" if transient else ""
        raise CheckpointError(
            f"{name} needs {store.in_words(needed)} more{more} in {store.root()}, "
            f"where {store.in_words(free)} are free; make room, or set DGEMMA_CHECKPOINTS to a folder on a larger disk"
        )
