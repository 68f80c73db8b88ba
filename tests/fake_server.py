"""The real server around a model that says what a test tells it to. Run as a process; `--tcp PORT` serves there.

Custom requests, for tests only: `test/text` reads a document back, `test/say` sets the model's text (and holds it
at each step), `test/reached` answers when the model stands at a held step, `test/release` lets it go on,
`test/counts` says how many fills began and how many steps were taken. The environment variable FAKE_LOAD makes
loading `fail`, or `wait` for `test/release`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

from dgemma_lsp import server as dgemma_server
from dgemma_lsp import transport
from dgemma_lsp.settings import Settings
from dgemma_model.request import Draft, FillRequest


class FakeInfiller:
    name = "fake"
    device = "none"
    languages = None
    threshold = -1.0

    def __init__(self) -> None:
        self.text = "value"
        self.steps = 3
        self.held = False
        self.fails = False
        self.reached = threading.Semaphore(0)
        self.released = threading.Semaphore(0)
        self.fills_begun = 0
        self.steps_taken = 0

    def fill(self, request: FillRequest) -> Iterator[Draft]:
        self.fills_begun += 1
        print("a library prints to standard output")
        os.write(1, b"and so does one written in C\n")
        if self.fails:
            raise RuntimeError("no such luck")
        for step in range(1, self.steps + 1):
            if self.held:
                self.reached.release()
                self.released.acquire()
            self.steps_taken += 1
            last = step == self.steps
            yield Draft((self.text,), step=step, done=last, complete=last, score=-0.1)


def main() -> int:
    infiller = FakeInfiller()

    def load(settings: Settings) -> FakeInfiller:
        logging.getLogger("dgemma_lsp").info("loading checkpoint=%s", settings.checkpoint)
        match os.environ.get("FAKE_LOAD"):
            case "fail":
                raise ValueError("the weights are truncated")
            case "wait":
                infiller.reached.release()
                infiller.released.acquire()
        return infiller

    server = dgemma_server.create_server(load)

    @server.feature("test/text")
    def text(params: Any) -> dict[str, object] | None:
        document = server.documents.get(params.uri)
        return None if document is None else {"text": document.text, "version": document.version}

    @server.feature("test/say")
    def say(params: Any) -> None:
        for name, value in params._asdict().items():
            setattr(infiller, name, value)

    @server.feature("test/reached")
    async def reached(params: Any) -> None:
        await asyncio.to_thread(infiller.reached.acquire)

    @server.feature("test/release")
    def release(params: Any) -> None:
        infiller.held = False
        infiller.released.release()

    @server.feature("test/counts")
    def counts(params: Any) -> dict[str, int]:
        return {"fills": infiller.fills_begun, "steps": infiller.steps_taken}

    dgemma_server.log_to_stderr()
    if sys.argv[1:2] == ["--tcp"]:
        return transport.serve_tcp(server, "127.0.0.1", int(sys.argv[2]))
    return transport.serve_stdio(server)


if __name__ == "__main__":
    sys.exit(main())
