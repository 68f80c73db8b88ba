"""Read a `.gguf` file of the Qwen2 or Llama family: configuration, weights and tokenizer. For conversion, not serving.

Names and layout of tensors are those that llama.cpp's `convert_hf_to_gguf.py` writes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dgemma_model.checkpoint.gguf.header import GgufError, GgufTensor, read_header
from dgemma_model.checkpoint.gguf.tokenizer import tokenizer_json
from dgemma_model.network.config import ConfigError
from dgemma_model.network.qwen2 import parameter_shapes
from dgemma_model.network.qwen2_config import MODEL_TYPES, Qwen2Config

_NAMES = {
    "token_embd": "embed_tokens",
    "output": "lm_head",
    "output_norm": "norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TENSOR = re.compile(rf"(?:blk\.(\d+)\.)?({'|'.join(_NAMES)})\.(weight|bias)")
EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"
SAME = 0.99
"""Two matrices are one, quantised in two ways, if the cosine between their first rows is at least this."""


class GgufFile:
    """A file whose header was checked; its weights are read one at a time."""

    def __init__(self, path: Path) -> None:
        """Map the file and read its metadata.

        Raises:
            GgufError: the file is missing, of another format, truncated, or of a family that does not run here.
        """
        self.path = path
        header = read_header(path)
        self._metadata = header.metadata
        architecture = self._value("general.architecture")
        if architecture not in MODEL_TYPES:
            raise self._error(f"holds a {architecture!r} model; models of {' and '.join(MODEL_TYPES)} run here")
        self._sources = {self._parameter(tensor): tensor for tensor in header.tensors.values()}
        is_tied = self._is_tied()
        if is_tied and HEAD in self._sources:  # take the one that lost less
            sizes = {name: self._sources[name].data.nbytes for name in (EMBEDDING, HEAD)}
            self._sources[EMBEDDING] = self._sources[max(sizes, key=sizes.__getitem__)]
            del self._sources[HEAD]
        self.config = self._config(architecture, is_tied)
        self._check_shapes()

    def tokenizer_json(self) -> str:
        """The content of a `tokenizer.json` with the file's byte-level vocabulary and merges.

        Raises:
            GgufError: the tokenizer is of a kind that does not run here.
        """
        try:
            return tokenizer_json(
                model=self._value("tokenizer.ggml.model"),
                pieces=self._value("tokenizer.ggml.pre"),
                tokens=self._value("tokenizer.ggml.tokens"),
                kinds=self._value("tokenizer.ggml.token_type"),
                merges=self._value("tokenizer.ggml.merges"),
            )
        except ValueError as error:
            raise self._error(str(error)) from error

    def parameters(self) -> Iterator[str]:
        """The names of the network's parameters, as in `Qwen2Network`."""
        return iter(self._sources)

    def weight(self, name: str, rows: slice = slice(None)) -> Tensor:
        """A parameter, or some rows of a matrix, in float32.

        A tied embedding that the file stores twice, in two precisions, is read from the higher one.

        Raises:
            GgufError: its type cannot be read, or a value is not finite.
        """
        source = self._sources[name]
        try:
            value = torch.from_numpy(source.dequantised(self._stored_rows(name, rows)))
        except GgufError as error:
            raise self._error(str(error)) from error
        return value[0] if len(source.shape) == 1 else value

    def _stored_rows(self, name: str, rows: slice) -> slice | NDArray[np.int64]:
        """Where rows are in the file: Llama files store those of query and key heads in pairs (2i, 2i + 1), where the
        published layout has (i, i + C / 2)."""
        if self.config.has_qkv_bias or not name.endswith(("q_proj.weight", "k_proj.weight")):
            return rows
        size = self.config.head_dim
        order = np.arange(len(self._sources[name].data)).reshape(-1, size // 2, 2)
        return order.swapaxes(1, 2).reshape(-1)[rows]

    def _parameter(self, tensor: GgufTensor) -> str:
        found = _TENSOR.fullmatch(tensor.name)
        if found is None:
            reason = "scaled rotary embeddings" if tensor.name.startswith("rope") else "another architecture"
            raise self._error(f"has the tensor {tensor.name!r}: it is of {reason}, which does not run here")
        layer, name, kind = found.groups()
        return f"{'' if layer is None else f'layers.{layer}.'}{_NAMES[name]}.{kind}"

    def _config(self, architecture: str, is_tied: bool) -> Qwen2Config:
        if self._value(f"{architecture}.rope.scaling.type", "none") != "none":
            raise self._error("asks for scaled rotary embeddings, which do not run here")
        heads = self._value(f"{architecture}.attention.head_count")
        size = self._value(f"{architecture}.embedding_length")
        entries = {
            "model_type": architecture,
            "vocab_size": self._sources[EMBEDDING].shape[0],
            "hidden_size": size,
            "intermediate_size": self._value(f"{architecture}.feed_forward_length"),
            "num_hidden_layers": self._value(f"{architecture}.block_count"),
            "num_attention_heads": heads,
            "num_key_value_heads": self._value(f"{architecture}.attention.head_count_kv", heads),
            "head_dim": self._value(f"{architecture}.attention.key_length", None),
            "rms_norm_eps": _written(self._value(f"{architecture}.attention.layer_norm_rms_epsilon")),
            "rope_theta": _written(self._value(f"{architecture}.rope.freq_base", 10_000.0)),
            "max_position_embeddings": self._value(f"{architecture}.context_length"),
            "tie_word_embeddings": is_tied,
        }
        try:
            return Qwen2Config.from_json(entries)
        except ConfigError as error:
            raise self._error(f"its metadata cannot be used: {error}") from error

    def _is_tied(self) -> bool:
        """Whether head and embedding are one matrix: the head is absent, or the same up to quantisation."""
        if EMBEDDING not in self._sources:
            raise self._error("has no tensor 'token_embd.weight'; it is incomplete")
        if HEAD not in self._sources:
            return True
        some = slice(0, 256)
        embedding, head = (self._sources[name].dequantised(some).ravel() for name in (EMBEDDING, HEAD))
        if len(embedding) != len(head):
            return False
        return bool(embedding @ head >= SAME * np.linalg.norm(embedding) * np.linalg.norm(head))

    def _check_shapes(self) -> None:
        expected = parameter_shapes(self.config)
        for name, shape in expected.items():
            if name not in self._sources:
                raise self._error(f"has no tensor for {name!r}; it is incomplete, download or copy it again")
            if self._sources[name].shape != shape:
                raise self._error(
                    f"tensor {self._sources[name].name!r} has shape {self._sources[name].shape}, its metadata ask for "
                    f"{shape}"
                )
        for name in self._sources.keys() - expected.keys():
            raise self._error(f"has the unexpected tensor {self._sources[name].name!r}")

    def _value(self, key: str, *default: Any) -> Any:
        """What the metadata say under `key`."""
        if key not in self._metadata and not default:
            raise self._error(f"does not say its {key!r}; it is incomplete or of a kind that does not run here")
        return self._metadata.get(key, *default)

    def _error(self, problem: str) -> GgufError:
        return GgufError(f"{self.path.name}: {problem}")


def _written(value: Any) -> float:
    """The shortest decimal number that rounds to a float32: 1e-6, not 9.999999974752427e-07."""
    return float(str(np.float32(value)))
