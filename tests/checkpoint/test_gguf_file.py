"""GGUF files: the weights that went in come out, and what cannot be used is named."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_fixtures import worst
from qwen2_fixtures import VARIANTS, parameters, plain_network, stored_tensors, their_model, write_gguf
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

from dgemma_model.checkpoint.gguf.file import GgufFile
from dgemma_model.checkpoint.gguf.header import GgufError, read_header
from dgemma_model.network.qwen2 import Qwen2Network

Kind = gguf.GGMLQuantizationType
HEAD, EMBEDDING = "output.weight", "token_embd.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good file."""
    path = tmp_path_factory.mktemp("gguf") / "model.gguf"
    write_gguf(path)
    return path


def network_of(file: GgufFile) -> Qwen2Network:
    network = Qwen2Network(file.config)
    network.load_state_dict({name: file.weight(name) for name in file.parameters()})
    return network.requires_grad_(False)


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_and_configuration_come_back(variant: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", variant)
    file, expected = GgufFile(tmp_path / "model.gguf"), parameters(variant)
    assert file.config == plain_network(variant).config
    assert set(file.parameters()) == expected.keys()
    for name, value in expected.items():
        assert worst(file.weight(name), value) == 0
    some, queries = slice(5, 37), "layers.0.self_attn.q_proj.weight"
    assert worst(file.weight(queries, some), expected[queries][some]) == 0


@pytest.mark.parametrize("variant", ["qwen2", "llama", "llama, wide heads"])
def test_transformers_reads_the_same_from_a_file(variant: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", variant)
    ours = GgufFile(tmp_path / "model.gguf")
    theirs = load_gguf_checkpoint(tmp_path / "model.gguf", return_tensors=True, model_to_load=their_model(variant))
    for name, value in theirs["tensors"].items():
        assert worst(ours.weight(name.removeprefix("model.")), value) == 0


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q5_0, Kind.Q4_1, Kind.Q5_1])
def test_every_type_that_the_package_reads_is_read(kind: Kind, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", kind=kind)
    file = GgufFile(tmp_path / "model.gguf")
    for name, value in parameters("qwen2").items():
        error = (file.weight(name) - value).norm() / value.norm()
        assert error < (1e-2 if kind in (Kind.F16, Kind.BF16, Kind.Q8_0) else 0.2)


def test_a_tied_embedding_that_is_stored_twice_is_read_from_the_better_one(tmp_path: Path) -> None:
    embedding = stored_tensors("qwen2")[EMBEDDING]
    rounded = embedding + np.random.default_rng(0).normal(0, 0.01, embedding.shape).astype(np.float32)
    coarse = gguf.quants.dequantize(gguf.quants.quantize(rounded, Kind.Q4_0), Kind.Q4_0)
    for better in (EMBEDDING, HEAD):
        worse = HEAD if better == EMBEDDING else EMBEDDING
        path = tmp_path / f"{better}.gguf"
        write_gguf(path, changed={better: embedding, worse: coarse}, kinds={worse: Kind.Q4_0})
        file = GgufFile(path)
        assert file.config.tie_word_embeddings
        assert worst(file.weight("embed_tokens.weight"), torch.from_numpy(embedding)) == 0


def test_a_head_of_its_own_stays_one(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", "qwen2, untied")
    assert not GgufFile(tmp_path / "model.gguf").config.tie_word_embeddings


def test_the_tokenizer_is_in_the_file(whole: Path) -> None:
    assert '"Split"' in GgufFile(whole).tokenizer_json()


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "another architecture": ({"entries": {"general.architecture": "gemma3"}}, "'gemma3' model"),
    "a matrix is missing": ({"leave_out": ("blk.1.ffn_up.weight",)}, "no tensor for 'layers.1.mlp.up_proj.weight'"),
    "the embedding is missing": ({"leave_out": (EMBEDDING,)}, "'token_embd.weight'"),
    "a tensor too many": ({"changed": {"blk.7.ffn_up.weight": np.zeros((96, 64), np.float32)}}, "unexpected tensor"),
    "a foreign tensor": ({"changed": {"blk.0.ssm_in.weight": np.zeros((96, 64), np.float32)}}, "another architecture"),
    "scaled rotation": ({"changed": {"rope_freqs.weight": np.ones((1, 32), np.float32)}}, "scaled rotary"),
    "scaled rotation, by name": ({"entries": {"rope.scaling": gguf.RopeScalingType.YARN}}, "scaled rotary"),
    "another shape": ({"changed": {"blk.0.ffn_up.weight": np.zeros((95, 64), np.float32)}}, "its metadata ask for"),
}


@pytest.mark.parametrize("problem", BROKEN)
def test_a_file_of_another_network_is_named(problem: str, tmp_path: Path) -> None:
    changes, message = BROKEN[problem]
    write_gguf(tmp_path / "model.gguf", **changes)
    with pytest.raises(GgufError, match=message) as raised:
        GgufFile(tmp_path / "model.gguf")
    assert "model.gguf" in str(raised.value)


def test_numbers_that_are_none_are_named(tmp_path: Path) -> None:
    damaged = np.full((96, 64), np.nan, np.float32)
    write_gguf(tmp_path / "model.gguf", changed={"blk.0.ffn_up.weight": damaged})
    with pytest.raises(GgufError, match=r"'blk.0.ffn_up.weight' holds NaN"):
        GgufFile(tmp_path / "model.gguf").weight("layers.0.mlp.up_proj.weight")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"entries": {"tokenizer.ggml.model": "llama"}}, "byte-level"),
        ({"entries": {"tokenizer.ggml.pre": "klingon"}}, "'klingon'"),
        ({"leave_out": ("tokenizer.ggml.merges",)}, "'tokenizer.ggml.merges'"),
    ],
)
def test_a_tokenizer_of_another_kind_is_named(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", **changes)
    with pytest.raises(GgufError, match=message):
        GgufFile(tmp_path / "model.gguf").tokenizer_json()


def test_a_type_that_the_package_cannot_read_is_named(whole: Path, tmp_path: Path) -> None:
    header = read_header(whole)
    at = whole.read_bytes().index(b"blk.0.ffn_up.weight") + len("blk.0.ffn_up.weight") + 4 + 2 * 8
    for number, message in ((4321, "unknown type 4321"), (int(Kind.I8), "stored as I8")):
        content = bytearray(whole.read_bytes())
        struct.pack_into("<I", content, at, number)
        (tmp_path / "model.gguf").write_bytes(content)
        with pytest.raises(GgufError, match=message):
            GgufFile(tmp_path / "model.gguf").weight("layers.0.mlp.up_proj.weight")
    assert header.tensors["blk.0.ffn_up.weight"].shape == (96, 64)


def test_what_is_no_such_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(GgufError, match="cannot be read"):
        GgufFile(tmp_path / "absent.gguf")
    for content in (b"", b"GGUF", b"PK\x03\x04 and more", b"GGUF" + struct.pack("<IQQ", 1, 0, 0)):
        (tmp_path / "model.gguf").write_bytes(content)
        with pytest.raises(GgufError, match=r"model\.gguf"):
            GgufFile(tmp_path / "model.gguf")


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_that_is_cut_short_is_never_used(whole: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = whole.read_bytes()
    (tmp_path / "model.gguf").write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(GgufError):
        GgufFile(tmp_path / "model.gguf")


@given(st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_header_is_refused_or_read(whole: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(whole.read_bytes())
    at = data.draw(st.integers(0, 6000))
    content[at : at + 8] = data.draw(st.binary(min_size=8, max_size=8))
    (tmp_path / "model.gguf").write_bytes(content)
    try:
        file = GgufFile(tmp_path / "model.gguf")
        for name in file.parameters():
            file.weight(name)
        file.tokenizer_json()
    except GgufError as error:
        assert "model.gguf" in str(error)
