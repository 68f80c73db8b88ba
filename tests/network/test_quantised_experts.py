"""Rounded experts: laws of rounding, products that equal those of the rounded weights, and logits that stay near."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
from hypothesis import given, settings
from hypothesis import strategies as st
from model_fixtures import random_network, tiny_config
from torch import Tensor

from dgemma_model.network.cache import Cache
from dgemma_model.network.config import NetworkConfig
from dgemma_model.network.diffusion_gemma import Experts, Network
from dgemma_model.network.quantised.experts import QuantisedExperts, rounded_tensors
from dgemma_model.network.quantised.groupwise import LARGEST_GROUP_SCALE, Bits, group_size, rounded
from dgemma_model.network.served import ServedNetwork

BITS: tuple[Bits, ...] = (4, 8)
LOGIT_ERROR: dict[Bits, float] = {4: 0.25, 8: 0.02}
"""Most relative error of the logits of random networks (log/experts-in-four-bits.md has what was measured)."""


def random_weights(seed: int, rows: int, inputs: int, outliers: int, zero_rows: int) -> Tensor:
    """A matrix with some weights that are a hundred times larger, and some rows of zeros."""
    generator = torch.Generator().manual_seed(seed)
    weights = 0.02 * torch.randn(rows, inputs, generator=generator)
    for _ in range(outliers):
        row, column = (int(torch.randint(size, (1,), generator=generator)) for size in (rows, inputs))
        weights[row, column] *= 100
    weights[:zero_rows] = 0
    return weights


matrices = st.builds(
    random_weights,
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 12),
    inputs=st.sampled_from([2, 6, 8, 24, 64, 96, 256, 384]),
    outliers=st.integers(0, 4),
    zero_rows=st.integers(0, 3),
)


def step_bound(weights: Tensor, bits: Bits) -> Tensor:
    """Half of the largest step that a group of these weights may have, [out, groups]: that which makes its largest
    weight fit, and one unit of the row's scale more."""
    size = group_size(weights.shape[1])
    fitting = weights.view(len(weights), -1, size).abs().amax(-1) / (2 ** (bits - 1) - 0.5)
    return 0.5 * (fitting + 1.02 * fitting.amax(1, keepdim=True) / LARGEST_GROUP_SCALE)


@given(weights=matrices, bits=st.sampled_from(BITS))
@settings(max_examples=150, deadline=None)
def test_a_group_is_off_by_half_a_step_of_each_weight_at_most(weights: Tensor, bits: Bits) -> None:
    size = group_size(weights.shape[1])
    error = (rounded(weights, bits).dequantised(torch.float32) - weights).view(len(weights), -1, size)
    assert (error.norm(dim=-1) <= size**0.5 * step_bound(weights, bits) + 1e-12).all()


@given(weights=matrices, bits=st.sampled_from(BITS), seed=st.integers(0, 10**6))
@settings(max_examples=150, deadline=None)
def test_a_product_is_off_by_no_more_than_its_groups(weights: Tensor, bits: Bits, seed: int) -> None:
    x = torch.randn(3, weights.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    size = group_size(weights.shape[1])
    error = x @ (rounded(weights, bits).dequantised(torch.float64) - weights.double()).T
    bound = x.view(3, -1, size).norm(dim=-1) @ (size**0.5 * step_bound(weights, bits).double()).T
    assert (error.abs() <= bound + 1e-9).all()


@given(weights=matrices, bits=st.sampled_from(BITS))
@settings(max_examples=30, deadline=None)
def test_bytes_are_read_as_they_are_documented(weights: Tensor, bits: Bits) -> None:
    found = rounded(weights, bits)
    size, half = found.group, found.group // 2
    assert found.codes.dtype == found.group_scales.dtype == torch.uint8 and found.row_scales.dtype == torch.bfloat16
    read = found.dequantised(torch.float64)
    for row in {0, len(weights) - 1}:
        for column in range(0, weights.shape[1], 5):
            group, place = divmod(column, size)
            if bits == 4:
                byte = int(found.codes[row, group * half + place % half])
                code = byte % 16 if place < half else byte // 16
            else:
                code = int(found.codes[row, column])
            unit = float(found.row_scales[row].float()) * int(found.group_scales[row, group])
            assert read[row, column] == pytest.approx((code - 2 ** (bits - 1)) * unit, rel=1e-6)


def test_weights_of_a_bell_curve_lose_a_tenth_in_four_bits() -> None:
    weights = torch.randn(64, 1408, generator=torch.Generator().manual_seed(0))
    errors = {bits: float((rounded(weights, bits).dequantised(torch.float32) - weights).norm() / weights.norm())
              for bits in BITS}  # fmt: skip
    assert 0.09 < errors[4] < 0.105 and 0.005 < errors[8] < 0.0075


def test_several_matrices_are_rounded_like_one_after_the_other() -> None:
    weights = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(0))
    together = rounded(weights, 4)
    for index in range(3):
        alone = rounded(weights[index], 4)
        assert torch.equal(together[index].codes, alone.codes)
        assert torch.equal(together[index].group_scales, alone.group_scales)


