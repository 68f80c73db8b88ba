"""A recorded session of an editor and a language server: read, replayed against another server, and judged.

A trace has one JSON object a line, as tests/traces/record.py writes them. `Judge` reads such a conversation in the
order of its messages and knows what any client may rely on; it complains where that does not hold.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from reference_text import offset_of, position_of
from wire import framed

INLINE = "textDocument/inlineCompletion"
ACCEPTED = "dgemma.didAccept"
STATUS = "dgemma/status"
FOLDER = "/project"
"""Where the editors worked, as the traces have it."""
_PATIENCE_S = 30.0


class Record(NamedTuple):
    """One message: when, from whom."""

    t: float
    sender: str
    message: dict[str, Any]


def read(path: Path) -> list[Record]:
    rows = map(json.loads, path.read_text("utf-8").splitlines())
    return [Record(row["t"], row["from"], row["message"]) for row in rows]


# ------------------------------------------------------------------------------------------------ what must hold


@dataclass(frozen=True)
class Version:
    """A document at one moment, and where its last change ended."""

    text: str
    cursor: int | None


@dataclass
class _Request:
    method: str
    uri: str
    sent: int
    """Its place among the client's messages."""
    version: int
    """Which version of its document it is about."""
    position: tuple[int, int] | None


@dataclass
class Judge:
    """Knows what the client knows; `complaints` says what was wrong."""

    accepts_what_was_shown: bool = True
    """Whether the client's edits follow what this very server has shown."""
    complaints: list[str] = field(default_factory=list)
    encoding: str = "utf-16"
    answered: int = 0
    shown: int = 0
    """Answers with something in them."""
    accepted: int = 0
    parts: int = 0
    """Texts of a word and more that came at once: parts of what was shown that were accepted."""
    _versions: dict[str, list[Version]] = field(default_factory=dict)
    _waiting: dict[Any, _Request] = field(default_factory=dict)
    _inline: dict[str, list[_Request]] = field(default_factory=dict)
    _sent: int = 0
    _seen: int = 0
    """Up to which of the client's messages the server has certainly read them: it reads in order."""
    _changes: dict[int, tuple[str, int]] = field(default_factory=dict)
    _items: dict[int, tuple[str, set[str]]] = field(default_factory=dict)
    """By its number: an item's document, and the texts that it leads to."""
    _to_follow: dict[str, set[str]] = field(default_factory=dict)

    def read(self, records: Sequence[Record]) -> Judge:
        """All of a conversation."""
        for record in records:
            (self.client if record.sender == "client" else self.server)(record.message)
        for msg_id, request in self._waiting.items():
            self.complaints.append(f"{request.method} {msg_id} was never answered")
        return self

    def text(self, uri: str) -> str:
        """A document as it is now."""
        return self._versions[uri][-1].text

    def client(self, message: dict[str, Any]) -> None:
        """Take what the client says."""
        self._sent += 1
        method, params = message.get("method"), message.get("params") or {}
        match method:
            case "textDocument/didOpen":
                self._open(params["textDocument"]["uri"], params["textDocument"]["text"])
            case "textDocument/didChange":
                self._change(params["textDocument"]["uri"], params["contentChanges"])
            case "workspace/executeCommand" if params["command"] == ACCEPTED and self.accepts_what_was_shown:
                self._accept(params["arguments"][0])
        if method is not None and "id" in message:
            uri = params.get("textDocument", {}).get("uri", "") if isinstance(params, dict) else ""
            at = params.get("position") if isinstance(params, dict) else None
            position = (at["line"], at["character"]) if at else None
            request = _Request(method, uri, self._sent, len(self._versions.get(uri, ())) - 1, position)
            self._waiting[message["id"]] = request
            if method == INLINE:
                self._inline.setdefault(uri, []).append(request)

    def server(self, message: dict[str, Any]) -> None:
        """Take what the server says."""
        if "method" in message:
            return
        request = self._waiting.pop(message.get("id"), None)
        if request is None:
            self.complaints.append(f"an answer to {message.get('id')}, for which nobody waits")
            return
        self.answered += 1
        self._seen = max(self._seen, request.sent)
        if request.method == "initialize":
            self.encoding = message["result"]["capabilities"].get("positionEncoding", "utf-16")
        if request.method == INLINE:
            result = message.get("result")
            items = result["items"] if isinstance(result, dict) else result
            if items:
                self._show(message["id"], request, items)

    def _open(self, uri: str, text: str) -> None:
        self._versions[uri] = [Version(text, None)]
        self._changes[self._sent] = (uri, 0)

    def _change(self, uri: str, changes: Sequence[dict[str, Any]]) -> None:
        text, cursor = self.text(uri), None
        for change in changes:
            if "range" not in change:
                text, cursor = change["text"], None
                continue
            start, end = (
                offset_of(text, (place["line"], place["character"]), self.encoding)
                for place in (change["range"]["start"], change["range"]["end"])
            )
            self._may_be_a_part(uri, text, start, change["text"])
            text = text[:start] + change["text"] + text[end:]
            cursor = start + len(change["text"])
        self._versions[uri].append(Version(text, cursor))
        self._changes[self._sent] = (uri, len(self._versions[uri]) - 1)
        if (expected := self._to_follow.pop(uri, None)) is not None and text not in expected:
            self.complaints.append(f"what was accepted is not what was shown: {text!r}")

    def _may_be_a_part(self, uri: str, text: str, start: int, new: str) -> None:
        """Nobody types a word at once: it was shown, and a part of it was accepted."""
        if len(re.findall(r"\w", new)) < 2 or not self.accepts_what_was_shown:
            return
        self.parts += 1
        after = text[:start] + new
        if not any(there.startswith(after) for where, texts in self._items.values() if where == uri for there in texts):
            self.complaints.append(f"{new!r} was inserted, and never shown")

    def _seen_versions(self, request: _Request) -> Iterator[Version]:
        """The versions that the server may have had in mind when it wrote what the client has just read."""
        since = request.version
        for sent, (uri, version) in self._changes.items():
            if uri == request.uri and sent <= self._seen:
                since = max(since, version)
        first, *later = self._versions[request.uri][since:]
        if since == request.version and request.position is not None:
            first = Version(first.text, offset_of(first.text, request.position, self.encoding))
        yield from (first, *later)

    def _show(self, msg_id: object, request: _Request, items: Sequence[dict[str, Any]]) -> None:
        """Something to show: for the newest request, and for the text as it is."""
        self.shown += 1
        newer = [other for other in self._inline[request.uri] if other.sent > request.sent]
        if any(other.sent <= self._seen for other in newer):
            self.complaints.append(f"{msg_id} was answered although a newer request had been read")
        for item in items:
            texts = set()
            for version in self._seen_versions(request):
                if (text := _applied(item, version, self.encoding)) is not None:
                    texts.add(text)
            if not texts:
                self.complaints.append(f"{msg_id} was answered for a text that is no longer there, or cannot be shown")
            for number in (item.get("command") or {}).get("arguments") or []:
                self._items[number] = (request.uri, texts)

    def _accept(self, number: int) -> None:
        """The text is, or will be with its next change, what the item leads to."""
        self.accepted += 1
        if number not in self._items:
            self.complaints.append(f"number {number} was accepted, and never shown")
            return
        uri, texts = self._items[number]
        if self.text(uri) not in texts:
            self._to_follow[uri] = texts


