"""Records what an editor and a language server say to each other. Give it to an editor as its server:

    DGEMMA_TRACE=trace.jsonl python tests/traces/record.py SERVER [ARGUMENT...]

Each message becomes one line, `{"t": seconds, "from": "client" | "server", "message": {...}}`; `t` counts from the
first one. The folder that the editor has open is written as /project, the user's home as /home/user, and process ids
are left out, so that a trace can be shown to others. What the server logs is passed on, and not kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO


class Recorder:
    """Writes the lines of a trace. For several threads."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._lock = threading.Lock()
        self._began: float | None = None
        self._places: list[tuple[str, str]] = [(str(Path.home()), "/home/user")]

    def note(self, sender: str, body: bytes) -> None:
        """Write one message down."""
        with self._lock:
            now = time.monotonic()
            self._began = now if self._began is None else self._began
            message = json.loads(body)
            if sender == "client" and message.get("method") == "initialize":
                self._take_folder(message["params"])
            line = json.dumps(
                {"t": round(now - self._began, 4), "from": sender, "message": message}, ensure_ascii=False
            )
            for place, name in self._places:
                line = line.replace(place, name)
            self._file.write(line + "\n")
            self._file.flush()

    def _take_folder(self, params: dict[str, Any]) -> None:
        params["processId"] = None
        uris = [params.get("rootUri"), *(folder["uri"] for folder in params.get("workspaceFolders") or [])]
        folders = {uri.removeprefix("file://") for uri in uris if uri}
        self._places[:0] = [(folder, "/project") for folder in sorted(folders, key=len, reverse=True)]


def passed_on(source: BinaryIO, sink: BinaryIO, sender: str, recorder: Recorder) -> None:
    """Pass messages on until there are no more, as they are."""
    while True:
        header = b""
        while not header.endswith(b"\r\n\r\n"):
            byte = source.read(1)
            if not byte:
                sink.close()
                return
            header += byte
        length = next(
            int(line.split(b":")[1]) for line in header.split(b"\r\n") if line.lower().startswith(b"content-l")
        )
        body = source.read(length)
        recorder.note(sender, body)
        try:
            sink.write(header + body)
            sink.flush()
        except BrokenPipeError:
            return


def main() -> int:
    """Run the server that the arguments name."""
    recorder = Recorder(Path(os.environ["DGEMMA_TRACE"]))
    server = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdin is not None and server.stdout is not None
    arguments = (sys.stdin.buffer, server.stdin, "client", recorder)
    threading.Thread(target=passed_on, args=arguments, daemon=True).start()
    passed_on(server.stdout, sys.stdout.buffer, "server", recorder)
    return server.wait()


if __name__ == "__main__":
    sys.exit(main())
