"""What `dgemma-lsp bench` measures of the model, ours and others side by side in one process, over the same weights.

Prompts are places in a module of the standard library, so that it runs wherever Python does. All times are medians
and 95th percentiles of wall time in milliseconds.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from dgemma_model import checkpoint as checkpoints
from dgemma_model.canvas import encode_prompt
from dgemma_model.config import LayerConfig, NetworkConfig, SamplerConfig
from dgemma_model.excerpt import ExcerptBudget, cut
from dgemma_model.fused import FusedNetwork, fastest_products
from dgemma_model.infill import Infiller
from dgemma_model.network import Cache, Network
from dgemma_model.request import Excerpt, FillRequest
from dgemma_model.sampler import Noise, denoise

Times = dict[str, float]

CANVASES = (8, 16, 32, 64)
FILLS = (8, 32, 64, 200)
"""Tokens of a fill."""
STEPS = 8
"""Denoising steps of a fill; early stopping is off on both sides."""
PROMPT_TOKENS = 1024
"""Length of the prompt before a canvas of the published shape."""


class BenchError(Exception):
    """What was asked for cannot be measured here; the message says why."""


def summary(times: list[float]) -> Times:
    """Median and 95th percentile of seconds, in milliseconds."""
    ordered = sorted(1000 * seconds for seconds in times)
    return {"median_ms": round(statistics.median(ordered), 3), "p95_ms": round(ordered[int(0.95 * len(ordered))], 3)}


def timed(work: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each of `repeats` runs, after one that does not count."""
    work()
    return [once(work) for _ in range(repeats)]


