"""A model hub on this machine: the few answers of its HTTP interface that a download asks for, from a folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(ThreadingHTTPServer):
    """Has one model, `name`, with the files of `folder`."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.name, self.folder = name, folder
        self.asked: list[str] = []
        """Every request, as `GET /path`."""
        self.broken: set[str] = set()
        """Files that are answered with an error."""

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
        name = self.server.name
        if path.startswith("/api/models/gated/"):
            return self._send(403, b"", {"X-Error-Code": "GatedRepo"}, with_body)
        if path in (f"/api/models/{name}", f"/api/models/{name}/revision/main"):
            files = [{"rfilename": file.name} for file in self._files()]
            return self._send_json({"id": name, "modelId": name, "sha": COMMIT, "siblings": files}, with_body)
        if path.startswith(f"/api/models/{name}/tree/"):
            entries = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": self._etag(file)}
                for file in self._files()
            ]
            return self._send_json(entries, with_body)
        if path.startswith(f"/{name}/resolve/"):
            file = self.server.folder / path.rpartition("/")[2]
            if file.is_file() and file.name not in self.server.broken:
                headers = {"ETag": f'"{self._etag(file)}"', "X-Repo-Commit": COMMIT}
                return self._send(200, file.read_bytes(), headers, with_body)
            return self._send(403, b"", {}, with_body)  # not 500: that would be tried again for long
        return self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, with_body)

    def _files(self) -> list[Path]:
        return sorted(self.server.folder.iterdir())

    def _etag(self, file: Path) -> str:
        return hashlib.sha1(file.read_bytes()).hexdigest()

    def _send_json(self, content: object, with_body: bool) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"}, with_body)

    def _send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # tests are quiet
        pass
