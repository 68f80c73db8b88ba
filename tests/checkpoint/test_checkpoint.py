"""Checkpoint directories: to and from `transformers`, and every way in which one can be broken."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from model_fixtures import changed_json, random_network, tiny_config, tiny_tokenizer, worst, write_checkpoint
from safetensors.torch import load_file, save_file
from test_network import CLOSE, TEXT, VOCAB, ids, our_logits, pair, their_logits
from torch import Tensor
from transformers import DiffusionGemmaForBlockDiffusion, DiffusionGemmaGenerationConfig

from dgemma_model.checkpoint import contract, diffusion_gemma, published_layout
from dgemma_model.checkpoint import load as checkpoints
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.checkpoint.selection import embedded_directory
from dgemma_model.infill import Infiller
from dgemma_model.network.config import LayerConfig, NetworkConfig
from dgemma_model.network.diffusion_gemma import Network
from dgemma_model.request import Excerpt, FillRequest

CPU = torch.device("cpu")
SLIDING, FULL, _ = tiny_config().layers


def load(directory: Path) -> contract.Checkpoint:
    return checkpoints.load(directory, CPU, torch.float32)


def load_network(directory: Path) -> tuple[Network, int]:
    config = NetworkConfig.from_json(json.loads((directory / "config.json").read_text()))
    return diffusion_gemma.load_network(directory, config, CPU, torch.float32)


def load_in_transformers(directory: Path) -> DiffusionGemmaForBlockDiffusion:
    """The model there, with nothing missing and nothing left over."""
    model, report = DiffusionGemmaForBlockDiffusion.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True, local_files_only=True
    )
    assert {kind: sorted(names) for kind, names in report.items() if names} == {}
    return model.eval()


# -------------------------------------------------------- from transformers


@pytest.mark.parametrize("shard_size", ["1GB", "20KB"])
def test_a_directory_of_transformers_loads(tmp_path: Path, shard_size: str) -> None:
    theirs = pair().theirs
    theirs.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard_size == "20KB")
    ours, skipped = load_network(tmp_path)
    stored = [name for file in tmp_path.glob("*.safetensors") for name in load_file(file)]
    assert skipped == sum("vision" in name for name in stored) > 5
    prompt, canvas, signal = ids(1, 9), ids(1, 5), torch.randn(1, 5, VOCAB)
    for mine, reference in zip(
        our_logits(ours, prompt, canvas, signal), their_logits(theirs, prompt, canvas, signal), strict=True
    ):
        assert worst(mine, reference) < CLOSE


def test_the_published_spelling_of_sizes_loads(tmp_path: Path) -> None:
    pair().theirs.save_pretrained(tmp_path)

    def as_published(config: dict[str, Any]) -> None:
        del config["text_config"]["per_layer_config"]
        config["text_config"] |= {key: TEXT[key] for key in ("global_head_dim", "num_global_key_value_heads")}

    changed_json(tmp_path / "config.json", as_published)
    ours, _ = load_network(tmp_path)
    prompt, canvas = ids(1, 9), ids(1, 5)
    assert worst(our_logits(ours, prompt, canvas)[1], our_logits(pair().ours, prompt, canvas)[1]) == 0


# ---------------------------------------------------------- to transformers


@pytest.mark.parametrize(
    "config",
    [
        tiny_config(),
        tiny_config(layers=(FULL, SLIDING, FULL)),
        tiny_config(layers=(SLIDING, FULL), num_experts=1, top_k_experts=1, moe_intermediate_size=1),
        tiny_config(layers=(SLIDING, LayerConfig("full_attention", 8, 2, 1e4, "default", 1.0))),
        tiny_config(layers=(SLIDING, LayerConfig("full_attention", 8, 4, 1e6, "proportional", 0.5, 4.0))),
        tiny_config(sliding_window=64, final_logit_softcapping=8.0, rms_norm_eps=1e-4),
    ],
)
def test_what_we_save_loads_in_transformers(tmp_path: Path, config: NetworkConfig) -> None:
    published_layout.save(random_network(config), tmp_path)
    ours, _ = load_network(tmp_path)
    theirs = load_in_transformers(tmp_path)
    prompt, canvas, signal = ids(2, 25), ids(2, 9), torch.randn(2, 9, config.vocab_size)
    for mine, reference in zip(
        our_logits(ours, prompt, canvas, signal), their_logits(theirs, prompt, canvas, signal), strict=True
    ):
        assert worst(mine, reference) < CLOSE


def test_what_we_save_is_what_we_load(tmp_path: Path) -> None:
    network = random_network(tiny_config())
    published_layout.save(network, tmp_path)
    loaded, _ = load_network(tmp_path)
    for name, tensor in network.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor.bfloat16().float()), name
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_it_is_told_how_much_of_the_weights_has_been_read(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    shares: list[float] = []
    loaded = checkpoints.load(tmp_path, CPU, torch.float32, shares.append)
    sizes = [
        tensor.numel() for name, tensor in load_file(tmp_path / "model.safetensors").items() if "vision" not in name
    ]
    assert len(shares) == len(sizes) > 10 and loaded.skipped > 5
    read = [round(share * sum(sizes)) for share in (0.0, *shares)]
    assert sorted(after - before for before, after in pairwise(read)) == sorted(sizes)
    assert shares[-1] == 1.0


def test_padded_experts_say_the_same(tmp_path: Path) -> None:
    network = random_network(tiny_config(moe_intermediate_size=5))
    published_layout.save(network, tmp_path)
    loaded, _ = load_network(tmp_path)
    assert loaded.config.moe_intermediate_size == 8
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "experts" not in name:
                parameter.copy_(loaded.get_parameter(name))
            else:
                parameter.copy_(parameter.bfloat16())
    for layer, other in zip(network.layers, loaded.layers, strict=True):
        layer.layer_scalar, layer.encoder_layer_scalar = other.layer_scalar, other.encoder_layer_scalar
    for small, padded in zip(
        our_logits(network, ids(1, 9), ids(1, 4)), our_logits(loaded, ids(1, 9), ids(1, 4)), strict=True
    ):
        assert worst(small, padded) < CLOSE


def test_a_network_without_working_experts_is_dense_once_loaded(tmp_path: Path) -> None:
    network = random_network(tiny_config())
    for layer in network.layers[:2]:
        layer.post_feedforward_layernorm_2.weight.zero_()
    published_layout.save(network, tmp_path)
    assert [layer.is_dense for layer in load_network(tmp_path)[0].layers] == [True, True, False]


# ------------------------------------------------------------------- broken

FIRST, SCALAR = "model.decoder.layers.0.mlp.up_proj.weight", "model.encoder.language_model.layers.1.layer_scalar"
Tensors = dict[str, Tensor]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "tiny")


def with_tensors(change: Callable[[Tensors], object]) -> Callable[[Path], None]:
    """Spoils a directory by changing its tensors."""

    def spoil(directory: Path) -> None:
        path = directory / "model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return spoil


def cut_off(name: str, size: int) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_bytes((directory / name).read_bytes()[:size])


def written(name: str, content: str) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_text(content)


def removed(name: str) -> Callable[[Path], object]:
    return lambda directory: (directory / name).unlink()


def smaller_vocabulary(directory: Path) -> None:
    changed_json(directory / "config.json", lambda config: config["text_config"].update(vocab_size=100))


def sharded(index: object) -> Callable[[Path], object]:
    return written("model.safetensors.index.json", json.dumps(index))


def llama_tokenizer(directory: Path) -> None:
    """One whose tokens are no stand-ins for bytes."""

    def change(content: dict[str, Any]) -> None:
        vocab = content["model"]["vocab"]
        content["model"] |= {"merges": [], "vocab": {"▁" if i == 399 else token: i for token, i in vocab.items()}}

    changed_json(directory / "tokenizer.json", change)


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (removed("config.json"), r"config\.json is missing"),
    "no tokenizer": (removed("tokenizer.json"), r"tokenizer\.json is missing"),
    "no weights": (removed("model.safetensors"), r"model\.safetensors is missing"),
    "garbage config": (written("config.json", "{"), r"config\.json.*cannot be read"),
    "garbage policy": (written("dgemma.json", "]"), r"dgemma\.json.*cannot be read"),
    "garbage sampler": (written("generation_config.json", '{"t_max": []}'), r"generation_config\.json"),
    "garbage tokenizer": (written("tokenizer.json", '{"model": 3}'), r"tokenizer\.json.*cannot be read"),
    "another tokenizer": (llama_tokenizer, "byte-level"),
    "half the weights": (cut_off("model.safetensors", 20_000), r"model\.safetensors.*damaged"),
    "ten bytes of weights": (cut_off("model.safetensors", 10), r"model\.safetensors.*damaged"),
    "empty weights": (cut_off("model.safetensors", 0), r"model\.safetensors.*damaged"),
    "weights that are text": (written("model.safetensors", "version https://git-lfs.example/spec/v1"), "damaged"),
    "another architecture": (written("config.json", '{"model_type": "gemma3"}'), "'gemma3'"),
    "a missing tensor": (with_tensors(lambda t: t.pop(FIRST)), rf"missing.*{FIRST}"),
    "a missing encoder scalar": (with_tensors(lambda t: t.pop(SCALAR)), rf"missing.*{SCALAR}"),
    "an unexpected tensor": (with_tensors(lambda t: t.update(lora=torch.ones(2))), "unexpected tensor 'lora'"),
    "a wrong shape": (
        with_tensors(lambda t: t.update({FIRST: t[FIRST].T.contiguous()})),
        rf"{FIRST}.*\[24, 32\].*\[32, 24\]",
    ),
    "a NaN": (with_tensors(lambda t: t[FIRST][3].fill_(float("nan"))), rf"{FIRST}.*NaN"),
    "an infinity": (with_tensors(lambda t: t[SCALAR].fill_(float("inf"))), rf"{SCALAR}.*infinite"),
    "quantised": (
        with_tensors(lambda t: t.update({FIRST: t[FIRST].to(torch.float8_e4m3fn)})),
        rf"{FIRST}.*float8.*quantised",
    ),
    "a small vocabulary": (smaller_vocabulary, r"tokenizer\.json has 400 tokens"),
    "a shard that is not there": (sharded({"weight_map": {FIRST: "model-2.safetensors"}}), r"model-2\.safetensors"),
    "a garbage index": (sharded([]), r"index\.json cannot be read"),
    "an index of lists": (sharded({"weight_map": {FIRST: [1]}}), r"is missing"),
    "an index without a map": (sharded({}), r"index\.json cannot be read"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_checkpoint_is_named(directory: Path, how: str) -> None:
    spoil, words = BROKEN[how]
    spoil(directory)
    with pytest.raises(CheckpointError) as raised:
        load(directory)
    assert re.search(words, str(raised.value)), str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint directory at .*nowhere"):
        load(tmp_path / "nowhere")


def test_a_whole_checkpoint_loads(directory: Path) -> None:
    loaded = load(directory)
    assert loaded.skipped > 0
    assert loaded.policy.name == "tiny"
    assert loaded.tokenizer.encode(TEXT_LINE) == tiny_tokenizer().encode(TEXT_LINE)


TEXT_LINE = "def deposit(self, amount: int) -> int:\n"


@pytest.mark.parametrize("device", ["nonsense", "", "cuda:77", "meta"])
def test_a_device_that_cannot_be_used_is_named(directory: Path, device: str) -> None:
    with pytest.raises(CheckpointError, match=rf"device '{device}' cannot be used.*try 'cpu'"):
        Infiller.load(str(directory), device)


# ----------------------------------------------------------------- embedded

EMBEDDED = embedded_directory()


@cache
def embedded_infiller() -> Infiller:
    return Infiller.load(device="cpu")


def recipe() -> dict[str, str]:
    """What RECIPE.md promises: {"sha256", "prefix", "suffix", "text"}."""
    block = re.search(r"```json\n(.*?)\n```", (EMBEDDED / "RECIPE.md").read_text("utf-8"), re.DOTALL)
    assert block is not None
    promised: dict[str, str] = json.loads(block[1])
    return promised


def test_the_embedded_checkpoint_equals_transformers() -> None:
    ours = load(EMBEDDED)
    theirs = load_in_transformers(EMBEDDED)
    prompt = torch.tensor([ours.tokenizer.encode(Path(checkpoints.__file__).read_text("utf-8"))[:300]])
    canvas = torch.randint(ours.network.vocab_size, (1, 32))
    signal = torch.randn(1, 32, ours.network.vocab_size)
    for mine, reference in zip(
        our_logits(ours.network, prompt, canvas, signal), their_logits(theirs, prompt, canvas, signal), strict=True
    ):
        assert worst(mine, reference) < CLOSE


def test_the_embedded_checkpoint_is_the_one_of_the_recipe() -> None:
    weights = (EMBEDDED / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == recipe()["sha256"]
    assert len(weights) < 45_000_000


@pytest.mark.parametrize("draft_steps", [None, 0, 1, 4])
def test_the_embedded_checkpoint_writes_what_the_recipe_says(draft_steps: int | None) -> None:
    """Token by token, and however it is drafted."""
    promised = recipe()
    excerpt = Excerpt(promised["prefix"], promised["suffix"])
    request = FillRequest(excerpt, one_line=True, verify=True, max_denoising_steps=draft_steps)
    *_, draft = embedded_infiller().fill(request)
    assert draft.text == promised["text"] != ""


def test_transformers_reads_the_embedded_sampler() -> None:
    """It refuses unknown keys, and needs the ids of end and padding to stop."""
    read = DiffusionGemmaGenerationConfig.from_pretrained(EMBEDDED)
    tokenizer = load(EMBEDDED).tokenizer
    assert (read.eos_token_id, read.pad_token_id) == (tokenizer.end_id, 0)