def test_odd_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="rows of 7 weights cannot be rounded in pairs"):
        rounded(torch.ones(2, 7), 4)


# ------------------------------------------------------------------- products


def both(config: NetworkConfig, bits: Bits, seed: int) -> tuple[Experts, QuantisedExperts]:
    """Experts whose weights are those that rounding left, and the rounded ones."""
    torch.manual_seed(seed)
    plain, small = Experts(config).requires_grad_(False), QuantisedExperts(config, bits)
    for name, parameter in plain.named_parameters():
        for part, tensor in rounded_tensors(name, parameter.split(2), config.num_experts, bits):
            setattr(small, part, tensor)
        parameter.copy_(small.matrices(name.removesuffix("_proj")).dequantised(torch.float32))
    return plain, small


def routed(config: NetworkConfig, tokens: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states, and weights and numbers of their experts."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, config.hidden_size, generator=generator)
    chosen = torch.rand(tokens, config.num_experts, generator=generator).topk(config.top_k_experts).indices
    return x, torch.rand(chosen.shape, generator=generator), chosen


@given(
    bits=st.sampled_from(BITS),
    experts=st.integers(1, 9),
    top_k=st.integers(1, 4),
    tokens=st.integers(1, 70),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_every_experts_product_equals_the_plain_one(
    bits: Bits, experts: int, top_k: int, tokens: int, seed: int
) -> None:
    config = tiny_config(num_experts=experts, top_k_experts=min(top_k, experts))
    plain, small = both(config, bits, seed)
    given = routed(config, tokens, seed)
    torch.testing.assert_close(small(*given), plain(*given), rtol=1e-4, atol=1e-6)


KERNEL = """
import sys
import torch
from test_quantised_experts import both, routed
from model_fixtures import tiny_config
from dgemma_model.network.quantised import grouped_product

grouped_product.MANY_FROM = int(sys.argv[1])
for experts, top_k, tokens, size, inner in ((1, 1, 1, 32, 32), (9, 2, 5, 256, 64), (5, 3, 70, 64, 96)):
    for bits in (4, 8):
        config = tiny_config(num_experts=experts, top_k_experts=top_k, hidden_size=size, moe_intermediate_size=inner)
        plain, small = both(config, bits, 0)
        x, weights, chosen = routed(config, tokens, 1)
        for dtype, close in ((torch.float32, 1e-5), (torch.float16, 2e-3)):
            arguments = x.to(dtype), weights, chosen, small.matrices("gate_up"), small.matrices("down")
            given, expected = grouped_product.expert_products(*arguments).float(), plain(x, weights, chosen)
            assert given.shape == expected.shape
            assert (given - expected).norm() < close * expected.norm(), (experts, bits, dtype)
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton, which comes with torch for GPUs")
@pytest.mark.parametrize("many_from", ["1", "1000"])
def test_the_kernel_gives_what_the_plain_form_gives(many_from: str) -> None:
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", KERNEL, many_from], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


COMPILED = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from dgemma_model.network.quantised.grouped_product import FEW, MANY, OUTPUTS, _multiply

pointers = {"x": "*bf16", "codes": "*u8", "group_scales": "*u8", "row_scales": "*bf16", "out": "*bf16"}
pointers |= dict.fromkeys(("order", "tile_experts", "tile_starts", "expert_ends"), "*i64")
numbers = dict.fromkeys(("outputs", "inputs", "shared_by", "experts"), "i32")
for bits, group in ((4, 128), (4, 64), (8, 128)):
    for pairs in (FEW, MANY):
        fixed = {"tile_pairs": pairs, "tile_outputs": OUTPUTS, "group_size": group, "bits": bits}
        source = ASTSource(_multiply, pointers | numbers | dict.fromkeys(fixed, "constexpr"), constexprs=fixed)
        for generation in (80, 90):
            text = compile(source, target=GPUTarget("cuda", generation, 32)).asm["ptx"]
            assert "mma" in text, (bits, group, pairs, generation)
"""


@pytest.mark.skipif(find_spec("triton") is None, reason="needs triton, which comes with torch for GPUs")
def test_the_kernel_compiles_for_gpus_and_uses_their_matrix_units() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_kernel_on_a_gpu_gives_what_the_plain_form_gives() -> None:
    config = tiny_config(num_experts=9, top_k_experts=2, hidden_size=256, moe_intermediate_size=64)
    for bits in BITS:
        _, small = both(config, bits, 0)
        for tokens in (5, 300):
            given = routed(config, tokens, 1)
            expected = small(*given)
            on_gpu = small.to("cuda")(given[0].to("cuda", torch.bfloat16), given[1].cuda(), given[2].cuda())
            assert (on_gpu.cpu().float() - expected).norm() < 0.02 * expected.norm()
            small.to("cpu")


# --------------------------------------------------------------------- logits


def with_rounded_experts(network: Network, bits: Bits) -> Network:
    """The same network with its experts rounded."""
    small = Network(network.config, bits)
    tensors = {}
    for name, tensor in network.state_dict().items():
        layer, is_expert, parameter = name.partition(".experts.")
        if is_expert:
            tensors |= {
                f"{layer}{is_expert}{part}": value
                for part, value in rounded_tensors(parameter, [tensor], len(tensor), bits)
            }
        else:
            tensors[name] = tensor
    small.load_state_dict(tensors)
    return small.requires_grad_(False).eval()


@torch.no_grad()
def logits(network: Network | ServedNetwork) -> Tensor:
    """Scores of a prompt and of a canvas after it."""
    generator, cache = torch.Generator().manual_seed(1), Cache()
    prompt = torch.randint(network.vocab_size, (1, 40), generator=generator)
    canvas = torch.randint(network.vocab_size, (1, 16), generator=generator)
    encoded = network.logits(network.encode(prompt, cache))
    signal = network.mean_embedding(encoded[:, -16:].softmax(-1))
    return torch.cat((encoded, network.logits(network.decode(canvas, cache, expected=signal))), dim=1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bits", BITS)
def test_logits_stay_within_the_stated_error(bits: Bits, seed: int) -> None:
    plain = random_network(tiny_config(hidden_size=64, moe_intermediate_size=32, num_experts=8, top_k_experts=2), seed)
    expected, found = logits(plain), logits(with_rounded_experts(plain, bits))
    error = float((found - expected).norm() / expected.norm())
    assert 1e-4 < error < LOGIT_ERROR[bits]


@pytest.mark.parametrize("bits", BITS)
def test_the_served_network_computes_what_the_plain_one_does(bits: Bits) -> None:
    plain = with_rounded_experts(random_network(tiny_config(num_experts=4, top_k_experts=2)), bits)
    served = ServedNetwork(copy.deepcopy(plain), torch.float32)
    assert F.mse_loss(logits(served), logits(plain)) < 1e-8
