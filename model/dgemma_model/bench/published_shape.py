"""Times of a network in the shape of the published 26B model with random weights, its experts in 16 and in 4 bits.

Without a GPU the same code can run for a small network of the same kind. Those times tell nothing about the large one.
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
"""Tokens of the prompt before each canvas."""
CANVASES = (16, 32, 64, 128, 256)
STEPS = 12
"""Denoising steps of a canvas. Reports about the published weights tell of 11 to 12 steps for 256 tokens."""
FORMS: tuple[Quantize, ...] = ("none", "4bit")
COPIED_BYTES = {"cuda": 1 << 30, "cpu": 1 << 27}
"""Bytes that are copied to measure the bandwidth of memory, by the type of device."""


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
    """A small network with the same kinds of layers, and about the same share of experts for each token."""
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
    """Times of denoising steps with random weights, compared with the time that reading the weights takes.

    For a form that does not fit into memory, the report has a message with what it needs.

    Raises:
        BenchError: no form fits.
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
    """Yield for each canvas size: the times of a decoder step, how many times as long that is as reading the weights it
    needs (the floor), and the tokens a second of whole canvases. `bandwidth` is in bytes a second."""
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
    """A network as it is served, with random weights: float32 on CPUs, bfloat16 on GPUs."""
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
    """One decoder step with its logits."""
    network.logits(network.decode(canvas, cache, expected=expected))


def denoised(network: ServedNetwork, canvas: Tensor, cache: Cache) -> None:
    """Denoise a canvas in exactly `STEPS` steps, without stopping early."""
    pinned = torch.zeros_like(canvas, dtype=torch.bool)
    noise, generator = Noise(network.vocab_size), torch.Generator(canvas.device).manual_seed(0)
    for step in islice(denoise(network, cache, canvas, pinned, SamplerConfig(), noise, generator), STEPS):
        step.best.tolist()


def copy_bandwidth(device: torch.device, repeats: int) -> float:
    """Memory bandwidth in bytes a second, read and written bytes together, from copies of a large block."""
    block = torch.empty(COPIED_BYTES.get(device.type, COPIED_BYTES["cpu"]), dtype=torch.uint8, device=device)
    target = torch.empty_like(block)
    return 2 * block.numel() / statistics.median(timed(lambda: target.copy_(block), repeats))
