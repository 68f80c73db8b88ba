"""Times of the published 26B shape with random weights."""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dgemma_model.bench.network_times import CANVASES
from dgemma_model.bench.timing import BenchError, peak_memory_mb, summary, timed
from dgemma_model.network.cache import Cache
from dgemma_model.network.config import LayerConfig, NetworkConfig
from dgemma_model.network.diffusion_gemma import Network
from dgemma_model.network.served import ServedNetwork

PROMPT_TOKENS = 1024
"""Length of the prompt before a canvas of the published shape."""


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
    """Times of decoder steps of a network with random weights on a GPU, and the time that reading its weights takes.

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
    network, cache = ServedNetwork(plain, torch.bfloat16), Cache()
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
        report["decoder_step"][str(canvas)] = {"ours": summary(times), "floor_ms": round(floor, 3)}
    return report | {"peak_memory_mb": peak_memory_mb(device)}


def shape_step(network: ServedNetwork, canvas: Tensor, cache: Cache, expected: Tensor) -> None:
    """A decoder step with its logits."""
    network.logits(network.decode(canvas, cache, expected=expected))
