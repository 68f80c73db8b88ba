"""The layout in which DiffusionGemma is published, written so that `transformers` loads it, too."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
from safetensors.torch import save_file
from torch import Tensor

from dgemma_model.network.config import NetworkConfig
from dgemma_model.network.diffusion_gemma import Network

DECODER = "model.decoder."


ENCODER_SCALAR = "model.encoder.language_model.layers.{}.layer_scalar"


def save(network: Network, directory: Path) -> None:
    """Write `model.safetensors` in bfloat16 and `config.json`, so that `transformers` loads the directory too.

    The experts' inner size is padded with zeros, which add nothing, to what its fast kernels ask for.
    """
    directory.mkdir(parents=True, exist_ok=True)
    inner = -(-network.config.moe_intermediate_size // 8) * 8
    own_tensors = {name: _padded_expert(name, tensor, inner) for name, tensor in network.state_dict().items()}
    tensors = {name: own_tensors[own] for name, own in published_names(network).items()} | _vision_tensors(
        network.config
    )
    stored = {name: tensor.detach().to("cpu", torch.bfloat16).contiguous() for name, tensor in tensors.items()}
    save_file(stored, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "model.safetensors").chmod(0o644)  # the library makes it the owner's alone
    (directory / "config.json").write_text(
        json.dumps(_config_json(replace(network.config, moe_intermediate_size=inner)), indent=1) + "\n"
    )


def _padded_expert(name: str, tensor: Tensor, inner: int) -> Tensor:
    if name.endswith("experts.gate_up_proj"):  # [E, 2F, D], gates first
        gate, up = tensor.chunk(2, dim=1)
        missing = inner - gate.shape[1]
        return torch.cat((F.pad(gate, (0, 0, 0, missing)), F.pad(up, (0, 0, 0, missing))), dim=1)
    if name.endswith("experts.down_proj"):  # [E, D, F]
        return F.pad(tensor, (0, inner - tensor.shape[2]))
    return tensor


def published_names(network: Network) -> dict[str, str]:
    """Published tensor name -> our name."""
    names: dict[str, str] = {}
    for own in network.state_dict():
        if own.endswith(".encoder_layer_scalar"):
            names[ENCODER_SCALAR.format(own.split(".")[1])] = own
        else:
            names[DECODER + own] = own
    return names


VISION_SIZE = 16
"""Sizes of the one-layer vision tower that a directory must hold for `transformers` to build the model around it."""


def _vision_config() -> dict[str, Any]:
    size = VISION_SIZE
    return {
        "model_type": "gemma4_vision",
        "hidden_size": size,
        "intermediate_size": size,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "head_dim": size,
        "patch_size": 4,
        "position_embedding_size": 8,
    }


def _vision_tensors(config: NetworkConfig) -> dict[str, Tensor]:
    size = VISION_SIZE
    tower, layer = "model.encoder.vision_tower.", "model.encoder.vision_tower.encoder.layers.0."
    square = {f"self_attn.{p}_proj.linear.weight" for p in "qkvo"} | {
        f"mlp.{p}_proj.linear.weight" for p in ("gate", "up", "down")
    }
    norms = ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm")
    vectors = {f"{name}.weight" for name in (*norms, "self_attn.q_norm", "self_attn.k_norm")}
    return {
        **{layer + name: torch.zeros(size, size) for name in square},
        **{layer + name: torch.ones(size) for name in vectors},
        tower + "patch_embedder.input_proj.weight": torch.zeros(size, 48),
        tower + "patch_embedder.position_embedding_table": torch.zeros(2, 8, size),
        "model.encoder.embed_vision.embedding_projection.weight": torch.zeros(config.hidden_size, size),
    }


def _config_json(config: NetworkConfig) -> dict[str, Any]:
    usual = next((layer for layer in config.layers if layer.is_sliding), config.layers[0])
    text: dict[str, Any] = {
        "model_type": "diffusion_gemma_text",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": len(config.layers),
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": usual.num_key_value_heads,
        "head_dim": usual.head_dim,
        "per_layer_config": {
            str(i): {"head_dim": layer.head_dim, "num_key_value_heads": layer.num_key_value_heads}
            for i, layer in enumerate(config.layers)
            if not layer.is_sliding
        },
        "rope_parameters": {
            layer.layer_type: {
                "rope_type": layer.rope_type,
                "rope_theta": layer.rope_theta,
                "partial_rotary_factor": layer.partial_rotary_factor,
            }
            | ({"factor": layer.rope_factor} if layer.rope_factor != 1.0 else {})
            for layer in config.layers
        },
        "sliding_window": config.sliding_window,
        "layer_types": [layer.layer_type for layer in config.layers],
        "num_experts": config.num_experts,
        "top_k_experts": config.top_k_experts,
        "moe_intermediate_size": config.moe_intermediate_size,
        "rms_norm_eps": config.rms_norm_eps,
        "final_logit_softcapping": config.final_logit_softcapping,
        "max_position_embeddings": config.max_position_embeddings,
        "tie_word_embeddings": True,
        "pad_token_id": config.pad_token_id,
        "eos_token_id": list(config.eos_token_ids) if len(config.eos_token_ids) > 1 else config.eos_token_ids[0],
        "bos_token_id": config.bos_token_id,
        "dtype": "bfloat16",
    }
    return {
        "model_type": "diffusion_gemma",
        "architectures": ["DiffusionGemmaForBlockDiffusion"],
        "dtype": "bfloat16",
        "tie_word_embeddings": True,
        "canvas_length": config.canvas_length,
        "text_config": text,
        "vision_config": _vision_config(),
    }
