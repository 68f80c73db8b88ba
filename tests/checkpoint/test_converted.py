"""Converted checkpoints: what was converted is served, and what is broken or of something else is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from qwen2_fixtures import VARIANTS, plain_network, stored_tensors, write_gguf
from safetensors.torch import load_file, save_file
from torch import Tensor

from dgemma_model.checkpoint.converted import CONFIG, ORIGIN, TOKENIZER, WEIGHTS, ConvertedError, convert, load, sha256
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.checkpoint.gguf.header import GgufError
from dgemma_model.network.cache import Cache


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted checkpoint beside its source."""
    folder = tmp_path_factory.mktemp("converted")
    write_gguf(folder / "model.gguf")
    convert(folder / "model.gguf", folder / "model")
    return folder / "model"


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(made, tmp_path / "model"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_converted_network_computes_what_the_source_does(variant: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", variant)
    shares: list[float] = []
    convert(tmp_path / "model.gguf", tmp_path / "model", shares.append)
    assert shares == sorted(shares) and shares[-1] == 1
    served, plain, ids = load(tmp_path / "model"), plain_network(variant), torch.arange(30)[None]
    ours, theirs = served.logits(served.encode(ids, Cache())), plain.logits(plain.encode(ids, Cache()))
    assert served.config == plain.config
    assert (ours - theirs[..., : served.vocab_size]).norm() < 0.1 * theirs.norm()


def test_the_file_is_one_that_safetensors_reads(made: Path) -> None:
    served, tensors = load(made), load_file(made / WEIGHTS)
    embedding = tensors["embed_tokens.weight"] * tensors["embed_tokens.scale"][:, None]
    torch.testing.assert_close(served.embed(torch.arange(served.vocab_size)), embedding)


def test_the_tokenizer_has_as_many_ids_as_the_network(made: Path) -> None:
    content = json.loads((made / TOKENIZER).read_text("utf-8"))
    assert len(content["model"]["vocab"]) == load(made).vocab_size


def test_it_says_what_it_was_made_of(made: Path) -> None:
    source = made.parent / "model.gguf"
    origin = json.loads((made / ORIGIN).read_text("utf-8"))
    assert origin["source"] == "model.gguf" and origin["sha256"] == sha256(source)
    load(made, expected_sha256=sha256(source))
    with pytest.raises(ConvertedError, match="from another file"):
        load(made, expected_sha256="0" * 64)


def test_converting_again_takes_the_place_of_what_was_there(made: Path, copied: Path) -> None:
    (copied / WEIGHTS).write_bytes(b"")
    convert(made.parent / "model.gguf", copied)
    load(copied)
    assert [path.name for path in copied.parent.iterdir()] == ["model"]


def test_what_cannot_be_converted_leaves_what_was_there(made: Path, copied: Path) -> None:
    source = copied.parent / "short.gguf"
    source.write_bytes((made.parent / "model.gguf").read_bytes()[:-100])
    with pytest.raises(GgufError, match="cut short"):
        convert(source, copied)
    load(copied)


def test_a_conversion_that_fails_midway_leaves_nothing(tmp_path: Path) -> None:
    damaged = torch.full((96, 64), torch.nan).numpy()
    write_gguf(tmp_path / "model.gguf", changed={"blk.2.ffn_up.weight": damaged})
    with pytest.raises(GgufError, match="NaN"):
        convert(tmp_path / "model.gguf", tmp_path / "made" / "model")
    assert list((tmp_path / "made").iterdir()) == []


def test_more_tokens_than_embeddings_are_named(tmp_path: Path) -> None:
    few = stored_tensors("qwen2")["token_embd.weight"][:400]
    write_gguf(tmp_path / "model.gguf", changed={"token_embd.weight": few})
    with pytest.raises(CheckpointError, match="404 tokens but embeddings of 400"):
        convert(tmp_path / "model.gguf", tmp_path / "model")


def test_a_conversion_that_is_killed_leaves_no_checkpoint(made: Path, tmp_path: Path) -> None:
    program = (
        "import os, sys, pathlib; from dgemma_model.checkpoint.converted import convert; "
        "stop = lambda share: os._exit(9) if share > 0.5 else None; "
        "convert(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), stop)"
    )
    arguments = [sys.executable, "-c", program, str(made.parent / "model.gguf"), str(tmp_path / "model")]
    assert subprocess.run(arguments, check=False).returncode == 9
    assert not (tmp_path / "model").exists()
    convert(made.parent / "model.gguf", tmp_path / "model")
    load(tmp_path / "model")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_folder_that_cannot_be_written_is_named(made: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConvertedError, match="cannot be written"):
        convert(made.parent / "model.gguf", tmp_path / "model")


def test_a_file_in_the_way_is_named(made: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConvertedError, match="cannot be written"):
        convert(made.parent / "model.gguf", tmp_path / "file" / "model")


def with_weights(change: Callable[[dict[str, Tensor]], Any]) -> Callable[[Path], None]:
    """Break a checkpoint by changing its tensors."""

    def broken(directory: Path) -> None:
        tensors = {name: tensor.clone() for name, tensor in load_file(directory / WEIGHTS).items()}
        change(tensors)
        save_file(tensors, directory / WEIGHTS)

    return broken


def with_entry(name: str, **entries: Any) -> Callable[[Path], None]:
    """Break a checkpoint by changing a JSON file of it."""

    def broken(directory: Path) -> None:
        content = json.loads((directory / name).read_text("utf-8"))
        (directory / name).write_text(json.dumps(content | entries), "utf-8")

    return broken


def cut(name: str) -> Callable[[Path], None]:
    """Break a checkpoint by cutting a file to two thirds."""

    def broken(directory: Path) -> None:
        content = (directory / name).read_bytes()
        (directory / name).write_bytes(content[: 2 * len(content) // 3])

    return broken


def removed(name: str) -> Callable[[Path], None]:
    return lambda directory: (directory / name).unlink()


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "no directory": (lambda directory: shutil.rmtree(directory), f"{ORIGIN} .* cannot be read"),
    "no origin": (removed(ORIGIN), f"{ORIGIN} .* cannot be read"),
    "no configuration": (removed(CONFIG), f"{CONFIG} .* cannot be read"),
    "no weights": (removed(WEIGHTS), f"{WEIGHTS} .* missing or damaged"),
    "weights cut short": (cut(WEIGHTS), f"{WEIGHTS} .* missing or damaged"),
    "configuration cut short": (cut(CONFIG), f"{CONFIG} .* cannot be read"),
    "origin cut short": (cut(ORIGIN), f"{ORIGIN} .* cannot be read"),
    "origin is a list": (lambda directory: (directory / ORIGIN).write_text("[]") and None, "not a JSON object"),
    "another version": (with_entry(ORIGIN, version=0), "another version"),
    "no tokens": (with_entry(ORIGIN, vocab_size=0), "0 tokens"),
    "more tokens than rows": (with_entry(ORIGIN, vocab_size=10_000), "10000 tokens"),
    "another architecture": (with_entry(CONFIG, model_type="gpt2"), "'gpt2' model"),
    "another size": (with_entry(CONFIG, intermediate_size=97), "no tensor 'layers.0.gate_up.weight'"),
    "a tensor is missing": (with_weights(lambda tensors: tensors.pop("norm.weight")), "no tensor 'norm.weight'"),
    "a tensor too many": (
        with_weights(lambda tensors: tensors.update(extra=torch.zeros(1))),
        "unexpected tensor 'extra'",
    ),
    "another dtype": (
        with_weights(lambda tensors: tensors.update({"layers.0.out.weight": torch.zeros(64, 64)})),
        "no tensor 'layers.0.out.weight'",
    ),
    "numbers that are none": (
        with_weights(lambda tensors: tensors["layers.1.down.scale"].fill_(torch.inf)),
        "NaN or infinite values in 'layers.1.down.scale'",
    ),
    "weights of nothing": (lambda directory: (directory / WEIGHTS).write_bytes(bytes(500)) and None, "damaged"),
}


@pytest.mark.parametrize("problem", BROKEN)
def test_a_broken_checkpoint_is_named(problem: str, copied: Path) -> None:
    damage, message = BROKEN[problem]
    damage(copied)
    with pytest.raises(ConvertedError, match=message) as raised:
        load(copied)
    assert str(copied) in str(raised.value) and "convert" in str(raised.value)
