"""Files on disk near a document: project text beside the open documents.

They are read on threads of their own, so that no request waits for a disk. A document whose folder was not read yet has
none. For a document in a folder of the workspace, the files of that folder are near. For any other document, only the
files of its own folder are, not those below it. Links are not followed. Files that `exclusions` rules out and large
files are not read. Text that looks like a secret is left out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from dgemma_lsp.documents import disk, secrets
from dgemma_lsp.documents.disk import DiskThreads, Fault, Stamp
from dgemma_lsp.documents.exclusions import Exclusions, name_rule, path_of
from dgemma_lsp.documents.text import Text

NEARBY_CHARS = 200_000
"""Code points of all files near a document together."""
_FILE_BYTES = 200_000
"""Bytes of the longest file that is read: longer ones were hardly written by hand."""
_MOST_ENTRIES = 2_000
"""Files and folders that are looked at for one document."""
_FOLDERS_KEPT = 16
"""Folders whose files are kept, those of the latest documents."""
_FRESH_S = 20.0
"""Seconds after which files are read again."""
_READING_S = 5.0
"""Most seconds that the files near a document are read; after that, the files read so far are used."""
_SKIPPED_FOLDERS = frozenset({"node_modules", "site-packages", "venv", "__pycache__", "build", "dist", "target"})


@dataclass(slots=True)
class _Folder:
    """What was read for the documents of one folder and kind."""

    read_at: float = float("-inf")
    files: list[tuple[Path, tuple[str, ...]]] = field(default_factory=list)
    """By their real paths, the nearest last."""
    reading: asyncio.Task[None] | None = None


class Workspace:
    """The files near each document, as they were when last read. For the event loop's thread."""

    def __init__(self, threads: DiskThreads, folders: Iterable[str] = ()) -> None:
        """`folders` are the workspace's, as uris."""
        self._threads = threads
        self._uris = tuple(folders)
        self._exclusions = Exclusions(self._uris)
        self._folders: dict[tuple[Path, str], _Folder] = {}
        self._read: dict[Path, tuple[Stamp, tuple[str, ...]]] = {}

    def near(self, uri: str, opened: Collection[Path] = ()) -> tuple[str, ...]:
        """Pieces of the files near a document, the nearest last, without those `opened`; what is read later is in a
        later answer."""
        path = path_of(uri)
        if path is None or path.suffix in ("", ".ipynb"):  # other notebooks are no text to go on with
            return ()
        key = path.parent, path.suffix
        folder = self._folders[key] = self._folders.pop(key, _Folder())
        if len(self._folders) > _FOLDERS_KEPT:
            self._forget(next(iter(self._folders)))
        if time.monotonic() - folder.read_at > _FRESH_S and (folder.reading is None or folder.reading.done()):
            folder.reading = asyncio.ensure_future(self._refresh(folder, path))
        return tuple(piece for file, pieces in folder.files if file != path and file not in opened for piece in pieces)

    def _forget(self, key: tuple[Path, str]) -> None:
        del self._folders[key]
        kept = {file for folder in self._folders.values() for file, _ in folder.files}
        self._read = {file: known for file, known in list(self._read.items()) if file in kept}

    async def settled(self) -> None:
        """Wait until all that is being read has been."""
        await asyncio.gather(*(folder.reading for folder in self._folders.values() if folder.reading))

    async def _refresh(self, folder: _Folder, path: Path) -> None:
        folder.files = await self._threads.ask(lambda: self._files_near(path), path.parent)
        folder.read_at = time.monotonic()

    def _files_near(self, path: Path) -> list[tuple[Path, tuple[str, ...]]]:
        """For a thread of the disk."""
        real, left, until = disk.real(path), NEARBY_CHARS, time.monotonic() + _READING_S
        rules = self._exclusions.rules_now()

        def is_hidden(folder: Path) -> bool:
            return rules.rule(folder, is_folder=True) is not None

        found: list[tuple[Path, tuple[str, ...]]] = []
        for file in islice(_candidates(real.parent, self._root(real), is_hidden), _MOST_ENTRIES):
            if time.monotonic() > until:
                break
            if file.suffix != path.suffix or file == real or name_rule(file) is not None:
                continue
            if rules.rule(file) is not None:
                continue
            pieces = self._pieces(file)
            left -= sum(map(len, pieces))
            if left < 0:
                break
            found.append((file, pieces))
        return found[::-1]

    def _pieces(self, file: Path) -> tuple[str, ...]:
        """The text of a file; the same strings as long as it stays as it is."""
        state = disk.stamp(file)
        if isinstance(state, Fault):  # gone meanwhile, or not ours to read
            return ()
        known = self._read.get(file)
        if known is not None and known[0] == state:
            return known[1]
        content = disk.read(file, _FILE_BYTES, follow=False)
        try:
            written = "" if isinstance(content, Fault) else content.decode("utf-8")
        except UnicodeDecodeError:
            written = ""
        pieces = tuple(Text(secrets.masked(written.replace("\r\n", "\n").replace("\r", "\n"))).pieces())
        self._read[file] = state, pieces  # which may be forgotten at once: other folders are read meanwhile
        return pieces

    def _root(self, path: Path) -> Path | None:
        """The uppermost folder whose files are near to a real path: the workspace's folder; None outside of it."""
        folders = (disk.real(folder) for folder in map(path_of, self._uris) if folder is not None)
        holding = [folder for folder in folders if folder in path.parents]
        return max(holding, key=lambda folder: len(folder.parts), default=None)


def _candidates(folder: Path, root: Path | None, is_hidden: Callable[[Path], bool]) -> Iterator[Path]:
    """Files of a folder, then of the folders in it, then of the folder above and its other folders, up to `root`; the
    last changed of a folder first. Without a root those of the folder itself only."""
    done: set[Path] = set()
    while True:
        waiting = [folder]
        while waiting:
            here = waiting.pop(0)
            if here in done or is_hidden(here):
                continue
            if len(done) == _MOST_ENTRIES:
                return
            done.add(here)
            listed = disk.listing(here, _MOST_ENTRIES)
            yield from (here / name for name in listed.files)
            if root is not None:
                waiting += (here / name for name in listed.folders if name not in _SKIPPED_FOLDERS)
        if root in (None, folder) or folder == folder.parent:
            return
        folder = folder.parent
