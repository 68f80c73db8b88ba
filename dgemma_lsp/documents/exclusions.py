"""Which documents are never read, and which are never shown beside another one.

The rules are read, never run: names that look secret, what git ignores, `.dgemmaignore`, and sizes. A document is
judged by all of its names: the one that the client uses, and the file's real path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from dgemma_lsp.documents import disk
from dgemma_lsp.documents.ignore_rules import Compiled, IgnoreRules
from dgemma_model.request import Readable

MAX_CHARS = 8_000_000
"""Code points of the longest document that is read."""
MAX_LINE_CHARS = 20_000
"""Code points of the longest line with a cursor in it: nobody writes longer ones."""

_LINE_BREAK = re.compile(r"[\r\n]")
_LOCAL_SCHEMES = frozenset({"file", "vscode-notebook-cell", "vscode-remote"})
"""Of documents that are files here; others may still be a file's content in another form, as `git:` and `untitled:`."""

_SECRET_NAMES = (
    ".env", ".env.*", "*.env", ".envrc", ".netrc", "_netrc", ".pgpass", ".pypirc", ".npmrc", ".htpasswd",
    ".git-credentials", "credentials", "credentials.json", "credentials.y*ml", "credentials.toml", "credentials.ini",
    "secrets", "secrets.json", "secrets.y*ml", "secrets.toml", "secrets.ini", "*.secret", "*.secrets", "*.token",
    "service-account*.json", "service_account*.json", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore",
    "*.kdbx", "*.ppk", "*.tfvars", "*.tfstate", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*",
    ".my.cnf", ".s3cfg", ".boto", ".dockercfg", "kubeconfig", "*.kubeconfig", "*.keytab", "*.ovpn", "auth.json",
    "token.json", "tokens.json", ".vault-pass*", ".vault_pass*",
)  # fmt: skip
_NOT_SECRET_NAMES = (".env.example", ".env.sample", ".env.template", ".env.dist", "*.pub")
_SECRET_FOLDERS = frozenset({".ssh", ".aws", ".azure", ".gnupg", ".kube", ".gcloud", ".docker"})

_SECRET_WORD = re.compile(
    r"(?:^|[^a-z])(?:secrets?|credentials?|creds|passwords?|passwd|passphrases?|api[_-]?keys?|private[_-]?keys?"
    r"|(?:access|auth|api)[_-]?tokens?)(?:[^a-z]|$)"
)
"""A word in the name of a file whose content is likely to be secret, in whatever language."""
_DATA_SUFFIXES = frozenset(
    {"", ".json", ".json5", ".yaml", ".yml", ".toml", ".ini", ".cfg", ".conf", ".config", ".properties", ".xml",
     ".csv", ".tsv", ".txt", ".plist", ".gpg", ".asc", ".enc", ".age"}
)  # fmt: skip
"""Of files that hold values, not programs."""
_SECRETS_FOLDERS = frozenset({"secret", "secrets", ".secret", ".secrets", "credentials", ".credentials", "creds"})
_BACKUP = re.compile(r"(?:~|\.(?:bak|backup|orig|old|save|sav|tmp|swp|swo|copy))$")


def path_of(uri: str) -> Path | None:
    """The file of a document, or None for one that has none (an untitled one, for instance)."""
    try:
        parts = urlsplit(uri)
        if parts.scheme not in _LOCAL_SCHEMES:
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
class Verdict:
    """What the rules say of a document."""

    rule: str | None = None
    """The rule that excludes it, for people; None where it may be read."""
    own: str | None = None
    """The reason why it is never shown beside another document; None where it may be."""
    paths: tuple[Path, ...] = ()
    """Every name of its file."""


class Exclusions:
    """The rules of a workspace. Looks at the disk when asked, so that an edited ignore file counts at once; it blocks,
    and the event loop asks through `verdicts`."""

    def __init__(self, folders: Iterable[str] = ()) -> None:
        """`folders` are the workspace's, as uris."""
        self._uris = tuple(folders)
        self._compiled: Compiled = {}

    def rule(self, uri: str) -> str | None:
        """The rule that excludes a document, for people; None for a document that may be read."""
        return self.verdict(uri).rule

    def verdict(self, uri: str) -> Verdict:
        """What the rules say of a document, by all of its names."""
        named, is_file = _named(uri)
        if named is None:
            return Verdict()
        names = dict.fromkeys([named, Path(os.path.normpath(named))])
        excluding = []
        if is_file and named.is_absolute():
            names[disk.real(named)] = None
            excluding = list(map(self.rules_now().rule, names))
        excluding = [*map(_secret_name, names), *excluding]
        private = map(_secret_sounding, names)
        return Verdict(next(filter(None, excluding), None), next(filter(None, private), None), tuple(names))

    def rules_now(self) -> IgnoreRules:
        """What ignore files say, as they are now, for questions about many paths in a row."""
        folders = [path for path in map(path_of, self._uris) if path is not None]
        return IgnoreRules(dict.fromkeys([*folders, *map(disk.real, folders)]), self._compiled)


def name_rule(path: Path) -> str | None:
    """The reason why a file's name keeps it from being shown beside a document."""
    return _secret_name(path) or _secret_sounding(path)


def _named(uri: str) -> tuple[Path | None, bool]:
    """The path in a uri, whatever its scheme, and whether it may be a file's here."""
    try:
        parts = urlsplit(uri)
        path = Path(url2pathname(unquote(parts.path)))
    except ValueError:
        return None, False
    if not parts.path or "\0" in str(path):
        return None, False
    return path, parts.scheme in _LOCAL_SCHEMES or not parts.netloc


def _secret_name(path: Path) -> str | None:
    """The reason why a file is never read, by its name."""
    name = _BACKUP.sub("", path.name.lower().strip("#").removeprefix(".#")).rstrip(". ")
    if any(fnmatchcase(name, pattern) for pattern in _NOT_SECRET_NAMES):
        return None
    for pattern in _SECRET_NAMES:
        if fnmatchcase(name, pattern):
            return f"looks secret: {pattern}"
    for folder in path.parts[:-1]:
        if folder.lower() in _SECRET_FOLDERS:
            return f"looks secret: {folder}/"
    sounding = _secret_sounding(path)
    return sounding if sounding is not None and path.suffix.lower() in _DATA_SUFFIXES else None


def _secret_sounding(path: Path) -> str | None:
    """The reason, by its name, why a file is not shown beside other documents. It may still be completed itself."""
    stem = path.name.lower().partition(".")[0] if not path.name.startswith(".") else path.name.lower()
    if (word := _SECRET_WORD.search(stem)) is not None:
        return f"looks secret: {word[0].strip('_-. ')}"
    for folder in path.parts[:-1]:
        if folder.lower() in _SECRETS_FOLDERS:
            return f"looks secret: {folder}/"
    return None