def _finish_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def excerpts(count: int) -> list[Excerpt]:
    """Places at line starts, spread over a source file, each with a full prompt."""
    text = Path(argparse.__file__).read_text("utf-8")
    places = list(range(4000, len(text) - 4000, (len(text) - 8000) // count))[:count]
    starts = [text.index("\n", place) + 1 for place in places]
    return [cut(text, [(start, start)], ExcerptBudget()) for start in starts]


@torch.inference_mode()
def compare(directory: Path | None, device: torch.device, repeats: int) -> dict[str, Any]:
    """Encoder, decoder step and fills: ours, token by token with the same weights, and `transformers` where it is
    installed."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    loaded = checkpoints.load(directory or checkpoints.embedded_directory(), device, dtype)
    products = fastest_products(device)
    network = loaded.fused(products).network
    limit = loaded.config.policy.prompt_tokens
    prompts = [
        torch.tensor([encode_prompt(excerpt, loaded.tokenizer, limit).ids], device=device)
        for excerpt in excerpts(repeats)
    ]
    prompt, cache = prompts[0], Cache()
    network.encode(prompt, cache)
    length, vocabulary = prompt.shape[1], network.config.vocab_size
    new = prompt[:, :8]

    def reused(tokens: int) -> None:
        cache.crop(length)
        network.logits(network.encode(new[:, :tokens], cache)[:, -1:])
        cache.crop(length)

    def step(tokens: int) -> Callable[[], object]:
        canvas, logits = noise_of(loaded, tokens), torch.randn(1, tokens, vocabulary, device=device)
        return lambda: network.logits(
            network.decode(canvas, cache, expected=network.mean_embedding(logits.softmax(-1)))
        )

    cold = timed(lambda: network.logits(network.encode(prompt, Cache())[:, -1:]), repeats)
    report: dict[str, Any] = {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "products": str(products).removeprefix("torch."),
        "prompt_tokens": length,
        "encoder_cold": summary(cold) | {"us_per_token": round(1e6 * statistics.median(cold) / length, 1)},
        "encoder_reuse": {str(tokens): summary(timed(partial(reused, tokens), repeats)) for tokens in (1, 8)},
        "decoder_step": {str(canvas): summary(timed(step(canvas), repeats)) for canvas in CANVASES},
        "fills": {},
    }
    for tokens in FILLS:
        ours, causal = (
            [once(partial(fill, prompt, tokens)) for prompt in (prompt, *prompts)][1:]
            for fill in (partial(our_fill, loaded, network), partial(causal_fill, network))
        )
        report["fills"][str(tokens)] = {
            "ours": summary(ours) | {"steps": STEPS, "tokens_per_step": tokens / STEPS},
            "token_by_token": summary(causal),
        }
    report["peak_memory_mb"] = peak_memory_mb(device)
    if importlib.util.find_spec("transformers"):
        report["transformers"] = reference(loaded, prompts, repeats)
    return report


def noise_of(loaded: checkpoints.Checkpoint, tokens: int) -> Tensor:
    """A canvas of the checkpoint's noise, [1, tokens]."""
    device = loaded.network.device
    return _noise(loaded).draw((1, tokens), torch.Generator(device).manual_seed(0))


def _noise(loaded: checkpoints.Checkpoint) -> Noise:
    mask = loaded.tokenizer.mask_id if loaded.config.policy.noise == "mask" else None
    return Noise(loaded.config.network.vocab_size, mask)


def our_fill(loaded: checkpoints.Checkpoint, network: Network | FusedNetwork, prompt: Tensor, tokens: int) -> None:
    """Encode a prompt and denoise a canvas behind it."""
    cache, canvas = Cache(), noise_of(loaded, tokens)
    network.encode(prompt, cache)
    generator = torch.Generator(prompt.device).manual_seed(0)
    config = SamplerConfig(max_denoising_steps=STEPS)
    for step in denoise(
        network, cache, canvas, torch.zeros_like(canvas, dtype=torch.bool), config, _noise(loaded), generator
    ):
        step.best.tolist()


def causal_fill(network: Network | FusedNetwork, prompt: Tensor, tokens: int) -> None:
    """Encode a prompt and write behind it token by token, greedily, with the cache."""
    cache, new = Cache(), prompt
    for _ in range(tokens):
        new = network.logits(network.encode(new, cache)[:, -1:]).argmax(-1)
        new.item()


def once(work: Callable[[], object]) -> float:
    """Seconds of one run."""
    _finish_gpu()
    started = time.perf_counter()
    work()
    _finish_gpu()
    return time.perf_counter() - started


def reference(loaded: checkpoints.Checkpoint, prompts: list[Tensor], repeats: int) -> dict[str, Any]:
    """The same in `transformers`: encoder, decoder step and `generate()`, in float32 and as the weights are stored."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    from transformers import DiffusionGemmaForBlockDiffusion, DynamicCache
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
    device, vocabulary = prompts[0].device, loaded.config.network.vocab_size
    report: dict[str, Any] = {}
    for dtype in (torch.float32, torch.bfloat16):
        if device.type == "cuda" and dtype == torch.float32:
            continue
        theirs: Any = DiffusionGemmaForBlockDiffusion.from_pretrained(loaded.directory, dtype=dtype)
        theirs.eval().to(device)
        cache = DynamicCache(config=theirs.config.get_text_config(decoder=True))
        theirs.model.encoder(input_ids=prompts[0], past_key_values=cache)
        step = {
            tokens: partial(
                theirs,
                decoder_input_ids=noise_of(loaded, tokens),
                past_key_values=cache,
                self_conditioning_logits=torch.randn(1, tokens, vocabulary, device=device),
            )
            for tokens in CANVASES
        }
        cold = timed(partial(theirs.model.encoder, input_ids=prompts[0]), repeats)
        report[str(dtype).removeprefix("torch.")] = {
            "encoder_cold": summary(cold)
            | {"us_per_token": round(1e6 * statistics.median(cold) / prompts[0].shape[1], 1)},
            "decoder_step": {str(tokens): summary(timed(run, repeats)) for tokens, run in step.items()},
            "fills": {
                str(tokens): summary([once(partial(their_fill, theirs, p, tokens)) for p in (prompts[0], *prompts)][1:])
                for tokens in FILLS
            },
        }
    return report


def their_fill(theirs: Any, prompt: Tensor, tokens: int) -> None:
    """What `our_fill` does, by `generate()`."""
    theirs.config.canvas_length = tokens
    theirs.generate(
        prompt,
        max_new_tokens=tokens,
        max_denoising_steps=STEPS,
        stability_threshold=None,
        confidence_threshold=None,
        disable_compile=True,
    )


def peak_memory_mb(device: torch.device) -> int:
    """The most memory that was held so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit >> 20


class _Clocked:
    """A network that adds up the time spent in it."""

    def __init__(self, network: Network | FusedNetwork) -> None:
        self._network = network
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._network, name)
        if name not in ("encode", "decode", "logits", "mean_embedding"):
            return found

        def clocked(*args: Any, **kwargs: Any) -> Any:
            _finish_gpu()
            started = time.perf_counter()
            result = found(*args, **kwargs)
            _finish_gpu()
            self.seconds += time.perf_counter() - started
            return result

        return clocked


def warm_fills(directory: Path | None, device: torch.device, repeats: int) -> dict[str, Any]:
    """One-line fills after one more keystroke, as the server asks for them, and the share of their time that was not
    spent in the network."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    loaded = checkpoints.load(directory or checkpoints.embedded_directory(), device, dtype)
    served = loaded.fused(fastest_products(device))
    clock = _Clocked(served.network)
    infiller = Infiller(replace(served, network=cast(Any, clock)), device)
    times, shares, steps = [], [], []
    for excerpt in excerpts(repeats):
        for prefix in (excerpt.prefix, excerpt.prefix + "x"):
            clock.seconds, started = 0.0, time.perf_counter()
            *_, draft = infiller.fill(FillRequest(replace(excerpt, prefix=prefix), one_line=True, max_tokens=48))
            seconds = time.perf_counter() - started
        times.append(seconds)
        shares.append(1 - clock.seconds / seconds)
        steps.append(draft.step)
    return summary(times) | {
        "share_outside_network": round(statistics.median(shares), 3),
        "mean_passes": round(statistics.fmean(steps), 1),
    }


# ------------------------------------------------------------- the published shape


def published_config() -> NetworkConfig:
    """The shape of DiffusionGemma 26B-A4B."""
    sliding = LayerConfig("sliding_attention", 256, 8, 10_000.0, "default", 1.0)
    full = LayerConfig("full_attention", 512, 2, 1_000_000.0, "proportional", 0.25)
    return NetworkConfig(
        vocab_size=262_144,
        hidden_size=2816,
        intermediate_size=2112,
        num_attention_heads=16,
        sliding_window=1024,
        num_experts=128,
        top_k_experts=8,
        moe_intermediate_size=704,
        layers=((sliding,) * 5 + (full,)) * 5,
    )


def weight_bytes(config: NetworkConfig) -> int:
    """Bytes of the weights in bfloat16."""
    with torch.device("meta"):
        return sum(2 * parameter.numel() for parameter in Network(config).parameters())


@torch.inference_mode()
def measure_shape(config: NetworkConfig, device: torch.device, repeats: int) -> dict[str, Any]:
    """Decoder steps of a network of random weights on a GPU, beside the time that reading its weights takes.

    Raises:
        BenchError: `device` is no GPU, or has too little memory.
    """
    wanted = weight_bytes(config)
    if device.type != "cuda":
        raise BenchError(
            f"this shape has {wanted / 1e9:.1f} GB of weights and is measured on a GPU; there is none here"
        )
    free, total = torch.cuda.mem_get_info(device)
    if free < 1.1 * wanted:
        raise BenchError(
            f"this shape needs {1.1 * wanted / 1e9:.1f} GB of GPU memory; "
            f"{free / 1e9:.1f} of {total / 1e9:.1f} GB are free"
        )
    with torch.device("meta"):
        plain = Network(config)
    plain.to_empty(device=device).to(torch.bfloat16).requires_grad_(False).eval()
    for tensor in plain.state_dict().values():
        tensor.normal_(0, 0.02) if tensor.dim() > 1 else tensor.fill_(1.0)
    plain.build_rotary(device)
    network, cache = FusedNetwork(plain, torch.bfloat16), Cache()
    network.encode(torch.randint(config.vocab_size, (1, PROMPT_TOKENS), device=device), cache)
    block = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    target = torch.empty_like(block)
    bandwidth = 2 * block.numel() / statistics.median(timed(lambda: target.copy_(block), repeats))
    expert_bytes = sum(2 * layer.experts.gate_up_proj.numel() * 3 // 2 for layer in plain.decoder_layers())
    report: dict[str, Any] = {"weights_gb": wanted / 1e9, "copy_gb_per_s": bandwidth / 1e9, "decoder_step": {}}
    for canvas in (*CANVASES, 256):
        ids = torch.randint(config.vocab_size, (1, canvas), device=device)
        signal = torch.randn(1, canvas, config.hidden_size, dtype=torch.bfloat16, device=device)
        times = timed(partial(shape_step, network, ids, cache, signal), repeats)
        touched = 1 - (1 - config.top_k_experts / config.num_experts) ** canvas  # share of experts, routed at random
        floor = 1000 * (wanted - expert_bytes * (1 - touched)) / bandwidth
        report["decoder_step"][str(canvas)] = summary(times) | {"floor_ms": round(floor, 3)}
    return report | {"peak_memory_mb": peak_memory_mb(device)}


def shape_step(network: FusedNetwork, canvas: Tensor, cache: Cache, expected: Tensor) -> None:
    """A decoder step with its logits."""
    network.logits(network.decode(canvas, cache, expected=expected))
