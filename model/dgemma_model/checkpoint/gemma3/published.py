"""The published layout of Gemma 3's text part (`model_type` "gemma3_text"): its `config.json`, and its tensors' names.

Norms are published as what is to be added to one. Queries are scaled; that scale moves into their norm, so that the
network of DiffusionGemma, which has none, computes the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgemma_model.checkpoint.contract import Progress
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.checkpoint.quantised.budget import chosen_budget, shape_of
from dgemma_model.checkpoint.weights import check_tensor, free_memory, placed, stored_tensors, tensor_values
from dgemma_model.network.config import ConfigError, LayerConfig, NetworkConfig
from dgemma_model.network.diffusion_gemma import Network

PREFIX = "model."
HEAD = "lm_head.weight"
"""The embeddings again, in some directories."""
NO_EXPERTS = {"num_experts": 0, "top_k_experts": 0, "moe_intermediate_size": 0}


def network_config(config: Mapping[str, Any]) -> NetworkConfig:
    """Read the content of a `config.json`.

    Raises:
        ConfigError: an entry is missing, of the wrong kind, or asks for what this network does not compute.
    """
    try:
        return _network_config(config)
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ConfigError(f"config.json: missing or unusable entry: {error}") from error


def _network_config(config: Mapping[str, Any]) -> NetworkConfig:
    if config.get("attn_logit_softcapping") or config.get("final_logit_softcapping"):
        raise ConfigError("config.json asks for softcaps, which Gemma 3 does not have and which do not run here")
    if config.get("use_bidirectional_attention"):
        raise ConfigError("config.json is of a Gemma that embeds text; it writes none, and does not run here")
    count = int(config["num_hidden_layers"])
    every = int(config.get("sliding_window_pattern") or config.get("_sliding_window_pattern") or 6)
    kinds = config.get("layer_types") or [
        "full_attention" if (index + 1) % every == 0 else "sliding_attention" for index in range(count)
    ]
    if len(kinds) != count or set(kinds) - {"full_attention", "sliding_attention"}:
        raise ConfigError(f"config.json lists {len(kinds)} layer types {sorted(set(kinds))} for {count} layers")
    ropes = config.get("rope_parameters") or {}
    thetas = {
        "full_attention": config.get("rope_theta", 1e6),
        "sliding_attention": config.get("rope_local_base_freq", 1e4),
    }
    for kind in thetas:
        own = ropes.get(kind) or {}
        thetas[kind] = own.get("rope_theta", thetas[kind])
        if own.get("rope_type", "default") != "default" or config.get("rope_scaling"):
            raise ConfigError("config.json asks for scaled rotary embeddings, which do not run here")
    size, heads = int(config["head_dim"]), int(config["num_key_value_heads"])
    layers = {kind: LayerConfig(kind, size, heads, float(theta), "default", 1.0) for kind, theta in thetas.items()}  # type: ignore[arg-type]
    end = config.get("eos_token_id", 1)
    return NetworkConfig(
        vocab_size=int(config["vocab_size"]),
        hidden_size=int(config["hidden_size"]),
        intermediate_size=int(config["intermediate_size"]),
        num_attention_heads=int(config["num_attention_heads"]),
        sliding_window=int(config["sliding_window"]),
        layers=tuple(layers[kind] for kind in kinds),
        rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        max_position_embeddings=int(config.get("max_position_embeddings", 32_768)),
        eos_token_ids=tuple(end) if isinstance(end, list) else (int(end),),
        only_writes=True,
        **NO_EXPERTS,
    )


def load_network(
    directory: Path, config: Mapping[str, Any], device: torch.device, dtype: torch.dtype, progress: Progress
) -> Network:
    """Load the weights of a directory with that `config.json`, tensor by tensor.

    Raises:
        CheckpointError: a tensor is missing, damaged or of another shape, or memory is short.
        ConfigError: see `network_config`.
    """
    shape = network_config(config)
    network = shape_of(shape, "none")
    expected = {PREFIX + name: tensor for name, tensor in network.state_dict().items() if "layer_scalar" not in name}
    stored = {name: tensor for name, tensor in stored_tensors(directory).items() if name != HEAD}
    for name, tensor in stored.items():
        check_tensor(name, tensor, expected[name].shape if name in expected else None)
    if missing := sorted(expected.keys() - stored.keys()):
        raise CheckpointError(
            f"{len(missing)} tensors are missing, the first is {missing[0]!r}; the checkpoint is incomplete"
        )
    chosen_budget(shape, device, free_memory(device), "none")
    query_scale = float(config.get("query_pre_attn_scalar", config["head_dim"])) ** -0.5
    one = torch.ones(1, device=device, dtype=dtype)
    found = {name: one for name in network.state_dict() if "layer_scalar" in name}
    weights, read = sum(tensor.size for tensor in stored.values()), 0
    for name, value in tensor_values(stored):
        found[name.removeprefix(PREFIX)] = placed(name, _as_computed(name, value, query_scale), device, dtype)
        read += value.numel()
        progress(read / weights)
    network.load_state_dict(found, assign=True)
    network.build_rotary(device)
    return network.requires_grad_(False).eval()


def _as_computed(name: str, value: Tensor, query_scale: float) -> Tensor:
    if not name.endswith("norm.weight"):
        return value
    return (value.float() + 1) * (query_scale if name.endswith("q_norm.weight") else 1.0)
