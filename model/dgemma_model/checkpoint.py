"""Load and save checkpoint directories in the published layout; loud about any mismatch.

Safetensors only: nothing in a checkpoint is ever executed.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dgemma_model.config import CheckpointConfig, ConfigError, NetworkConfig
from dgemma_model.network import Network
from dgemma_model.tokenizer import Tokenizer, TokenizerError

logger = logging.getLogger(__name__)

DECODER = "model.decoder."
ENCODER_SCALAR = "model.encoder.language_model.layers.{}.layer_scalar"
VISION = ("model.encoder.vision_tower.", "model.encoder.embed_vision.")


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message is for users and says what to do."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded checkpoint directory."""

    directory: Path
    config: CheckpointConfig
    network: Network
    tokenizer: Tokenizer
    skipped: int
    """Number of tensors of the vision tower that were left on disk."""


def embedded_directory() -> Path:
    """The checkpoint that ships inside this package."""
    return Path(str(files("dgemma_model") / "embedded"))


def load(directory: Path, device: torch.device, dtype: torch.dtype) -> Checkpoint:
    """Load configuration, tokenizer and weights; the vision tower stays on disk.

    Raises:
        CheckpointError: the directory or a file of it is missing, damaged, of another architecture, or does not fit
            its `config.json`; the message names the file or tensor.
    """
    if not directory.is_dir():
        raise CheckpointError(
            f"no checkpoint directory at {directory}; pass the path of one, or leave the checkpoint unset"
        )
    try:
        config = CheckpointConfig.read(directory)
        tokenizer = Tokenizer.read(directory / "tokenizer.json")
    except (ConfigError, TokenizerError) as error:
        raise CheckpointError(str(error)) from error
    if tokenizer.vocab_size > config.network.vocab_size:
        raise CheckpointError(
            f"tokenizer.json has {tokenizer.vocab_size} tokens but the network only {config.network.vocab_size}; "
            "the files in this directory do not belong together"
        )
    network, skipped = load_network(directory, config.network, device, dtype)
    if skipped:
        logger.info("%d tensors of the vision tower were skipped: this program reads and writes text", skipped)
    return Checkpoint(directory, config, network, tokenizer, skipped)


def load_network(
    directory: Path, config: NetworkConfig, device: torch.device, dtype: torch.dtype
) -> tuple[Network, int]:
    """Load the weights alone; returns the network and how many vision tensors were skipped.

    Raises:
        CheckpointError: as `load`.
    """
    with torch.device("meta"):
        network = Network(config)
    wanted = _names(network)
    found: dict[str, Tensor] = {}
    skipped = 0
    for name, tensor in _tensors(directory):
        if name.startswith(VISION):
            skipped += 1
            continue
        if name not in wanted:
            raise CheckpointError(f"unexpected tensor {name!r}: the weights are not of the architecture in config.json")
        own = wanted[name]
        expected = network.get_parameter_or_buffer(own).shape
        if tensor.shape != expected:
            raise CheckpointError(
                f"tensor {name!r} has shape {list(tensor.shape)}, config.json asks for {list(expected)}"
            )
        if tensor.dtype not in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
            raise CheckpointError(
                f"tensor {name!r} is stored as {str(tensor.dtype).removeprefix('torch.')}; "
                "quantised checkpoints do not run here, take one in bfloat16"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"tensor {name!r} holds NaN or infinite values; the file is damaged")
        found[own] = tensor.to(device=device, dtype=dtype)
    missing = [name for name, own in wanted.items() if own not in found]
    if missing:
        raise CheckpointError(
            f"{len(missing)} tensors are missing, the first is {missing[0]!r}; the checkpoint is incomplete"
        )
    network.load_state_dict(found, assign=True)
    network.build_rotary(device)
    network.requires_grad_(False)
    network.find_dense_layers()
    return network.eval(), skipped


def save(network: Network, directory: Path) -> None:
    """Write `model.safetensors` in bfloat16 and `config.json`, so that `transformers` loads the directory too.

    The experts' inner size is padded with zeros, which add nothing, to what its fast kernels ask for.
    """
    directory.mkdir(parents=True, exist_ok=True)
    inner = -(-network.config.moe_intermediate_size // 8) * 8
    own_tensors = {name: _padded_expert(name, tensor, inner) for name, tensor in network.state_dict().items()}
    tensors = {name: own_tensors[own] for name, own in _names(network).items()} | _vision_tensors(network.config)
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


def _names(network: Network) -> dict[str, str]:
    """Published tensor name -> our name."""
    names: dict[str, str] = {}
    for own in network.state_dict():
        if own.endswith(".encoder_layer_scalar"):
            names[ENCODER_SCALAR.format(own.split(".")[1])] = own
        else:
            names[DECODER + own] = own
    return names


def _tensors(directory: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of a checkpoint, one at a time, from one file or from the shards that an index names."""
    index = directory / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        try:
            names = sorted(set(map(str, json.loads(index.read_text("utf-8"))["weight_map"].values())))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{index.name} cannot be read: {error}") from error
    for name in names:
        path = directory / name
        if not path.is_file():
            raise CheckpointError(f"{name} is missing in {directory}; download or copy the checkpoint again")
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 (not a mapping)
                    yield key, file.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{name} in {directory} is damaged ({error}); download or copy it again") from error


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
