"""The real server around a model that says what a test tells it to. Run as a process; `--tcp PORT` serves there
who says DGEMMA_TOKEN.

Custom requests, for tests only: `test/text` reads a document back, `test/say` sets the model's text (a list is one
for each seed), or its `script` (what it says after which texts, and otherwise nothing), and holds it at each step,
`test/reached` answers when the model waits at a held step, `test/release` lets it go on, `test/counts` says how many
fills began and how many steps were taken, `test/seen` what the model was shown last, `test/asked` the latest request
but for its texts. The environment variable FAKE_LOAD makes loading `fail`, or `wait` at 25 % for `test/release`;
FAKE_BETTER names a better checkpoint; with FAKE_AHEAD the server thinks ahead, as it really does; FAKE_PROMPT says
how many tokens the model reads; with FAKE_PROJECT it makes use of the project's text; whatever is below the folder
FAKE_STUCK never answers.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NoReturn

from dgemma_lsp.documents import verdicts, workspace
from dgemma_lsp.server import server as dgemma_server
from dgemma_lsp.server import transport
from dgemma_lsp.server.loading import ChosenModel, LoadListener
from dgemma_lsp.settings import Settings
from dgemma_model.request import Draft, DraftToken, Excerpt, FillRequest

MOST_MS = 60_000
"""The default time budget here: time is not what is tested, and a busy machine takes longer."""


class FakeInfiller:
    name = "fake"
    device = "none"
    languages = None
    threshold = -1.0
    prompt_tokens = int(os.environ.get("FAKE_PROMPT", "512"))
    uses_project_text = bool(os.environ.get("FAKE_PROJECT"))
    sends_text = False
    reviewer = None

    def __init__(self) -> None:
        self.text: str | list[str] = "value"
        self.script: list[list[str]] = []
        self.steps = 3
        self.fails = False
        self.seen = Excerpt("", "")
        self.seen_project_text: tuple[str, ...] = ()
        self.asked = ""
        self.fills_begun = 0
        self.steps_taken = 0
        self._held = False
        self._standing = False
        self._releases = 0
        self._changed = threading.Condition()

    def fill(self, request: FillRequest) -> Iterator[Draft]:
        self.fills_begun += 1
        self.seen, self.asked = request.excerpt, repr(replace(request, excerpt=Excerpt("", ""), project_text=()))
        self.seen_project_text = request.project_text
        print("a library prints to standard output")
        os.write(1, b"and so does one written in C\n")
        if self.fails:
            raise RuntimeError("no such luck")
        text, steps = self.text, self.steps
        if self.script:
            text = next((said for before, said in self.script if request.excerpt.prefix.endswith(before)), "")
        if isinstance(text, list):
            text = text[request.seed % len(text)]
        for step in range(1, steps + 1):
            self.pass_gate()
            self.steps_taken += 1
            last = step == steps
            texts, tokens = (text,) * request.excerpt.hole_count, ((DraftToken(text, step / steps, last),),)
            yield Draft(texts, step=step, done=last, complete=last, score=-0.1, tokens=tokens)

    def hold(self, held: bool) -> None:
        """Hold whoever comes to the gate, or let it go on."""
        with self._changed:
            self._held = held
            self._releases += not held
            self._standing = self._standing and held
            self._changed.notify_all()

    def pass_gate(self) -> None:
        with self._changed:
            if not self._held:
                return
            self._standing, passed = True, self._releases
            self._changed.notify_all()
            # Whoever stood here goes on, though the gate be held again before he wakes up.
            self._changed.wait_for(lambda: self._releases > passed)

    def wait_until_reached(self) -> None:
        """Return when someone waits at the gate."""
        with self._changed:
            self._changed.wait_for(lambda: self._standing)


def never_answer(folder: str) -> None:
    """Have every question to the operating system about what is in a folder wait for ever."""

    def stuck(real: Callable[..., Any]) -> Callable[..., Any]:
        def asked(path: Any = ".", *arguments: Any, **options: Any) -> Any:
            if str(path).startswith(folder):
                threading.Event().wait()
            return real(path, *arguments, **options)

        return asked

    for name in ("stat", "lstat", "open", "scandir", "readlink"):
        setattr(os, name, stuck(getattr(os, name)))


def main() -> NoReturn:
    infiller = FakeInfiller()
    if folder := os.environ.get("FAKE_STUCK"):
        never_answer(folder)
    else:  # a busy machine's disk answers late, but it does
        verdicts.PATIENCE_S = workspace._READING_S = 60.0

    def load(settings: Settings, listener: LoadListener) -> FakeInfiller:
        logging.getLogger("dgemma_lsp").info("loading checkpoint=%s", settings.checkpoint)
        if better := os.environ.get("FAKE_BETTER"):
            listener.chose(ChosenModel("fake", "no other is here", better, "3 MB, all languages", f"get {better}"))
        match os.environ.get("FAKE_LOAD"):
            case "fail":
                raise ValueError("the weights are truncated")
            case "wait":
                infiller.hold(True)
                listener.read(0.257)
                listener.read(0.258)
                infiller.pass_gate()
        return infiller

    server = dgemma_server.create_server(load, Settings(time_budget_ms=MOST_MS))
    server.look_ahead_s = 0.0 if os.environ.get("FAKE_AHEAD") else None

    @server.feature("test/text")
    def text(params: Any) -> dict[str, object] | None:
        document = server.documents.get(params.uri)
        return None if document is None else {"text": document.text, "version": document.version}

    @server.feature("test/say")
    def say(params: Any) -> None:
        said = params._asdict()
        infiller.hold(said.pop("held", False))
        for name, value in said.items():
            setattr(infiller, name, value)

    @server.feature("test/reached")
    async def reached(params: Any) -> None:
        await asyncio.to_thread(infiller.wait_until_reached)

    @server.feature("test/release")
    def release(params: Any) -> None:
        infiller.hold(False)

    @server.feature("test/counts")
    def counts(params: Any) -> dict[str, int]:
        return {"fills": infiller.fills_begun, "steps": infiller.steps_taken}

    @server.feature("test/seen")
    def seen(params: Any) -> dict[str, object]:
        seen = infiller.seen
        return {"prefix": seen.prefix, "suffix": seen.suffix, "project_text": infiller.seen_project_text}

    @server.feature("test/asked")
    def asked(params: Any) -> str:
        return infiller.asked

    dgemma_server.log_to_stderr()
    if sys.argv[1:2] == ["--tcp"]:
        transport.serve_tcp(server, ["127.0.0.1"], int(sys.argv[2]), os.environ["DGEMMA_TOKEN"])
    transport.serve_stdio(server)


if __name__ == "__main__":
    main()
