"""Times of the published 26B shape with random weights, its experts in 16 and in 4 bits.

On a processor the same runs for a small network of the same kind: what the program does can be tried there, its times
say nothing about the large one.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from dgemma_model.bench.timing import BenchError, peak_memory_mb, summary, timed
from dgemma_model.checkpoint.config import Quantize, SamplerConfig
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.checkpoint.quantised.budget import chosen_budget, shape_of, weight_bytes
from dgemma_model.checkpoint.weights import free_memory
from dgemma_model.decoding.sampler import Noise, denoise
from dgemma_model.network.cache import Cache
from dgemma_model.network.config import LayerConfig, NetworkConfig
from dgemma_model.network.served import ServedNetwork

PROMPT_TOKENS = 1024
"""Length of the prompt before a canvas of the published shape."""
CANVASES = (16, 32, 64, 128, 256)
STEPS = 12
"""Denoising steps of a canvas. Reports of the published weights give 11 to 12 for 256 tokens."""
FORMS: tuple[Quantize, ...] = ("none", "4bit")
COPIED_BYTES = {"cuda": 1 << 30, "cpu": 1 << 27}
"""Of the block by which the bandwidth of memory is measured."""


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


def small_config() -> NetworkConfig:
    """The same in small: as many kinds of layers, and as large a share of experts."""
    published = published_config()
    layers = tuple(
        replace(layer, head_dim=layer.head_dim // 8, num_key_value_heads=layer.num_key_value_heads // 2)
        for layer in published.layers[:6]
    )
    return replace(
        published,
        vocab_size=8192,
        hidden_size=256,
        intermediate_size=192,
        num_attention_heads=8,
        num_experts=16,
        top_k_experts=1,
        moe_intermediate_size=64,
        layers=layers,
    )


@torch.inference_mode()
def measure_shape(
    config: NetworkConfig, device: torch.device, repeats: int, forms: Sequence[Quantize] = FORMS
) -> dict[str, Any]:
    """Times of denoising steps of networks with random weights, beside the time that reading the weights takes.

    Forms that do not fit the memory are said to need what they need.

    Raises:
        BenchError: none fits.
    """
    bandwidth = copy_bandwidth(device, repeats)
    report: dict[str, Any] = {"copy_gb_per_s": bandwidth / 1e9, "device": str(device), "steps": STEPS, "forms": {}}
    for form in forms:
        try:
            budget = chosen_budget(config, device, free_memory(device), form)
        except CheckpointError as error:
            report["forms"][form] = {"refused": str(error)}
            continue
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        measured = dict(measure_form(config, form, device, bandwidth, repeats))
        report["forms"][form] = {"budget_gb": budget.total / 1e9, "decoder_step": measured} | {
            "peak_memory_mb": peak_memory_mb(device)
        }
        if device.type == "cuda":
            torch.cuda.empty_cache()
    if all("refused" in form for form in report["forms"].values()):
        raise BenchError(report["forms"][forms[-1]]["refused"])
    return report


def measure_form(
    config: NetworkConfig, form: Quantize, device: torch.device, bandwidth: float, repeats: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """For each size of a canvas: times of a step of the decoder, how much longer that is than reading the weights that
    it needs, and tokens a second when a canvas is denoised."""
    size = 4 if device.type == "cpu" else 2
    experts, others = weight_bytes(config, form, size)
    network, cache = random_network(config, form, device), Cache()
    network.encode(torch.randint(config.vocab_size, (1, PROMPT_TOKENS), device=device), cache)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    for canvas in CANVASES:
        ids = torch.randint(config.vocab_size, (1, canvas), device=device)
        signal = torch.randn(1, canvas, config.hidden_size, dtype=dtype, device=device)
        step = summary(timed(partial(shape_step, network, ids, cache, signal), repeats))
        block = statistics.median(timed(partial(denoised, network, ids, cache), max(1, repeats // STEPS)))
        touched = 1 - (1 - config.top_k_experts / config.num_experts) ** canvas  # share of experts, routed at random
        floor = 1000 * (others + experts * touched) / bandwidth
        yield (
            str(canvas),
            {
                "ours": step,
                "floor_ms": round(floor, 3),
                "times_floor": round(step["median_ms"] / floor, 2),
                "tokens_per_s": round(canvas / block, 1),
            },
        )


def random_network(config: NetworkConfig, form: Quantize, device: torch.device) -> ServedNetwork:
    """A network as it is served, with random weights."""
    plain = shape_of(config, form).to_empty(device=device).requires_grad_(False).eval()
    plain = plain.to(torch.bfloat16 if device.type == "cuda" else torch.float32)
    for name, tensor in plain.state_dict().items():
        if tensor.dtype == torch.uint8:
            tensor.random_(0, 256)
        elif name.endswith("_row_scales"):
            tensor.fill_(0.02 / (4 * 128))  # codes and group scales have means of about 4 and 128
        elif tensor.dim() > 1:
            tensor.normal_(0, 0.02)
        else:
            tensor.fill_(1.0)
    plain.build_rotary(device)
    return ServedNetwork(plain, torch.bfloat16 if device.type == "cuda" else torch.float32)


def shape_step(network: ServedNetwork, canvas: Tensor, cache: Cache, expected: Tensor) -> None:
    """A decoder step with its logits."""
    network.logits(network.decode(canvas, cache, expected=expected))


def denoised(network: ServedNetwork, canvas: Tensor, cache: Cache) -> None:
    """Denoise a canvas in `STEPS` steps, as a fill does that does not stop early."""
    pinned = torch.zeros_like(canvas, dtype=torch.bool)
    noise, generator = Noise(network.vocab_size), torch.Generator(canvas.device).manual_seed(0)
    for step in islice(denoise(network, cache, canvas, pinned, SamplerConfig(), noise, generator), STEPS):
        step.best.tolist()


def copy_bandwidth(device: torch.device, repeats: int) -> float:
    """Bytes a second that are read and written when a large block is copied."""
    block = torch.empty(COPIED_BYTES.get(device.type, COPIED_BYTES["cpu"]), dtype=torch.uint8, device=device)
    target = torch.empty_like(block)
    return 2 * block.numel() / statistics.median(timed(lambda: target.copy_(block), repeats))
