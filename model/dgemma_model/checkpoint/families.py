"""Which families of checkpoints run here, by the `model_type` of their `config.json`."""

from __future__ import annotations

from dgemma_model.checkpoint.causal_code import CausalCode
from dgemma_model.checkpoint.contract import Family
from dgemma_model.checkpoint.diffusion_gemma import DiffusionGemma

FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (DiffusionGemma(), CausalCode("qwen2"), CausalCode("llama"))
}


def register(family: Family) -> None:
    """Make another family known to this process."""
    FAMILIES[family.model_type] = family
