"""What ignore files say of a path: `.gitignore` and git's other sources, and `.dgemmaignore`.

As in git, a file in an ignored folder is ignored, an inner ignore file overrides an outer one, and a repository inside
another one follows its own rules. If the outer repository ignores the inner one's folder, all of it is ignored. If an
ignore file cannot be read, its rules are not known; so everything that it could name is ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dgemma_lsp.documents import disk, git_config
from dgemma_lsp.documents.disk import Fault, Stamp
from dgemma_lsp.documents.ignore_patterns import IgnorePattern, deciding, patterns

_MOST_BYTES = 256 * 1024
_MAX_DEPTH = 64
"""Folders that a path may be in."""
_OWN = ".git/info/exclude"
_USERS = "core.excludesFile"

Compiled = dict[tuple[Path, bool], tuple[Stamp, tuple[IgnorePattern, ...]]]
"""The patterns of each ignore file, by whether case counts, with the state of the file when it was read."""


class _UnknownError(Exception):
    """Something about the rules cannot be read; the message says what."""


@dataclass(frozen=True, slots=True)
class _Repository:
    """A folder in which rules begin to count."""

    folder: Path
    ignore_case: bool
    sources: tuple[tuple[Path, str], ...]
    """Ignore files beside those in its folders, and what people call them; the first goes before the others."""


class IgnoreRules:
    """The rules as they are now: asks the disk for each thing once. Blocks; see `disk.DiskThreads`."""

    def __init__(self, folders: Iterable[Path], compiled: Compiled) -> None:
        """`folders` are the workspace's. `compiled` is what earlier rules have read, and is added to."""
        self._folders = tuple(folders)
        self._compiled = compiled
        self._patterns: dict[tuple[Path, bool], tuple[IgnorePattern, ...]] = {}
        self._repositories: dict[Path, _Repository | None] = {}
        self._outside: Path | None = None
        self._hidden: dict[tuple[Path, Path], str | None] = {}

    def rule(self, path: Path, *, is_folder: bool = False) -> str | None:
        """The rule that ignores an absolute path, or the reason why that is not known; None where nothing does."""
        try:
            outer = self._outermost(path)
            if outer not in path.parents:
                return None
            chain = [part for part in path.parents if outer in part.parents]
            for folder in reversed(chain):
                key = folder, outer
                if key not in self._hidden:
                    self._hidden[key] = self._verdict(folder, outer, is_folder=True)
                if (hidden := self._hidden[key]) is not None:
                    return hidden
            return self._verdict(path, outer, is_folder=is_folder)
        except _UnknownError as error:
            return str(error)

    def _outermost(self, path: Path) -> Path:
        """Where rules begin to count: at the repository of the workspace's folder, or that folder; for a file outside
        of them at its own repository, or its own folder."""
        if len(path.parents) > _MAX_DEPTH:
            raise _UnknownError(f"it is in more than {_MAX_DEPTH} folders")
        holding = [folder for folder in self._folders if folder in (path, *path.parents)]
        start = max(holding, key=lambda folder: len(folder.parts), default=path.parent)
        repository = self._repository(start)
        return start if repository is None else repository.folder

    def _repository(self, folder: Path) -> _Repository | None:
        """The innermost repository that a folder is in; it may be one itself."""
        if folder not in self._repositories:
            there = disk.is_there(folder / ".git")
            if isinstance(there, Fault):
                raise _UnknownError(f"its rules are not known: {folder.name or folder} cannot be looked into")
            if there:
                self._repositories[folder] = _repository_at(folder)
            else:
                above = folder.parent
                self._repositories[folder] = None if above == folder else self._repository(above)
        return self._repositories[folder]

    def _verdict(self, path: Path, outer: Path, *, is_folder: bool) -> str | None:
        """What the innermost rule about `path` says, if it excludes."""
        repository = self._repository(path.parent) or self._without_repository(outer)
        ignore_case = repository.ignore_case
        for governing in (
            _governing(path, repository.folder, ".gitignore", repository.sources),
            _governing(path, outer, ".dgemmaignore"),
        ):
            for folder, file, label in governing:
                rules = self._read(file, label, ignore_case)
                relative = path.relative_to(folder).as_posix()
                found = deciding(rules, relative, is_folder=is_folder, ignore_case=ignore_case)
                if found is not None and found.excludes:
                    return f"{label}: {found.line}"
                if found is not None:
                    break
        return None

    def _without_repository(self, folder: Path) -> _Repository:
        """What counts in a folder that is in none: what git would ignore in each of this user's."""
        if self._outside is None:
            self._outside = git_config.excludes_file(None)
        return _Repository(folder, False, ((self._outside, _USERS),))

    def _read(self, file: Path, label: str, ignore_case: bool) -> tuple[IgnorePattern, ...]:
        key = file, ignore_case
        if key not in self._patterns:
            self._patterns[key] = self._read_now(file, label, ignore_case)
        return self._patterns[key]

    def _read_now(self, file: Path, label: str, ignore_case: bool) -> tuple[IgnorePattern, ...]:
        state = disk.stamp(file)
        if state is Fault.MISSING:
            return ()
        if not isinstance(state, Fault):
            known = self._compiled.get((file, ignore_case))
            if known is not None and known[0] == state:
                return known[1]
            content = disk.read(file, _MOST_BYTES)
            if not isinstance(content, Fault):
                read = patterns(content, ignore_case=ignore_case)
                self._compiled[file, ignore_case] = state, read
                return read
            state = content
        if label == _USERS:  # git does without it, too
            return ()
        raise _UnknownError(f"its rules are not known: {label} in {file.parent.name or file.parent}, {state.value}")


def _repository_at(folder: Path) -> _Repository:
    own = git_config.common_folder(folder)
    sources = [] if own is None else [(own / "info" / "exclude", _OWN)]
    sources.append((git_config.excludes_file(own), _USERS))
    return _Repository(folder, git_config.ignores_case(own), tuple(sources))


def _governing(
    path: Path, base: Path, name: str, sources: tuple[tuple[Path, str], ...] = ()
) -> Iterator[tuple[Path, Path, str]]:
    """The ignore files that may speak of `path`, innermost first: where their patterns begin, the file, its name."""
    for folder in path.parents:
        yield folder, folder / name, name
        if folder == base:
            break
    for file, label in sources:
        yield base, file, label
