"""A model hub on this machine: the few answers of its HTTP interface that a download asks for, from a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(ThreadingHTTPServer):
    """Has one model, `name`, with the files of `folder`."""

    daemon_threads = True

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name, self.folder = name, folder
        self.asked: list[str] = []
        """Every request, as `GET /path`."""
        self.ranges: list[tuple[str, str | None]] = []
        """Every download: which file, and which range of it."""
        self.broken: set[str] = set()
        """Files that are answered with an error."""
        self.lies: dict[str, bytes] = {}
        """What is sent instead of the files that are announced."""
        self.cuts: dict[str, list[int]] = {}
        """After how many bytes the next downloads of a file break off."""
        self.holds: dict[str, int] = {}
        """After how many bytes a download waits for `released`."""
        self.holding, self.released = Event(), Event()
        self.is_silent = False
        """Whether no request is ever answered."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def fake_hub(name: str, folder: Path) -> Iterator[FakeHub]:
    """A running hub."""
    hub = FakeHub(name, folder)
    thread = Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.released.set()
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(f"{self.command} {path}")
        if self.server.is_silent:
            self.server.released.wait()
            return
        name = self.server.name
        if path.startswith("/api/models/gated/"):
            return self._send(403, b"", {"X-Error-Code": "GatedRepo"}, with_body)
        if path in (f"/api/models/{name}", f"/api/models/{name}/revision/{COMMIT}"):
            files = [self._announced(file) for file in sorted(self.server.folder.iterdir())]
            body = json.dumps({"id": name, "modelId": name, "sha": COMMIT, "siblings": files}).encode()
            return self._send(200, body, {"Content-Type": "application/json"}, with_body)
        if path.startswith(f"/{name}/resolve/{COMMIT}/"):
            return self._send_file(self.server.folder / path.rpartition("/")[2], with_body)
        return self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, with_body)

    def _announced(self, file: Path) -> dict[str, object]:
        """As the hub describes a file: by git's hash of its content, and large ones by their sha256."""
        content = file.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry: dict[str, object] = {"rfilename": file.name, "size": len(content), "blobId": blob}
        if file.suffix in (".gguf", ".safetensors"):
            sha256 = hashlib.sha256(content).hexdigest()
            entry |= {"blobId": "0" * 40, "lfs": {"sha256": sha256, "size": len(content), "pointerSize": 130}}
        return entry

    def _send_file(self, file: Path, with_body: bool) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append((file.name, asked))
        if not file.is_file() or file.name in self.server.broken:
            return self._send(403, b"", {}, with_body)
        content = self.server.lies.get(file.name) or file.read_bytes()
        begun = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        headers = {"X-Repo-Commit": COMMIT}
        if begun:
            headers["Content-Range"] = f"bytes {begun}-{len(content) - 1}/{len(content)}"
        if cuts := self.server.cuts.get(file.name):
            self.close_connection = True
            return self._send(206 if begun else 200, content[begun:], headers, with_body, cut=cuts.pop(0))
        return self._send(
            206 if begun else 200, content[begun:], headers, with_body, hold=self.server.holds.get(file.name)
        )

    def _send(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str],
        with_body: bool,
        *,
        cut: int | None = None,
        hold: int | None = None,
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if not with_body:
            return
        if hold is not None:
            self.wfile.write(body[:hold])
            self.wfile.flush()
            self.server.holding.set()
            self.server.released.wait()
            body = body[hold:]
        try:
            self.wfile.write(body[:cut])
        except OSError:  # who asked is gone
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # tests are quiet
        pass
