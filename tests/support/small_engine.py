"""A small real HTTP server that says what a test has it say, as llama.cpp's server or vLLM do, or wrongly.

It speaks HTTP/1.1 over a socket of this machine. What it is asked is kept, byte for byte.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self

MARKER_IDS = [151659, 151661, 151660, 151643, 151645, 151662, 151663, 151664]


class Asked(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.body))


def llama_events(pieces: Sequence[str], log_probability: float | None = -0.1) -> list[str]:
    """The answer of llama.cpp's `/infill`."""
    events = []
    for piece in pieces:
        told = {} if log_probability is None else {"completion_probabilities": [{"logprob": log_probability}]}
        events.append({"content": piece, "stop": False} | told)
    return [f"data: {json.dumps(event)}\n\n" for event in (*events, {"content": "", "stop": True, "stop_type": "word"})]


def completion_events(pieces: Sequence[str], log_probability: float | None = -0.1, finish: str = "stop") -> list[str]:
    """The answer of vLLM's `/v1/completions`: log-probabilities as lists, the end twice, and a mark of the end."""
    events = []
    for piece in pieces:
        told = None if log_probability is None else {"tokens": [piece], "token_logprobs": [log_probability]}
        events.append({"object": "text_completion", "choices": [{"index": 0, "text": piece, "logprobs": told,
                                                                 "finish_reason": None}]})  # fmt: skip
    end = {
        "object": "text_completion",
        "choices": [{"index": 0, "text": "", "logprobs": None, "finish_reason": finish}],
    }
    count = {"object": "text_completion", "choices": [], "usage": {"completion_tokens": len(pieces)}}
    return [*(f"data: {json.dumps(event)}\n\n" for event in (*events, end, end, count)), "data: [DONE]\n\n"]


def chat_events(pieces: Sequence[str], finish: str | None = "stop") -> list[str]:
    """The answer of vLLM's chat: the role comes first."""
    first = {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""},
                                                             "logprobs": None, "finish_reason": None}]}  # fmt: skip
    events = [
        {
            "object": "chat.completion.chunk",
            "choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}],
        }
        for piece in pieces
    ]
    if finish is not None:
        events.append({"choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": finish}]})
    return [*(f"data: {json.dumps(event)}\n\n" for event in (first, *events)), "data: [DONE]\n\n"]


class SmallEngine:
    """The server. A `with` statement starts and ends it."""

    def __init__(self, port: int = 0, *, kind: str = "vllm", model: str = "Qwen/Qwen2.5-Coder-7B") -> None:
        self.asked: list[Asked] = []
        self.connections = 0
        self.events: list[str] = completion_events(["value"])
        self.between: Callable[[int], None] = lambda number: None
        """Called before each event."""
        self.answer: Callable[[Handler], None] | None = None
        """Answers a question in place of the events."""
        self.broken_once: set[str] = set()
        """Paths at which it closes the connection once in place of an answer."""
        self.closed_by_client = threading.Event()
        """The client has closed a connection before its answer was complete."""
        self.token: str | None = None
        self.kind, self.models, self.context_tokens = kind, [model], 8192
        self.has_markers = True
        engine = self

        class Bound(Handler):
            owner = engine

        self._server = _Server(("127.0.0.1", port), Bound)
        self._server.owner = self
        self.port = self._server.server_address[1]
        self.scheme = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def encrypted(self, certificate: Path, key: Path) -> Self:
        """Serve by TLS from now on."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.scheme = "https"
        return self

    def questions(self) -> list[Asked]:
        """What it was asked to fill."""
        return [asked for asked in self.asked if asked.path in QUESTIONS]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End as a process does that is killed: the connections are gone."""
        self._server.shutdown()
        self._server.server_close()
        for connection in self._server.open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


QUESTIONS = ("/infill", "/v1/completions", "/v1/chat/completions")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    owner: SmallEngine

    def __init__(self, *arguments: Any) -> None:
        self.open: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.owner.connections += 1
        self.open.add(request)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class Handler(BaseHTTPRequestHandler):
    """Answers one connection's requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    owner: SmallEngine

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._take(b"")

    def do_POST(self) -> None:
        self._take(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _take(self, body: bytes) -> None:
        engine = self.owner
        engine.asked.append(Asked(self.path, dict(self.headers.items()), body))
        if self.path in engine.broken_once:
            engine.broken_once.remove(self.path)
            return self.break_off()
        if engine.token is not None and self.headers.get("Authorization") != f"Bearer {engine.token}":
            return self.reply(401, {"error": {"message": "Invalid API Key"}})
        if self.path in QUESTIONS:
            return (engine.answer or Handler.stream)(self)
        found: dict[str, Any] | None = None
        if self.path == "/v1/models":
            listed = [{"id": name, "max_model_len": engine.context_tokens} for name in engine.models]
            found = {"object": "list", "data": listed}
        elif self.path == "/props" and engine.kind == "llama":
            found = {"default_generation_settings": {"n_ctx": engine.context_tokens}, "total_slots": 1}
        elif self.path == "/tokenize":
            found = {"tokens": MARKER_IDS if engine.has_markers else [27, 91, 69, 318]}
        self.reply(404, {"detail": "Not Found"}) if found is None else self.reply(200, found)

    def reply(self, status: int, content: object, **headers: str) -> None:
        """Answer with JSON, or with bytes as they are."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json"} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def begin_stream(self, **headers: str) -> None:
        self.send_response(200)
        for name, value in ({"Content-Type": "text/event-stream"} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def send(self, data: bytes) -> None:
        """A part of a stream; an empty one ends it."""
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def stream(self) -> None:
        """Answer event by event."""
        try:
            self.begin_stream()
            for number, event in enumerate(self.owner.events):
                self.owner.between(number)
                self.send(event.encode())
            self.send(b"")
        except OSError:
            self.owner.closed_by_client.set()
            self.close_connection = True

    def wait_until_closed(self) -> None:
        """Say nothing until the client closes the connection."""
        if self.connection.recv(1) == b"":
            self.owner.closed_by_client.set()
        self.close_connection = True

    def begin_and_wait(self) -> None:
        """Send the events, but not the end of the answer, and wait until the client closes the connection."""
        self.begin_stream()
        for event in self.owner.events:
            self.send(event.encode())
        self.wait_until_closed()

    def break_off(self) -> None:
        """Close the connection, whatever was promised."""
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
