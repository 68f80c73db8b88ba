"""Times of the embedded checkpoint, side by side with `transformers` in one run: `make bench`.

The same weights in float32, the same prompts, canvas and number of denoising steps; early stopping is off on both
sides. The last line is one JSON document.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from dgemma_model.canvas import encode_prompt
from dgemma_model.checkpoint import embedded_directory, load
from dgemma_model.config import SamplerConfig
from dgemma_model.excerpt import ExcerptBudget, cut
from dgemma_model.infill import Infiller
from dgemma_model.network import Cache
from dgemma_model.request import Excerpt, FillRequest
from dgemma_model.sampler import Noise, denoise
from dgemma_model.train.evaluate import read_holes

CANVAS, STEPS = 64, 8


def measured(work: Callable[[], object], repeats: int) -> list[float]:
    """Milliseconds of each of `repeats` runs, after one that does not count."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - started))
    return times


def summary(times: list[float]) -> dict[str, float]:
    """Median and 95th percentile, in milliseconds."""
    ordered = sorted(times)
    return {"median_ms": round(statistics.median(times), 2), "p95_ms": round(ordered[int(0.95 * len(ordered))], 2)}


def excerpts(count: int) -> list[Excerpt]:
    """Excerpts at held-out whole lines with a full prompt."""
    holes = [hole for hole in read_holes() if hole.kind == "line" and len(hole.prefix) > 1100][:count]
    return [cut(hole.prefix + hole.suffix, [(len(hole.prefix), len(hole.prefix))], ExcerptBudget()) for hole in holes]


def reference() -> Any:
    """The embedded checkpoint in transformers."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    from transformers import DiffusionGemmaForBlockDiffusion

    return DiffusionGemmaForBlockDiffusion.from_pretrained(embedded_directory(), dtype=torch.float32).eval()


@torch.inference_mode()
def compare(repeats: int) -> dict[str, Any]:
    """Encoder, decoder step and whole fill, ours and theirs alternating over the same prompts."""
    checkpoint = load(embedded_directory(), torch.device("cpu"), torch.float32)
    network, policy = checkpoint.network, checkpoint.config.policy
    theirs = reference()
    from transformers import DynamicCache

    prompts = [
        torch.tensor([encode_prompt(excerpt, checkpoint.tokenizer, policy.prompt_tokens).ids])
        for excerpt in excerpts(repeats)
    ]
    lengths = statistics.fmean(prompt.shape[1] for prompt in prompts)
    ids = prompts[0]
    noise = Noise(network.config.vocab_size)
    generator = torch.Generator().manual_seed(0)
    canvas = noise.draw((1, CANVAS), generator)
    cache = Cache()
    network.encode(ids, cache)
    their_cache = DynamicCache(config=theirs.config.get_text_config(decoder=True))
    theirs.model.encoder(input_ids=ids, past_key_values=their_cache)
    logits = torch.randn(1, CANVAS, network.config.vocab_size)

    def our_encoder() -> None:
        network.encode(ids, Cache())

    def their_encoder() -> None:
        theirs.model.encoder(input_ids=ids)

    def our_step() -> None:
        network.logits(network.decode(canvas, cache, expected=network.expected_embeddings(logits)))

    def their_step() -> None:
        theirs(decoder_input_ids=canvas, past_key_values=their_cache, self_conditioning_logits=logits)

    config = SamplerConfig(max_denoising_steps=STEPS)
    pinned = torch.zeros_like(canvas, dtype=torch.bool)

    def our_fill(prompt: torch.Tensor) -> None:
        fresh = Cache()
        network.encode(prompt, fresh)
        for _ in denoise(network, fresh, canvas, pinned, config, noise, generator):
            pass

    def their_fill(prompt: torch.Tensor) -> None:
        theirs.config.canvas_length = CANVAS
        theirs.generate(
            prompt,
            max_new_tokens=CANVAS,
            max_denoising_steps=STEPS,
            stability_threshold=None,
            confidence_threshold=None,
            disable_compile=True,
        )

    fills: dict[str, list[float]] = {"ours": [], "transformers": []}
    our_fill(ids)
    their_fill(ids)
    for prompt in prompts:
        fills["ours"] += measured_once(lambda p=prompt: our_fill(p))
        fills["transformers"] += measured_once(lambda p=prompt: their_fill(p))
    encoder = {"ours": measured(our_encoder, repeats), "transformers": measured(their_encoder, repeats)}
    step = {"ours": measured(our_step, repeats), "transformers": measured(their_step, repeats)}
    return {
        "prompt_tokens": ids.shape[1],
        "mean_prompt_tokens": round(lengths),
        "canvas": CANVAS,
        "steps": STEPS,
        "encoder": {who: summary(times) for who, times in encoder.items()},
        "encoder_us_per_token": {
            who: round(1000 * statistics.median(times) / ids.shape[1], 1) for who, times in encoder.items()
        },
        "decoder_step": {who: summary(times) for who, times in step.items()},
        "fill": {who: summary(times) for who, times in fills.items()},
    }


def measured_once(work: Callable[[], object]) -> list[float]:
    """Milliseconds of one run."""
    started = time.perf_counter()
    work()
    return [1000 * (time.perf_counter() - started)]


def product_fills(count: int) -> dict[str, Any]:
    """Fills of one line as the server asks for them: cold, after one more keystroke, and token by token."""
    infiller = Infiller.load()
    cold, warm, causal, passes = [], [], [], []
    for excerpt in excerpts(count):
        longer = Excerpt(excerpt.prefix + "x", excerpt.suffix)
        for times, shown, steps in ((cold, excerpt, None), (warm, longer, None), (causal, longer, 0)):
            started = time.perf_counter()
            *_, draft = infiller.fill(FillRequest(shown, one_line=True, max_tokens=48, max_denoising_steps=steps))
            times.append(1000 * (time.perf_counter() - started))
            if times is warm:
                passes.append(draft.step)
    return {
        "cold": summary(cold),
        "after_a_keystroke": summary(warm),
        "after_a_keystroke_token_by_token": summary(causal),
        "mean_passes": round(statistics.fmean(passes), 1),
    }


async def ping_during_fills(seconds: float) -> dict[str, float]:
    """Round trips of a request that needs no model, while the server is kept filling."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "dgemma_lsp",
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
    return {**summary(pings), "pings": len(pings), "fills": fills}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=40)
    args = parser.parse_args()
    report = compare(args.repeats)
    report["server_fill"] = product_fills(args.repeats)
    report["ping_during_fills"] = asyncio.run(ping_during_fills(15.0))
    report["threads"] = torch.get_num_threads()
    table = Table("", "ours", "transformers", "ratio")
    for name in ("encoder", "decoder_step", "fill"):
        ours, theirs = (report[name][who]["median_ms"] for who in ("ours", "transformers"))
        table.add_row(f"{name}, median ms", f"{ours}", f"{theirs}", f"{theirs / ours:.1f}x")
    for name, times in report["server_fill"].items():
        if isinstance(times, dict):
            table.add_row(f"one line, {name}, median / p95 ms", f"{times['median_ms']} / {times['p95_ms']}", "", "")
    ping = report["ping_during_fills"]
    table.add_row("ping during fills, median / p95 ms", f"{ping['median_ms']} / {ping['p95_ms']}", "", "")
    Console(width=110).print(table)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
