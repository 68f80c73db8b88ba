"""What a checkpoint's JSON files may say, and what is made of everything else."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_fixtures import tiny_config

from dgemma_model.checkpoint.config import Policy, SamplerConfig, read_json
from dgemma_model.checkpoint.published_layout import _config_json
from dgemma_model.network.config import ConfigError, LayerConfig, NetworkConfig
from dgemma_model.network.diffusion_gemma import Network

TINY = _config_json(tiny_config())
SLIDING, FULL, _ = tiny_config().layers

PUBLISHED: dict[str, Any] = {  # the 26B checkpoint's sizes, as facts/diffusiongemma.md gives them
    "model_type": "diffusion_gemma",
    "canvas_length": 256,
    "text_config": {
        "vocab_size": 262_144,
        "hidden_size": 2816,
        "intermediate_size": 2112,
        "num_hidden_layers": 30,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 256,
        "global_head_dim": 512,
        "num_global_key_value_heads": 2,
        "sliding_window": 1024,
        "num_experts": 128,
        "top_k_experts": 8,
        "moe_intermediate_size": 704,
        "max_position_embeddings": 262_144,
        "eos_token_id": [1, 106, 50],
    },
}


def test_the_published_spelling_is_read() -> None:
    config = NetworkConfig.from_json(PUBLISHED)
    full = [i for i, layer in enumerate(config.layers) if not layer.is_sliding]
    assert full == [5, 11, 17, 23, 29]
    assert config.layers[0] == LayerConfig("sliding_attention", 256, 8, 10_000.0, "default", 1.0)
    assert config.layers[5] == LayerConfig("full_attention", 512, 2, 1_000_000.0, "proportional", 0.25)
    assert (config.eos_token_ids, config.final_logit_softcapping, config.canvas_length) == ((1, 106, 50), 30.0, 256)


def test_the_published_network_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        network = Network(NetworkConfig.from_json(PUBLISHED))
    assert 25.0e9 < sum(p.numel() for p in network.parameters()) < 25.4e9


@pytest.mark.parametrize(
    "config",
    [
        tiny_config(),
        tiny_config(layers=(FULL, SLIDING, FULL)),
        tiny_config(layers=(FULL,)),
        tiny_config(layers=(LayerConfig("full_attention", 8, 2, 1e6, "proportional", 0.25, rope_factor=8.0),)),
        tiny_config(eos_token_ids=(1, 5), sliding_window=7, canvas_length=32, rms_norm_eps=1e-5, pad_token_id=3),
    ],
)
def test_what_is_written_is_read_back(config: NetworkConfig) -> None:
    assert NetworkConfig.from_json(json.loads(json.dumps(_config_json(config)))) == config


def change(**changes: Any) -> dict[str, Any]:
    """The tiny configuration with other entries in its text part; None takes one out."""
    config = deepcopy(TINY)
    config["text_config"] |= {key: value for key, value in changes.items() if value is not None}
    for key in (key for key, value in changes.items() if value is None):
        del config["text_config"][key]
    return config


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "llama"}, "'llama'"),
        ({}, "only 'diffusion_gemma'"),
        ({"model_type": "diffusion_gemma"}, "text_config"),
        (change(hidden_size=None), "'hidden_size'"),
        (change(hidden_size="wide"), "wide"),
        (change(hidden_size=0), "hidden_size"),
        (change(hidden_size=-8), "hidden_size"),
        (change(num_hidden_layers=0), "num_hidden_layers"),
        (change(num_hidden_layers=7), "3 layer types for 7 layers"),
        (change(layer_types=["linear_attention"] * 3), "linear_attention"),
        (change(top_k_experts=3), "top_k_experts"),
        (change(num_key_value_heads=3), "3 key/value heads"),
        (change(head_dim=9), "head_dim"),
        (change(per_layer_config=[1, 2]), "per_layer_config|list"),
        (change(rope_parameters={"full_attention": {"rope_type": "yarn"}}), "yarn"),
        (change(rope_parameters=3), "config.json"),
        (change(sliding_window=float("inf")), "config.json"),
    ],
)
def test_an_unusable_network_is_named(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as raised:
        NetworkConfig.from_json(config)
    assert str(raised.value).count("config.json") == 1


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(key=st.sampled_from(sorted(TINY["text_config"])), value=junk)
def test_junk_is_a_config_error_or_gives_a_network(key: str, value: Any) -> None:
    config = deepcopy(TINY)
    config["text_config"][key] = value
    try:
        read = NetworkConfig.from_json(config)
    except ConfigError:
        return
    with torch.device("meta"):
        Network(read)


# ------------------------------------------------------------------- sampler


def test_a_published_generation_config_is_read() -> None:
    content = {
        "max_denoising_steps": 24,
        "t_min": 0.3,
        "t_max": 0.9,
        "sampler_config": {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": 0.25},
        "eos_token_id": [1, 106],
        "transformers_version": "5.23.0",
    }
    assert SamplerConfig.from_json(content) == SamplerConfig(24, 0.25, 0.3, 0.9)


def test_what_a_generation_config_leaves_out_is_as_published() -> None:
    from transformers.models.diffusion_gemma.generation_diffusion_gemma import DiffusionGemmaGenerationConfig

    published = DiffusionGemmaGenerationConfig._get_default_generation_params()
    config = SamplerConfig.from_json({"t_min": None})
    assert config == SamplerConfig()
    assert config.entropy_bound == published.pop("sampler_config").entropy_bound
    assert all(getattr(config, key) == value for key, value in published.items() if key != "max_new_tokens")


@pytest.mark.parametrize(
    "content", [{"t_max": "hot"}, {"t_max": 0.0, "t_min": 0.0}, {"max_denoising_steps": float("inf")}, {"t_min": -1}]
)
def test_an_unusable_generation_config_is_named(content: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"generation_config\.json"):
        SamplerConfig.from_json(content)


# -------------------------------------------------------------------- policy


def test_a_policy_is_read() -> None:
    content = {"name": "x", "noise": "mask", "verify": True, "canvas_lengths": [16, 32], "languages": ["python"]}
    policy = Policy.from_json(content)
    assert policy == Policy(name="x", noise="mask", verify=True, canvas_lengths=(16, 32), languages=("python",))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"nose": "mask"}, "'nose'"),
        ({"noise": "white"}, "white"),
        ({"noise": ["mask"]}, "noise"),
        ({"verify": "yes"}, "verify"),
        ({"canvas_lengths": []}, "canvas_lengths"),
        ({"hole_widths": [0]}, "hole_widths"),
        ({"hole_widths": 8}, "hole_widths"),
        ({"canvas_lengths": [16, 0]}, "canvas_lengths"),
        ({"canvas_lengths": "16"}, "canvas_lengths"),
        ({"prompt_tokens": 3}, "prompt_tokens"),
        ({"prompt_tokens": 1e3}, "prompt_tokens"),
        ({"draft_steps": -1}, "draft_steps"),
        ({"languages": "python"}, "languages"),
        ({"languages": [1]}, "languages"),
        ({"threshold": "low"}, "threshold"),
        ({"threshold": None}, "threshold"),
        ({"name": 3}, "name"),
    ],
)
def test_an_unusable_policy_is_named(content: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=rf"dgemma\.json: .*{words}"):
        Policy.from_json(content)


# --------------------------------------------------------------- a directory


def test_only_config_json_is_required(tmp_path: Path) -> None:
    assert (SamplerConfig.read(tmp_path), Policy.read(tmp_path)) == (SamplerConfig(), Policy())
    with pytest.raises(ConfigError, match=r"config\.json is missing"):
        read_json(tmp_path / "config.json", required=True)


def delete(path: Path) -> None:
    path.unlink()


def writer(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


@pytest.mark.parametrize("spoil", [delete, *map(writer, (b"", b"{", b"[]", b"3", b"\xff\xfe\x00", b"[" * 100_000))])
def test_an_unreadable_config_is_named(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(TINY))
    spoil(path)
    with pytest.raises(ConfigError, match=r"config\.json"):
        read_json(path, required=True)


@pytest.mark.parametrize("name", ["generation_config.json", "dgemma.json"])
def test_other_unreadable_files_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("{")
    with pytest.raises(ConfigError, match=name):
        SamplerConfig.read(tmp_path) if name == "generation_config.json" else Policy.read(tmp_path)
