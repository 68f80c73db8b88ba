"""Reads checkpoints of Gemma 3's text part: a writer that sees the text to the left of the hole only.

Its terms are not those of an open-source licence (ai.google.dev/gemma/terms), so it is in no catalogue: whoever names a
directory or file has it already.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dgemma_model.checkpoint.config import Policy, Quantize, read_json
from dgemma_model.checkpoint.contract import Checkpoint, Progress
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.checkpoint.gemma3.published import load_network
from dgemma_model.network.contract import CodeNetwork
from dgemma_model.network.diffusion_gemma import Network
from dgemma_model.network.served import ServedNetwork
from dgemma_model.prompt.fim import LeftOnly
from dgemma_model.prompt.tokenizer import Tokenizer

POLICY: dict[str, Any] = {
    "verify": True,
    "denoises": False,
    "ends_by_rules": True,
    "reads_project": True,
    "together": False,
    "prompt_tokens": 512,
}
"""How it fills, where its directory has no `dgemma.json`: what was fitted to other writers is left out."""


class Gemma3:
    """See `Family`."""

    model_type = "gemma3_text"

    def load(
        self,
        directory: Path,
        config: Mapping[str, Any],
        device: torch.device,
        dtype: torch.dtype,
        progress: Progress,
        quantize: Quantize | None = None,
    ) -> Checkpoint:
        """See `Family`."""
        if quantize is not None:
            raise CheckpointError("--quantize is about experts, which gemma3_text checkpoints do not have")
        tokenizer = Tokenizer.read(directory / "tokenizer.json")
        policy = Policy.from_json(POLICY | read_json(directory / "dgemma.json"))
        network = load_network(directory, config, device, dtype, progress)
        if tokenizer.vocab_size > network.vocab_size:
            raise CheckpointError(
                f"tokenizer.json has {tokenizer.vocab_size} tokens but the network only {network.vocab_size}; "
                "the files in this directory do not belong together"
            )
        return Checkpoint(directory, network, LeftOnly(tokenizer), policy, self)

    def served(self, network: CodeNetwork, products: torch.dtype) -> CodeNetwork:
        """See `Family`."""
        return ServedNetwork(network, products) if isinstance(network, Network) else network
