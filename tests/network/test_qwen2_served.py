"""The served Qwen2 network against the plain one over the same rounded weights."""

from __future__ import annotations

from functools import cache
from unittest.mock import patch

import pytest
import torch
from passes_fixtures import COMPILED
from qwen2_fixtures import VARIANTS, VOCAB, Parameters, plain_network
from torch import Tensor

from dgemma_model.network.cache import Cache
from dgemma_model.network.int8 import Int8Weights
from dgemma_model.network.kernels import CAN_PACK
from dgemma_model.network.passes import native, torch_passes
from dgemma_model.network.passes.torch_passes import QUERY_CHUNK, ServedLayer
from dgemma_model.network.qwen2 import Qwen2Network
from dgemma_model.network.qwen2_served import ServedQwen2
from dgemma_model.network.qwen2_weights import JOINED, joined_layout, joined_weights

KNOWN = 404
"""Ids that the tokenizer has; the networks have a few more."""
CLOSE = {"float32": 1e-4, "oneDNN": 0.02, "amx_int8": 0.02, "avx512_vnni": 0.02, "avx_vnni": 0.02, "avx2": 0.02}
"""Relative error of each way to multiply: in float32, with activations of two digits of 8 bits or of 7, and of 12 bits;
keys and values are bfloat16 beside integers."""
WAYS = ("float32", *COMPILED)


@cache
def pair(variant: str = "qwen2", way: str = "float32") -> tuple[Qwen2Network, ServedQwen2]:
    """The same weights, rounded, plain and served."""
    config, source = plain_network(variant).config, Parameters(plain_network(variant))
    weights = dict(joined_weights(config, source, KNOWN))
    rounded = Qwen2Network(config)
    rounded.load_state_dict(plain_network(variant).state_dict())
    rounded.embed_tokens.weight.data[:KNOWN] = widened(weights, "embed_tokens")
    if rounded.lm_head is not None:
        rounded.lm_head.weight.data[:KNOWN] = widened(weights, "lm_head")
    for index, layer in enumerate(rounded.decoder_layers()):
        for name, projections in JOINED.items():
            parts = [layer.get_submodule(projection).weight for projection in projections]
            joined = widened(weights, f"layers.{index}.{name}")
            for part, value in zip(parts, joined.split([len(part) for part in parts]), strict=True):
                part.data = value
    products = torch.float32 if way == "float32" else torch.int8
    with patch.object(native, "library", lambda: native.opened(way)):
        return rounded.requires_grad_(False).eval(), ServedQwen2(config, Int8Weights(weights, products))


def widened(weights: dict[str, Tensor], name: str) -> Tensor:
    return weights[f"{name}.weight"] * weights[f"{name}.scale"][:, None]


def ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(KNOWN, shape, generator=torch.Generator().manual_seed(seed))


def error(served: Tensor, plain: Tensor) -> float:
    """Relative to what the plain network says, of the logits of known ids."""
    plain = plain[..., :KNOWN]
    assert served.shape == plain.shape and plain.std() > 0.1
    return float((served - plain).norm() / plain.norm())


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_weights_are_those_that_the_layout_says(variant: str) -> None:
    config, source = plain_network(variant).config, Parameters(plain_network(variant))
    weights = dict(joined_weights(config, source, KNOWN))
    assert {name: (value.dtype, tuple(value.shape)) for name, value in weights.items()} == joined_layout(config, KNOWN)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_near_those_of_the_plain_network(variant: str, way: str) -> None:
    plain, served = pair(variant, way)
    for shape in ((1, 1), (1, 11), (2, 30)):
        tokens = ids(*shape)
        expected = plain.logits(plain.encode(tokens, Cache()))
        assert error(served.logits(served.encode(tokens, Cache())), expected) < CLOSE[way]


