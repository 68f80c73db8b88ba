"""DiffusionGemma in formats of other programs: each is refused by its name, with what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from gemma_fixtures import write_gemma
from gguf import GGUFWriter
from model_fixtures import changed_json

from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.checkpoint.load import load
from dgemma_model.checkpoint.quantised.foreign import checked_architecture

CPU = torch.device("cpu")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_gemma(tmp_path / "gemma")


FOREIGN: dict[str, tuple[dict[str, Any], str]] = {
    "NVFP4 by compressed-tensors": (
        {"quantization_config": {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}},
        r"compressed-tensors \(nvfp4-pack-quantized\)",
    ),
    "FP8 by compressed-tensors": (
        {"quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized"}},
        r"compressed-tensors \(float-quantized\)",
    ),
    "NVFP4 by NVIDIA": (
        {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}},
        r"NVIDIA Model Optimizer \(NVFP4\)",
    ),
    "AutoRound": ({"quantization_config": {"quant_method": "auto-round", "bits": 4}}, r"AutoRound \(4 bits\)"),
    "GPTQ": ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"GPTQ \(4 bits\)"),
    "bitsandbytes": ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "bitsandbytes"),
    "a new one": ({"quantization_config": {"quant_method": "tomorrow"}}, "tomorrow"),
    "MLX": ({"quantization": {"group_size": 64, "bits": 4}}, r"MLX \(4 bits\)"),
    "in the text's section": (
        {"text_config": {"quantization_config": {"quant_method": "awq", "bits": 4}}},
        r"AWQ \(4 bits\)",
    ),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_formats_of_other_programs_are_refused_by_name(directory: Path, kind: str) -> None:
    entries, name = FOREIGN[kind]

    def add(config: dict[str, Any]) -> None:
        config["text_config"] |= entries.get("text_config", {})
        config |= {key: value for key, value in entries.items() if key != "text_config"}

    changed_json(directory / "config.json", add)
    words = (
        rf"gemma holds quantised weights in the format of {name}, which is not read here; take .*pull diffusiongemma"
    )
    with pytest.raises(CheckpointError, match=words):
        load(directory, CPU, torch.float32)


def test_a_file_beside_the_weights_may_say_it(directory: Path) -> None:
    (directory / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "NVFP4"}}))
    with pytest.raises(CheckpointError, match=r"NVIDIA Model Optimizer \(NVFP4\)"):
        load(directory, CPU, torch.float32)


def test_a_directory_with_a_gguf_file_only_is_refused(directory: Path) -> None:
    for path in directory.glob("*.safetensors"):
        path.unlink()
    (directory / "model-Q4_K_M.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"GGUF \(model-Q4_K_M\.gguf\)"):
        load(directory, CPU, torch.float32)


def test_a_gguf_file_of_it_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    path = tmp_path / "diffusiongemma-Q4_K_M.gguf"
    writer = GGUFWriter(path, "diffusion-gemma")
    writer.add_block_count(30)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=r"Q4_K_M\.gguf holds DiffusionGemma in GGUF, which is not read.*4 bits"):
        load(path, CPU, torch.float32)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(CheckpointError, match="cut short"):
        checked_architecture(path)
