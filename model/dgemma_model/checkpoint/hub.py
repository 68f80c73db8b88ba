"""Checkpoints by name: from the Hugging Face hub into its usual cache (`HF_HOME`), once.

Only what a user named is ever downloaded. Once all its files are there, the hub is not asked again.
"""

from __future__ import annotations

import errno
import json
import re
import shutil
from pathlib import Path

NEEDED = (
    "config.json",
    "generation_config.json",
    "dgemma.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
)
"""What of a repository is downloaded, as patterns."""

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class DownloadError(Exception):
    """A checkpoint that cannot be downloaded; the message is for users and says what to do."""


def is_name(checkpoint: str) -> bool:
    """Whether `checkpoint` looks like `owner/model`, and not like a path into a folder that is here."""
    return _NAME.fullmatch(checkpoint) is not None and not Path(checkpoint.partition("/")[0]).exists()


def fetch(name: str) -> Path:
    """The directory with the files of `name`, downloaded if they are not all in the cache, with a progress bar on
    standard error.

    Raises:
        DownloadError: no connection, no such name, no permission, no space.
    """
    from huggingface_hub import constants, snapshot_download  # only for who wants a download
    from huggingface_hub.errors import LocalEntryNotFoundError

    patterns = list(NEEDED)
    try:
        cached = Path(snapshot_download(name, allow_patterns=patterns, local_files_only=True))
        if is_complete(cached):
            return cached
    except LocalEntryNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise DownloadError(_explained(name, error)) from error
    try:
        plan = snapshot_download(name, allow_patterns=patterns, dry_run=True)
        cache = Path(constants.HF_HUB_CACHE)
        check_space(name, sum(file.file_size or 0 for file in plan if file.will_download), cache)
        return Path(snapshot_download(name, allow_patterns=patterns))
    except DownloadError:
        raise
    except Exception as error:  # the library's own, its HTTP client's, and the system's
        raise DownloadError(_explained(name, error)) from error


def name_of(directory: Path) -> str:
    """What to call the checkpoint in `directory`: in the hub's cache, where folders are named by commits, its name
    there."""
    if directory.parent.name == "snapshots":
        return directory.parent.parent.name.removeprefix("models--").replace("--", "/")
    return directory.name


def is_complete(directory: Path) -> bool:
    """Whether a cached download has all the files that loading asks for."""
    names = ["config.json", "tokenizer.json"]
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        try:
            names += set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return True  # downloading again would not help; loading says what is wrong
    else:
        names.append("model.safetensors")
    return all((directory / str(name)).is_file() for name in names)


def check_space(name: str, needed: int, cache: Path) -> None:
    """Refuse a download of `needed` bytes that does not fit behind `cache`, a folder that may still be missing.

    Raises:
        DownloadError: it says both numbers and what to do.
    """
    there = next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise DownloadError(
            f"{name} needs {needed / 2**30:.1f} GiB more in {cache}, where {free / 2**30:.1f} GiB are free; make room, "
            "or set HF_HOME to a folder on a larger disk"
        )


def _explained(name: str, error: BaseException) -> str:
    """What went wrong, and what to do about it."""
    from huggingface_hub.errors import (
        DryRunError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    cause = error
    while isinstance(cause, DryRunError | LocalEntryNotFoundError) and cause.__cause__ is not None:
        cause = cause.__cause__  # these two only say what could not be done
    if isinstance(cause, GatedRepoError):
        return (
            f"{name} may only be downloaded by who has accepted its terms: accept them on https://huggingface.co/{name}"
            ", sign in with `hf auth login`, and try again"
        )
    if isinstance(cause, RepositoryNotFoundError):
        return (
            f"there is no checkpoint directory {name!r} here, and no model of that name on the hub (or it is private: "
            "then sign in with `hf auth login`); check the spelling"
        )
    if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
        return f"the disk became full while downloading {name}; make room, or set HF_HOME to a folder on a larger disk"
    if isinstance(cause, PermissionError):
        return f"{name} cannot be stored ({cause}); set HF_HOME to a folder that you may write to"
    reason = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
    refused = isinstance(cause, HfHubHTTPError) and cause.response is not None
    what = "the hub refuses it" if refused else "no connection to the hub"
    return (
        f"{name} is not on this machine and cannot be downloaded: {what} ({reason}); connect and try again (what has "
        "arrived is kept), or pass a directory"
    )
