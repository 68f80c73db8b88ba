"""The shape of Qwen2 and Llama networks, as `config.json` has it in the published spelling. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from dgemma_model.network.config import LARGEST_SIZE, ConfigError

BLOCK_DIFFUSION = "a2d-qwen2"
"""Qwen2 networks that were trained on to denoise blocks, in the spelling of their publishers (dllm)."""
MODEL_TYPES = ("qwen2", "llama", BLOCK_DIFFUSION)


@dataclass(frozen=True, slots=True)
class Qwen2Config:
    """The shape of a Qwen2 or Llama network, as its `config.json` gives it."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    has_qkv_bias: bool = True
    tie_word_embeddings: bool = True
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    max_position_embeddings: int = 32_768

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> Qwen2Config:
        """Read the content of a `config.json`.

        Raises:
            ConfigError: the architecture is another one, or a key is missing or of the wrong kind.
        """
        model_type = config.get("model_type")
        if model_type not in MODEL_TYPES:
            raise ConfigError(f"config.json is of a {model_type!r} model; expected one of {', '.join(MODEL_TYPES)}")
        if config.get("quantization_config"):
            raise ConfigError("config.json is of a quantised checkpoint, which do not run here; take one in bfloat16")
        if config.get("use_sliding_window"):
            raise ConfigError("config.json asks for sliding windows, which this network does not have")
        if config.get("mlp_bias") or config.get("hidden_act", "silu") != "silu":
            raise ConfigError("config.json asks for a feed-forward block other than SwiGLU without bias")
        try:
            network = cls._from_entries(config, has_qkv_bias=model_type != "llama")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ConfigError(f"config.json: missing or unusable entry: {error}") from error
        for problem in network._problems():
            raise ConfigError(f"config.json: {problem}")
        return network

    @classmethod
    def _from_entries(cls, config: Mapping[str, Any], *, has_qkv_bias: bool) -> Qwen2Config:
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise ConfigError(f"config.json asks for rotary embeddings of type {kind!r}; only 'default' ones run here")
        if config.get("attention_bias"):
            raise ConfigError("config.json asks for a bias on the attention's output, which this network does not have")
        heads, size = int(config["num_attention_heads"]), int(config["hidden_size"])
        return cls(
            vocab_size=int(config["vocab_size"]),
            hidden_size=size,
            intermediate_size=int(config["intermediate_size"]),
            num_hidden_layers=int(config["num_hidden_layers"]),
            num_attention_heads=heads,
            num_key_value_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or size // heads),
            has_qkv_bias=has_qkv_bias,
            tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
            rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
            rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0),
            max_position_embeddings=int(config.get("max_position_embeddings", 32_768)),
        )

    def to_json(self) -> dict[str, Any]:
        """The `config.json` that `from_json` and `transformers` read this from."""
        entries: dict[str, Any] = {"model_type": "qwen2" if self.has_qkv_bias else "llama"}
        entries["architectures"] = ["Qwen2ForCausalLM" if self.has_qkv_bias else "LlamaForCausalLM"]
        for name in _SIZES:
            entries[name] = getattr(self, name)
        return entries | {
            "hidden_act": "silu",
            "tie_word_embeddings": self.tie_word_embeddings,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
        }

    def _problems(self) -> Iterator[str]:
        """What no network can be built with."""
        for name in _SIZES:
            if not 1 <= getattr(self, name) < LARGEST_SIZE:
                yield f"{name} cannot be {getattr(self, name)}"
        if self.num_attention_heads % self.num_key_value_heads:
            yield f"{self.num_attention_heads} query heads cannot share {self.num_key_value_heads} key/value heads"
        if self.head_dim % 2:
            yield f"head_dim cannot be {self.head_dim}"
        if not (self.rope_theta > 0 and self.rms_norm_eps > 0):
            yield f"rope_theta cannot be {self.rope_theta}, nor rms_norm_eps {self.rms_norm_eps}"


_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)
