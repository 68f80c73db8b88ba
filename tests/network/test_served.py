"""The served network against the plain one: same weights, same logits."""

from __future__ import annotations

import copy
from functools import cache
from typing import ClassVar

import pytest
import torch
from model_fixtures import random_network, tiny_config, worst
from test_network import VARIANTS, ids, our_logits, pair
from torch import Tensor

from dgemma_model.network import served
from dgemma_model.network.cache import Cache
from dgemma_model.network.diffusion_gemma import Network
from dgemma_model.network.served import QUERY_CHUNK, ServedNetwork, StaticStep

CLOSE = 1e-4
VOCAB = 61


@cache
def both(variant: str = "several experts") -> tuple[Network, ServedNetwork]:
    """The same weights plain and fused."""
    plain = pair(variant).ours
    return plain, ServedNetwork(copy.deepcopy(plain), torch.float32)


@torch.no_grad()
def fused_logits(
    network: ServedNetwork,
    prompt: Tensor,
    canvas: Tensor,
    conditioning: Tensor | None = None,
    real: Tensor | None = None,
    positions: tuple[Tensor | None, Tensor | None] = (None, None),
) -> tuple[Tensor, Tensor]:
    """What `our_logits` gives, of a fused network."""
    prompt_cache = Cache()
    encoded = network.encode(prompt, prompt_cache, positions=positions[0], padding=real)
    expected = None if conditioning is None else network.mean_embedding(conditioning.softmax(-1))
    decoded = network.decode(canvas, prompt_cache, expected=expected, positions=positions[1])
    return network.logits(encoded), network.logits(decoded)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_those_of_the_plain_network(variant: str) -> None:
    plain, fused = both(variant)
    prompt, canvas, conditioning = ids(2, 11), ids(2, 5, seed=1), torch.randn(2, 5, VOCAB)
    for signal in (None, conditioning):
        expected, given = our_logits(plain, prompt, canvas, signal), fused_logits(fused, prompt, canvas, signal)
        assert worst(given[0], expected[0]) < CLOSE
        assert worst(given[1], expected[1]) < CLOSE
        assert expected[1].std() > 0.1


@pytest.mark.parametrize("canvas_length", [1, 3, 40])
@pytest.mark.parametrize("prompt_length", [1, 5, 6, 7, 30, QUERY_CHUNK, 2 * QUERY_CHUNK + 9])
@pytest.mark.parametrize("variant", ["several experts", "wide window"])
def test_logits_equal_at_any_length(variant: str, prompt_length: int, canvas_length: int) -> None:
    plain, fused = both(variant)
    prompt, canvas, signal = ids(1, prompt_length), ids(1, canvas_length), torch.randn(1, canvas_length, VOCAB)
    expected, given = our_logits(plain, prompt, canvas, signal), fused_logits(fused, prompt, canvas, signal)
    assert worst(given[0], expected[0]) < CLOSE
    assert worst(given[1], expected[1]) < CLOSE


@pytest.mark.parametrize("length", [5, 14])
def test_logits_of_a_padded_batch_equal_those_of_the_plain_network(length: int) -> None:
    plain, fused = both()
    prompt, canvas, signal = ids(3, length), ids(3, 7, seed=2), torch.randn(3, 7, VOCAB)
    real = torch.arange(length)[None] >= torch.tensor([0, 3, length - 1])[:, None]
    own = (real.cumsum(1) - 1).clamp(min=0), real.sum(1, keepdim=True) + torch.arange(7)
    for positions in ((None, None), own):
        expected = our_logits(plain, prompt, canvas, signal, real, positions)
        given = fused_logits(fused, prompt, canvas, signal, real, positions)
        assert worst(given[0][real], expected[0][real]) < CLOSE
        assert worst(given[1], expected[1]) < CLOSE