def _applied(item: dict[str, Any], version: Version, encoding: str) -> str | None:
    """The text with an item accepted; None where an editor would not show it."""
    text, place = version.text, item["range"]
    ends = [(place[end]["line"], place[end]["character"]) for end in ("start", "end")]
    start, end = (offset_of(text, position, encoding) for position in ends)
    covered = text[start:end]
    remaining = iter(item["insertText"])
    if "\n" in covered or not all(char in remaining for char in covered):
        return None
    if [position_of(text, offset, encoding) for offset in (start, end)] != ends:
        return None  # outside the text
    if version.cursor is not None and not start <= version.cursor <= end:
        return None
    return text[:start] + item["insertText"] + text[end:]


# ---------------------------------------------------------------------------------------------------------- replay


def items_of(message: dict[str, Any]) -> list[dict[str, Any]]:
    """What an answer offers."""
    result = message.get("result")
    return list((result["items"] if isinstance(result, dict) else result) or [])


def script(trace: Sequence[Record]) -> list[list[str]]:
    """What a model would have to say for the recorded suggestions: texts before a cursor, and what follows each."""
    judge, said = Judge(), dict[str, str]()
    asked: dict[Any, tuple[str, tuple[int, int]]] = {}
    for _, sender, message in trace:
        (judge.client if sender == "client" else judge.server)(message)
        if sender == "client" and message.get("method") == INLINE:
            at = message["params"]["position"]
            asked[message["id"]] = (judge.text(message["params"]["textDocument"]["uri"]), (at["line"], at["character"]))
        elif sender == "server" and "method" not in message and message.get("id") in asked:
            text, at = asked[message["id"]]
            cursor = offset_of(text, at, judge.encoding)
            for item in items_of(message)[:1]:
                first = item["range"]["start"]
                start = offset_of(text, (first["line"], first["character"]), judge.encoding)
                if item["insertText"].startswith(text[start:cursor]):
                    said.setdefault(text[:cursor][-200:], item["insertText"][cursor - start :])
    return [[before, text] for before, text in said.items()]


