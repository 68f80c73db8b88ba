"""Reads checkpoints of the DiffusionGemma family: the embedded one, and those in the published layout."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgemma_model.checkpoint.config import Policy, Quantize, SamplerConfig
from dgemma_model.checkpoint.contract import Checkpoint, Progress
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.checkpoint.published_layout import published_names
from dgemma_model.checkpoint.quantised.budget import BITS, announce, chosen_budget, shape_of
from dgemma_model.checkpoint.quantised.foreign import refuse_quantised
from dgemma_model.checkpoint.quantised.form import form_of
from dgemma_model.checkpoint.weights import (
    StoredTensor,
    check_tensor,
    free_memory,
    placed,
    stored_tensors,
    tensor_values,
)
from dgemma_model.network.config import NetworkConfig
from dgemma_model.network.contract import CodeNetwork
from dgemma_model.network.diffusion_gemma import Network
from dgemma_model.network.served import ServedNetwork
from dgemma_model.prompt.chat import ChatFormat, ChatFrame
from dgemma_model.prompt.format import PromptFormat
from dgemma_model.prompt.suffix_first import SuffixFirst
from dgemma_model.prompt.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

VISION = ("model.encoder.vision_tower.", "model.encoder.embed_vision.")


class DiffusionGemma:
    """See `Family`. A tokenizer with byte fallback is Gemma's: such checkpoints are asked in a chat, others by this
    repository's recipe."""

    model_type = "diffusion_gemma"

    def load(
        self,
        directory: Path,
        config: Mapping[str, Any],
        device: torch.device,
        dtype: torch.dtype,
        progress: Progress,
        quantize: Quantize | None = None,
    ) -> Checkpoint:
        """See `Family`; the vision tower stays on disk."""
        refuse_quantised(directory, config)
        shape = NetworkConfig.from_json(config)
        sampler, policy = SamplerConfig.read(directory), Policy.read(directory)
        tokenizer = Tokenizer.read(directory / "tokenizer.json")
        if tokenizer.vocab_size > shape.vocab_size:
            raise CheckpointError(
                f"tokenizer.json has {tokenizer.vocab_size} tokens but the network only {shape.vocab_size}; "
                "the files in this directory do not belong together"
            )
        written: PromptFormat
        if tokenizer.has_byte_fallback:
            written = _chat_format(directory, tokenizer)
        else:
            written = SuffixFirst(tokenizer, policy.noise)
        network, skipped = load_network(directory, shape, device, dtype, progress, quantize)
        if skipped:
            logger.info("%d tensors of the vision tower were skipped: this program reads and writes text", skipped)
        return Checkpoint(directory, network, written, policy, self, sampler, skipped)

    def served(self, network: CodeNetwork, products: torch.dtype) -> CodeNetwork:
        """See `Family`."""
        return ServedNetwork(network, products) if isinstance(network, Network) else network


def _chat_format(directory: Path, tokenizer: Tokenizer) -> ChatFormat:
    frame = ChatFrame.read(directory)
    if frame is None:
        raise CheckpointError(
            f"neither chat_template.jinja nor a template in tokenizer_config.json in {directory}: it is not known how "
            "to ask this checkpoint; take an instruction-tuned one, with all its files"
        )
    return ChatFormat(frame, tokenizer)


def load_network(
    directory: Path,
    config: NetworkConfig,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress = lambda share: None,
    quantize: Quantize | None = "none",
) -> tuple[Network, int]:
    """Load the weights alone, tensor by tensor; returns the network and how many vision tensors were skipped.

    `quantize` says what becomes of the experts, None to have what fits. Names, shapes and memory are checked before the
    first weight is read: all shards say them in their first bytes.

    Raises:
        CheckpointError: as `load`.
    """
    plain = shape_of(config, "none")
    stored, skipped = _stored(directory, plain)
    budget = chosen_budget(config, device, free := free_memory(device), quantize)
    announce(budget, device, free)
    try:
        if (bits := BITS[budget.quantize]) is None:
            network, found = plain, _plain_tensors(stored, device, dtype, progress)
        else:
            network = shape_of(config, budget.quantize)
            place = partial(_placed_or_mapped, device=device, dtype=dtype)
            found = form_of(network, bits, stored, device, place, progress)
            progress(1.0)
    except torch.OutOfMemoryError as error:
        raise CheckpointError(
            f"the memory of {device} ran out while loading ({str(error).splitlines()[0]}); end other programs that "
            "use it, or leave the checkpoint unset: the embedded one runs anywhere"
        ) from error
    network.load_state_dict(found, assign=True)
    network.build_rotary(device)
    network.requires_grad_(False)
    network.find_dense_layers()
    return network.eval(), skipped


def _stored(directory: Path, network: Network) -> tuple[dict[str, StoredTensor], int]:
    """What a published directory holds, checked, by our names; and how many tensors of the vision tower."""
    own_names = published_names(network)
    stored = stored_tensors(directory)
    wanted = {name: tensor for name, tensor in stored.items() if not name.startswith(VISION)}
    expected = network.state_dict()
    for name, tensor in wanted.items():
        check_tensor(name, tensor, expected[own_names[name]].shape if name in own_names else None)
    missing = [name for name in own_names if name not in wanted]
    if missing:
        raise CheckpointError(
            f"{len(missing)} tensors are missing, the first is {missing[0]!r}; the checkpoint is incomplete"
        )
    return {own_names[name]: tensor for name, tensor in wanted.items()}, len(stored) - len(wanted)


def _plain_tensors(
    stored: dict[str, StoredTensor], device: torch.device, dtype: torch.dtype, progress: Progress
) -> dict[str, Tensor]:
    weights, read = sum(tensor.size for tensor in stored.values()), 0
    found: dict[str, Tensor] = {}
    for name, value in tensor_values(stored):
        found[name] = placed(stored[name].name, value, device, dtype)
        read += value.numel()
        progress(read / weights)
    return found


def _placed_or_mapped(name: str, value: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A tensor of a converted form where it is to be: rounded experts as they are, which on CPUs means mapped."""
    return value.to(device) if ".experts." in name else placed(name, value, device, dtype)
