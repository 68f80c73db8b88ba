"""Reads conversions of Qwen2 networks that were trained on to denoise blocks: bd3lm of dllm, `model_type` "a2d-qwen2".

Their directories have the published layout of Qwen2 and a tokenizer with one more marker, which is the noise. A prompt
is read in blocks of tokens that see each other, and a canvas sees all of it; scores at a position are of its own token
(github.com/ZHZisZZ/dllm, `core/samplers/bd3lm.py`). Masked diffusion of the same maker (mdlm), which shares the
`model_type`, was trained on whole texts in both directions: it loads, and its prompts are read as those of bd3lm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dgemma_model.checkpoint.causal_code import CausalCode
from dgemma_model.checkpoint.config import Policy, Quantize, read_json
from dgemma_model.checkpoint.contract import Checkpoint, Progress
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.network.qwen2_config import BLOCK_DIFFUSION
from dgemma_model.network.qwen2_served import ServedQwen2
from dgemma_model.prompt.fim import Fim, LeftOnly

BLOCK = 32
"""Tokens of a block, as they were trained."""
MASK = "<|mask|>"
POLICY: dict[str, Any] = {"noise": "mask", "canvas_lengths": [BLOCK, 2 * BLOCK], "prompt_tokens": 512}
"""Nothing is fitted to such a checkpoint: it denoises all holes in one canvas."""


class BlockDiffusion(CausalCode):
    """See `Family`. What such a directory says of itself goes before this policy."""

    def __init__(self) -> None:
        super().__init__(BLOCK_DIFFUSION)

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
        found = super().load(directory, config, device, dtype, progress, quantize)
        assert isinstance(found.network, ServedQwen2) and isinstance(found.format, Fim | LeftOnly)
        if (mask_id := found.tokenizer.special_id(MASK)) is None:
            raise CheckpointError(
                f"the tokenizer in {directory} lacks the marker {MASK}, which is the noise of its canvases"
            )
        found.format.mask_id = mask_id
        policy = Policy.from_json(POLICY | {"name": found.policy.name} | read_json(directory / "dgemma.json"))
        return replace(found, network=found.network.reading_blocks(BLOCK), policy=policy, drafter=None)
