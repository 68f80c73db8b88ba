"""The one door to the disk. Nothing else in `dgemma_lsp` opens, lists or looks at a file.

A repository may hold anything: named pipes, links to endless devices, folders that may not be entered. A mounted file
system may never answer. The functions here open regular files only, read no more than they are told to, and return a
`Fault` where the operating system would raise. They can still block, for instance on a network file system. So the
event loop uses `DiskThreads`, which never delay the end of the process.
"""

from __future__ import annotations

import asyncio
import errno
import os
import queue
import stat
import threading
from collections import Counter, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_CHUNK_BYTES = 1 << 20
_OPENING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOCTTY", 0)
_OPENING |= getattr(os, "O_BINARY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)

_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EINVAL})
"""What the operating system says of a path at which nothing can be."""


class Fault(Enum):
    """Why there is no answer; the values are for people."""

    MISSING = "No such file or directory"
    DENIED = "Permission denied"
    NOT_PRIVATE = "Others can read or change it, or it is not yours"
    NOT_REGULAR = "Not a regular file"
    TOO_LARGE = "File too large"
    BROKEN = "Input/output error"


@dataclass(frozen=True, slots=True)
class Stamp:
    """What changes when a file does."""

    device: int
    inode: int
    modified_ns: int
    size: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What people keep in a folder: its files and folders, without links and names that begin with a dot."""

    files: tuple[str, ...] = ()
    """Names, the last changed first."""
    folders: tuple[str, ...] = ()
    """Names, in order."""


def stamp(path: Path) -> Stamp | Fault:
    """The state of a regular file; links are followed. The null device is a regular file without content."""
    status = _asked(lambda: path.stat())
    if isinstance(status, Fault):
        return status
    if not stat.S_ISREG(status.st_mode) and not _is_null(status):
        return Fault.NOT_REGULAR
    return Stamp(status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)


def read(path: Path, most_bytes: int, *, follow: bool = True, private: bool = False) -> bytes | Fault:
    """The content of a regular file of at most `most_bytes`. With `follow`, a link to one will do, too; with `private`,
    nobody but its owner, this user or root, may be able to read or change it.

    Nothing else is ever opened: to open a pipe or a device may wait, or do something.
    """
    known = stamp(path)
    if isinstance(known, Fault):
        return known
    if known.size > most_bytes:
        return Fault.TOO_LARGE
    return _asked(lambda: _read(path, most_bytes, _OPENING if follow else _OPENING | _NO_LINK, private))


def _read(path: Path, most_bytes: int, flags: int, private: bool) -> bytes | Fault:
    descriptor = os.open(path, flags)
    try:
        status = os.fstat(descriptor)  # the path may be another file by now
        if _is_null(status):
            return b""
        if not stat.S_ISREG(status.st_mode):
            return Fault.NOT_REGULAR
        if private and not _is_private(status):
            return Fault.NOT_PRIVATE
        content = bytearray()
        while chunk := os.read(descriptor, min(_CHUNK_BYTES, most_bytes + 1 - len(content))):
            content += chunk
            if len(content) > most_bytes:  # it grows, or its size is not what it says
                return Fault.TOO_LARGE
        return bytes(content)
    finally:
        os.close(descriptor)


def _is_private(status: os.stat_result) -> bool:
    return os.name != "posix" or (status.st_uid in (0, os.geteuid()) and not status.st_mode & 0o077)


def is_there(path: Path) -> bool | Fault:
    """Whether a path names anything. A fault where that cannot be known."""
    found = _asked(lambda: path.stat())
    if isinstance(found, Fault):
        return False if found is Fault.MISSING else found
    return True


def is_folder(path: Path) -> bool:
    """Whether a path is a folder that can be looked at; links are followed."""
    found = _asked(lambda: path.stat())
    return not isinstance(found, Fault) and stat.S_ISDIR(found.st_mode)


def real(path: Path) -> Path:
    """The path without links, as far as they can be followed."""
    found = _asked(lambda: Path(os.path.realpath(path)))
    return path if isinstance(found, Fault) else found


def listing(folder: Path, most: int) -> Listing:
    """What is in a folder, of its first `most` entries; nothing where it cannot be listed."""
    found = _asked(lambda: _listing(folder, most))
    return Listing() if isinstance(found, Fault) else found


def _listing(folder: Path, most: int) -> Listing:
    files: list[tuple[int, str]] = []
    folders: list[str] = []
    with os.scandir(folder) as entries:
        for entry in islice(entries, most):
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            elif entry.is_file(follow_symlinks=False):
                files.append((-entry.stat(follow_symlinks=False).st_mtime_ns, entry.name))
    return Listing(tuple(name for _, name in sorted(files)), tuple(sorted(folders)))


def _asked(question: Callable[[], T | Fault]) -> T | Fault:
    try:
        return question()
    except ValueError:  # a null byte, or half a character
        return Fault.MISSING
    except PermissionError:
        return Fault.DENIED
    except OSError as error:
        return Fault.MISSING if error.errno in _ABSENT else Fault.BROKEN


def _is_null(status: os.stat_result) -> bool:
    if not stat.S_ISCHR(status.st_mode):
        return False
    null = _asked(lambda: Path(os.devnull).stat())
    return not isinstance(null, Fault) and status.st_rdev == null.st_rdev


_MOST_THREADS = 64
_MOST_EACH = 4
"""Threads that ask about the same place."""


class DiskThreads:
    """Threads that ask the disk, so that the event loop does not.

    They are started as needed. A thread that the disk never answers is abandoned; it is a daemon, so it ends with the
    process. A folder that hangs costs a few threads, however many questions there are about it. If all threads hang,
    no question is answered.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[Hashable, deque[Callable[[], None]]] = {}
        """By place, the questions that no thread has taken yet."""
        self._asking = Counter[Hashable]()
        """By place, the threads that ask about it, or will; each for as long as there are questions."""
        self._places: queue.SimpleQueue[Hashable] = queue.SimpleQueue()
        """One entry for each thread that will ask about the place."""
        self._threads = 0

    def ask(self, question: Callable[[], T], place: Hashable) -> asyncio.Future[T]:
        """The answer, which may never come. `place` says what hangs as a whole, such as a folder. For the event loop's
        thread; the future may be dropped."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def work() -> None:
            try:
                found = question()
            except Exception as error:
                _tell(loop, _fail, answer, error)
            else:
                _tell(loop, _answer, answer, found)

        with self._lock:
            self._waiting.setdefault(place, deque()).append(work)
            if self._asking[place] == _MOST_EACH:
                return answer
            self._asking[place] += 1
            self._places.put(place)
            needed = self._asking.total() > self._threads and self._threads < _MOST_THREADS
            self._threads += needed
        if needed:
            threading.Thread(target=self._work, name="disk", daemon=True).start()
        return answer

    def _work(self) -> None:
        while True:
            place = self._places.get()
            while (work := self._next(place)) is not None:
                work()

    def _next(self, place: Hashable) -> Callable[[], None] | None:
        """The next question about a place; with None, the thread leaves it."""
        with self._lock:
            if self._waiting[place]:
                return self._waiting[place].popleft()
            self._asking[place] -= 1
            if not self._asking[place]:
                del self._asking[place], self._waiting[place]
            return None


def _tell(loop: asyncio.AbstractEventLoop, how: Callable[..., None], *arguments: object) -> None:
    try:
        loop.call_soon_threadsafe(how, *arguments)
    except RuntimeError:  # the loop is closed: nobody waits
        return


def _answer(future: asyncio.Future[T], answer: T) -> None:
    if not future.done():
        future.set_result(answer)


def _fail(future: asyncio.Future[T], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
