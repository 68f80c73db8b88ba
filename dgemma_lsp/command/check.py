"""What the command `check` does: what works on this machine, and what to do where something does not."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dgemma_lsp.command.loading import ModelOptions, UserError
from dgemma_model.request import Excerpt, FillRequest
from dgemma_model.source import languages, syntax

HASHED_BYTES = 2**30
"""Larger checkpoints are not read through only to name them."""


def check(wanted: ModelOptions) -> bool:
    """Print a table of what works on this machine; whether all of it does."""
    rows: list[tuple[str, Callable[[], str]]] = [
        ("Python", platform.python_version),
        ("dgemma-lsp", lambda: version("dgemma-lsp")),
        ("torch", _torch_version),
        ("processor", _processor),
        ("passes", _passes),
        ("memory", _memory),
        ("grammars", _grammars),
        ("writer", lambda: _model_line(wanted)),
        ("a fill", lambda: _trial_fill(wanted)),
    ]
    table = Table("", "", "", show_header=False)
    all_well = True
    for name, look in rows:
        try:
            table.add_row("[green]ok[/green]", name, escape(look()))
        except Exception as error:  # whatever is broken here is what the user wants to know
            all_well = False
            table.add_row("[red]no[/red]", name, escape(str(error) or type(error).__name__))
    Console(highlight=False).print(table)
    return all_well


def _torch_version() -> str:
    try:
        import torch
    except (ImportError, OSError) as error:
        raise UserError(f"{error}; install dgemma-lsp again, or torch for this Python ({sys.executable})") from error
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{torch.__version__}, {torch.get_num_threads()} threads, GPU: {', '.join(gpus) or 'none'}"


def _processor() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores"


def _passes() -> str:
    from dgemma_model.infill import compiled_passes

    if (instructions := compiled_passes()) is not None:
        return f"compiled for {instructions}"
    return "torch's own; on Linux and x86-64, installing dgemma-lsp where there is a C compiler makes them faster"


def _memory() -> str:
    if not hasattr(os, "sysconf"):
        return "unknown"
    page = os.sysconf("SC_PAGE_SIZE")
    total, free = (os.sysconf(name) * page / 2**30 for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES"))
    return f"{total:.1f} GiB, {free:.1f} GiB free"


def _grammars() -> str:
    rows = {row: syntax.has_grammar(row) for row in languages.ROWS}
    if missing := sorted({row.package for row, there in rows.items() if not there}):
        raise UserError(f"these languages are plain text until you pip install {' '.join(missing)}")
    return ", ".join(sorted(row.name for row in rows))


def _model_line(wanted: ModelOptions) -> str:
    """What fills, why, and what would be better."""
    from dgemma_model.checkpoint.selection import default_checkpoint, find

    if (engine := wanted.chosen_engine()) is not None:
        return f"an engine, {engine.why}; text goes to {engine.address.described}"
    if wanted.checkpoint:
        return f"{wanted.checkpoint}, named on the command line: {_weights_line(find(wanted.checkpoint))}"
    default = default_checkpoint(wanted.device)
    advice = f"\n{default.advice}" if default.advice else ""
    return f"{default.name}, because {default.why}: {_weights_line(default.path)}{advice}"


def _weights_line(directory: Path) -> str:
    weights = sorted(directory.glob("*.safetensors")) if directory.is_dir() else [directory]
    if not weights:
        raise UserError(f"no weights in {directory}; pass --checkpoint DIRECTORY, or install dgemma-lsp again")
    if (digest := weights_digest(weights)) is None:
        return f"{directory} ({sum(path.stat().st_size for path in weights) / 2**30:.1f} GiB)"
    return f"{directory} (sha256 {digest[:16]})"


def weights_digest(weights: Sequence[Path]) -> str | None:
    """The hash of files of weights, in hexadecimal; None of very large ones."""
    if sum(path.stat().st_size for path in weights) > HASHED_BYTES:
        return None
    digest = hashlib.sha256()
    for path in weights:
        with path.open("rb") as file:
            while chunk := file.read(1 << 24):
                digest.update(chunk)
    return digest.hexdigest()


def _trial_fill(wanted: ModelOptions) -> str:
    infiller = wanted.load()
    excerpt = Excerpt("def area(width, height):\n    return ", "\n")
    started = time.perf_counter()
    *_, draft = infiller.fill(FillRequest(excerpt, one_line=True))
    took_ms = 1000 * (time.perf_counter() - started)
    return f"return {draft.text!r} in {took_ms:.0f} ms by {infiller.name} on {infiller.device}"
