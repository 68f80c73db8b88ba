"""DiffusionGemma in formats of other programs: none of them is read here, and each is refused by its name, before its
weights are looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dgemma_model.checkpoint.config import read_json
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.checkpoint.gguf.header import GgufError, architecture

GGUF_ARCHITECTURE = "diffusion-gemma"
"""What llama.cpp calls DiffusionGemma."""
REMEDY = (
    "take the published weights (`dgemma-lsp pull diffusiongemma-26b-a4b`); where memory is short, their experts are "
    "put into 4 bits while they are loaded"
)
PROGRAMS = {
    "auto-round": "AutoRound",
    "awq": "AWQ",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "fp8": "FP8",
    "gptq": "GPTQ",
    "modelopt": "NVIDIA Model Optimizer",
    "quark": "AMD Quark",
    "torchao": "torchao",
}
"""What people call a `quant_method`, where that is not the same."""
MODEL_OPTIMIZER_FILE = "hf_quant_config.json"


def refuse_quantised(directory: Path, config: Mapping[str, Any]) -> None:
    """Refuse a directory, with that `config.json`, whose weights another program has quantised.

    Raises:
        CheckpointError: they are; it names the format and says what to do.
        ConfigError: a file that says so is unusable.
    """
    for format_name in _formats(directory, config):
        raise CheckpointError(
            f"{directory.name} holds quantised weights in the format of {format_name}, which is not read here; {REMEDY}"
        )


def checked_architecture(path: Path) -> str | None:
    """What kind of model a `.gguf` file says it holds; those of DiffusionGemma are refused.

    Raises:
        CheckpointError: it is one, or is damaged.
    """
    try:
        held = architecture(path)
    except GgufError as error:
        raise CheckpointError(str(error)) from error
    if held == GGUF_ARCHITECTURE:
        raise CheckpointError(f"{path.name} holds DiffusionGemma in GGUF, which is not read here; {REMEDY}")
    return held


def _formats(directory: Path, config: Mapping[str, Any]) -> Iterator[str]:
    """The names of the formats that the weights are said to be in; one is enough."""
    text = config.get("text_config")
    for section in (config, text if isinstance(text, Mapping) else {}):
        if settings := section.get("quantization_config"):
            yield _described(settings if isinstance(settings, Mapping) else {})
        if isinstance(settings := section.get("quantization"), Mapping) and "bits" in settings:
            yield f"MLX ({settings['bits']} bits)"
    if other := read_json(directory / MODEL_OPTIMIZER_FILE):
        inner = other.get("quantization")
        kind = inner.get("quant_algo") if isinstance(inner, Mapping) else None
        yield PROGRAMS["modelopt"] + (f" ({kind})" if kind else "")
    if not list(directory.glob("*.safetensors")) and (files := sorted(directory.glob("*.gguf"))):
        yield f"GGUF ({files[0].name})"


def _described(settings: Mapping[str, Any]) -> str:
    method = str(settings.get("quant_method", "an unknown program"))
    details = [str(settings[key]) for key in ("format", "quant_algo", "fmt") if settings.get(key)]
    if settings.get("bits"):
        details.append(f"{settings['bits']} bits")
    return PROGRAMS.get(method, method) + (f" ({', '.join(details)})" if details else "")
