"""The Hugging Face hub: what a repository has, its local cache, and downloads that can be interrupted.

The hub's own library is asked for addresses, credentials, proxies and its cache; it does not continue a download that
another process began, so the bytes are read here.
"""

from __future__ import annotations

import fnmatch
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.checkpoint.pulling.partial import Partial, Progress, UnavailableError, Wanted

PUBLISHED = (
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
"""What of a published directory is needed, as patterns."""

CONNECT_S = 10.0
"""Longest wait for a connection, and for the next bytes."""
LISTING_S = 20.0
"""Longest wait for the list of files, with all that comes before: names, several addresses, proxies."""
ATTEMPTS = 5
"""How often a download is continued without any new byte."""
_PAUSE_S = 1.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RepositoryFiles:
    """A repository at a commit."""

    repository: str
    revision: str
    files: tuple[Wanted, ...]


def listing(repository: str, revision: str | None, file: str | None) -> RepositoryFiles:
    """What is to be fetched: `file`, or else the published directory, or else the repository's `.gguf` file, each
    with the licence files beside it.

    Raises:
        UnavailableError: no connection, no such repository, no permission, or none of these files.
    """
    from huggingface_hub import HfApi  # imported only for a download

    def ask() -> Any:
        return HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=CONNECT_S)

    try:
        found = _within(LISTING_S, ask)
    except Exception as error:  # the library's own, its HTTP client's, and the system's
        raise UnavailableError(explained(repository, error)) from error
    there = {
        sibling.rfilename: Wanted(
            sibling.rfilename,
            sibling.size,
            sibling.lfs.sha256 if sibling.lfs else None,
            None if sibling.lfs else sibling.blob_id,
            "hub" if sibling.lfs or sibling.blob_id else None,
        )
        for sibling in found.siblings or ()
        if re.fullmatch(r"[\w.-]+", sibling.rfilename)  # nothing in folders
    }
    names = [file] if file in there else published_names(list(there)) if file is None else []
    if not names:
        what = file or "a config.json with .safetensors files, or one .gguf file in Q4_K_M or Q8_0"
        raise UnavailableError(f"{repository} on the hub does not have {what}")
    names += legal_names(list(there))
    return RepositoryFiles(repository, str(found.sha), tuple(there[name] for name in names))


def published_names(names: list[str]) -> list[str]:
    """Which of a repository's files are needed, the licence files aside; none if it is of no form that is known."""
    if "config.json" in names and _matching(names, ("model.safetensors", "model-*.safetensors")):
        return _matching(names, PUBLISHED)
    packed = sorted(name for name in names if name.endswith(".gguf"))
    if len(packed) > 1:
        packed = [name for form in ("q4_k_m", "q8_0") for name in packed if name.lower().endswith(f"{form}.gguf")]
    return packed[:1]


def legal_names(names: list[str]) -> list[str]:
    """Which of a repository's files are licences and notices."""
    return _matching(names, ("LICENSE*", "NOTICE*"))


def _matching(names: list[str], patterns: tuple[str, ...]) -> list[str]:
    return [name for name in sorted(names) if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]


def fetch(source: RepositoryFiles, partial: Partial, progress: Progress) -> None:
    """Download what is missing of a file.

    Raises:
        UnavailableError: the connection broke off too often, or the hub refuses; what has arrived is kept.
        CheckpointError: the disk is full or cannot be written.
    """
    size = partial.wanted.size
    attempts = ATTEMPTS
    if size == 0:
        partial.append((), 0, progress)
    while size is None or partial.size < size:
        before = partial.size
        try:
            _download(source, partial, progress)
            if size is None or partial.size >= size:
                return
            raise ConnectionError(f"it ended after {partial.size} of {size} bytes")
        except CheckpointError:
            raise
        except Exception as error:  # the library's own, its HTTP client's, and the system's
            attempts = ATTEMPTS if partial.size > before else attempts - 1
            if attempts == 0 or _is_refused(error):
                raise UnavailableError(explained(source.repository, error)) from error
            time.sleep(_PAUSE_S)


def _download(source: RepositoryFiles, partial: Partial, progress: Progress) -> None:
    """One request for the rest of a file."""
    from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # documented, loaded lazily

    begun = partial.size
    url = hf_hub_url(source.repository, partial.wanted.name, revision=source.revision)
    headers = build_hf_headers() | {"Accept-Encoding": "identity"}
    if begun:
        headers["Range"] = f"bytes={begun}-"
    with get_session().stream("GET", url, headers=headers, timeout=CONNECT_S, follow_redirects=True) as response:
        hf_raise_for_status(response)
        continues = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(
            f"bytes {begun}-"
        )
        at = begun if continues else 0
        partial.append(_up_to(partial.wanted.size, response.iter_bytes(), at), at, progress)


def _up_to(size: int | None, chunks: Iterator[bytes], at: int) -> Iterator[bytes]:
    """`chunks` from the byte `at` on, refused once they are more than the whole file: the disk was measured for it."""
    for chunk in chunks:
        at += len(chunk)
        if size is not None and at > size:
            raise ConnectionError(f"more than the {size} bytes of the file are sent")
        yield chunk


def _is_refused(error: Exception) -> bool:
    """Whether asking again would get the same answer."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return True
    return isinstance(error, HfHubHTTPError) and error.response is not None and error.response.status_code < 500


def _within(seconds: float, ask: Callable[[], T]) -> T:
    """The answer of `ask`, or a TimeoutError; a wait for a name server cannot be bounded otherwise."""
    answers: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(ask())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not answers:
        raise TimeoutError(f"no answer within {seconds:.0f} seconds")
    return answers[0]


# ---------------------------------------------------------------- local cache


def cached_file(repository: str, revision: str | None, file: str) -> Path | None:
    """A file in the hub's own cache (`HF_HOME`), or None."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(repository, file, revision=revision)
    except (OSError, ValueError):
        return None
    return Path(found) if isinstance(found, str) else None


def cached_directory(repository: str, revision: str | None = None) -> Path | None:
    """The published directory of a repository in the hub's own cache, if all that loading asks for is there."""
    config = cached_file(repository, revision, "config.json")
    return config.parent if config is not None and is_complete(config.parent) else None


def wanted_of_cached(file: Path) -> Wanted:
    """What the hub said of a file in its cache: the cache names the content by its hash, where links work."""
    content = file.resolve().name
    sha256 = content if re.fullmatch("[0-9a-f]{64}", content) else None
    git_sha1 = content if re.fullmatch("[0-9a-f]{40}", content) else None
    return Wanted(file.name, file.stat().st_size, sha256, git_sha1, "hub" if sha256 or git_sha1 else None)


def name_in_cache(directory: Path) -> str | None:
    """The name on the hub of a directory in its cache, where folders are named by commits."""
    if directory.parent.name == "snapshots":
        return directory.parent.parent.name.removeprefix("models--").replace("--", "/")
    return None


def is_complete(directory: Path) -> bool:
    """Whether a published directory has all the files that loading asks for."""
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


# --------------------------------------------------------------------- errors


def explained(repository: str, error: BaseException) -> str:
    """What went wrong, and what to do about it."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return (
            f"{repository} may only be downloaded by who has accepted its terms: accept them on "
            f"https://huggingface.co/{repository}, sign in with `hf auth login`, and try again"
        )
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"the hub has no model {repository} (or it is private: then sign in with `hf auth login`); check the "
            "spelling"
        )
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    if isinstance(error, HfHubHTTPError) and error.response is not None:
        return f"the hub refuses {repository} ({reason})"
    return f"no connection to the hub ({reason})"
