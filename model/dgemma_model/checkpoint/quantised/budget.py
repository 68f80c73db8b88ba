"""How much memory DiffusionGemma takes with its experts in 16, 8 or 4 bits, and which of these fits a machine."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import dataclass

import torch

from dgemma_model.checkpoint.config import QUANTIZE, Quantize
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.checkpoint.store import in_words
from dgemma_model.network import vocabulary
from dgemma_model.network.cache import capacity
from dgemma_model.network.config import NetworkConfig
from dgemma_model.network.diffusion_gemma import Network
from dgemma_model.network.quantised.groupwise import Bits

logger = logging.getLogger(__name__)

BITS: dict[Quantize, Bits | None] = {"none": None, "8bit": 8, "4bit": 4}

LARGE_BYTES = 10**9
"""Checkpoints that need so much memory say so."""
CACHE_TOKENS, CANVAS_TOKENS = 4096, 256
"""Of a prompt and a canvas that there must be room for."""


@dataclass(frozen=True, slots=True)
class Budget:
    """What one form of a checkpoint takes on one kind of device, in bytes."""

    quantize: Quantize
    experts: int
    others: int
    """All other weights."""
    cache: int
    """Keys and values of 4,096 tokens and a canvas, and the angles of their positions."""
    canvas: int
    """What a denoising step of 256 positions needs besides."""

    @property
    def total(self) -> int:
        """All of it."""
        return self.experts + self.others + self.cache + self.canvas

    def __str__(self) -> str:
        return (
            f"{in_words(self.total)}: experts {in_words(self.experts)} ({self.quantize}), other weights "
            f"{in_words(self.others)}, a cache of {CACHE_TOKENS:,} tokens {in_words(self.cache)}, a canvas of "
            f"{CANVAS_TOKENS} {in_words(self.canvas)}"
        )


def budget_of(config: NetworkConfig, quantize: Quantize, device: torch.device) -> Budget:
    """What a network takes on `device`: in bfloat16, or on CPUs in float32, where most weights are there twice, as they
    are and packed for products.

    Raises:
        CheckpointError: its experts cannot be rounded.
    """
    size, copies = (4, 2) if device.type == "cpu" else (2, 1)
    experts, others = weight_bytes(config, quantize, size)
    tokens = capacity(CACHE_TOKENS + CANVAS_TOKENS)
    keys = sum(2 * layer.num_key_value_heads * layer.head_dim for layer in config.layers)
    angles = sum(2 * head_dim for head_dim in {layer.layer_type: layer.head_dim for layer in config.layers}.values())
    pairs = CANVAS_TOKENS * config.top_k_experts
    activations = pairs * (3 * config.moe_intermediate_size * size + config.hidden_size * (size + 4))
    canvas = vocabulary.working_bytes(CANVAS_TOKENS, config.vocab_size, size) + activations
    return Budget(quantize, experts, copies * others, tokens * (keys * size + angles * 4), canvas)


def weight_bytes(config: NetworkConfig, quantize: Quantize, size: int) -> tuple[int, int]:
    """Bytes of the experts' weights and of all others, where a number that is not rounded takes `size` bytes.

    Raises:
        CheckpointError: the experts cannot be rounded.
    """
    tensors = shape_of(config, quantize).state_dict()
    experts = others = 0
    for name, tensor in tensors.items():
        if ".experts." in name:
            experts += tensor.nbytes if BITS[quantize] else size * tensor.numel()
        else:
            others += size * tensor.numel()
    return experts, others


def shape_of(config: NetworkConfig, quantize: Quantize) -> Network:
    """The network without its weights.

    Raises:
        CheckpointError: its experts cannot be rounded.
    """
    try:
        with torch.device("meta"):
            return Network(config, BITS[quantize])
    except ValueError as error:
        raise CheckpointError(f"the experts cannot be put into {quantize}: {error}; pass --quantize none") from error


def chosen_budget(
    config: NetworkConfig, device: torch.device, free: int | None, wanted: Quantize | None = None
) -> Budget:
    """That of the form which is `wanted`, or else the first of `QUANTIZE` that fits into `free` bytes of `device`; None
    is unknown, and then everything fits.

    Raises:
        CheckpointError: nothing fits, or not what is wanted, or it cannot run there.
    """
    candidates = [budget_of(config, quantize, device) for quantize in _possible(config, device)]
    for budget in candidates if wanted is None else [budget_of(config, wanted, device)]:
        if budget.quantize != "none" and not has_kernel(device):
            raise CheckpointError(
                f"experts in {budget.quantize} need the package triton on {device}; `pip install triton`, or pass "
                "--quantize none"
            )
        if free is None or budget.total <= free:
            return budget
    asked = f"--quantize {wanted} does not fit" if wanted is not None else "nothing fits"
    needs = "; ".join(f"{budget.quantize} needs {budget}" for budget in candidates)
    fitting = [budget.quantize for budget in candidates if budget.total <= (free or 0)]
    remedy = f"pass --quantize {fitting[0]}" if fitting else (
        "end other programs that use it, pass a device with more, or leave the checkpoint unset: the embedded one runs "
        "anywhere"
    )  # fmt: skip
    raise CheckpointError(f"not enough memory on {device}: {asked}, {in_words(free or 0)} are free; {needs}; {remedy}")


def announce(budget: Budget, device: torch.device, free: int | None) -> None:
    """Log what a checkpoint is going to need; at debug level where that is little."""
    is_large = budget.quantize != "none" or budget.total >= LARGE_BYTES
    known = "" if free is None else f"; {in_words(free)} are free"
    logger.log(logging.INFO if is_large else logging.DEBUG, "needed on %s: %s%s", device, budget, known)


def has_kernel(device: torch.device) -> bool:
    """Whether rounded experts run on `device`: everywhere, but on a GPU only with Triton."""
    return device.type != "cuda" or importlib.util.find_spec("triton") is not None


def _possible(config: NetworkConfig, device: torch.device) -> tuple[Quantize, ...]:
    """Those of `QUANTIZE` that could run."""
    is_even = config.hidden_size % 2 == 0 and config.moe_intermediate_size % 2 == 0
    return QUANTIZE if is_even and has_kernel(device) else ("none",)