@pytest.mark.skipif(not CAN_PACK, reason="this processor has no int8 products")
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_of_integers_are_near_those_of_the_plain_network(variant: str) -> None:
    plain, served = pair(variant, "oneDNN")
    tokens = ids(2, 40)
    expected = plain.logits(plain.encode(tokens, Cache()))
    assert CLOSE["float32"] < error(served.logits(served.encode(tokens, Cache())), expected) < CLOSE["oneDNN"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("length", [1, 5, 64, QUERY_CHUNK, 2 * QUERY_CHUNK + 9, 513])
def test_logits_are_near_at_any_length(length: int, way: str) -> None:
    plain, served = pair(way=way)
    tokens, canvas, ours, theirs = ids(1, length), ids(1, 6, seed=1), Cache(), Cache()
    assert error(served.logits(served.encode(tokens, ours)), plain.logits(plain.encode(tokens, theirs))) < CLOSE[way]
    assert error(served.logits(served.decode(canvas, ours)), plain.logits(plain.decode(canvas, theirs))) < CLOSE[way]
    assert ours.length == length


@pytest.mark.parametrize("way", WAYS)
def test_pieces_crops_and_canvases_in_between_leave_nothing_behind(way: str) -> None:
    plain, served = pair(way=way)
    generator, text, kept_text = torch.Generator().manual_seed(5), ids(1, 0), Cache()
    for round_number in range(20):
        kept = int(torch.randint(text.shape[1] + 1, (1,), generator=generator))
        size = 300 if round_number == 9 else 1 + int(torch.randint(9, (1,), generator=generator))
        new = torch.randint(KNOWN, (1, size), generator=generator)
        kept_text.crop(kept)
        encoded = served.logits(served.encode(new, kept_text))
        served.decode(ids(1, 40, seed=round_number), kept_text)
        text = torch.cat((text[:, :kept], new), dim=1)
        assert kept_text.length == text.shape[1]
        assert error(encoded, plain.logits(plain.encode(text, Cache()))[:, kept:]) < CLOSE[way]


@pytest.mark.parametrize("way", COMPILED)
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_written_does_not_depend_on_how_many_tokens_a_pass_has(variant: str, way: str) -> None:
    _, served = pair(variant, way)
    tokens, threads = ids(2, 70), torch.get_num_threads()
    together = served.encode(tokens, Cache())
    try:
        torch.set_num_threads(2)
        for size in (1, 4, 8, 13):
            cached = Cache()
            apart = torch.cat([served.encode(some, cached) for some in tokens.split(size, dim=1)], dim=1)
            assert torch.equal(together, apart)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(served.logits(together), torch.cat([served.logits(row[None]) for row in together]))


@pytest.mark.parametrize("way", WAYS)
def test_branches_of_a_tree_see_only_what_leads_to_them(way: str) -> None:
    plain, served = pair(way=way)
    prompt, branches = ids(1, 9), ids(1, 7, seed=1)
    seen = torch.ones(7, 16, dtype=torch.bool).tril(9)
    seen[3:, 9:12] = False
    positions = torch.tensor([[9, 10, 11, 9, 10, 11, 12]])
    logits = []
    for network in (served, plain):
        cache = Cache()
        network.encode(prompt, cache)
        logits.append(network.logits(network.encode(branches, cache, positions=positions, seen=seen)))
        assert cache.length == 16
    assert error(*logits) < CLOSE[way]


@pytest.mark.parametrize("way", WAYS)
def test_padding_is_not_seen(way: str) -> None:
    plain, served = pair(way=way)
    real = torch.arange(16)[None] >= torch.tensor([0, 5, 15])[:, None]
    positions, tokens, canvas = (real.cumsum(1) - 1).clamp(min=0), ids(3, 16), ids(3, 4, seed=1)
    encoded, decoded = [], []
    for network in (served, plain):
        cache = Cache()
        encoded.append(network.logits(network.encode(tokens, cache, positions=positions, padding=real)))
        decoded.append(
            network.logits(network.decode(canvas, cache, positions=real.sum(1, keepdim=True) + torch.arange(4)))
        )
    assert error(encoded[0][real], encoded[1][real]) < CLOSE[way]
    assert error(*decoded) < CLOSE[way]


@pytest.mark.parametrize("way", WAYS)
def test_one_prompt_serves_several_rows(way: str) -> None:
    plain, served = pair(way=way)
    prompt, rows = ids(1, 9), ids(4, 3, seed=1)
    logits = []
    for network in (served, plain):
        cache = Cache()
        network.encode(prompt, cache)
        logits.append(network.logits(network.encode(rows, cache.repeated(4))))
    assert error(*logits) < CLOSE[way]


def test_passes_of_new_lengths_are_filled_up_to_few() -> None:
    _, served = pair()
    seen = set[int]()
    finish = ServedLayer.finish

    def counted(self: ServedLayer, x: Tensor, attended: Tensor) -> Tensor:
        seen.add(x.shape[1])
        return finish(self, x, attended)

    with patch.object(ServedLayer, "finish", counted):
        for length in range(1, 300, 7):
            assert served.encode(ids(1, length), Cache()).shape[1] == length
    assert seen <= {*torch_passes.PASS_TOKENS, 512}


@pytest.mark.parametrize("way", ["oneDNN", *COMPILED])
def test_keys_and_values_take_two_bytes(way: str) -> None:
    _, served = pair("qwen2", way)
    cache = Cache()
    served.encode(ids(1, 3), cache)
    config = served.config
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 2
    assert cache.nbytes == per_token * cache.layer(0, 10_000)[0].shape[2]


def test_embeddings_are_those_of_the_plain_network() -> None:
    plain, served = pair()
    tokens = ids(2, 5)
    torch.testing.assert_close(served.embed(tokens), plain.embed(tokens))
    certain = torch.nn.functional.one_hot(tokens, KNOWN).float()
    torch.testing.assert_close(served.mean_embedding(certain), plain.embed(tokens))
    assert VOCAB > KNOWN == served.vocab_size


@pytest.mark.parametrize("way", WAYS)
def test_a_pass_over_nothing_is_nothing(way: str) -> None:
    """A piece of a long prompt is read without scores."""
    _, served = pair(way=way)
    hidden = served.encode(ids(1, 5), Cache())[0]
    assert served.logits(hidden[5:]).shape == (0, KNOWN)
    assert served.encode(ids(1, 0), Cache()).shape == (1, 0, served.config.hidden_size)
