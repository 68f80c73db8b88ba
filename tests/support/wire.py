"""A language client that can say anything: raw JSON-RPC over a server process' pipes."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

FAKE_SERVER = Path(__file__).with_name("fake_server.py")
TIMEOUT_S = 30.0
"""How long a lost answer may keep a test waiting; no test depends on it otherwise."""


class Wire:
    """One server process and the messages it sent."""

    def __init__(self, *command: str, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            command or (sys.executable, "-P", str(FAKE_SERVER)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | (env or {}),
        )
        assert self.process.stdin is not None
        self._stdin = self.process.stdin
        self._messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._waiting: list[dict[str, Any]] = []
        self._log: list[str] = []
        self._logged = threading.Condition()
        self._ids = iter(range(1, 1_000_000))
        self._reads = threading.Event()
        self._reads.set()
        self._threads = [threading.Thread(target=read, daemon=True) for read in (self._read, self._read_log)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def send_bytes(self, data: bytes) -> None:
        self._stdin.write(data)
        self._stdin.flush()

    def send(self, message: object) -> None:
        self.send_bytes(framed(json.dumps(message)))

    def notify(self, method: str, params: object) -> None:
        self.send({"jsonrpc": "2.0", "method": method, "params": params})

    def start(self, method: str, params: object) -> int:
        """Send a request; its id."""
        msg_id = next(self._ids)
        self.send({"jsonrpc": "2.0", "id": msg_id, "method": method, "params": params})
        return msg_id

    def response(self, msg_id: object) -> dict[str, Any]:
        """The response to a request, whether it came before or is yet to come."""
        return self.wait(lambda message: "method" not in message and message.get("id") == msg_id)

    def request(self, method: str, params: object) -> Any:
        """The result of a request."""
        response = self.response(self.start(method, params))
        assert "error" not in response, response
        return response["result"]

    def error(self, msg_id: object) -> int:
        """The code of the error that a request got."""
        return int(self.response(msg_id)["error"]["code"])

    def wait(self, matches: Any) -> dict[str, Any]:
        """Take the first message that matches, waiting for it if need be."""
        for message in self._waiting:
            if matches(message):
                self._waiting.remove(message)
                return message
        while True:
            message = self._messages.get(timeout=TIMEOUT_S)
            assert message is not None, "the server closed its output\n" + self.log
            if matches(message):
                return message
            self._waiting.append(message)

    def initialize(self, **params: object) -> Any:
        result = self.request("initialize", {"processId": None, "rootUri": None, "capabilities": {}} | params)
        self.notify("initialized", {})
        return result

    def wait_until_loaded(self) -> None:
        """Return when the model is there: only a command waits for it."""
        self.open("file:///loaded.py", "")
        self.request("textDocument/inlineCompletion", inline("file:///loaded.py", 0, 0, kind=1))

    def open(self, uri: str, text: str, language: str = "python", version: int = 1) -> None:
        item = {"uri": uri, "languageId": language, "version": version, "text": text}
        self.notify("textDocument/didOpen", {"textDocument": item})

    def change(self, uri: str, version: int, *changes: dict[str, Any]) -> None:
        document = {"uri": uri, "version": version}
        self.notify("textDocument/didChange", {"textDocument": document, "contentChanges": list(changes)})

    def text(self, uri: str) -> str | None:
        """The document as the server has it."""
        found = self.request("test/text", {"uri": uri})
        return None if found is None else str(found["text"])

    def exit_code(self) -> int:
        return self.process.wait(timeout=TIMEOUT_S)

    def stop_reading(self) -> None:
        """Leave what the server sends where it is, after the next message."""
        self._reads.clear()

    def drop_unread(self) -> None:
        """Forget every message that came and that nothing has waited for."""
        self._waiting.clear()

    def unread(self) -> list[dict[str, Any]]:
        """After the end of the process: every message that nothing has waited for."""
        for thread in self._threads:
            thread.join(TIMEOUT_S)
        while (message := self._messages.get_nowait()) is not None:
            self._waiting.append(message)
        return self._waiting

    @property
    def log(self) -> str:
        """What the server has written to standard error so far."""
        return "".join(self._log)

    def wait_for_log(self, text: str) -> None:
        """Return when the server has written `text` to standard error."""
        with self._logged:
            assert self._logged.wait_for(lambda: text in self.log, TIMEOUT_S), self.log

    def final_log(self) -> str:
        """After the end of the process: all of what it wrote to standard error."""
        self._threads[1].join(TIMEOUT_S)
        return self.log

    def _read(self) -> None:
        stdout = self.process.stdout
        assert stdout is not None
        while self._reads.wait() and (header := stdout.readline()):
            length = int(header.removeprefix(b"Content-Length: "))
            while stdout.readline().strip():
                pass
            self._messages.put(json.loads(stdout.read(length)))
        self._messages.put(None)

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._logged:
                self._log.append(line.decode())
                self._logged.notify_all()


def framed(body: str | bytes) -> bytes:
    """A message as it travels, whatever is in it."""
    data = body if isinstance(body, bytes) else body.encode()
    return b"Content-Length: %d\r\n\r\n%s" % (len(data), data)


def inline(uri: str, line: int, character: int, kind: int = 2) -> dict[str, Any]:
    """Parameters of an inline completion request; `kind` 1 is invoked, 2 automatic."""
    position = {"line": line, "character": character}
    return {"textDocument": {"uri": uri}, "position": position, "context": {"triggerKind": kind}}


def insertion(line: int, character: int, text: str) -> dict[str, Any]:
    """A change that inserts text."""
    position = {"line": line, "character": character}
    return {"range": {"start": position, "end": position}, "text": text}