@pytest.mark.parametrize("variant", ["several experts", "wide window", "window of two"])
@torch.no_grad()
def test_pieces_crops_and_canvases_in_between_leave_nothing_behind(variant: str) -> None:
    plain, fused = both(variant)
    generator, text, prompt_cache = torch.Generator().manual_seed(5), ids(1, 0), Cache()
    for round_number in range(25):
        kept = int(torch.randint(text.shape[1] + 1, (1,), generator=generator))
        size = 300 if round_number == 12 else 1 + int(torch.randint(9, (1,), generator=generator))
        new, canvas = torch.randint(VOCAB, (1, size), generator=generator), ids(1, 4, seed=round_number)
        prompt_cache.crop(kept)
        encoded = fused.logits(fused.encode(new, prompt_cache))
        decoded = fused.logits(fused.decode(canvas, prompt_cache))
        text = torch.cat((text[:, :kept], new), dim=1)
        assert prompt_cache.length == text.shape[1]
        expected = our_logits(plain, text, canvas)
        assert worst(encoded, expected[0][:, kept:]) < CLOSE
        assert worst(decoded, expected[1]) < CLOSE


@torch.no_grad()
def test_a_cache_serves_other_batches_after_it_was_emptied() -> None:
    plain, fused = both()
    prompt_cache = Cache()
    for batch in (1, 3, 2):
        prompt_cache.crop(0)
        prompt = ids(batch, 9, seed=batch)
        encoded = fused.logits(fused.encode(prompt, prompt_cache))
        assert worst(encoded, our_logits(plain, prompt, ids(batch, 2))[0]) < CLOSE


