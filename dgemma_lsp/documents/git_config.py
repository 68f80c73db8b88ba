"""What git's configuration says of ignored files, read as text. No git process is started."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from dgemma_lsp.documents import disk

_MOST_BYTES = 256 * 1024
_MOST_INCLUDES = 8
"""Files that one configuration may include, and those these."""


def user_files() -> list[Path]:
    """The configuration of this machine and this user, in the order in which git reads it."""
    system = [] if os.environ.get("GIT_CONFIG_NOSYSTEM") else [os.environ.get("GIT_CONFIG_SYSTEM", "/etc/gitconfig")]
    own = os.environ.get("GIT_CONFIG_GLOBAL")
    if own is not None:
        return [Path(name) for name in (*system, own) if name]
    home = _home()
    return [*map(Path, system), _xdg(home) / "git" / "config", home / ".gitconfig"]


def excludes_file(repository: Path | None) -> Path:
    """The ignore file that holds in every repository of this user: `core.excludesFile`, or where git looks else."""
    home = _home()
    files = user_files() + ([repository / "config"] if repository is not None else [])
    found = [value for file in files for key, value in settings(file) if key == "core.excludesfile"]
    if not found:
        return _xdg(home) / "git" / "ignore"
    return home / _without_tilde(found[-1])


def ignores_case(repository: Path | None) -> bool:
    """Whether git takes capital and small letters for the same in a repository."""
    if repository is None:
        return False
    values = [value for key, value in settings(repository / "config") if key == "core.ignorecase"]
    return bool(values) and values[-1].lower() in ("", "true", "yes", "on", "1")


def common_folder(root: Path) -> Path | None:
    """The folder of the repository's own files: `.git`, or what a worktree's `.git` file points to."""
    folder = root / ".git"
    if disk.is_folder(folder):
        return folder
    pointer = _line(folder, "gitdir:")
    if pointer is None:
        return None
    folder = root / pointer
    common = _line(folder / "commondir", "")
    return folder / common if common is not None else folder


def _line(file: Path, key: str) -> str | None:
    content = disk.read(file, 4_096)
    if isinstance(content, disk.Fault):
        return None
    text = content.decode("utf-8", "surrogateescape").strip()
    return text[len(key) :].strip() if text.startswith(key) and "\n" not in text else None


def settings(file: Path, depth: int = 2) -> Iterator[tuple[str, str]]:
    """The settings of a configuration file, as (`section.key`, value), with those of the files that it includes."""
    content = disk.read(file, _MOST_BYTES)
    if isinstance(content, disk.Fault):
        return
    includes = 0
    for key, value in parsed(content.decode("utf-8", "surrogateescape")):
        if key == "include.path" and depth > 0 and includes < _MOST_INCLUDES:
            includes += 1
            folder = _home() if value.startswith("~/") else file.parent
            yield from settings(folder / _without_tilde(value), depth - 1)
        else:
            yield key, value


def parsed(text: str) -> Iterator[tuple[str, str]]:
    """The settings in the text of a configuration file; sections with a name in quotes are left out."""
    section: str | None = None
    for line in text.replace("\r\n", "\n").replace("\\\n", "").split("\n"):
        line = line.strip()
        if line.startswith("["):
            head, closed, line = line[1:].partition("]")
            section = head.strip().lower() if closed and '"' not in head else None
            line = line.strip()
        if section is None or not line or line[0] in "#;":
            continue
        key, _, written = line.partition("=")
        yield f"{section}.{key.strip().lower()}", _value(written.strip())


_ESCAPES = {"n": "\n", "t": "\t", "b": "\b", '"': '"', "\\": "\\"}


def _value(written: str) -> str:
    """A value without its quotes, escapes and comment."""
    value, quoted, at, kept = "", False, 0, 0
    while at < len(written):
        char = written[at]
        if char == "\\" and at + 1 < len(written):
            at += 1
            value += _ESCAPES.get(written[at], written[at])
            kept = len(value)
        elif char == '"':
            quoted = not quoted
            kept = len(value)
        elif char in "#;" and not quoted:
            break
        else:
            value += char
            if quoted or not char.isspace():
                kept = len(value)
        at += 1
    return value[:kept]


def _without_tilde(name: str) -> str:
    return name.removeprefix("~/")


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # this user has none
        return Path("/")


def _xdg(home: Path) -> Path:
    named = os.environ.get("XDG_CONFIG_HOME")
    return Path(named) if named else home / ".config"
