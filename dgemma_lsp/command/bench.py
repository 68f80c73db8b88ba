"""What the command `bench` does: measures the model and the server, and prints a table and one JSON document."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dgemma_lsp.command import bench_keystrokes
from dgemma_lsp.command.loading import UserError

PING_SECONDS = 10.0
KEYSTROKES = {
    "100,000 lines of Python": ("python", 100_000, 200, bench_keystrokes.EMBEDDED_TOKENS),
    "the same, with context from elsewhere": ("python", 100_000, 200, bench_keystrokes.LARGE_TOKENS),
    "10,000 lines of Python": ("python", 10_000, 200, bench_keystrokes.EMBEDDED_TOKENS),
    "10,000 lines of JavaScript": ("javascript", 10_000, 200, bench_keystrokes.EMBEDDED_TOKENS),
    "10,000 lines of C": ("c", 10_000, 200, bench_keystrokes.EMBEDDED_TOKENS),
}
"""Language, lines, keys pressed, and how many tokens the checkpoint reads."""


def bench(checkpoint: str | None, device: str | None, *, shape: str | None, repeats: int) -> None:
    """Measure and print.

    Raises:
        UserError: the checkpoint or device cannot be used, or the shape does not fit.
    """
    from dgemma_model.bench import fill_times, network_times, published_shape, timing
    from dgemma_model.checkpoint.errors import CheckpointError
    from dgemma_model.infill import usable_device

    try:
        place = usable_device(device)
        if shape is not None:
            report = published_shape.measure_shape(published_shape.published_config(), place, repeats)
        else:
            directory = None if checkpoint is None else Path(checkpoint).expanduser()
            report = network_times.compare(directory, place, repeats)
            report["written_fill"] = fill_times.written_fills(directory, place, repeats)
            report["warm_fill"] = fill_times.warm_fills(directory, place, repeats)
            report["ping_during_fills"] = asyncio.run(ping_during_fills(PING_SECONDS, checkpoint, device))
            report["keystroke"] = {
                name: bench_keystrokes.measure(language, lines, keys, tokens)
                for name, (language, lines, keys, tokens) in KEYSTROKES.items()
            }
    except (timing.BenchError, CheckpointError) as error:
        raise UserError(str(error)) from error
    Console(width=120).print(table(report))
    print(json.dumps(report))


COLUMNS = {
    "ours": "ours",
    "token_by_token": "token by token",
    "float32": "transformers, float32",
    "bfloat16": "transformers, bfloat16",
}


def table(report: dict[str, Any]) -> Table:
    """The report for people: ours, and the others with how many times slower they are."""
    is_shape = "copy_gb_per_s" in report
    columns = {"ours": "ours", "floor_ms": "floor"} if is_shape else COLUMNS
    shown = Table("median / p95 ms", *columns.values())

    def row(name: str, measured: dict[str, Any]) -> None:
        ours = measured["ours"]["median_ms"]
        cells = []
        for column in columns:
            match measured.get(column):
                case {"median_ms": median, "p95_ms": p95}:
                    ratio = "" if column == "ours" else f" ({median / ours:.1f}x)"
                    cells.append(f"{median:.2f} / {p95:.2f}{ratio}")
                case None:
                    cells.append("")
                case floor:
                    cells.append(f"{floor}")
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
    shown.caption = f"{report['peak_memory_mb']} MB at most"
    return shown


async def ping_during_fills(seconds: float, checkpoint: str | None, device: str | None) -> dict[str, float]:
    """Round trips of a request that needs no model, while the server is kept filling."""
    options = [f"--{name}={value}" for name, value in (("checkpoint", checkpoint), ("device", device)) if value]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "dgemma_lsp", *options,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def send(method: str, params: object, number: int | None = None) -> None:
        message = {"jsonrpc": "2.0", "method": method, "params": params} | ({} if number is None else {"id": number})
        body = json.dumps(message).encode()
        stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))

    async def receive() -> dict[str, Any]:
        length = 0
        while line := (await stdout.readline()).strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        return dict(json.loads(await stdout.readexactly(length)))

    send("initialize", {"processId": None, "rootUri": None, "capabilities": {}}, 0)
    await receive()
    send("initialized", {})
    text = "import os\n\n\ndef read(path):\n    \n"
    uri = "file:///bench.py"
    send("textDocument/didOpen", {"textDocument": {"uri": uri, "languageId": "python", "version": 1, "text": text}})
    fill = {"textDocument": {"uri": uri}, "position": {"line": 4, "character": 4}, "context": {"triggerKind": 1}}
    send("textDocument/inlineCompletion", fill, -1)  # answered once the model is loaded
    while (await receive()).get("id") != -1:
        pass
    pings: list[float] = []
    fills = number = 0
    deadline = time.perf_counter() + seconds
    filling: int | None = None
    answered: dict[int, dict[str, Any]] = {}
    while time.perf_counter() < deadline:
        if filling is None or filling in answered:
            fills += filling is not None
            filling = number = number + 1
            send("textDocument/inlineCompletion", fill, number)
        number += 1
        started = time.perf_counter()
        send("workspace/executeCommand", {"command": "dgemma.explainSilence", "arguments": [uri]}, number)
        while number not in answered:
            message = await receive()
            if "id" in message and "method" not in message:
                answered[message["id"]] = message
        pings.append(1000 * (time.perf_counter() - started))
        await asyncio.sleep(0.005)
    process.kill()
    await process.wait()
    pings.sort()
    median, p95 = statistics.median(pings), pings[int(0.95 * len(pings))]
    return {"median_ms": round(median, 3), "p95_ms": round(p95, 3), "pings": len(pings), "fills": fills}
