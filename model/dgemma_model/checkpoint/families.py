"""Which families of checkpoints run here, by the `model_type` of their `config.json`."""

from __future__ import annotations

from dgemma_model.checkpoint.block_diffusion import BlockDiffusion
from dgemma_model.checkpoint.causal_code import CausalCode
from dgemma_model.checkpoint.contract import Family
from dgemma_model.checkpoint.diffusion_gemma import DiffusionGemma
from dgemma_model.checkpoint.gemma3.family import Gemma3

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (DiffusionGemma(), Gemma3(), CausalCode("qwen2"), CausalCode("llama"), BlockDiffusion())
}


def register(family: Family) -> None:
    """Make another family known to this process."""
    FAMILIES[family.model_type] = family
