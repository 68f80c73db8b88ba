"""Loads checkpoints. Nothing in a checkpoint is ever executed: safetensors and JSON only."""

from __future__ import annotations

from pathlib import Path

import torch

from dgemma_model.checkpoint.causal_code import converted_form
from dgemma_model.checkpoint.config import Quantize, read_json
from dgemma_model.checkpoint.contract import Checkpoint, Progress
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.checkpoint.families import FAMILIES
from dgemma_model.checkpoint.gemma3 import gguf_file as gemma3
from dgemma_model.checkpoint.quantised.foreign import checked_architecture
from dgemma_model.network.config import ConfigError
from dgemma_model.prompt.chat import ChatTemplateError
from dgemma_model.prompt.tokenizer import TokenizerError


def load(
    directory: Path,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress = lambda share: None,
    quantize: Quantize | None = None,
) -> Checkpoint:
    """Load configuration, tokenizer and weights, as the checkpoint's family does. A `.gguf` file is converted first,
    unless that was done before. `quantize` says what becomes of experts; by default, what fits the memory.

    Raises:
        CheckpointError: the directory or a file of it is missing, damaged, of a family that does not run here, or does
            not fit its `config.json` or the memory; the message names the file or tensor.
    """
    if directory.is_file() and directory.suffix == ".gguf":
        if checked_architecture(directory) == gemma3.ARCHITECTURE:
            directory = gemma3.published_form(directory)
        else:
            directory = converted_form(directory, progress)
    if not directory.is_dir():
        raise CheckpointError(
            f"no checkpoint directory at {directory}; pass the path of one, or leave the checkpoint unset"
        )
    try:
        config = read_json(directory / "config.json", required=True)
        model_type = config.get("model_type")
        if not isinstance(model_type, str) or model_type not in FAMILIES:
            known = ", ".join(repr(name) for name in sorted(FAMILIES))
            raise CheckpointError(f"config.json is of a {model_type!r} model; these families run here: {known}")
        return FAMILIES[model_type].load(directory, config, device, dtype, progress, quantize)
    except (ConfigError, TokenizerError, ChatTemplateError) as error:
        raise CheckpointError(str(error)) from error
