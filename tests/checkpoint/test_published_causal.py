"""Directories of safetensors, as `transformers` saves them: the weights that went in come out, and are converted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from model_fixtures import worst
from qwen2_fixtures import MARKERS, VARIANTS, parameters, plain_network, their_model, vocabulary
from safetensors.torch import load_file, save_file
from transformers import Qwen2Tokenizer

from dgemma_model.checkpoint import converted
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.checkpoint.published_causal import PublishedCausal
from dgemma_model.network.cache import Cache


def publish(directory: Path, variant: str = "qwen2", shard_size: str = "10MB") -> Path:
    """Save a model and its tokenizer as they are published; its markers are added tokens, and not special."""
    their_model(variant).save_pretrained(directory, max_shard_size=shard_size)
    tokens, _, merges = vocabulary()
    vocab = {token: at for at, token in enumerate(tokens[: -len(MARKERS) - 3])}
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=[tuple(merge.split(" ")) for merge in merges])
    tokenizer.add_tokens([tokenizers.AddedToken(marker, special=False) for marker in MARKERS])
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return publish(tmp_path_factory.mktemp("published") / "model")


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shard_size", ["10MB", "60KB"])
def test_weights_come_back(variant: str, shard_size: str, tmp_path: Path) -> None:
    source = PublishedCausal(publish(tmp_path, variant, shard_size))
    assert source.config == plain_network(variant).config
    assert (len(source.files) > 1) == (shard_size == "60KB")
    for name, value in parameters(variant).items():
        assert worst(source.weight(name), value) == 0
        assert worst(source.weight(name, slice(3, 9)), value[3:9]) == 0


def test_a_converted_directory_computes_what_the_source_does(published: Path, tmp_path: Path) -> None:
    converted.convert(published, tmp_path / "model")
    served = converted.load(tmp_path / "model", converted.sha256(published))
    plain, ids = plain_network("qwen2"), torch.arange(30)[None]
    ours, theirs = served.logits(served.encode(ids, Cache())), plain.logits(plain.encode(ids, Cache()))
    assert (ours - theirs[..., : served.vocab_size]).norm() < 0.1 * theirs.norm()
    assert served.vocab_size == len(vocabulary()[0]) - 3


def test_text_is_not_normalised_and_markers_in_it_are_text(published: Path) -> None:
    tokenizer = tokenizers.Tokenizer.from_str(PublishedCausal(published).tokenizer_json())
    tokenizer.encode_special_tokens = True
    for text in ("e\u0301", *MARKERS):
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=True) == text


def changed(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], Any]:
    def broken(directory: Path) -> None:
        tensors = load_file(directory / "model.safetensors")
        change(tensors)
        save_file({name: tensor.clone() for name, tensor in tensors.items()}, directory / "model.safetensors")

    return broken


NORM = "model.norm.weight"
BROKEN: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no weights": (lambda directory: (directory / "model.safetensors").unlink(), "model.safetensors is missing"),
    "no tokenizer": (lambda directory: (directory / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    "another tokenizer": (
        lambda directory: (directory / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram"}})),
        "byte-level",
    ),
    "another architecture": (
        lambda directory: (directory / "config.json").write_text(json.dumps({"model_type": "gpt2"})),
        "'gpt2' model",
    ),
    "weights cut short": (
        lambda directory: (directory / "model.safetensors").write_bytes(
            (directory / "model.safetensors").read_bytes()[:-9]
        ),
        "damaged",
    ),
    "a tensor is missing": (changed(lambda tensors: tensors.pop(NORM)), f"'{NORM}' is missing"),
    "a tensor too many": (changed(lambda tensors: tensors.update(extra=torch.ones(2))), "unexpected tensor 'extra'"),
    "another shape": (changed(lambda tensors: tensors.update({NORM: torch.ones(2)})), f"'{NORM}' has shape"),
    "quantised": (changed(lambda tensors: tensors.update({NORM: tensors[NORM].to(torch.int8)})), "quantised"),
    "not a number": (changed(lambda tensors: tensors.update({NORM: tensors[NORM] * torch.nan})), "NaN"),
}


@pytest.mark.parametrize("problem", BROKEN)
def test_a_broken_directory_is_named(problem: str, published: Path, tmp_path: Path) -> None:
    damage, message = BROKEN[problem]
    damage(Path(shutil.copytree(published, tmp_path / "model")))
    with pytest.raises(CheckpointError, match=message):
        converted.convert(tmp_path / "model", tmp_path / "made")
    assert not (tmp_path / "made").exists()
