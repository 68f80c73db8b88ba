"""What the command `bench` does: measures the model and the server, and prints a table and one JSON document."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from dgemma_lsp.command import bench_keystrokes, bench_server
from dgemma_lsp.command.loading import UserError
from dgemma_model.checkpoint.config import Quantize

PING_SECONDS = 10.0
SERVERS = (1, 3)
"""Servers whose memory is measured, over the same checkpoint."""
IDLE_SECONDS = 20.0
KEYSTROKES = {
    "100,000 lines of Python": ("python", 100_000, 200, bench_keystrokes.EMBEDDED_TOKENS),
    "the same, with other files as context": ("python", 100_000, 200, bench_keystrokes.LARGE_TOKENS),
    "10,000 lines of Python": ("python", 10_000, 200, bench_keystrokes.EMBEDDED_TOKENS),
    "10,000 lines of JavaScript": ("javascript", 10_000, 200, bench_keystrokes.EMBEDDED_TOKENS),
    "10,000 lines of C": ("c", 10_000, 200, bench_keystrokes.EMBEDDED_TOKENS),
}
"""Language, lines, keys pressed, and how many tokens the checkpoint reads."""


def bench(
    checkpoint: str | None, device: str | None, quantize: Quantize | None, *, shape: str | None, repeats: int
) -> None:
    """Measure and print. Of a `shape`, all forms of the experts are measured that `quantize` leaves.

    Raises:
        UserError: the checkpoint or device cannot be used, or the shape does not fit.
    """
    named = {"checkpoint": checkpoint, "device": device, "quantize": quantize}
    options = [f"--{name}={value}" for name, value in named.items() if value]
    servers = {} if shape is not None or checkpoint is None else _servers(checkpoint, device, options)
    from dgemma_model.bench import fill_times, network_times, published_shape, timing, writer_times
    from dgemma_model.checkpoint import selection
    from dgemma_model.checkpoint.errors import CheckpointError
    from dgemma_model.infill import usable_device

    try:
        place = usable_device(device)
        if shape is not None:
            is_small = place.type == "cpu"
            config = published_shape.small_config() if is_small else published_shape.published_config()
            forms = published_shape.FORMS if quantize is None else (quantize,)
            report = published_shape.measure_shape(config, place, repeats, forms) | {"in_small": is_small}
        elif checkpoint is not None and writer_times.is_causal(source := selection.find(checkpoint), place, quantize):
            report = writer_times.compare(source, place, repeats)
        else:
            directory = None if checkpoint is None else selection.find(checkpoint)
            report = network_times.compare(directory, place, repeats, quantize)
            report["written_fill"] = fill_times.written_fills(directory, place, repeats, quantize)
            report["warm_fill"] = fill_times.warm_fills(directory, place, repeats, quantize)
            report["ping_during_fills"] = asyncio.run(bench_server.pings(PING_SECONDS, *options))
            report["keystroke"] = {
                name: bench_keystrokes.measure(language, lines, keys, tokens)
                for name, (language, lines, keys, tokens) in KEYSTROKES.items()
            }
    except (timing.BenchError, CheckpointError) as error:
        raise UserError(str(error)) from error
    report |= servers
    if shape is not None:
        shown = shape_table(report)
    else:
        shown = writer_table(report) if "cold_prompt" in report else table(report)
    Console(width=120).print(shown)
    print(json.dumps(report))


def _servers(checkpoint: str, device: str | None, options: Sequence[str]) -> dict[str, Any]:
    """Memory of whole servers, and what an idle one takes of the processor."""
    from dgemma_model.checkpoint import selection
    from dgemma_model.checkpoint.errors import CheckpointError

    try:
        selection.find(checkpoint, device)
    except CheckpointError as error:
        raise UserError(str(error)) from error
    return {
        "servers_mb": {str(n): asyncio.run(bench_server.memory(n, *options)) for n in SERVERS},
        "idle_ms": asyncio.run(bench_server.idle_ms(IDLE_SECONDS, *options)),
    }


COLUMNS = {
    "ours": "ours",
    "token_by_token": "token by token",
    "float32": "transformers, float32",
    "bfloat16": "transformers, bfloat16",
}


def writer_table(report: dict[str, Any]) -> Table:
    """The report about a checkpoint that writes causally: ours, and how many times as long the others take."""
    others = {name: f"llama.cpp ({name} {version})" for name, version in report["others"].items()}
    beside = report["cold_prompt_transformers"]
    columns = {"ours": "ours"} | others
    shown = Table("median / p95 ms", *columns.values())

    def row(name: str, measured: dict[str, Any], columns: dict[str, str] = columns) -> None:
        ours = measured["ours"]["median_ms"]
        cells = [f"{ours:.1f} / {measured['ours']['p95_ms']:.1f}"]
        for column in list(columns)[1:]:
            if found := measured.get(column):
                cells.append(f"{found['median_ms']:.1f} / {found['p95_ms']:.1f} ({found['median_ms'] / ours:.2f}x)")
            else:
                cells.append("")
        shown.add_row(name, *cells)

    row(f"a prompt of {report['prompt_tokens']} tokens, cold", report["cold_prompt"])
    for tokens, measured in report["written"].items():
        row(f"{tokens} tokens, one by one", measured)
    row("a line after a keystroke", report["line"])
    row("the same, with other files to copy from", report["line_with_project"])
    row("the same, one of which has that line, too", report["line_with_similar"])
    row(f"a token of lines that are there already ({report['copied_lines']['tokens']} tokens)", report["copied_lines"])
    for tokens, measured in report["pass"].items():
        row(f"a pass over {tokens} tokens", measured)
    caption = [f"passes: {report['passes']}, {report['threads']} threads"]
    cut = (report[name]["cut_percent"] for name in ("line", "line_with_project", "line_with_similar"))
    caption.append(f"lines cut by the time budget: {', '.join(f'{share} %' for share in cut)}")
    if beside is not None:
        ours = beside["ours"]["median_ms"]
        caption += [f"transformers {name}: {beside[name]['median_ms'] / ours:.1f}x" for name in ("float32", "bfloat16")]
    shown.caption = "; ".join(caption + servers_caption(report))
    return shown


def servers_caption(report: dict[str, Any]) -> list[str]:
    """What is said of whole servers."""
    said = [f"servers: {' + '.join(map(str, sizes))} MB" for sizes in report.get("servers_mb", {}).values() if sizes]
    if report.get("idle_ms") is not None:
        said.append(f"idle for {IDLE_SECONDS:.0f} s: {report['idle_ms']:.0f} ms of the processor")
    return said


def table(report: dict[str, Any]) -> Table:
    """The report for people: ours, and the others with how many times slower they are."""
    shown = Table("median / p95 ms", *COLUMNS.values())

    def row(name: str, measured: dict[str, Any]) -> None:
        ours = measured["ours"]["median_ms"]
        cells = []
        for column in COLUMNS:
            match measured.get(column):
                case {"median_ms": median, "p95_ms": p95}:
                    ratio = "" if column == "ours" else f" ({median / ours:.1f}x)"
                    cells.append(f"{median:.2f} / {p95:.2f}{ratio}")
                case _:
                    cells.append("")
        shown.add_row(name, *cells)

    if "encoder_cold" in report:
        row(f"encoder, {report['prompt_tokens']} tokens", report["encoder_cold"])
        for tokens, measured in report["encoder_reuse"].items():
            row(f"encoder, {tokens} more", measured)
    for canvas, measured in report["decoder_step"].items():
        row(f"decoder step, canvas {canvas}", measured)
    for key, what in (("fills", "prompt included"), ("fills_cached", "prompt cached")):
        for tokens, measured in report.get(key, {}).items():
            row(f"fill of {tokens}, {measured['steps']} steps, {what}", measured)
    if "written_fill" in report:
        written = report["written_fill"]
        drafted = f"{written['ours']['tokens_per_pass']} tokens a pass"
        row(f"a token of a fill of several lines, {drafted}", written)
        row("the same text token by token", {"ours": written["ours"], "token_by_token": written["same_text"]})
    if "warm_fill" in report:
        outside = 100 * report["warm_fill"]["share_outside_network"]
        row(f"one line, one more keystroke ({outside:.0f} % outside the network)", {"ours": report["warm_fill"]})
        row("a ping while the server fills", {"ours": report["ping_during_fills"]})
        for name, measured in report["keystroke"].items():
            row(f"the server's own work per keystroke: {name}", {"ours": measured["stages"]["all"]})
    shown.caption = "; ".join([f"{report['peak_memory_mb']} MB at most", *servers_caption(report)])
    return shown


def shape_table(report: dict[str, Any]) -> Table:
    """The report on random weights for people: each form of the experts, and each size of a canvas."""
    where = "a small network of the published kind, with random weights" if report["in_small"] else (
        "the published shape, with random weights"
    )  # fmt: skip
    tokens = f"tokens/s, {report['steps']} steps"
    shown = Table("experts", "canvas", "step, median / p95 ms", "floor ms", "times floor", tokens, title=where)
    notes = [f"memory is copied at {report['copy_gb_per_s']:.0f} GB/s"]
    for form, measured in report["forms"].items():
        if "refused" in measured:
            notes.append(f"{form}: {measured['refused']}")
            continue
        for canvas, times in measured["decoder_step"].items():
            step = f"{times['ours']['median_ms']:.2f} / {times['ours']['p95_ms']:.2f}"
            figures = (times["floor_ms"], times["times_floor"], times["tokens_per_s"])
            shown.add_row(form, canvas, step, *map(str, figures))
        notes.append(f"{form}: {measured['budget_gb']:.1f} GB computed, {measured['peak_memory_mb']} MB at most")
    shown.caption = "\n".join(notes)
    return shown
