"""Who may connect over TCP: the first client that says the token. Nothing is done for a client before that.

Anyone who reaches a port can connect to it: other users of the machine, scanners, and web pages in a browser. Each has
a few seconds and a few lines to say the token, which only the user's editor knows. All other connections are closed,
and the server goes on waiting.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import logging
import os
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dgemma_lsp.documents import disk
from dgemma_lsp.documents.disk import Fault
from dgemma_lsp.server.streams import NotTheProtocolError, strict_bodies
from dgemma_lsp.settings import SECTION

logger = logging.getLogger(__name__)

TOKEN_VARIABLE = "DGEMMA_TOKEN"
TOKEN = "token"
"""The token's name in `initializationOptions`."""
FEWEST_CHARS = 16
"""A shorter token could be guessed."""

_PATIENCE_S = 10.0
"""How long a connection may take to say the token."""
_MOST_CONNECTIONS = 32
"""Connections that may be open without having said it; the oldest of more is closed."""
_FIRST_BYTES = 2**20
"""The longest first message."""
_TOKEN_BYTES = 4096
"""The longest file of a token."""


class AdmissionError(Exception):
    """A way to listen that is not safe, or a token that is none; the message is for users."""


class Admitted(NamedTuple):
    """The client that was let in, with its first message, which the token has been taken out of."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    initialize: bytes


def chosen_token(file: Path | None) -> str:
    """The token of `file`, or of the environment; where there is neither, a new one, which is logged for the user.

    Raises:
        AdmissionError: the file cannot be read, or others can; or the token is too short.
    """
    token = _read_token(file) if file is not None else os.environ.get(TOKEN_VARIABLE, "").strip()
    if not token:
        token = secrets.token_urlsafe()
        logger.warning('the client must pass {"%s": "%s"} as initializationOptions', TOKEN, token)
    elif len(token) < FEWEST_CHARS:
        raise AdmissionError(f"the token has fewer than {FEWEST_CHARS} characters; take a longer one")
    return token


def _read_token(file: Path) -> str:
    content = disk.read(file, _TOKEN_BYTES, private=True)
    if content is Fault.NOT_PRIVATE:
        raise AdmissionError(f"others can read {file}, or it is not yours: chmod 600, and take a new token")
    if isinstance(content, Fault):
        raise AdmissionError(f"{file}: {content.value}")
    try:
        token = content.decode("ascii").strip()
    except UnicodeDecodeError as error:
        raise AdmissionError(f"{file} is no token; it wants ASCII characters, one line") from error
    if not token:
        raise AdmissionError(f"{file} is empty; write the token to it")
    return token


def addresses(host: str, port: int, *, insecure: bool) -> list[str]:
    """The addresses to listen on for `host`. Addresses that other machines reach need `insecure`, and are logged.

    Raises:
        AdmissionError: others could reach it.
        OSError: there is no such host.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    numbers = list(dict.fromkeys(str(address[0]) for *_, address in found))
    open_to_others = [number for number in numbers if not ipaddress.ip_address(number.partition("%")[0]).is_loopback]
    if open_to_others and not insecure:
        raise AdmissionError(
            f"{host} can be reached from other machines, and what is said there is not encrypted: listen on 127.0.0.1 "
            "and forward the port (ssh -L), or pass --insecure-listen"
        )
    if open_to_others:
        logger.warning(
            "INSECURE: listening on %s, which other machines reach. Source text and the token go over the network "
            "unencrypted; who reads them can have files of this machine read.",
            ", ".join(open_to_others),
        )
    return numbers


async def first_client(hosts: Sequence[str], port: int, token: str) -> Admitted:
    """Listen until a client has said the token; all other connections are closed.

    Raises:
        OSError: nobody can listen there.
    """
    admitted: asyncio.Future[Admitted] = asyncio.get_running_loop().create_future()
    waiting: dict[asyncio.Task[Any], None] = {}

    async def knock(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        waiting[task] = None
        if len(waiting) > _MOST_CONNECTIONS:
            oldest = next(iter(waiting))
            del waiting[oldest]
            oldest.cancel()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                message = await anext(strict_bodies(reader, _FIRST_BYTES))
                answer = _without_token(message, token)
                if isinstance(answer, bytes) and not admitted.done():
                    admitted.set_result(Admitted(reader, writer, answer))
                    return
                if isinstance(answer, dict):
                    body = json.dumps(answer).encode()
                    writer.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
                    await writer.drain()
        except (TimeoutError, StopAsyncIteration, OSError, NotTheProtocolError, asyncio.CancelledError) as error:
            logger.info("a connection was closed: %s", str(error) or type(error).__name__)
        finally:
            waiting.pop(task, None)
            if not admitted.done() or admitted.result().writer is not writer:
                writer.close()

    listener = await asyncio.start_server(knock, hosts, port)
    for listening in listener.sockets:
        logger.info("listening on %s:%d", *listening.getsockname()[:2])
    client = await admitted
    listener.close()
    for task in list(waiting):
        task.cancel()
    return client


def _without_token(message: bytes, token: str) -> bytes | dict[str, Any] | None:
    """The message without the token, if it begins a session and says the right one.

    Otherwise an answer where it begins a session, so that a user can see what is missing, and None where it does not.
    """
    try:
        request = json.loads(message)
    except (ValueError, RecursionError):
        return None
    match request:
        case {"method": "initialize", "id": int() | str() as number, "params": {**params}}:
            options = params.get("initializationOptions")
        case _:
            return None
    if isinstance(options, dict) and isinstance(options.get(SECTION), dict):
        options = options[SECTION]
    said = options.pop(TOKEN, None) if isinstance(options, dict) else None
    if isinstance(said, str) and hmac.compare_digest(said.encode("utf-8", "replace"), token.encode()):
        return json.dumps(request).encode()
    logger.warning("a client did not say the token, or another one")
    return {
        "jsonrpc": "2.0",
        "id": number,
        "error": {"code": -32803, "message": f"initializationOptions must have the server's token as {TOKEN!r}"},
    }
