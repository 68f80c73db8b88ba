"""The access token that is sent to an engine. It comes from a private file or the environment, and is never logged."""

from __future__ import annotations

import os
from pathlib import Path

from dgemma_lsp.documents import disk
from dgemma_lsp.documents.disk import Fault
from dgemma_lsp.engine.address import Address, AddressError

VARIABLE = "DGEMMA_ENGINE_TOKEN"
FILE_VARIABLE = "DGEMMA_ENGINE_TOKEN_FILE"
"""The environment variable with the token, and the one with the path of a file that holds it."""

_MOST_BYTES = 8_192


def token_for(address: Address, file: Path | None = None) -> str | None:
    """The token of `file`; without a file, that of the environment variables; None if none of them is set.

    Raises:
        AddressError: the file is missing, empty or readable by others; the token is not one word of ASCII; or it would
            go to another machine unencrypted.
    """
    named = os.environ.get(FILE_VARIABLE, "")
    if file is None and named:
        file = Path(named)
    token = os.environ.get(VARIABLE, "").strip() if file is None else _read(file)
    if not token:
        return None
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise AddressError("the engine's token must be one word of ASCII characters")
    if not (address.encrypted or address.on_loopback):
        raise AddressError(f"no token is sent to {address.url} unencrypted; use https, or forward the port (ssh -L)")
    return token


def _read(file: Path) -> str:
    content = disk.read(file, _MOST_BYTES, private=True)
    if content is Fault.NOT_PRIVATE:
        raise AddressError(f"others can read {file}, or it is not yours: chmod 600, and take a new token")
    if isinstance(content, Fault):
        raise AddressError(f"{file}: {content.value}")
    token = content.decode("ascii", "replace").strip()
    if not token:
        raise AddressError(f"{file} is empty; write the engine's token to it")
    return token
