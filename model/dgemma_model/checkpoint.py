"""Load and save checkpoint directories in the published layout; loud about any mismatch.

Safetensors only: nothing in a checkpoint is ever executed.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dgemma_model import hub
from dgemma_model.chat import ChatFormat, ChatFrame, ChatTemplateError
from dgemma_model.config import CheckpointConfig, ConfigError, NetworkConfig
from dgemma_model.fused import FusedNetwork
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
    network: Network | FusedNetwork
    tokenizer: Tokenizer
    skipped: int
    """Number of tensors of the vision tower that were left on disk."""
    chat: ChatFormat | None = None
    """How to ask it, if not in this repository's own prompts."""

    def fused(self, products: torch.dtype) -> Checkpoint:
        """The same with its network as it is served, `products` being the dtype of operands (fused.py)."""
        network = self.network
        return replace(self, network=FusedNetwork(network, products) if isinstance(network, Network) else network)


def embedded_directory() -> Path:
    """The checkpoint that ships inside this package."""
    return Path(str(files("dgemma_model") / "embedded"))


def find(checkpoint: str | None) -> Path:
    """The directory of the checkpoint that a user named: by default the embedded one; a directory; or a name on the
    hub, which is downloaded unless it is there already.

    Raises:
        CheckpointError: there is none, or it cannot be downloaded.
    """
    if not checkpoint:
        return embedded_directory()
    directory = Path(checkpoint).expanduser()
    if directory.exists() or not hub.is_name(checkpoint):
        return directory  # `load` says what is wrong with it
    try:
        return hub.fetch(checkpoint)
    except hub.DownloadError as error:
        raise CheckpointError(str(error)) from error


Progress = Callable[[float], None]
"""Is told which share of the weights has been read, from 0 to 1, after each tensor."""


def load(
    directory: Path, device: torch.device, dtype: torch.dtype, progress: Progress = lambda share: None
) -> Checkpoint:
    """Load configuration, tokenizer and weights; the vision tower stays on disk.

    Raises:
        CheckpointError: the directory or a file of it is missing, damaged, of another architecture, or does not fit
            its `config.json` or the memory; the message names the file or tensor.
    """
    if not directory.is_dir():
        raise CheckpointError(
            f"no checkpoint directory at {directory}; pass the path of one, or leave the checkpoint unset"
        )
    try:
        config = CheckpointConfig.read(directory)
        tokenizer = Tokenizer.read(directory / "tokenizer.json")
        chat = _chat_format(directory, tokenizer) if tokenizer.has_byte_fallback else None
    except (ConfigError, TokenizerError, ChatTemplateError) as error:
        raise CheckpointError(str(error)) from error
    if tokenizer.vocab_size > config.network.vocab_size:
        raise CheckpointError(
            f"tokenizer.json has {tokenizer.vocab_size} tokens but the network only {config.network.vocab_size}; "
            "the files in this directory do not belong together"
        )
    network, skipped = load_network(directory, config.network, device, dtype, progress)
    if skipped:
        logger.info("%d tensors of the vision tower were skipped: this program reads and writes text", skipped)
    return Checkpoint(directory, config, network, tokenizer, skipped, chat)


def _chat_format(directory: Path, tokenizer: Tokenizer) -> ChatFormat:
    frame = ChatFrame.read(directory)
    if frame is None:
        raise CheckpointError(
            f"neither chat_template.jinja nor a template in tokenizer_config.json in {directory}: it is not known how "
            "to ask this checkpoint; take an instruction-tuned one, with all its files"
        )
    return ChatFormat(frame, tokenizer)


def load_network(
    directory: Path,
    config: NetworkConfig,
    device: torch.device,
    dtype: torch.dtype,
    progress: Progress = lambda share: None,
) -> tuple[Network, int]:
    """Load the weights alone, tensor by tensor; returns the network and how many vision tensors were skipped.

    Names, shapes and memory are checked before the first weight is read: all shards say them in their first bytes.

    Raises:
        CheckpointError: as `load`.
    """
    with torch.device("meta"):
        network = Network(config)
    own_names = _names(network)
    stored = _stored_tensors(directory)
    wanted = {name: tensor for name, tensor in stored.items() if not name.startswith(VISION)}
    expected = network.state_dict()
    for name, tensor in wanted.items():
        _check(name, tensor, expected[own_names[name]].shape if name in own_names else None)
    missing = [name for name in own_names if name not in wanted]
    if missing:
        raise CheckpointError(
            f"{len(missing)} tensors are missing, the first is {missing[0]!r}; the checkpoint is incomplete"
        )
    weights, read = sum(tensor.numel() for tensor in expected.values()), 0
    check_memory(weights * dtype.itemsize, free_memory(device), device)
    found: dict[str, Tensor] = {}
    try:
        for name, value in _values(wanted):
            found[own_names[name]] = _placed(name, value, device, dtype)
            read += value.numel()
            progress(read / weights)
    except torch.OutOfMemoryError as error:
        raise CheckpointError(
            f"the memory of {device} ran out while loading ({str(error).splitlines()[0]}); end other programs that "
            "use it, or leave the checkpoint unset: the embedded one runs anywhere"
        ) from error
    network.load_state_dict(found, assign=True)
    network.build_rotary(device)
    network.requires_grad_(False)
    network.find_dense_layers()
    return network.eval(), len(stored) - len(wanted)


