"""HTTP to one engine: one pool of connections, answers of bounded size, and errors with names.

The event loop of a connection runs only while somebody waits for an answer, on the thread that waits. Whoever waits
is asked back every few milliseconds, and may stop: then the request's connection is closed, which is how engines learn
that nobody wants its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Generator
from typing import Any, TypeVar

import httpx2

from dgemma_lsp.documents.edits import NoSuggestion
from dgemma_lsp.engine.address import Address
from dgemma_lsp.engine.errors import EngineError, plain

T = TypeVar("T")
Waiting = Generator[None, None, T]
"""Yields while there is no answer yet; returns the answer."""
Event = dict[str, Any]
DONE: Event = {}
"""The mark of the end, where an engine sends one."""

CONNECT_S = 3.0
SILENCE_S = 20.0
"""The longest time without a byte of an answer: a long prompt is read in it."""
_POLL_S = 0.02
_MOST_BYTES = 1_000_000
"""Of an answer."""
_MOST_LINE_BYTES = 262_144
_MOST_ERROR_BYTES = 4_096
_MOST_WAIT_S = 60.0


class StaleConnectionError(EngineError):
    """A connection that was kept open has been closed by the engine meanwhile: it may be another engine by now."""


class Connection:
    """The connections to one engine. For one thread."""

    def __init__(
        self, address: Address, token: str | None, *, connect_s: float = CONNECT_S, silence_s: float = SILENCE_S
    ) -> None:
        self._address = address
        self._loop = asyncio.new_event_loop()
        self._silence_s = silence_s
        headers = {"Accept-Encoding": "identity", "User-Agent": "dgemma-lsp"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        self._client = httpx2.AsyncClient(
            headers=headers,
            timeout=httpx2.Timeout(silence_s, connect=connect_s),
            limits=httpx2.Limits(max_connections=4, max_keepalive_connections=2, keepalive_expiry=60.0),
            follow_redirects=False,
            trust_env=False,  # no proxies: text goes where the user said
            verify=ssl.create_default_context(),
        )
        self._answered = False
        """Whether the engine has answered anything since it was last unreachable."""

    def ask(self, path: str, body: object = None) -> Waiting[Event]:
        """The JSON object at `path`, posting `body` where there is one.

        Raises:
            EngineError: see `errors`.
        """
        return self._waiting(self._asked(path, body))

    def stream(self, path: str, body: object) -> Generator[list[Event], None, None]:
        """What the engine answers to `body`, event by event: those that have arrived, and an empty list while there are
        none. To stop reading closes the request's connection. A connection whose answer is read to its end is used
        again.

        Raises:
            EngineError: see `errors`.
        """
        arrived, news = list[Event](), asyncio.Event()

        async def read() -> None:
            try:
                async with contextlib.aclosing(self._events(path, body)) as events:
                    async for event in events:
                        arrived.append(event)
                        news.set()
            finally:
                news.set()

        async def wait_for_news() -> None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), _POLL_S)
            news.clear()

        task = self._loop.create_task(read())
        try:
            while not (task.done() and not arrived):
                self._loop.run_until_complete(wait_for_news())
                events = arrived[:]
                arrived.clear()
                yield events
            task.result()
        finally:
            self._end(task)

    def close(self) -> None:
        """Close all connections."""
        if not self._loop.is_closed():
            self._loop.run_until_complete(self._client.aclose())
            self._loop.close()

    def _waiting(self, work: Coroutine[Any, Any, T]) -> Waiting[T]:
        task = self._loop.create_task(work)
        try:
            while True:
                self._loop.run_until_complete(asyncio.wait([task], timeout=_POLL_S))
                if task.done():
                    return task.result()
                yield
        finally:
            self._end(task)

    def _end(self, task: asyncio.Task[Any]) -> None:
        """Cancel a task that goes on, and return when it has closed its connection."""
        if not task.done():
            task.cancel()
            self._loop.run_until_complete(asyncio.wait([task]))
        if not task.cancelled():
            task.exception()  # it has been raised, or nobody waits for it

    # ------------------------------------------------------------------ on the loop

    async def _asked(self, path: str, body: object) -> Event:
        with self._named():
            async with self._open(path, body) as response:
                return _object(await _content(response, _MOST_BYTES))

    async def _events(self, path: str, body: object) -> AsyncGenerator[Event]:
        with self._named():
            async with self._open(path, body) as response:
                kind = response.headers.get("content-type", "")
                if not kind.startswith("text/event-stream"):
                    raise _garbage(f"it sends {plain(kind) or 'no type'}, not text/event-stream")
                size, rest = 0, b""
                async for chunk in response.aiter_raw():
                    size += len(chunk)
                    *lines, rest = (rest + chunk).split(b"\n")
                    if size > _MOST_BYTES or len(rest) > _MOST_LINE_BYTES:
                        raise _garbage("it is too long")
                    for line in lines:
                        if (event := _event(line)) is not None:
                            yield event

    @contextlib.asynccontextmanager
    async def _open(self, path: str, body: object) -> AsyncIterator[httpx2.Response]:
        """A response with status 200 whose body is yet to be read."""
        method, begun, known = ("GET" if body is None else "POST"), False, self._answered
        try:
            async with self._client.stream(method, self._address.url + path, json=body) as response:
                begun = self._answered = True
                await self._check(response)
                if response.headers.get("content-encoding", "identity") != "identity":
                    raise _garbage("it is compressed, although that was not asked for")
                yield response
        except httpx2.TransportError as error:
            if isinstance(error, httpx2.ReadError | httpx2.RemoteProtocolError | httpx2.WriteError):
                if begun:
                    raise EngineError(
                        NoSuggestion.ENGINE_BROKE_OFF, f"{self._address.url} closed the connection during its answer"
                    ) from error
                if known:
                    self._answered = False
                    raise StaleConnectionError(
                        NoSuggestion.ENGINE_DOWN, f"{self._address.url} has closed the connection"
                    ) from error
            self._answered = False
            raise

    @contextlib.contextmanager
    def _named(self) -> Generator[None]:
        """Errors of the network with our names."""
        url = self._address.url
        try:
            yield
        except httpx2.ConnectTimeout as error:
            raise EngineError(NoSuggestion.ENGINE_DOWN, f"{url} does not answer; is the engine running?") from error
        except httpx2.TimeoutException as error:
            message = f"{url} has said nothing for {self._silence_s:.0f} s"
            raise EngineError(NoSuggestion.ENGINE_SLOW, message) from error
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            if (untrusted := _certificate_error(error)) is not None:
                message = f"the certificate of {url} is not trusted ({untrusted}); nothing was sent"
            else:
                message = (
                    f"{url} cannot be reached ({plain(str(error)) or type(error).__name__}); is the engine running?"
                )
            raise EngineError(NoSuggestion.ENGINE_DOWN, message) from error

    async def _check(self, response: httpx2.Response) -> None:
        """Raise what a status other than 200 means."""
        status, url = response.status_code, self._address.url
        if status == 200:
            return
        if response.is_redirect or 300 <= status < 400:
            target = plain(response.headers.get("location", ""))
            raise _garbage(f"{url} wants to send what it is asked to {target}; nothing was; name that address instead")
        said = _said(await _content(response, _MOST_ERROR_BYTES, cut=True))
        told = f" ({said})" if said else ""
        if status in (401, 403):
            raise EngineError(
                NoSuggestion.ENGINE_TOKEN,
                f"{url} refuses the token or wants one{told}; set DGEMMA_ENGINE_TOKEN or DGEMMA_ENGINE_TOKEN_FILE",
            )
        if status == 404:
            raise EngineError(NoSuggestion.ENGINE_MODEL, f"{url} has no such model or interface{told}")
        if status in (429, 503):
            wait_s = _seconds(response.headers.get("retry-after"))
            raise EngineError(NoSuggestion.ENGINE_BUSY, f"{url} is busy or still loading{told}", wait_s=wait_s)
        raise _garbage(f"{url} answers with status {status}{told}")


async def _content(response: httpx2.Response, most: int, *, cut: bool = False) -> bytes:
    """The body, of at most `most` bytes; with `cut`, the first so many."""
    content = b""
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > most:
            if cut:
                return content[:most]
            raise _garbage("it is too long")
    return content


def _event(line: bytes) -> Event | None:
    """The event of a line; None for lines between events."""
    if not line.startswith((b"data:", b"error:")):
        return None
    data = line.partition(b":")[2].strip()
    if data == b"[DONE]":
        return DONE
    event = _object(data)
    if "error" in event or line.startswith(b"error:"):
        raise _garbage(f"it fails: {_said(data)}")
    return event


def _object(content: bytes) -> Event:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _garbage("it is no JSON") from error
    if not isinstance(found, dict):
        raise _garbage("it is no JSON object")
    return found


def _said(content: bytes) -> str:
    """What an answer that is an error says, in plain words."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    error = found.get("error", found) if isinstance(found, dict) else None
    return plain(error.get("message")) if isinstance(error, dict) else plain(error)


def _garbage(what: str) -> EngineError:
    return EngineError(NoSuggestion.ENGINE_GARBAGE, f"the engine's answer cannot be used: {what}")


def _seconds(said: str | None) -> float | None:
    """What `Retry-After` says, if it is a number that can be."""
    return min(float(said), _MOST_WAIT_S) if said is not None and said.isdecimal() else None


def _certificate_error(error: BaseException | None) -> str | None:
    """Why a certificate was not trusted, if that is the reason."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return plain(error.verify_message)
        if isinstance(error, ssl.SSLError):
            return plain(error.reason)
        error = error.__cause__ or error.__context__
    return None
