"""Tiny random Qwen2 and Llama networks, as `transformers` models, as networks of ours, and as GGUF files."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers
import torch
from model_fixtures import SOURCE, randomize
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM
from transformers import Qwen2Config as TheirQwen2Config

from dgemma_model.checkpoint.gguf.tokenizer import PIECES
from dgemma_model.network.qwen2 import Qwen2Network
from dgemma_model.network.qwen2_config import Qwen2Config
from dgemma_model.network.state_drafter import DrafterConfig, StateDrafter

VOCAB = 407
"""As many as `vocabulary` has tokens."""
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
    "tie_word_embeddings": True,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen2, untied": {"tie_word_embeddings": False},
    "qwen2, one key head": {"num_key_value_heads": 1, "rms_norm_eps": 1e-3},
    "llama": {"model_type": "llama"},
    "llama, untied, no groups": {"model_type": "llama", "tie_word_embeddings": False, "num_key_value_heads": 4},
    "llama, wide heads": {"model_type": "llama", "head_dim": 32},
}
MARKERS = ("<|endoftext|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
CONTROL, UNUSED = gguf.TokenType.CONTROL, gguf.TokenType.UNUSED


@cache
def their_model(variant: str) -> PreTrainedModel:
    """A random model of the reference."""
    sizes = SIZES | VARIANTS[variant]
    torch.manual_seed(3)
    if sizes.pop("model_type", "qwen2") == "qwen2":
        model: PreTrainedModel = Qwen2ForCausalLM(TheirQwen2Config(**sizes))
    else:
        model = LlamaForCausalLM(LlamaConfig(**sizes))
    randomize(model)
    return model.eval()


def parameters(variant: str) -> dict[str, Tensor]:
    """Its weights by our names."""
    model = their_model(variant)
    named = {name.removeprefix("model."): value for name, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del named["lm_head.weight"]
    return named


@cache
def plain_network(variant: str) -> Qwen2Network:
    """The same weights in our plain network."""
    network = Qwen2Network(Qwen2Config.from_json(their_model(variant).config.to_dict()))
    network.load_state_dict(parameters(variant))
    return network.requires_grad_(False).eval()


def tiny_drafter(vocab_size: int, **changes: Any) -> StateDrafter:
    """A random drafter for the variant "qwen2", with a canvas of five tokens; `changes` are other sizes."""
    its = plain_network("qwen2").config
    sizes: dict[str, Any] = {
        "hidden_size": its.hidden_size,
        "intermediate_size": 32,
        "num_attention_heads": its.num_attention_heads,
        "num_key_value_heads": its.num_key_value_heads,
        "head_dim": its.head_dim,
        "rope_theta": its.rope_theta,
        "rms_norm_eps": its.rms_norm_eps,
        "canvas": 5,
        "keys_of": (1, 2),
        "states_before": (1,),
        "vocab_size": vocab_size,
        "pair_rank": 8,
    }
    torch.manual_seed(1)
    drafter = StateDrafter(DrafterConfig(**sizes | changes))
    for name, value in drafter.named_parameters():
        value.data.normal_(1.0 if "norm" in name else 0.0, 0.3)
    return drafter.requires_grad_(False)


class Parameters:
    """Weights in memory, as a source of `joined_weights`."""

    def __init__(self, network: Qwen2Network) -> None:
        self._values = network.state_dict()

    def weight(self, name: str, rows: slice = slice(None)) -> Tensor:
        return self._values[name][rows]


@cache
def byte_level_tokenizer() -> tokenizers.Tokenizer:
    """A byte-level tokenizer that cuts text as Qwen2 does, with a few merges and without markers."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(tokenizers.Regex(PIECES["qwen2"]), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([SOURCE], trainer)
    return tokenizer


def vocabulary() -> tuple[list[str], list[int], list[str]]:
    """Tokens, kinds of tokens and merges, as a GGUF file lists them: with markers, and padded with unused ids."""
    tokenizer = byte_level_tokenizer()
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    merges = [" ".join(pair) for pair in tokenizer_state(tokenizer)["merges"]]
    kinds = [gguf.TokenType.NORMAL] * len(tokens) + [CONTROL] * len(MARKERS) + [UNUSED] * 3
    return [*tokens, *MARKERS, "[PAD1]", "[PAD2]", "[PAD3]"], [int(kind) for kind in kinds], merges


def tokenizer_state(tokenizer: tokenizers.Tokenizer) -> dict[str, Any]:
    """The model part of a tokenizer's JSON."""
    state: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return state


def write_gguf(
    path: Path,
    variant: str = "qwen2",
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    leave_out: tuple[str, ...] = (),
    changed: dict[str, np.ndarray[Any, Any]] | None = None,
    kinds: dict[str, gguf.GGMLQuantizationType] | None = None,
    entries: dict[str, Any] | None = None,
) -> None:
    """A `.gguf` file as llama.cpp's converter writes it; `kind` is how matrices are stored.

    `leave_out` names tensors and metadata that are missing, `changed` and `kinds` have other content and types for
    some tensors, and `entries` other texts for some metadata.
    """
    config, texts = their_model(variant).config, entries or {}
    name = texts.get("general.architecture", config.model_type)
    writer = gguf.GGUFWriter(path, name)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
    if "rope.scaling" in texts:
        writer.add_rope_scaling_type(texts["rope.scaling"])
    tokens, token_kinds, merges = vocabulary()
    writer.add_tokenizer_model(texts.get("tokenizer.ggml.model", "gpt2"))
    writer.add_tokenizer_pre(texts.get("tokenizer.ggml.pre", "qwen2"))
    writer.add_token_list(tokens)
    writer.add_token_types(token_kinds)
    if "tokenizer.ggml.merges" not in leave_out:
        writer.add_token_merges(merges)
    for stored, value in (stored_tensors(variant) | (changed or {})).items():
        if stored not in leave_out:
            of_matrices = kind if value.ndim == 2 else gguf.GGMLQuantizationType.F32
            _add_tensor(writer, stored, value, (kinds or {}).get(stored, of_matrices))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def stored_tensors(variant: str) -> dict[str, np.ndarray[Any, Any]]:
    """A model's tensors by their names in a GGUF file; Llama's query and key rows in pairs."""
    model = their_model(variant)
    names = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH.QWEN2 if model.config.model_type == "qwen2" else gguf.MODEL_ARCH.LLAMA,
        model.config.num_hidden_layers,
    )
    found = {}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        if model.config.model_type == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            value = value.view(-1, 2, _head_dim(model) // 2, value.shape[1]).transpose(1, 2).reshape(value.shape)
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert stored is not None, name
        found[stored] = value.numpy()
    return found


def _head_dim(model: PreTrainedModel) -> int:
    config = model.config
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _add_tensor(
    writer: gguf.GGUFWriter, name: str, value: np.ndarray[Any, Any], kind: gguf.GGMLQuantizationType
) -> None:
    data = value if kind == gguf.GGMLQuantizationType.F32 else gguf.quants.quantize(value, kind)
    writer.add_tensor(name, np.ascontiguousarray(data), raw_dtype=kind)
