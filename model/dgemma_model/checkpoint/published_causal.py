"""Read a directory of the Qwen2 or Llama family as it is published: safetensors, `config.json` and `tokenizer.json`.

For conversion, not serving.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dgemma_model.checkpoint.config import read_json
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.checkpoint.weights import check_tensor, stored_tensors
from dgemma_model.network.config import ConfigError
from dgemma_model.network.qwen2 import parameter_shapes
from dgemma_model.network.qwen2_config import Qwen2Config

PREFIX = "model."
HEAD = "lm_head.weight"


class PublishedCausal:
    """A directory whose headers were checked; its weights are read one at a time."""

    def __init__(self, path: Path) -> None:
        """Read the configuration and what the weights' headers say.

        Raises:
            CheckpointError: a file is missing, damaged, of another family, or does not fit the others.
        """
        self.path = path
        try:
            self.config = Qwen2Config.from_json(read_json(path / "config.json", required=True))
        except ConfigError as error:
            raise CheckpointError(str(error)) from error
        stored = stored_tensors(path)
        if self.config.tie_word_embeddings:
            stored.pop(HEAD, None)  # some files hold the tied matrix twice
        shapes = {_published(name): torch.Size(shape) for name, shape in parameter_shapes(self.config).items()}
        for name, tensor in stored.items():
            check_tensor(name, tensor, shapes.get(name))
        for name in shapes.keys() - stored.keys():
            raise CheckpointError(f"tensor {name!r} is missing in {path}; the checkpoint is incomplete")
        self._stored = stored

    @property
    def files(self) -> list[Path]:
        """The files that hold its weights."""
        return sorted({tensor.path for tensor in self._stored.values()})

    def weight(self, name: str, rows: slice = slice(None)) -> Tensor:
        """A parameter by its name in `Qwen2Network`, or some rows of a matrix, in float32.

        Raises:
            CheckpointError: the file is damaged, or a value is not finite.
        """
        published = _published(name)
        path = self._stored[published].path
        try:
            with safe_open(path, framework="pt") as file:
                value: Tensor = file.get_slice(published)[rows]
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path.name} in {path.parent} is damaged ({error}); download it again") from error
        if not bool(value.isfinite().all()):
            raise CheckpointError(f"tensor {published!r} holds NaN or infinite values; the file is damaged")
        return value.float()

    def tokenizer_json(self) -> str:
        """The content of its `tokenizer.json`, with two changes: text is not normalised, so that a file's bytes stay
        what they are, and all markers are special, so that source text that spells one stays text.

        Raises:
            CheckpointError: the file is missing, or not of a byte-level tokenizer.
        """
        try:
            content = read_json(self.path / "tokenizer.json", required=True)
        except ConfigError as error:
            raise CheckpointError(str(error)) from error
        if not isinstance(model := content.get("model"), dict) or model.get("type") != "BPE" or "vocab" not in model:
            raise CheckpointError(f"tokenizer.json in {self.path} is not of a byte-level tokenizer")
        added: list[dict[str, Any]] = content.get("added_tokens") or []
        content["added_tokens"] = [token | {"special": True, "normalized": False} for token in added]
        return json.dumps(content | {"normalizer": None, "post_processor": None}, ensure_ascii=False)


def _published(name: str) -> str:
    return name if name == HEAD else PREFIX + name
