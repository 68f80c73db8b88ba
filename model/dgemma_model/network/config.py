"""The network's shape, as `config.json` has it in the published spelling. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

LARGEST_SIZE = 10_000_000
"""No size of a network comes near this."""


LayerType = Literal["sliding_attention", "full_attention"]


class ConfigError(ValueError):
    """A configuration that is missing, unreadable, or not of this architecture; the message is for users."""


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """What differs between the layers: the attention's kind and sizes, and its rotary embedding."""

    layer_type: LayerType
    head_dim: int
    num_key_value_heads: int
    rope_theta: float
    rope_type: Literal["default", "proportional"]
    partial_rotary_factor: float
    rope_factor: float = 1.0

    @property
    def is_sliding(self) -> bool:
        """Sliding layers see `sliding_window` tokens back and have a value projection of their own."""
        return self.layer_type == "sliding_attention"


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """The text part of a DiffusionGemma `config.json`."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    sliding_window: int
    num_experts: int
    top_k_experts: int
    moe_intermediate_size: int
    layers: tuple[LayerConfig, ...]
    rms_norm_eps: float = 1e-6
    final_logit_softcapping: float = 30.0
    max_position_embeddings: int = 131_072
    canvas_length: int = 256
    pad_token_id: int = 0
    eos_token_ids: tuple[int, ...] = (1,)
    bos_token_id: int = 2
    only_writes: bool = False
    """It is a Gemma 3, which denoises nothing: no self-conditioning and no experts, values in all layers that have a
    projection of their own and no norm, and scores without a softcap."""

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> NetworkConfig:
        """Read the content of a `config.json`, in either spelling of the per-layer sizes.

        Raises:
            ConfigError: the architecture is another one, or a key is missing or of the wrong kind.
        """
        if config.get("model_type") != "diffusion_gemma":
            raise ConfigError(
                f"config.json is of a {config.get('model_type')!r} model; only 'diffusion_gemma' checkpoints run here"
            )
        if config.get("quantization_config"):
            raise ConfigError("config.json is of a quantised checkpoint, which do not run here; take one in bfloat16")
        text = config.get("text_config")
        if not isinstance(text, Mapping):
            raise ConfigError("config.json has no 'text_config' section")
        try:
            network = cls._from_text_config(config, text)
        except ConfigError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ConfigError(f"config.json: missing or unusable entry: {error}") from error
        for problem in network._problems():
            raise ConfigError(f"config.json: {problem}")
        return network

    def _problems(self) -> Iterator[str]:
        """What no network can be built with."""
        sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_attention_heads", "sliding_window")
        for name in (*sizes, "num_experts", "moe_intermediate_size", "canvas_length"):
            if not 1 <= getattr(self, name) < LARGEST_SIZE:
                yield f"{name} cannot be {getattr(self, name)}"
        if not 1 <= self.top_k_experts <= self.num_experts:
            yield f"top_k_experts cannot be {self.top_k_experts} with {self.num_experts} experts"
        for layer in self.layers:
            heads = layer.num_key_value_heads
            if not 1 <= heads <= self.num_attention_heads or self.num_attention_heads % heads:
                yield f"{self.num_attention_heads} query heads cannot share {heads} key/value heads"
            if not 2 <= layer.head_dim < LARGEST_SIZE or layer.head_dim % 2:
                yield f"head_dim cannot be {layer.head_dim}"
            partial = layer.partial_rotary_factor
            if not 0 <= partial <= 1 or (layer.rope_type == "default" and partial != 1):
                yield f"partial_rotary_factor cannot be {partial} with rope_type {layer.rope_type!r}"
            if not (layer.rope_theta > 0 and layer.rope_factor > 0):
                yield f"rope_theta cannot be {layer.rope_theta}, nor factor {layer.rope_factor}"

    @classmethod
    def _from_text_config(cls, config: Mapping[str, Any], text: Mapping[str, Any]) -> NetworkConfig:
        count = int(text["num_hidden_layers"])
        if not 1 <= count < LARGEST_SIZE:
            raise ConfigError(f"config.json: num_hidden_layers cannot be {count}")
        layer_types = text.get("layer_types") or [
            "full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(count)
        ]
        if len(layer_types) != count:
            raise ConfigError(f"config.json lists {len(layer_types)} layer types for {count} layers")
        layer_types = [*layer_types[:-1], "full_attention"]  # transformers forces the last one, too
        eos = text.get("eos_token_id", 1)
        return cls(
            vocab_size=int(text["vocab_size"]),
            hidden_size=int(text["hidden_size"]),
            intermediate_size=int(text["intermediate_size"]),
            num_attention_heads=int(text["num_attention_heads"]),
            sliding_window=int(text["sliding_window"]),
            num_experts=int(text["num_experts"]),
            top_k_experts=int(text["top_k_experts"]),
            moe_intermediate_size=int(text["moe_intermediate_size"]),
            layers=tuple(_layer_config(text, i, kind) for i, kind in enumerate(layer_types)),
            rms_norm_eps=float(text.get("rms_norm_eps", 1e-6)),
            final_logit_softcapping=float(text.get("final_logit_softcapping", 30.0)),
            max_position_embeddings=int(text.get("max_position_embeddings", 131_072)),
            canvas_length=int(config.get("canvas_length") or 256),
            pad_token_id=int(text.get("pad_token_id") or 0),
            eos_token_ids=tuple(eos) if isinstance(eos, list) else (int(eos),),
            bos_token_id=int(text.get("bos_token_id", 2)),
        )


def _layer_config(text: Mapping[str, Any], index: int, layer_type: str) -> LayerConfig:
    head_dim, kv_heads = int(text["head_dim"]), int(text["num_key_value_heads"])
    per_layer = text.get("per_layer_config")
    if per_layer is not None:  # as transformers saves it; JSON has made the keys strings
        override = per_layer.get(str(index), per_layer.get(layer_type, {}))
    elif layer_type == "full_attention":  # as published
        override = {"head_dim": text.get("global_head_dim", 512)}
        if text.get("num_global_key_value_heads") is not None:
            override["num_key_value_heads"] = text["num_global_key_value_heads"]
    else:
        override = {}
    default_rope: dict[str, Any] = (
        {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1_000_000.0}
        if layer_type == "full_attention"
        else {"rope_type": "default", "rope_theta": 10_000.0}
    )
    rope = (text.get("rope_parameters") or {}).get(layer_type) or default_rope
    if rope["rope_type"] not in ("default", "proportional"):
        raise ConfigError(f"config.json asks for the unknown rope_type {rope['rope_type']!r}")
    if layer_type not in ("sliding_attention", "full_attention"):
        raise ConfigError(f"config.json asks for the unknown layer type {layer_type!r}")
    return LayerConfig(
        layer_type=layer_type,  # type: ignore[arg-type]
        head_dim=int(override.get("head_dim", head_dim)),
        num_key_value_heads=int(override.get("num_key_value_heads", kv_heads)),
        rope_theta=float(rope["rope_theta"]),
        rope_type=rope["rope_type"],
        partial_rotary_factor=float(rope.get("partial_rotary_factor", 1.0)),
        rope_factor=float(rope.get("factor", 1.0)),
    )
