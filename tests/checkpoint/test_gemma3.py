"""Gemma 3 as a writer: its logits and its greedy text are those of `transformers`, and it fills."""

from __future__ import annotations

import json
import os
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gguf
import pytest
import tokenizers
import torch
import wire
from gemma_fixtures import gemma_json, gemma_tokenizer
from model_fixtures import SOURCE, changed_json, randomize, worst
from torch import Tensor
from transformers import Gemma3ForCausalLM, Gemma3TextConfig
from wire import Wire, inline

from dgemma_model.checkpoint.contract import Checkpoint
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.checkpoint.gemma3.gguf_file import BYTE, CONTROL, NORMAL, USER_DEFINED, tokenizer_json
from dgemma_model.checkpoint.gguf.header import GgufError
from dgemma_model.checkpoint.load import load
from dgemma_model.infill import Infiller
from dgemma_model.network.cache import Cache
from dgemma_model.prompt.tokenizer import BYTE_TOKEN, Tokenizer
from dgemma_model.request import Excerpt, FillRequest

CPU = torch.device("cpu")
CLOSE = 1e-4
_FOLDERS: list[TemporaryDirectory[str]] = []


@cache
def reference() -> tuple[Path, Gemma3ForCausalLM]:
    """A directory with random weights, and the model that wrote it."""
    _FOLDERS.append(TemporaryDirectory(prefix="dgemma-test-"))
    directory = Path(_FOLDERS[-1].name) / "gemma3"
    torch.manual_seed(5)
    config = Gemma3TextConfig(
        vocab_size=gemma_tokenizer().vocab_size,
        hidden_size=24,
        intermediate_size=40,
        num_hidden_layers=7,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=20,
        query_pre_attn_scalar=11,
        max_position_embeddings=512,
        eos_token_id=1,
        pad_token_id=0,
        bos_token_id=2,
    )
    model = Gemma3ForCausalLM(config).eval()
    randomize(model)
    model.save_pretrained(directory)
    (directory / "tokenizer.json").write_text(gemma_json(), "utf-8")
    return directory, model


def ours() -> Checkpoint:
    return load(reference()[0], CPU, torch.float32)


def scores(checkpoint: Checkpoint, ids: Tensor) -> Tensor:
    return checkpoint.network.logits(checkpoint.network.encode(ids, Cache()))


@pytest.mark.parametrize("served", [False, True])
@torch.no_grad()
def test_it_gives_the_logits_of_transformers(served: bool) -> None:
    _, theirs = reference()
    checkpoint = ours().served(torch.float32) if served else ours()
    for length in (1, 19, 70):
        ids = torch.randint(checkpoint.network.vocab_size, (1, length))
        expected = theirs(ids).logits
        assert worst(scores(checkpoint, ids), expected) < CLOSE * expected.std()


@torch.no_grad()
def test_its_greedy_text_is_that_of_transformers() -> None:
    _, theirs = reference()
    checkpoint = ours().served(torch.float32)
    network, text = checkpoint.network, checkpoint.tokenizer.encode(SOURCE)
    for prompt in range(20):
        ids = torch.tensor([[2, *text[prompt : 3 * prompt + 5]]])
        expected = theirs.generate(ids, do_sample=False, max_new_tokens=12, eos_token_id=None)[0].tolist()
        cache, new, written = Cache(), ids, ids[0].tolist()
        for _ in range(12):
            new = network.logits(network.encode(new, cache)[:, -1:]).argmax(-1)
            written.append(int(new))
        assert written == expected


def test_it_fills_from_the_left() -> None:
    infiller = Infiller.load(str(reference()[0]), "cpu")
    *_, draft = infiller.fill(FillRequest(Excerpt("def f(a):\n    return ", "\n"), max_tokens=8))
    assert draft.done
    ids = ours().format.encode(Excerpt("a = ", " # after"), 100).ids
    assert ids[0] == 2 and "after" not in ours().tokenizer.decode(ids)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "softcaps": ({"final_logit_softcapping": 30.0}, "softcaps"),
    "an embedding model": ({"use_bidirectional_attention": True}, "embeds text"),
    "scaled positions": ({"rope_scaling": {"rope_type": "linear", "factor": 8.0}}, "scaled rotary"),
    "an unknown layer": ({"layer_types": ["new"] * 7}, r"7 layer types \['new'\]"),
    "no size": ({"hidden_size": None}, "missing or unusable entry"),
    "another size": ({"intermediate_size": 48}, r"mlp.*has shape .* asks for"),
}


@pytest.mark.parametrize("how", WRONG)
def test_what_does_not_run_is_named(tmp_path: Path, how: str) -> None:
    source, _ = reference()
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    entries, words = WRONG[how]
    changed_json(tmp_path / "config.json", lambda config: config.update(entries))
    with pytest.raises(CheckpointError, match=words):
        load(tmp_path, CPU, torch.float32)


