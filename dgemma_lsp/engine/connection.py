"""HTTP to one engine: a pool of connections, answers of bounded size, and an `EngineError` for each kind of failure.

Callers are synchronous generators. The event loop runs only inside them, on the caller's thread. While there is no
answer yet, they yield every few milliseconds, so that the caller may stop. Stopping closes the request's connection;
from that the engine learns that its answer is not wanted any more.
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
from dgemma_lsp.engine.errors import EngineError, plain_line

T = TypeVar("T")
Waiting = Generator[None, None, T]
"""Yields while there is no answer yet; returns the answer."""
Event = dict[str, Any]
DONE: Event = {}
"""The event of the line `data: [DONE]`, with which most engines end a stream. Compared by identity."""

CONNECT_S = 3.0
"""Seconds in which a connection must be made."""
SILENCE_S = 20.0
"""Longest time without a byte of an answer, in seconds. The engine reads a long prompt in it."""
_POLL_S = 0.02
"""Seconds after which a waiting caller gets control again."""
_MOST_BYTES = 1_000_000
"""Most bytes of an answer."""
_MOST_LINE_BYTES = 262_144
_MOST_ERROR_BYTES = 4_096
_MOST_WAIT_S = 60.0


class StaleConnectionError(EngineError):
    """The engine has closed a connection that was kept open. It may have been restarted with another model."""


class Connection:
    """The connections to one engine. All of it is for one thread."""

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
        """The JSON object that the engine answers: to POST with `body` as JSON, to GET without one.

        Raises:
            EngineError: see `errors`.
        """
        return self._wait_for(self._reply(path, body))

    def stream(self, path: str, body: object) -> Generator[list[Event], None, None]:
        """POST `body` as JSON, and yield the server-sent events that have arrived since the last time; an empty list if
        there are none yet. If the caller stops early, the request's connection is closed. A connection whose answer was
        read to its end is kept for the next request.

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

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> Waiting[T]:
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
        """Cancel `task` if it is still running, and return once it has closed its connection."""
        if not task.done():
            task.cancel()
            self._loop.run_until_complete(asyncio.wait([task]))
        if not task.cancelled():
            task.exception()  # marks it as seen: it was raised already, or nobody waits for it

    # ------------------------------------------------------------------ on the loop

    async def _reply(self, path: str, body: object) -> Event:
        with self._named_errors():
            async with self._open(path, body) as response:
                return _object(await _content(response, _MOST_BYTES))

    async def _events(self, path: str, body: object) -> AsyncGenerator[Event]:
        with self._named_errors():
            async with self._open(path, body) as response:
                kind = response.headers.get("content-type", "")
                if not kind.startswith("text/event-stream"):
                    raise _garbage(f"it sends {plain_line(kind) or 'no type'}, not text/event-stream")
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
    def _named_errors(self) -> Generator[None]:
        """Turns exceptions of the HTTP client into `EngineError`."""
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
                why = plain_line(str(error)) or type(error).__name__
                message = f"{url} cannot be reached ({why}); is the engine running?"
            raise EngineError(NoSuggestion.ENGINE_DOWN, message) from error

    async def _check(self, response: httpx2.Response) -> None:
        """Raise the `EngineError` of a status other than 200."""
        status, url = response.status_code, self._address.url
        if status == 200:
            return
        if response.is_redirect or 300 <= status < 400:
            target = plain_line(response.headers.get("location", ""))
            raise _garbage(f"{url} wants to send what it is asked to {target}; nothing was; name that address instead")
        reason = _error_text(await _content(response, _MOST_ERROR_BYTES, cut=True))
        explained = f" ({reason})" if reason else ""
        if status in (401, 403):
            raise EngineError(
                NoSuggestion.ENGINE_TOKEN,
                f"{url} refuses the token or wants one{explained}; set DGEMMA_ENGINE_TOKEN or DGEMMA_ENGINE_TOKEN_FILE",
            )
        if status == 404:
            raise EngineError(NoSuggestion.ENGINE_MODEL, f"{url} has no such model or interface{explained}")
        if status in (429, 503):
            wait_s = _seconds(response.headers.get("retry-after"))
            raise EngineError(NoSuggestion.ENGINE_BUSY, f"{url} is busy or still loading{explained}", wait_s=wait_s)
        raise _garbage(f"{url} answers with status {status}{explained}")


async def _content(response: httpx2.Response, most: int, *, cut: bool = False) -> bytes:
    """The body. If it is longer than `most` bytes: the first of them with `cut`, otherwise an `EngineError`."""
    content = b""
    async for chunk in response.aiter_raw():
        content += chunk
        if len(content) > most:
            if cut:
                return content[:most]
            raise _garbage("it is too long")
    return content


def _event(line: bytes) -> Event | None:
    """The event of a line of a stream; None for empty lines, comments and other fields."""
    if not line.startswith((b"data:", b"error:")):
        return None
    data = line.partition(b":")[2].strip()
    if data == b"[DONE]":
        return DONE
    event = _object(data)
    if "error" in event or line.startswith(b"error:"):
        raise _garbage(f"it fails: {_error_text(data)}")
    return event


def _object(content: bytes) -> Event:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _garbage("it is no JSON") from error
    if not isinstance(found, dict):
        raise _garbage("it is no JSON object")
    return found


def _error_text(content: bytes) -> str:
    """The message in the body of an error, as one plain line; empty if there is none."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return ""
    error = found.get("error", found) if isinstance(found, dict) else None
    return plain_line(error.get("message")) if isinstance(error, dict) else plain_line(error)


def _garbage(what: str) -> EngineError:
    return EngineError(NoSuggestion.ENGINE_GARBAGE, f"the engine's answer cannot be used: {what}")


def _seconds(header: str | None) -> float | None:
    """The seconds of a `Retry-After` header, at most `_MOST_WAIT_S`; None if it is missing or a date."""
    return min(float(header), _MOST_WAIT_S) if header is not None and header.isdecimal() else None


def _certificate_error(error: BaseException | None) -> str | None:
    """Why the certificate was not trusted, if that is what `error` comes from; otherwise None."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return plain_line(error.verify_message)
        if isinstance(error, ssl.SSLError):
            return plain_line(error.reason)
        error = error.__cause__ or error.__context__
    return None
