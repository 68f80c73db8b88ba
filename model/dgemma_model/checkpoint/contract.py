"""What a loaded checkpoint is to the rest of the program, whatever its family, and what a family is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from dgemma_model.checkpoint.config import Policy, Quantize, SamplerConfig
from dgemma_model.network.contract import CodeNetwork, DrafterNetwork
from dgemma_model.prompt.format import PromptFormat
from dgemma_model.prompt.tokenizer import Tokenizer

Progress = Callable[[float], None]
"""Is told which share of the weights has been read, from 0 to 1, after each tensor."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded checkpoint: three contracts, and its sampler's settings."""

    directory: Path
    network: CodeNetwork
    format: PromptFormat
    policy: Policy
    family: Family
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    skipped: int = 0
    """Number of stored tensors that this program has no use for."""
    drafter: DrafterNetwork | None = None
    """What drafts for its network, where there is such a thing."""

    @property
    def tokenizer(self) -> Tokenizer:
        """That of its prompts."""
        return self.format.vocabulary.tokenizer

    def served(self, products: torch.dtype) -> Checkpoint:
        """The same with its network as it is served, `products` being the dtype of the operands of products."""
        return replace(self, network=self.family.served(self.network, products))


class Family(Protocol):
    """A family of checkpoints: how directories with its `model_type` in their `config.json` are read."""

    model_type: str

    def load(
        self,
        directory: Path,
        config: Mapping[str, Any],
        device: torch.device,
        dtype: torch.dtype,
        progress: Progress,
        quantize: Quantize | None = None,
    ) -> Checkpoint:
        """Read a directory, whose `config.json` is `config`; weights become `dtype` on `device`, and experts what
        `quantize` says, or by default what fits.

        Raises:
            CheckpointError: a file is missing, damaged, or does not fit the others or the memory.
            ConfigError, TokenizerError, ChatTemplateError: likewise.
        """

    def served(self, network: CodeNetwork, products: torch.dtype) -> CodeNetwork:
        """A loaded network in the form that is fastest to run; the same where there is no other."""
