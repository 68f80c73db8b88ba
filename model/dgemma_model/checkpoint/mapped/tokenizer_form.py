"""A converted checkpoint's tokenizer as tables (`prompt/byte_pairs`), in a file beside its `tokenizer.json`.

The file is mapped: all processes that serve the checkpoint share one copy, and loading builds nothing. It is written if
it is missing, damaged, of an older version, or made from another checkpoint.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from dgemma_model.checkpoint.config import read_json
from dgemma_model.checkpoint.weights import write_tensors
from dgemma_model.prompt.byte_pairs import DTYPES, BytePairs, Tables, build
from dgemma_model.prompt.tokenizer import TabledTokenizer, Tokenizer

logger = logging.getLogger(__name__)

TABLES = "tokenizer.safetensors"
_VERSION = "1"
_UNUSABLE = (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError)
"""Exceptions that mean a damaged file, or a tokenizer that does not fit into tables."""
_SOURCE, _VERSION_NOTE, _DESCRIPTION, _PREFERS_WHOLE = "source", "version", "description", "prefers_whole"


def tokenizer_of(json_path: Path, source: str) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`: as mapped tables if it is plain byte-level BPE, otherwise by the library.

    `source` identifies the file that the checkpoint was converted from.

    Raises:
        TokenizerError: the file is missing or unusable.
    """
    path = json_path.with_name(TABLES)
    try:
        return _mapped(path, source)
    except _UNUSABLE as error:
        logger.debug("%s cannot be used: %s", path, error)
    try:
        tables, notes = _tables(read_json(json_path))
        _write(path, tables, notes | {_SOURCE: source, _VERSION_NOTE: _VERSION})
        return _mapped(path, source)
    except _UNUSABLE as error:
        logger.info("the tokenizer of %s is not kept as tables: %s", json_path.parent, error)
    return Tokenizer.read(json_path)


def _mapped(path: Path, source: str) -> Tokenizer:
    with safe_open(path, framework="pt") as file:
        notes = file.metadata() or {}
        if notes.get(_SOURCE) != source or notes.get(_VERSION_NOTE) != _VERSION:
            raise ValueError(f"{path.name} was made of something else")
        tables = Tables(**{name: file.get_tensor(name).numpy() for name in DTYPES})
    pairs = BytePairs(tables, prefers_whole=notes[_PREFERS_WHOLE] == "true")
    return TabledTokenizer(notes[_DESCRIPTION], pairs)


def _tables(content: Mapping[str, Any]) -> tuple[Tables, dict[str, str]]:
    """The tables of a `tokenizer.json`, and the file's metadata with all that `TabledTokenizer` needs besides.

    Raises:
        ValueError: it does more than plain byte-level BPE, so tables would give other ids.
    """
    model, steps = content["model"], _steps(content["pre_tokenizer"])
    added = content["added_tokens"]
    spelling = {"add_prefix_space": False, "use_regex": False}
    if len(steps) < 2 or steps[-1]["type"] != "ByteLevel" or not spelling.items() <= steps[-1].items():
        raise ValueError("its last step is not one that only spells pieces in bytes")
    if content.get("normalizer") is not None or not all(token["special"] for token in added):
        raise ValueError("it changes text before it is cut, or has tokens that are cut out of it")
    odd = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    if model["type"] != "BPE" or any(model.get(name) for name in odd):
        raise ValueError("its tokens are not plain byte-level ones")
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    special = {token["content"]: token["id"] for token in added}
    described = {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps[:-1]},
        "model": {"type": "BPE", "vocab": special, "merges": []},
    }
    notes = {_DESCRIPTION: json.dumps(described), _PREFERS_WHOLE: str(bool(model.get("ignore_merges"))).lower()}
    return build(model["vocab"], special.values(), merges), notes


def _steps(pre_tokenizer: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(pre_tokenizer["pretokenizers"]) if pre_tokenizer["type"] == "Sequence" else [dict(pre_tokenizer)]


def _write(path: Path, tables: Tables, notes: Mapping[str, str]) -> None:
    tensors = {name: torch.from_numpy(array) for name, array in tables.arrays().items()}
    layout = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    handle, partial = tempfile.mkstemp(prefix=".tokenizer.", dir=path.parent)
    os.close(handle)
    try:
        write_tensors(Path(partial), layout, tensors.items(), notes)
        Path(partial).replace(path)
    finally:
        Path(partial).unlink(missing_ok=True)