def _check(name: str, tensor: _StoredTensor, expected: torch.Size | None) -> None:
    if expected is None:
        raise CheckpointError(f"unexpected tensor {name!r}: the weights are not of the architecture in config.json")
    if list(expected) != tensor.shape:
        raise CheckpointError(f"tensor {name!r} has shape {tensor.shape}, config.json asks for {list(expected)}")
    if tensor.dtype not in FLOATS:
        kind = _DTYPES.get(tensor.dtype, tensor.dtype)
        raise CheckpointError(
            f"tensor {name!r} is stored as {kind}; quantised checkpoints do not run here, take one in bfloat16"
        )


def _placed(name: str, value: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A copy of `value` where it is to be; never memory that is mapped from the file, which may change."""
    placed = value.to(device=device, dtype=dtype, copy=True)
    lowest, highest = placed.aminmax()  # NaN if one is; unlike isfinite(), needs no memory
    if not math.isfinite(lowest.item()) or not math.isfinite(highest.item()):
        raise CheckpointError(
            f"tensor {name!r} holds NaN or infinite values; the file is damaged, download or copy it again"
        )
    return placed


WORKING_SHARE = 0.05
"""Of the weights' size, for activations and the cache, beside them."""


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated on `device`; None where that cannot be known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "cpu":
        try:
            lines = Path("/proc/meminfo").read_text("ascii").splitlines()
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
        except (OSError, ValueError, StopIteration, IndexError):
            return None
    return None


def check_memory(weights: int, free: int | None, device: torch.device) -> None:
    """Refuse what will not fit: `weights` and `free` in bytes.

    Raises:
        CheckpointError: it says both numbers and what to do.
    """
    needed = weights * (1 + WORKING_SHARE)
    if free is not None and needed > free:
        raise CheckpointError(
            f"not enough memory on {device}: the weights and room to work need {needed / 2**30:.1f} GiB, "
            f"{free / 2**30:.1f} GiB are free; end other programs that use it, pass a device with more, or leave the "
            "checkpoint unset: the embedded one runs anywhere"
        )


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


FLOATS = ("BF16", "F16", "F32", "F64")
_DTYPES = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "I8": "int8", "U8": "uint8", "I32": "int32"}


@dataclass(frozen=True, slots=True)
class _StoredTensor:
    """What the header of a safetensors file says of a tensor."""

    path: Path
    shape: list[int]
    dtype: str


def _stored_tensors(directory: Path) -> dict[str, _StoredTensor]:
    """Every tensor of a checkpoint, in one file or in the shards that an index names; reads their headers only."""
    index = directory / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        try:
            names = sorted(set(map(str, json.loads(index.read_text("utf-8"))["weight_map"].values())))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{index.name} cannot be read: {error}") from error
    stored: dict[str, _StoredTensor] = {}
    for name in names:
        path = directory / name
        if not path.is_file():
            raise CheckpointError(f"{name} is missing in {directory}; download or copy the checkpoint again")
        with _opened(path) as file:
            for key in file.keys():  # noqa: SIM118 (not a mapping)
                header = file.get_slice(key)
                stored[key] = _StoredTensor(path, header.get_shape(), str(header.get_dtype()))
    return stored


def _values(tensors: dict[str, _StoredTensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors themselves, file by file, one at a time."""
    for path in dict.fromkeys(tensor.path for tensor in tensors.values()):
        with _opened(path) as file:
            for name, tensor in tensors.items():
                if tensor.path == path:
                    yield name, file.get_tensor(name)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path.name} in {path.parent} is damaged ({error}); download or copy it again"
        ) from error


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
