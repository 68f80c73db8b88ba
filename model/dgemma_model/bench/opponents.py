"""llama.cpp on the same `.gguf` file, for comparison, if one of its Python packages is installed.

`xllamacpp` is a prebuilt wheel for AVX2. `llama-cpp-python`, installed from source, is compiled for this processor.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

CONTEXT_TOKENS = 4096


class Opponent(Protocol):
    """Another program that writes greedily after a prompt of token ids."""

    def write(self, prompt: Sequence[int], tokens: int, *, anew: bool = False) -> int:
        """Write at most `tokens` after the prompt, and return how many were written. The part of the prompt that was
        read before is reused, unless `anew` is set."""

    def write_line(self, prompt: Sequence[int], most: int) -> int:
        """The same, but stop at the end of the line; at most `most` tokens."""


class LlamaCppPython:
    """`llama-cpp-python`."""

    def __init__(self, file: Path, threads: int) -> None:
        from llama_cpp import Llama

        with _silence():
            self._llama: Any = Llama(
                str(file), n_ctx=CONTEXT_TOKENS, n_threads=threads, n_threads_batch=threads, verbose=False
            )

    def write(self, prompt: Sequence[int], tokens: int, *, anew: bool = False) -> int:
        """See `Opponent`."""
        if anew:
            self._llama.reset()
        return sum(1 for _ in self._written(prompt, tokens))

    def write_line(self, prompt: Sequence[int], most: int) -> int:
        """See `Opponent`."""
        count = 0
        for token in self._written(prompt, most):
            count += 1
            if b"\n" in self._llama.detokenize([token]):
                break
        return count

    def _written(self, prompt: Sequence[int], tokens: int) -> Iterator[int]:
        written = self._llama.generate(list(prompt), temp=0.0)  # reuses what it has read before
        for _ in range(tokens):
            token = int(next(written))
            if token == self._llama.token_eos():
                return
            yield token


class XLlamaCpp:
    """`xllamacpp`."""

    def __init__(self, file: Path, threads: int) -> None:
        import xllamacpp

        wanted = xllamacpp.CommonParams()
        wanted.model.path, wanted.n_ctx, wanted.n_parallel, wanted.verbosity = str(file), CONTEXT_TOKENS, 1, -1
        wanted.cpuparams.n_threads = wanted.cpuparams_batch.n_threads = threads
        with _silence():
            self._server: Any = xllamacpp.Server(wanted)

    def write(self, prompt: Sequence[int], tokens: int, *, anew: bool = False) -> int:
        """See `Opponent`."""
        return self._ask(prompt, tokens, cache_prompt=not anew)

    def write_line(self, prompt: Sequence[int], most: int) -> int:
        """See `Opponent`."""
        return self._ask(prompt, most, cache_prompt=True, stop=["\n"])

    def _ask(self, prompt: Sequence[int], tokens: int, **options: object) -> int:
        asked = {"prompt": list(prompt), "n_predict": tokens, "temperature": 0.0, **options}
        with _silence():
            return int(self._server.handle_completions(asked)["timings"]["predicted_n"])


KINDS: dict[str, tuple[str, Callable[[Path, int], Opponent]]] = {
    "llama_cpp_python": ("llama_cpp", LlamaCppPython),
    "xllamacpp": ("xllamacpp", XLlamaCpp),
}
"""The importable module and the class for each opponent."""


def opponents(file: Path, threads: int) -> dict[str, Opponent]:
    """The opponents whose package is installed, by name, with `file` loaded; none if it is no `.gguf` file."""
    if file.suffix != ".gguf":
        return {}
    return {
        name: opened(file, threads)
        for name, (module, opened) in KINDS.items()
        if importlib.util.find_spec(module) is not None
    }


def versions() -> dict[str, str]:
    """The versions of the installed packages, by the opponents' names."""
    return {
        name: version(name.replace("_", "-")) for name, (module, _) in KINDS.items() if importlib.util.find_spec(module)
    }


@contextmanager
def _silence() -> Iterator[None]:
    """Discards what native code writes to standard output and standard error meanwhile."""
    sys.stdout.flush()
    kept = os.dup(1), os.dup(2)
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for descriptor in (nothing, *kept):
            os.close(descriptor)
