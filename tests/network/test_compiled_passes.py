"""Compiled passes for several sets of instructions: which one is taken, and that they compute the same."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from passes_fixtures import COMPILED
from qwen2_fixtures import Parameters
from torch import Tensor

from dgemma_model.network.cache import Cache
from dgemma_model.network.int8 import Int8Weights
from dgemma_model.network.passes import native
from dgemma_model.network.passes.log_probabilities import to_log_probabilities
from dgemma_model.network.qwen2 import Qwen2Network
from dgemma_model.network.qwen2_config import Qwen2Config
from dgemma_model.network.qwen2_served import ServedQwen2
from dgemma_model.network.qwen2_weights import joined_weights

TOKENS = 75
VOCAB = 203
SIZES = {
    "usual": (128, 192, 4, 2, 32),
    "columns beyond a multiple of 64": (100, 160, 5, 1, 16),
    "the narrowest": (4, 32, 1, 1, 16),
    "more in one row than in all others": (64, 1056, 2, 2, 128),
}
"""Of the residual stream and the feed-forward block, heads, key heads and the size of a head."""
LAPTOP = {"avx2", "fma3"}
SERVER = {*LAPTOP, "avx512_f", "avx512_bw", "avx512_dq", "avx512_vl"}


@cache
def served(sizes: str, way: str) -> ServedQwen2:
    """A random network over the passes for a set of instructions."""
    hidden, inner, heads, kv_heads, head_dim = SIZES[sizes]
    config = Qwen2Config(
        vocab_size=VOCAB,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
    )
    torch.manual_seed(4)
    plain = Qwen2Network(config)
    for name, value in plain.named_parameters():
        value.data.normal_(1.0 if "norm" in name else 0.0, 0.3)
    weights = dict(joined_weights(config, Parameters(plain), VOCAB))
    with patch.object(native, "library", lambda: native.opened(way)):
        return ServedQwen2(config, Int8Weights(weights, torch.int8))


def ids(*shape: int) -> Tensor:
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(1))


def outputs(network: ServedQwen2, size: int, threads: int) -> list[Tensor]:
    """Hidden states, scores, keys and values of all tokens, `size` of them in a pass."""
    before, cached = torch.get_num_threads(), Cache()
    try:
        torch.set_num_threads(threads)
        hidden = torch.cat([network.encode(some, cached) for some in ids(1, TOKENS).split(size, dim=1)], dim=1)
        scores = torch.cat([network.logits(some) for some in hidden.split(size, dim=1)], dim=1)
    finally:
        torch.set_num_threads(before)
    return [hidden, scores, *(part for layer in range(2) for part in cached.layer(layer))]


@pytest.mark.parametrize("way", COMPILED)
@pytest.mark.parametrize("sizes", SIZES)
def test_sets_of_instructions_that_take_the_same_integers_give_the_same_bits(sizes: str, way: str) -> None:
    compiled = native.opened(way)
    assert compiled is not None
    reference = "avx2"
    if compiled.takes_bytes:
        found = (name for name in reversed(native.runnable()) if name != "avx2" and native.opened(name) is not None)
        reference = next(found)
    expected = outputs(served(sizes, reference), TOKENS, 1)
    assert expected[1].std() > 0.1 and all(part.isfinite().all() for part in expected)
    for size in (1, 2, 3, 5, 8, 16, 17, 33, TOKENS):
        for threads in (1, 3):
            found_here = outputs(served(sizes, way), size, threads)
            assert all(map(torch.equal, expected, found_here)), (size, threads)


@pytest.mark.parametrize("way", COMPILED)
def test_a_batch_is_as_its_rows_are(way: str) -> None:
    network, rows = served("usual", way), ids(7, 9)
    together = network.encode(rows, Cache())
    assert torch.equal(together, torch.cat([network.encode(row[None], Cache()) for row in rows]))


@pytest.mark.parametrize(
    ("has", "width", "expected"),
    [
        (LAPTOP, "AVX2", ["avx2"]),
        ({*LAPTOP, "avx_vnni"}, "AVX2", ["avx_vnni", "avx2"]),
        ({*SERVER, "avx512_vnni"}, "AVX512", ["avx512_vnni", "avx2"]),
        ({*SERVER, "avx512_vnni", "avx_vnni"}, "AVX512", ["avx512_vnni", "avx_vnni", "avx2"]),
        ({*SERVER, "avx512_vnni", "avx_vnni", "amx_tile", "amx_int8"}, "AVX512", list(native.INSTRUCTIONS)),
        ({*SERVER, "avx512_vnni", "amx_tile", "amx_int8"}, "AVX2", ["avx2"]),
        (SERVER, "AVX512", ["avx2"]),
        ({"avx2"}, "AVX2", []),
        (LAPTOP, "DEFAULT", []),
        (set(), "DEFAULT", []),
    ],
)
def test_only_what_the_processor_has_is_run(
    has: set[str], width: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(has, True) | {"cpu_name": "any"})
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: width)
    assert native.runnable() == expected


def chosen(**variables: str) -> str:
    """The set of instructions that a process with such variables runs."""
    environment = dict(os.environ)
    for name in (native.CHOICE, "ATEN_CPU_CAPABILITY"):
        environment.pop(name, None)
    program = "from dgemma_model.infill import compiled_passes; print(compiled_passes())"
    run = [sys.executable, "-c", program]
    return subprocess.run(run, env=environment | variables, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("way", COMPILED)
def test_one_set_of_instructions_can_be_asked_for(way: str) -> None:
    assert chosen(**{native.CHOICE: way}) == way


def test_another_word_turns_them_off() -> None:
    assert chosen(**{native.CHOICE: "none"}) == "None"


def test_torchs_own_variable_leaves_plain_avx2() -> None:
    if "avx2" not in native.runnable() or native.opened("avx2") is None:
        pytest.skip("passes.c was not compiled for AVX2, or this processor does not have it")
    assert chosen(ATEN_CPU_CAPABILITY="avx2") == "avx2"


@pytest.mark.parametrize("way", COMPILED)
def test_scores_stay_while_somebody_holds_them_and_their_memory_is_taken_again(way: str) -> None:
    network = served("usual", way)
    hidden = network.encode(ids(1, 6), Cache())
    scores = network.logits(hidden)
    first, kept = scores[:, 1:2], scores[:, 1:2].clone()
    del scores
    other = network.logits(hidden.flip(1))
    assert torch.equal(first, kept) and torch.equal(other, network.logits(hidden).flip(1))
    del first, other
    places = [network.logits(hidden).data_ptr() for _ in range(3)]
    assert len(set(places)) == 1


@pytest.mark.parametrize("way", [*COMPILED, "none"])
@pytest.mark.parametrize("columns", [1, 5, 16, 33, VOCAB])
def test_scores_become_log_probabilities_in_place(way: str, columns: int) -> None:
    scores = torch.randn(3, columns, generator=torch.Generator().manual_seed(columns)) * torch.tensor([[1], [9], [60]])
    scores[1, columns // 2 + 1 :] = -torch.inf
    expected, before = scores.double().log_softmax(-1), torch.get_num_threads()
    with patch.object(native, "library", lambda: None if way == "none" else native.opened(way)):
        found = to_log_probabilities(scores)
        none = to_log_probabilities(torch.empty(0, columns))
    assert found.data_ptr() == scores.data_ptr() and len(none) == 0 and torch.get_num_threads() == before
    torch.testing.assert_close(found.double(), expected, atol=3e-5, rtol=1e-6)


@pytest.mark.parametrize("way", [*COMPILED, "none"])
def test_scores_of_a_pass_become_log_probabilities_after_it(way: str) -> None:
    with torch.inference_mode():
        scores = torch.zeros(2, 4)
        apart = torch.zeros(2, 5)[:, :4]
    with patch.object(native, "library", lambda: None if way == "none" else native.opened(way)):
        assert to_log_probabilities(scores).exp().sum() == pytest.approx(2.0)
        assert to_log_probabilities(apart).exp().sum() == pytest.approx(2.0)
        assert to_log_probabilities(scores[1:]).exp().sum() == pytest.approx(1.0)


def test_where_the_system_refuses_amx_the_next_set_of_instructions_is_taken() -> None:
    """Linux refuses it to a process with a stack for signals that is too small for AMX's registers."""
    if "amx_int8" not in native.runnable() or native.opened("amx_int8") is None:
        pytest.skip("passes.c was not compiled for AMX, or this processor or system does not have it")
    program = """
import ctypes
class Stack(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]
memory = ctypes.create_string_buffer(8192)
assert ctypes.CDLL(None).sigaltstack(ctypes.byref(Stack(ctypes.addressof(memory), 0, 8192)), None) == 0
from dgemma_model.network.passes import native
print(native.opened("amx_int8"), native.library().instructions)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["None", native.runnable()[1]]


def test_every_set_of_instructions_is_compiled() -> None:
    text = (Path(__file__).parents[2] / "hatch_build.py").read_text()
    assert all(f'    "{name}": ' in text for name in native.INSTRUCTIONS)