def test_it_has_no_experts_to_quantise() -> None:
    with pytest.raises(CheckpointError, match="--quantize is about experts"):
        load(reference()[0], CPU, torch.float32, quantize="4bit")


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    source, _ = reference()
    for path in source.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(source / "model.safetensors")
    del tensors["model.layers.3.self_attn.q_norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"'model\.layers\.3\.self_attn\.q_norm\.weight'; the checkpoint is"):
        load(tmp_path, CPU, torch.float32)
    assert json.loads((source / "config.json").read_text())["model_type"] == "gemma3_text"


# ----------------------------------------------------------------------- GGUF


def kind_of(token: str, special: frozenset[int], at: int) -> int:
    if at in special:
        return CONTROL
    if BYTE_TOKEN.fullmatch(token):
        return BYTE
    return USER_DEFINED if len(token) > 1 and set(token) in ({"▁"}, {"\n"}) else NORMAL


def write_gguf(path: Path, **changed: Any) -> None:
    """The random model as llama.cpp would store it, in float32."""
    _, model = reference()
    config, tokenizer = model.config, gemma_tokenizer()
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(1e6)
    writer.add_sliding_window(config.sliding_window)
    library = tokenizer._tokenizer
    tokens = [library.id_to_token(at) for at in range(tokenizer.vocab_size)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(at) for at in range(len(tokens))])
    writer.add_token_types([kind_of(token, tokenizer.special_ids, at) for at, token in enumerate(tokens)])
    writer.add_eos_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_pad_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, config.num_hidden_layers)
    for name, value in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        stored = names.get_name(name, try_suffixes=(".weight",))
        assert stored is not None
        plain = (value + 1 if "norm" in name else value).numpy()
        writer.add_tensor(changed.get(stored, stored), plain)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DGEMMA_CHECKPOINTS", str(tmp_path / "store"))
    return tmp_path / "store"


@torch.no_grad()
def test_a_gguf_file_is_read_as_the_directory_is(tmp_path: Path, store: Path) -> None:
    write_gguf(tmp_path / "small.gguf")
    ids = torch.arange(50)[None]
    _, model = reference()
    for _ in range(2):  # written, then found again
        checkpoint = load(tmp_path / "small.gguf", CPU, torch.float32)
        expected = model(ids).logits
        query_scale = (11 / 8) ** 0.5  # the file has no place for another scale than that of the heads' size
        for layer in checkpoint.network.layers:  # type: ignore[attr-defined]
            layer.self_attn.q_norm.weight.div_(query_scale)
        assert (scores(checkpoint, ids) - expected).norm() < 0.03 * expected.norm()  # matrices are in bfloat16
        assert checkpoint.policy.name == "small" and checkpoint.tokenizer.vocab_size == gemma_tokenizer().vocab_size
    assert len(list((store / ".converted").glob("*/model.safetensors"))) == 1


def test_a_form_of_another_version_is_written_anew(tmp_path: Path, store: Path) -> None:
    write_gguf(tmp_path / "small.gguf")
    folder = load(tmp_path / "small.gguf", CPU, torch.float32).directory
    changed_json(folder / "converted.json", lambda origin: origin.update(version=0))
    (folder / "model.safetensors").write_bytes(b"")
    load(tmp_path / "small.gguf", CPU, torch.float32)


def test_a_tensor_of_another_architecture_is_named(tmp_path: Path, store: Path) -> None:
    write_gguf(tmp_path / "small.gguf", **{"blk.0.attn_q.weight": "blk.0.attn_new.weight"})
    with pytest.raises(CheckpointError, match=r"small\.gguf: has the tensor 'blk\.0\.attn_new\.weight'"):
        load(tmp_path / "small.gguf", CPU, torch.float32)


@pytest.mark.parametrize(("scores", "cut"), [((-1.0, -2.0), ["ab", "c"]), ((-2.0, -1.0), ["a", "bc"])])
def test_pairs_with_the_highest_score_are_joined_first(scores: tuple[float, float], cut: list[str]) -> None:
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<eos>", "<unk>", *bytes_, "▁", "a", "b", "c", "ab", "bc", "▁▁"]
    kinds = [CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * 6, USER_DEFINED]
    ranks = [0.0] * 258 + [-9.0] * 4 + list(scores) + [-1000.0]
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(tokens, kinds, ranks))))
    names = [tokens[at] for at in tokenizer.encode("abc  a")]
    assert names == [*cut, "▁▁", "a"]
    assert tokenizer.decode(tokenizer.encode("a  b\té <eos>")) == "a  b\té <eos>"


def test_lists_that_do_not_fit_are_named() -> None:
    with pytest.raises(GgufError, match="2 tokens of 1 kinds and 2 scores"):
        tokenizer_json(["a", "b"], [NORMAL], [0.0, 0.0])


# --------------------------------------------------------------- real weights


@pytest.mark.skipif("DGEMMA_GEMMA3" not in os.environ, reason="set DGEMMA_GEMMA3 to a .gguf file of Gemma 3 270M")
def test_the_published_weights_fill_through_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "TIMEOUT_S", 300.0)  # the file is converted first
    command = ("-m", "dgemma_lsp", "--checkpoint", os.environ["DGEMMA_GEMMA3"], "--device", "cpu")
    uri = "file:///space/lines.py"
    text = "def count_lines(path):\n    with open(path) as file:\n        return len(\n"
    with Wire(sys.executable, "-P", *command) as server:
        server.initialize(initializationOptions={"time_budget_ms": 20_000})
        server.wait_until_loaded()
        server.open(uri, text)
        first, *_ = server.request("textDocument/inlineCompletion", inline(uri, 2, 19, kind=1))
        assert "file.readlines()" in first["insertText"]
