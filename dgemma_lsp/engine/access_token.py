"""The token that an engine wants: from a file that nobody else can read, or the environment. It is never logged."""

from __future__ import annotations

import os
from pathlib import Path

from dgemma_lsp.documents import disk
from dgemma_lsp.documents.disk import Fault
from dgemma_lsp.engine.address import Address, AddressError

VARIABLE = "DGEMMA_ENGINE_TOKEN"
FILE_VARIABLE = "DGEMMA_ENGINE_TOKEN_FILE"
"""Names such a file."""

_MOST_BYTES = 8_192


def token_for(address: Address, file: Path | None = None) -> str | None:
    """The token of `file`, or the one that the environment has or names a file of; None where there is none.

    Raises:
        AddressError: the file cannot be read, or others can; it holds no token; or the token would go over the network
            unencrypted.
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
