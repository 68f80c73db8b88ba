"""A `.gguf` file of Gemma 3, written once as a published directory: weights in bfloat16, configuration and tokenizer.

Names are those that llama.cpp's `convert_hf_to_gguf.py` writes, which also adds the one to the norms.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dgemma_model.checkpoint import store
from dgemma_model.checkpoint.contract import Progress
from dgemma_model.checkpoint.converted import CONFIG, ORIGIN, TOKENIZER, ConvertedError, make, read_json, replacing
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.checkpoint.gguf.header import GgufError, GgufHeader, GgufTensor, read_header
from dgemma_model.checkpoint.quantised.source_hash import weights_hash
from dgemma_model.checkpoint.weights import write_tensors

ARCHITECTURE = "gemma3"
VERSION = 1
"""Of the directory; those of other versions are written anew."""
WEIGHTS, POLICY = "model.safetensors", "dgemma.json"
NAMES = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
ROWS = 16_384
"""That are widened together."""
NORMAL, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 3, 4, 5, 6
"""Kinds of tokens."""


def published_form(path: Path, progress: Progress = lambda share: None) -> Path:
    """The published directory of a `.gguf` file: made now if it is missing, stale or damaged.

    Raises:
        CheckpointError: the file cannot be used, or the directory cannot be written.
    """
    try:
        digest = weights_hash([path])
        folder = store.converted_folder(path, digest)
        make(folder, lambda: _is_current(folder, digest), lambda: _write(path, folder, digest, progress))
        return folder
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except GgufError as error:
        raise CheckpointError(f"{path.name}: {error}") from error
    except ConvertedError as error:
        raise CheckpointError(str(error)) from error


def _is_current(folder: Path, digest: str) -> bool:
    try:
        origin = read_json(folder / ORIGIN)
    except ConvertedError:
        return False
    return origin.get("version") == VERSION and origin.get("sha256") == digest


def _write(path: Path, folder: Path, digest: str, progress: Progress) -> None:
    header = read_header(path)
    named = {_published_name(tensor.name): tensor for tensor in header.tensors.values()}
    layout = {
        name: (torch.bfloat16 if len(tensor.shape) == 2 else torch.float32, tensor.shape)
        for name, tensor in named.items()
    }
    contents: dict[str, Any] = {
        CONFIG: _config(header, named["model.embed_tokens.weight"].shape[0]),
        ORIGIN: {"version": VERSION, "source": path.name, "sha256": digest},
        POLICY: {"name": path.stem},
        TOKENIZER: tokenizer_json(
            *(_value(header, f"tokenizer.ggml.{key}") for key in ("tokens", "token_type", "scores"))
        ),
    }
    with replacing(folder) as new:
        for name, content in contents.items():
            (new / name).write_text(json.dumps(content, ensure_ascii=False) + "\n", "utf-8")
        write_tensors(new / WEIGHTS, layout, _widened(named, progress))


def _published_name(name: str) -> str:
    parts = name.removesuffix(".weight").split(".")
    if parts[-1] not in NAMES or not name.endswith(".weight"):
        raise GgufError(f"has the tensor {name!r}: it is of another architecture, which does not run here")
    layer = f"layers.{parts[1]}." if parts[0] == "blk" else ""
    return f"model.{layer}{NAMES[parts[-1]]}.weight"


def _widened(named: Mapping[str, GgufTensor], progress: Progress) -> Iterator[tuple[str, Tensor]]:
    for done, (name, tensor) in enumerate(named.items(), 1):
        if len(tensor.shape) == 1:
            yield name, torch.from_numpy(tensor.dequantised()[0] - 1)
        else:
            starts = range(0, tensor.shape[0], ROWS)
            parts = [torch.from_numpy(tensor.dequantised(slice(at, at + ROWS))).bfloat16() for at in starts]
            yield name, torch.cat(parts)
        progress(done / len(named))


def _config(header: GgufHeader, rows: int) -> dict[str, Any]:
    def entry(key: str) -> Any:
        return _value(header, f"{ARCHITECTURE}.{key}")

    if header.metadata.get(f"{ARCHITECTURE}.rope.scaling.type", "none") != "none":
        raise GgufError("asks for scaled rotary embeddings, which do not run here")
    return {
        "model_type": "gemma3_text",
        "architectures": ["Gemma3ForCausalLM"],
        "vocab_size": rows,
        "hidden_size": entry("embedding_length"),
        "intermediate_size": entry("feed_forward_length"),
        "num_hidden_layers": entry("block_count"),
        "num_attention_heads": entry("attention.head_count"),
        "num_key_value_heads": entry("attention.head_count_kv"),
        "head_dim": entry("attention.key_length"),
        "query_pre_attn_scalar": entry("attention.key_length"),
        "rms_norm_eps": float(str(np.float32(entry("attention.layer_norm_rms_epsilon")))),
        "rope_theta": entry("rope.freq_base"),
        "rope_local_base_freq": 10_000.0,
        "sliding_window": entry("attention.sliding_window"),
        "max_position_embeddings": entry("context_length"),
        "tie_word_embeddings": True,
        "eos_token_id": _value(header, "tokenizer.ggml.eos_token_id"),
        "bos_token_id": _value(header, "tokenizer.ggml.bos_token_id"),
        "pad_token_id": _value(header, "tokenizer.ggml.padding_token_id"),
    }


def _value(header: GgufHeader, key: str) -> Any:
    if key not in header.metadata:
        raise GgufError(f"does not say its {key!r}; it is incomplete or of a kind that does not run here")
    return header.metadata[key]


def tokenizer_json(tokens: Sequence[str], kinds: Sequence[int], scores: Sequence[float]) -> dict[str, Any]:
    """The content of a `tokenizer.json` that cuts text as SentencePiece does: pieces that users defined are first, then
    pairs are joined in the order of the scores of what they make.

    Raises:
        GgufError: the lists do not fit each other.
    """
    if not len(tokens) == len(kinds) == len(scores) == len(set(tokens)):
        raise GgufError(f"the tokenizer has {len(tokens)} tokens of {len(kinds)} kinds and {len(scores)} scores")
    vocabulary = {token: at for at, token in enumerate(tokens)}
    joined = {token for token, kind in zip(tokens, kinds, strict=True) if kind == NORMAL}
    pairs = [
        (-scores[at], vocabulary[token[:cut]], vocabulary[token[cut:]], token[:cut], token[cut:])
        for token, at in vocabulary.items()
        if kinds[at] == NORMAL
        for cut in range(1, len(token))
        if token[:cut] in joined and token[cut:] in joined
    ]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip"), False)
    added = [
        {
            "id": at,
            "content": token,
            **flags,
            "normalized": kinds[at] == USER_DEFINED,
            "special": kinds[at] != USER_DEFINED,
        }
        for at, token in enumerate(tokens)
        if kinds[at] in (CONTROL, USER_DEFINED, UNUSED)
    ]
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocabulary,
            "merges": [pair[3:] for pair in sorted(pairs)],
        },
    }
