"""Which documents are never read: neither completed nor shown to the model beside another one.

The rules are read, never run: names that look secret, `.gitignore`, `.dgemmaignore`, and sizes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from pathspec import GitIgnoreSpec

from dgemma_model.request import Readable

MAX_CHARS = 8_000_000
"""Code points of the longest document that is read."""
MAX_LINE_CHARS = 20_000
"""Code points of the longest line with a cursor in it: what is longer was written by no one."""

_LINE_BREAK = re.compile(r"[\r\n]")
_MAX_RULES_BYTES = 256 * 1024
_MAX_DEPTH = 64
_IGNORE_FILES = (".gitignore", ".dgemmaignore")

_SECRET_NAMES = (
    ".env", ".env.*", "*.env", ".envrc", ".netrc", "_netrc", ".pgpass", ".pypirc", ".npmrc", ".htpasswd",
    ".git-credentials", "credentials", "credentials.json", "credentials.y*ml", "credentials.toml", "credentials.ini",
    "secrets", "secrets.json", "secrets.y*ml", "secrets.toml", "secrets.ini", "*.secret", "*.secrets", "*.token",
    "service-account*.json", "service_account*.json", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore",
    "*.kdbx", "*.ppk", "*.tfvars", "*.tfstate", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*",
)  # fmt: skip
_NOT_SECRET_NAMES = (".env.example", ".env.sample", ".env.template", ".env.dist", "*.pub")
_SECRET_FOLDERS = frozenset({".ssh", ".aws", ".azure", ".gnupg", ".kube", ".gcloud", ".docker"})


def path_of(uri: str) -> Path | None:
    """The file of a document, or None for one that has none (an untitled one, for instance)."""
    try:
        parts = urlsplit(uri)
        if parts.scheme not in ("file", "vscode-notebook-cell", "vscode-remote"):
            return None
        path = Path(url2pathname(unquote(parts.path)))
    except ValueError:
        return None
    return path if path.is_absolute() and "\0" not in str(path) else None


def size_rule(text: Readable, offset: int) -> str | None:
    """The limit that a document, or its cursor's line, is beyond."""
    if len(text) > MAX_CHARS:
        return f"longer than {MAX_CHARS:,} characters"
    before = text[max(offset - MAX_LINE_CHARS - 1, 0) : offset]
    after = text[offset : offset + MAX_LINE_CHARS + 1]
    start = max(before.rfind("\n"), before.rfind("\r")) + 1
    line_break = _LINE_BREAK.search(after)
    length = len(before) - start + (line_break.start() if line_break else len(after))
    return f"a line longer than {MAX_LINE_CHARS:,} characters" if length > MAX_LINE_CHARS else None


@dataclass(frozen=True, slots=True)
class _Rules:
    """One ignore file."""

    name: str
    folder: Path
    signature: tuple[int, int]
    """Time and size of what was read."""
    lines: tuple[str, ...]
    """One for each pattern."""
    spec: GitIgnoreSpec


class Exclusions:
    """The rules of a workspace. Looks at the disk when asked, so that an edited ignore file counts at once."""

    def __init__(self, folders: Iterable[str] = ()) -> None:
        """`folders` are the workspace's, as uris."""
        self._folders = [path for path in map(path_of, folders) if path is not None]
        self._rules: dict[Path, _Rules | None] = {}

    def rule(self, uri: str) -> str | None:
        """The rule that excludes a document, for people; None for a document that may be read."""
        path = path_of(uri)
        if path is None:
            return None
        return _secret_rule(path) or self._ignore_rule(path)

    def _ignore_rule(self, path: Path) -> str | None:
        base = self._base(path)
        chain = [path, *path.parents]
        inside = [part for part in chain if base in part.parents][:_MAX_DEPTH]
        for part in reversed(inside):  # a folder that is ignored hides all that is in it
            verdict = self._verdict(base, part, is_folder=part != path)
            if verdict is not None:
                return verdict
        return None

    def _base(self, path: Path) -> Path:
        """Where rules begin to count: the repository, else the workspace folder, else the file's own folder."""
        for parent in list(path.parents)[:_MAX_DEPTH]:
            if (parent / ".git").exists():
                return parent
        holding = [folder for folder in self._folders if folder in path.parents]
        return max(holding, key=lambda folder: len(folder.parts), default=path.parent)

    def _verdict(self, base: Path, path: Path, *, is_folder: bool) -> str | None:
        """What the innermost rule about `path` says, if it excludes."""
        for name in _IGNORE_FILES:
            for rules in self._governing(base, path, name):
                relative = path.relative_to(rules.folder).as_posix() + "/" * is_folder
                found = rules.spec.check_file(relative)
                if found.include and found.index is not None:
                    return f"{rules.name}: {rules.lines[found.index]}"
                if found.include is False:
                    break
        return None

    def _governing(self, base: Path, path: Path, name: str) -> Iterator[_Rules]:
        """The ignore files of one name that speak of `path`, innermost first."""
        for folder in path.parents:
            if (rules := self._read(folder, folder / name, name)) is not None:
                yield rules
            if folder == base:
                break
        if name == ".gitignore":
            own = ".git/info/exclude"
            if (rules := self._read(base, base / own, own)) is not None:
                yield rules

    def _read(self, folder: Path, file: Path, name: str) -> _Rules | None:
        try:
            status = file.stat()
            signature = (status.st_mtime_ns, status.st_size)
            known = self._rules.get(file)
            if known is not None and known.signature == signature:
                return known
            if status.st_size > _MAX_RULES_BYTES:
                return None
            written = file.read_text("utf-8", "replace").splitlines()
            lines = tuple(line for line in written if line.strip() and not line.startswith("#"))
            rules = _Rules(name, folder, signature, lines, GitIgnoreSpec.from_lines(lines))
        except (OSError, ValueError):  # not there, or a pattern that makes no sense
            return None
        self._rules[file] = rules
        return rules


def _secret_rule(path: Path) -> str | None:
    name = path.name.lower()
    if any(fnmatch(name, pattern) for pattern in _NOT_SECRET_NAMES):
        return None
    for pattern in _SECRET_NAMES:
        if fnmatch(name, pattern):
            return f"looks secret: {pattern}"
    for folder in path.parts[:-1]:
        if folder.lower() in _SECRET_FOLDERS:
            return f"looks secret: {folder}/"
    return None
