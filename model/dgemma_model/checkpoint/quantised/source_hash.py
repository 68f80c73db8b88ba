"""The hash of a checkpoint's weights, found without reading 50 GB at each start.

For a checkpoint that was pulled, the store has the hashes of its files. Those of other files are remembered together
with the file's size and time of change, as git remembers those of a working tree; a file is read again when one of
these is another.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from dgemma_model.checkpoint import store

REMEMBERED = "hashes.json"
BLOCK = 1 << 22


def weights_hash(files: Iterable[Path]) -> str:
    """The SHA-256 of the names and hashes of files in one directory, in hexadecimal digits.

    Raises:
        OSError: a file cannot be read.
        CheckpointError: the files are those of a damaged checkpoint of the store.
    """
    ordered = sorted(files)
    pulled = store.stored_at(ordered[0].parent) if ordered else None
    known = {file.name: file.sha256 for file in pulled.files} if pulled is not None else {}
    lines = [f"{path.name} {known.get(path.name) or _remembered_hash(path)}\n" for path in ordered]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _remembered_hash(path: Path) -> str:
    place = store.root() / store.CONVERTED_ELSEWHERE / REMEMBERED
    try:
        remembered = dict(json.loads(place.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        remembered = {}
    key, status = str(path.resolve()), path.stat()
    state = [status.st_size, status.st_mtime_ns]
    match remembered.get(key):
        case [size, changed, str(digest)] if [size, changed] == state:
            return digest
    digest = _read_hash(path)
    remembered[key] = [*state, digest]
    with suppress(OSError):  # it is only found out again
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_suffix(f".{os.getpid()}")
        store.write_durably(partial, json.dumps(remembered))
        partial.replace(place)
    return digest


def _read_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
