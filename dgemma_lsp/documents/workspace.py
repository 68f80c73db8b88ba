"""Files on disk that are near a document: what the model may know of the project beside the open documents.

They are read on a thread of their own, so that no request waits for a disk; a document whose folder was not read yet
has none. What the rules of `exclusions` keep out is not read, nor what is large.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from dgemma_lsp.documents.exclusions import Exclusions, path_of
from dgemma_lsp.documents.text import Text

NEARBY_CHARS = 200_000
"""Code points of all files near a document together."""
_FILE_BYTES = 200_000
"""Longer files were hardly written by hand."""
_MOST_ENTRIES = 2_000
"""Files and folders that are looked at for one document."""
_FOLDERS_KEPT = 16
"""Folders whose files are kept, those of the latest documents."""
_FRESH_S = 20.0
"""How long what was read counts as what is there."""
_SKIPPED_FOLDERS = frozenset({"node_modules", "site-packages", "venv", "__pycache__", "build", "dist", "target"})


@dataclass(slots=True)
class _Folder:
    """What was read for the documents of one folder and kind."""

    read_at: float = float("-inf")
    files: list[tuple[Path, tuple[str, ...]]] = field(default_factory=list)
    """The nearest last."""
    reading: asyncio.Task[None] | None = None


class Workspace:
    """The files near each document, as they were when last read. For the event loop's thread."""

    def __init__(self, folders: Iterable[str] = ()) -> None:
        """`folders` are the workspace's, as uris: files outside of them are near to a document of their own folder
        only."""
        self._uris = tuple(folders)
        self._folders: dict[tuple[Path, str], _Folder] = {}
        self._read: dict[Path, tuple[tuple[int, int], tuple[str, ...]]] = {}

    def near(self, uri: str, open_uris: Collection[str] = ()) -> tuple[str, ...]:
        """Pieces of the files near a document, the nearest last, without those that are open; what is read later is in
        a later answer."""
        path = path_of(uri)
        if path is None or path.suffix in ("", ".ipynb"):  # other notebooks are no text to go on with
            return ()
        key = path.parent, path.suffix
        folder = self._folders[key] = self._folders.pop(key, _Folder())
        if len(self._folders) > _FOLDERS_KEPT:
            self._forget(next(iter(self._folders)))
        if time.monotonic() - folder.read_at > _FRESH_S and (folder.reading is None or folder.reading.done()):
            folder.reading = asyncio.ensure_future(self._refresh(folder, path))
        opened = {path, *(path_of(other) for other in open_uris)}
        return tuple(piece for file, pieces in folder.files if file not in opened for piece in pieces)

    def _forget(self, key: tuple[Path, str]) -> None:
        del self._folders[key]
        kept = {file for folder in self._folders.values() for file, _ in folder.files}
        self._read = {file: known for file, known in list(self._read.items()) if file in kept}

    async def settled(self) -> None:
        """Wait until all that is being read has been."""
        await asyncio.gather(*(folder.reading for folder in self._folders.values() if folder.reading))

    async def _refresh(self, folder: _Folder, path: Path) -> None:
        folder.files = await asyncio.to_thread(self._files_near, path)
        folder.read_at = time.monotonic()

    def _files_near(self, path: Path) -> list[tuple[Path, tuple[str, ...]]]:
        """For a thread of its own; its rules are its own, too."""
        exclusions, left = Exclusions(self._uris), NEARBY_CHARS
        found: list[tuple[Path, tuple[str, ...]]] = []
        for file in islice(_candidates(path, self._root(path)), _MOST_ENTRIES):
            if file.suffix != path.suffix or file == path or exclusions.rule(file.as_uri()) is not None:
                continue
            pieces = self._pieces(file)
            left -= sum(map(len, pieces))
            if left < 0:
                break
            found.append((file, pieces))
        return found[::-1]

    def _pieces(self, file: Path) -> tuple[str, ...]:
        """The text of a file; the same strings as long as it stays as it is."""
        try:
            status = file.stat()
            signature = (status.st_mtime_ns, status.st_size)
            known = self._read.get(file)
            if known is not None and known[0] == signature:
                return known[1]
            if status.st_size > _FILE_BYTES:
                return ()
            text = file.read_bytes().decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
        except (OSError, ValueError):  # gone meanwhile, not ours to read, or no text
            return ()
        self._read[file] = signature, tuple(Text(text).pieces())
        return self._read[file][1]

    def _root(self, path: Path) -> Path:
        """How far up files are near."""
        holding = [folder for folder in map(path_of, self._uris) if folder is not None and folder in path.parents]
        return max(holding, key=lambda folder: len(folder.parts), default=path.parent)


def _candidates(path: Path, root: Path) -> Iterator[Path]:
    """Files of the same folder, then of the folders in it, then of the folder above and its other folders, up to
    `root`; the last changed of a folder first."""
    done: set[Path] = set()
    folder = path.parent
    while True:
        waiting = [folder]
        while waiting:
            here = waiting.pop(0)
            if here in done:
                continue
            done.add(here)
            files, folders = _listing(here)
            yield from files
            waiting += folders
        if folder == root or folder == folder.parent:
            return
        folder = folder.parent


def _listing(folder: Path) -> tuple[list[Path], list[Path]]:
    """The files of a folder, the last changed first, and the folders in it that hold what people write."""
    files: list[tuple[int, Path]] = []
    folders: list[Path] = []
    try:
        with os.scandir(folder) as entries:
            for entry in islice(entries, _MOST_ENTRIES):
                if entry.name.startswith(".") or entry.is_symlink():
                    continue
                if entry.is_dir():
                    if entry.name not in _SKIPPED_FOLDERS:
                        folders.append(Path(entry.path))
                else:
                    files.append((-entry.stat().st_mtime_ns, Path(entry.path)))
    except OSError:  # not ours to read
        pass
    return [file for _, file in sorted(files)], sorted(folders)