@torch.no_grad()
def test_the_decoder_keeps_what_is_cached() -> None:
    _, fused = both()
    prompt_cache = Cache()
    fused.encode(ids(1, 9), prompt_cache)
    before = [tensor.clone() for index in range(4) for tensor in prompt_cache.layer(index)]
    fused.decode(ids(1, 300), prompt_cache)  # more than there is room for
    assert prompt_cache.length == 9
    after = [tensor for index in range(4) for tensor in prompt_cache.layer(index)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_scalars_and_dense_layers_are_kept() -> None:
    plain = random_network(tiny_config())
    for layer in plain.decoder_layers():
        layer.post_feedforward_layernorm_2.weight.zero_()
    plain.layers[0].layer_scalar.fill_(1.0)
    plain.find_dense_layers()
    fused = ServedNetwork(copy.deepcopy(plain), torch.float32)
    expected, given = our_logits(plain, ids(1, 9), ids(1, 4)), fused_logits(fused, ids(1, 9), ids(1, 4))
    assert worst(given[0], expected[0]) < CLOSE
    assert worst(given[1], expected[1]) < CLOSE


def test_the_plain_network_shares_the_joined_weights() -> None:
    plain = random_network(tiny_config())
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    fused = ServedNetwork(plain, torch.float32)
    assert all(torch.equal(tensor, before[name]) for name, tensor in plain.state_dict().items())
    joined = fused._layers[0]._qkv._weight
    assert plain.layers[0].self_attn.k_proj.weight.untyped_storage().data_ptr() == joined.untyped_storage().data_ptr()


@pytest.mark.parametrize("variant", ["several experts", "wide window", "window of two"])
@torch.inference_mode()
def test_a_step_at_fixed_addresses_equals_one_that_grows_with_the_prompt(variant: str) -> None:
    _, fused = both(variant)
    prompt_cache = Cache()
    signal = torch.randn(2, 5, 32)
    fused.encode(ids(2, 9), prompt_cache)
    step = StaticStep(fused, 2, 16, prompt_cache.reserve(16))
    for seed in range(3):
        canvas = ids(2, 5, seed=seed)
        for given in (signal * seed, None):
            expected = fused.decode(canvas, prompt_cache, expected=given)
            assert worst(step(canvas, given, prompt_cache.length), expected) < CLOSE
        fused.encode(ids(2, 7, seed=seed), prompt_cache)


class Counted(StaticStep):
    """Steps that say when they are made, for how many rows and positions."""

    made: ClassVar[list[tuple[int, int]]] = []

    def __init__(self, network: ServedNetwork, rows: int, size: int, buffers: list[tuple[Tensor, Tensor]]) -> None:
        super().__init__(network, rows, size, buffers)
        self.made.append((rows, size))


@pytest.fixture
def static(monkeypatch: pytest.MonkeyPatch) -> ServedNetwork:
    """A network that takes its decoder steps as it does on a GPU, but for the graph."""
    monkeypatch.setattr(served, "StaticStep", Counted)
    Counted.made.clear()
    network = ServedNetwork(copy.deepcopy(pair("several experts").ours), torch.float32)
    network.has_static_steps = True
    return network


@torch.inference_mode()
def test_steps_of_any_canvas_are_made_once_a_size_and_compute_the_same(static: ServedNetwork) -> None:
    plain, _ = both()
    text, prompt_cache = ids(1, 20), Cache()
    static.encode(text, prompt_cache)
    for number, length in enumerate((1, 16, 5, 17, 32, 64, 100, 256, 300, 16)):
        canvas, signal = ids(1, length, seed=number), torch.randn(1, length, VOCAB)
        for conditioning in (None, signal):
            mean = None if conditioning is None else static.mean_embedding(conditioning.softmax(-1))
            given = static.logits(static.decode(canvas, prompt_cache, expected=mean))
            assert worst(given, our_logits(plain, text, canvas, conditioning)[1]) < CLOSE
    room = [tensor.shape[2] for tensor in prompt_cache.layer(0, 10_000)]
    assert room == [1024, 1024]  # it has grown for 256 and for 300 positions, and what was made before was made anew
    assert Counted.made == [(1, 16), (1, 32), (1, 64), (1, 128), (1, 256), (1, 512), (1, 16)]
    assert prompt_cache.length == 20


@torch.inference_mode()
def test_steps_follow_the_prompt_and_end_with_its_cache(static: ServedNetwork) -> None:
    plain, _ = both()
    caches, texts = [Cache(), Cache()], [ids(1, 5), ids(1, 9, seed=1)]
    for round_number in range(4):  # one prompt after the other, each longer each time
        for at, prompt_cache in enumerate(caches):
            static.encode(texts[at][:, prompt_cache.length :], prompt_cache)
            canvas = ids(1, 7, seed=round_number)
            given = static.logits(static.decode(canvas, prompt_cache))
            assert worst(given, our_logits(plain, texts[at], canvas)[1]) < CLOSE
            texts[at] = torch.cat((texts[at], ids(1, 4, seed=round_number)), dim=1)
    assert Counted.made == [(1, 16)] * 2
    assert len(static._steps) == 2
    del caches, prompt_cache
    assert len(static._steps) == 0


@pytest.mark.parametrize("prompt", [1, 5, 30])
@torch.inference_mode()
def test_rows_that_share_a_prompt_are_beside_each_other_after_it(static: ServedNetwork, prompt: int) -> None:
    plain, _ = both()
    text, prompt_cache = ids(1, prompt), Cache()
    static.encode(text, prompt_cache)
    for number, (rows, length) in enumerate(((3, 7), (3, 16), (5, 40), (3, 9))):
        canvas, signal = ids(rows, length, seed=number), torch.randn(rows, length, VOCAB)
        shared = prompt_cache.repeated(rows)
        for conditioning in (None, signal):
            mean = None if conditioning is None else static.mean_embedding(conditioning.softmax(-1))
            given = static.logits(static.decode(canvas, shared, expected=mean))
            assert worst(given, our_logits(plain, text.expand(rows, -1), canvas, conditioning)[1]) < CLOSE
    assert list(static._steps) == [prompt_cache] and set(static._steps[prompt_cache]) == {(3, 16), (5, 64)}
    assert static.logits(static.encode(ids(1, 3), prompt_cache)).isfinite().all()
    assert prompt_cache.length == prompt + 3


@torch.inference_mode()
def test_rows_that_no_longer_share_a_prompt_have_buffers_of_their_own(static: ServedNetwork) -> None:
    plain, _ = both()
    text, prompt_cache = ids(1, 6), Cache()
    static.encode(text, prompt_cache)
    before = [tensor.clone() for index in range(4) for tensor in prompt_cache.layer(index)]
    shared, more, canvas = prompt_cache.repeated(2), ids(2, 4, seed=1), ids(2, 5, seed=2)
    static.encode(more, shared)
    given = static.logits(static.decode(canvas, shared))
    longer = torch.cat((text.expand(2, -1), more), dim=1)
    assert worst(given, our_logits(plain, longer, canvas)[1]) < CLOSE
    shared.crop(3)
    given = static.logits(static.decode(canvas, shared))
    assert worst(given, our_logits(plain, text[:, :3].expand(2, -1), canvas)[1]) < CLOSE
    after = [tensor for index in range(4) for tensor in prompt_cache.layer(index)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@torch.inference_mode()
def test_few_steps_are_kept(static: ServedNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "GRAPHS", 2)
    prompt_cache = Cache()
    static.encode(ids(1, 5), prompt_cache)
    prompt_cache.reserve(64)
    for length in (16, 32, 16, 64, 16, 32):
        static.decode(ids(1, length), prompt_cache)
    assert Counted.made == [(1, 16), (1, 32), (1, 64), (1, 32)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@torch.inference_mode()
def test_a_gpu_in_bfloat16_is_near_the_processor_in_float32() -> None:
    plain = random_network(tiny_config(hidden_size=32, moe_intermediate_size=16))
    on_gpu = ServedNetwork(copy.deepcopy(plain).to("cuda", torch.bfloat16), torch.bfloat16)
    prompt, canvas, signal = ids(1, 30), ids(1, 8), torch.randn(1, 8, plain.config.vocab_size)
    expected = our_logits(plain, prompt, canvas, signal)
    for _ in range(2):  # recorded, then replayed
        given = fused_logits(on_gpu, prompt.cuda(), canvas.cuda(), signal.cuda())
        for ours, theirs in zip(given, expected, strict=True):
            assert (ours.cpu() - theirs).abs().mean() < 0.05 * theirs.std()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@torch.inference_mode()
def test_recorded_steps_of_all_sizes_equal_those_that_are_not() -> None:
    """In one memory, replayed in any order, while the prompt grows."""
    plain = random_network(tiny_config(hidden_size=32, moe_intermediate_size=16))
    on_gpu = ServedNetwork(plain.to("cuda", torch.bfloat16), torch.bfloat16)
    prompt_cache = Cache()
    for round_number in range(3):
        on_gpu.encode(ids(1, 5, seed=round_number).cuda(), prompt_cache)
        for length in (16, 256, 7, 64, 32, 128):
            canvas = ids(1, length, seed=length).cuda()
            replayed = on_gpu.decode(canvas, prompt_cache)
            on_gpu.has_static_steps = False
            expected = on_gpu.decode(canvas, prompt_cache)
            on_gpu.has_static_steps = True
            assert (replayed - expected).float().abs().mean() < 0.05 * expected.float().std()
        rows = ids(3, 20).cuda()
        replayed = on_gpu.decode(rows, prompt_cache.repeated(3))
        on_gpu.has_static_steps = False
        expected = on_gpu.decode(rows, prompt_cache.repeated(3))
        on_gpu.has_static_steps = True
        assert (replayed - expected).float().abs().mean() < 0.05 * expected.float().std()


def test_bfloat16_products_are_near_float32() -> None:
    plain = random_network(tiny_config())
    for layer in plain.decoder_layers():  # a rounding that sends a token to another expert is no small difference
        layer.post_feedforward_layernorm_2.weight.zero_()
    plain.find_dense_layers()
    fused = ServedNetwork(copy.deepcopy(plain), torch.bfloat16)
    prompt, canvas, signal = ids(2, 40), ids(2, 8, seed=1), torch.randn(2, 8, plain.config.vocab_size)
    expected, given = our_logits(plain, prompt, canvas, signal), fused_logits(fused, prompt, canvas, signal)
    for ours, theirs in zip(given, expected, strict=True):
        assert 1e-6 < (ours - theirs).abs().mean() < 0.05 * theirs.std()


@pytest.mark.parametrize("copied", [90, 100, 130])
@pytest.mark.parametrize("cropped", [20, 64, 80])
@pytest.mark.parametrize("tokens", [1, 5, 20, 40])
def test_a_copy_of_a_cache_may_be_cropped_before_it_is_written_to(copied: int, cropped: int, tokens: int) -> None:
    _, fused = both()
    prompt, more = ids(1, 140), ids(1, tokens, seed=1)
    whole, alone = Cache(), Cache()
    fused.encode(prompt, whole)
    copy_of_it = whole.copy(copied)
    copy_of_it.crop(cropped)
    fused.encode(prompt[:, :cropped], alone)
    assert worst(fused.encode(more, copy_of_it), fused.encode(more, alone)) < CLOSE
    assert worst(fused.decode(more, copy_of_it), fused.decode(more, alone)) < CLOSE