class Replay:
    """Says to a server what a recorded client said, when it said it, and writes the new conversation down.

    After every change and every request for a suggestion it asks for the server's status: by that answer it is known
    what the server had read when it wrote the next one.
    """

    def __init__(self, trace: Sequence[Record], command: Sequence[str], folder: Path, env: dict[str, str]) -> None:
        self.conversation: list[Record] = []
        self._trace = [
            Record(t, sender, json.loads(json.dumps(message).replace(FOLDER, str(folder))))
            for t, sender, message in trace
        ]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ | env
        )
        self._changed = threading.Condition()
        self._fences = 0
        self._latest: dict[str, list[dict[str, Any]]] = {}
        self._asked: dict[Any, str] = {}
        threading.Thread(target=self._read, daemon=True).start()

    def run(self, speed: float, prepare: Callable[[Replay], None] = lambda replay: None) -> int:
        """Say everything, `speed` times as fast; the server's exit code.

        `prepare` is called once the model is loaded, and may say something of its own.
        """
        began: float | None = None
        for t, sender, message in self._trace:
            method = message.get("method")
            if sender == "server" or method in (None, "shutdown", "exit"):
                continue
            if began is not None and (pause := began + t / speed - time.monotonic()) > 0:
                time.sleep(pause)
            self._say(message)
            if method == "initialize":
                self.answer(message["id"])
            elif method == "initialized":
                while self.ask(STATUS, {})["state"] not in ("ready", "failed"):
                    time.sleep(0.05)
                prepare(self)
                began = time.monotonic() - t / speed
        for msg_id in [record.message["id"] for record in self.conversation if _is_request(record)]:
            self.answer(msg_id)
        self.ask("shutdown", None)
        self._send({"jsonrpc": "2.0", "method": "exit"})
        return self._process.wait(_PATIENCE_S)

    def ask(self, method: str, params: object) -> Any:
        """The result of a request of our own."""
        self._fences += 1
        self._send({"jsonrpc": "2.0", "id": f"fence-{self._fences}", "method": method, "params": params})
        return self.answer(f"fence-{self._fences}")["result"]

    def answer(self, msg_id: object) -> dict[str, Any]:
        """The response to a request, whether it came before or is yet to come."""

        def found() -> dict[str, Any] | None:
            answers = (message for _, sender, message in self.conversation if sender == "server")
            return next((answer for answer in answers if "method" not in answer and answer.get("id") == msg_id), None)

        with self._changed:
            assert self._changed.wait_for(found, _PATIENCE_S), f"{msg_id} was not answered"
            answer = found()
            assert answer is not None
            return answer

    def _say(self, message: dict[str, Any]) -> None:
        method, params = message["method"], message.get("params") or {}
        if method == "workspace/executeCommand" and params["command"] == ACCEPTED:
            shown = [item["command"]["arguments"][0] for items in self._latest.values() for item in items[:1]]
            message = message | {"params": params | {"arguments": shown[-1:] or [0]}}
        self._send(message)
        if method in (INLINE, "textDocument/didChange"):
            self._fences += 1
            self._send({"jsonrpc": "2.0", "id": f"fence-{self._fences}", "method": STATUS, "params": {}})

    def _send(self, message: dict[str, Any]) -> None:
        with self._changed:
            self.conversation.append(Record(time.monotonic(), "client", message))
            if message.get("method") == INLINE:
                self._asked[message["id"]] = message["params"]["textDocument"]["uri"]
        assert self._process.stdin is not None
        self._process.stdin.write(framed(json.dumps(message)))
        self._process.stdin.flush()

    def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        while header := stdout.readline():
            length = int(header.removeprefix(b"Content-Length: "))
            while stdout.readline().strip():
                pass
            message = json.loads(stdout.read(length))
            with self._changed:
                self.conversation.append(Record(time.monotonic(), "server", message))
                if "method" not in message and message["id"] in self._asked and (items := items_of(message)):
                    self._latest[self._asked[message["id"]]] = items
                self._changed.notify_all()
            if "method" in message and "id" in message:
                self._send({"jsonrpc": "2.0", "id": message["id"], "result": self._recorded_answer(message["method"])})

    def _recorded_answer(self, method: str) -> Any:
        """What the client answered to the first such request of the recorded server."""
        asked = [message.get("id") for _, sender, message in self._trace if message.get("method") == method]
        answers = (message for _, sender, message in self._trace if sender == "client" and "method" not in message)
        return next((message.get("result") for message in answers if message["id"] in asked[:1]), None)


def _is_request(record: Record) -> bool:
    return record.sender == "client" and "method" in record.message and "id" in record.message
