"""Products of integers: how near they are to those in floating point."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dgemma_model.network.int8 import (
    Int8Product,
    Int8Weights,
    WideProduct,
    digits,
    fastest_products,
    quantised_rows,
)
from dgemma_model.network.kernels import CAN_PACK
from dgemma_model.network.packed import packed

needs_integers = pytest.mark.skipif(not CAN_PACK, reason="this processor has no int8 products")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def relative_error(ours: Tensor, exact: Tensor) -> float:
    return float((ours - exact).norm() / exact.norm())


def test_a_row_is_rounded_to_steps_of_its_own() -> None:
    weight = random(5, 64) * torch.tensor([1e-3, 1.0, 50.0, 0.0, 1e6])[:, None]
    rounded, scale = quantised_rows(weight)
    assert rounded.dtype == torch.int8
    assert ((rounded * scale[:, None] - weight).abs() <= scale[:, None] * 0.5001).all()
    assert not rounded[3].any()


@given(
    st.integers(1, 40), st.sampled_from([1, 2]), st.sampled_from([127, 63]), st.floats(1e-6, 1e6), st.integers(0, 999)
)
@settings(max_examples=50, deadline=None)
def test_digits_hold_a_token_to_half_a_step(tokens: int, count: int, largest: int, size: float, seed: int) -> None:
    rows, zero = random(tokens, 24, seed=seed) * size, largest + 1
    quantised, peak = digits(rows, count, largest)
    assert quantised.dtype == torch.uint8 and quantised.shape == (count * tokens, 24)
    assert int(quantised.max()) <= 2 * largest + 1
    read = quantised[:tokens].float() - zero
    if count == 2:
        read += (quantised[tokens:].float() - zero) / (2 * largest)
    step = peak / largest / (1 if count == 1 else 2 * largest)
    assert ((read * peak / largest - rows).abs() <= step * 0.501 + peak * 1e-5).all()


def test_a_token_of_zeros_stays_zero() -> None:
    for count in (1, 2):
        quantised, _ = digits(torch.zeros(2, 8), count)
        assert (quantised == 128).all()


@needs_integers
@pytest.mark.parametrize("instructions", ["AVX2", "AVX512_CORE", "AVX512_CORE_VNNI"])
def test_products_are_right_on_every_processor(instructions: str) -> None:
    program = """
import torch
from dgemma_model.network.int8 import Int8Weights, overflows
weight = torch.full((64, 512), 127, dtype=torch.int8)
weight[1::2] = -127
x = torch.ones(9, 512)
x[:, ::3] = -0.9
products = Int8Weights({"a.weight": weight, "a.scale": torch.ones(64)}, torch.int8).product("a")
exact = x @ weight.float().T
print(overflows(), float((products(x) - exact).abs().max() / exact.abs().max()))
"""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": instructions}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    does_overflow, error = run.stdout.split()
    assert float(error) < 1e-3
    if instructions == "AVX2":
        assert does_overflow == "True"


@needs_integers
@pytest.mark.parametrize("tokens", [1, 3, 17])
@pytest.mark.parametrize("count", [1, 2])
def test_a_product_is_near_that_of_the_same_weights_in_float32(tokens: int, count: int) -> None:
    rounded, scale = quantised_rows(random(48, 96))
    bias, x = random(48, seed=1), random(2, tokens, 96, seed=2)
    exact = x @ (rounded * scale[:, None]).T + bias
    product = Int8Product(packed(rounded), scale, bias, digits=count)(x)
    assert product.dtype == torch.float32 and product.shape == exact.shape
    assert relative_error(product, exact) < (0.02 if count == 1 else 1e-4)
    assert relative_error(WideProduct(rounded, scale, bias, dtype=torch.bfloat16)(x), exact) < 0.01


@needs_integers
def test_two_short_digits_are_nearer_than_a_long_one() -> None:
    rounded, scale = quantised_rows(random(48, 96))
    x = random(9, 96, seed=2)
    assert (
        relative_error(Int8Product(packed(rounded), scale, digits=2, largest=63)(x), x @ (rounded * scale[:, None]).T)
        < 5e-4
    )


@needs_integers
def test_a_second_digit_saves_what_is_small_beside_an_outlier() -> None:
    rounded, scale = quantised_rows(random(48, 96))
    x = random(4, 96, seed=2)
    x[:, 5] = 500.0
    rest = x.clone()
    rest[:, 5] = 0
    errors = []
    for count in (1, 2):
        outlier_alone = (x - rest) @ (rounded * scale[:, None]).T
        read = Int8Product(packed(rounded), scale, digits=count)(x) - outlier_alone
        errors.append(relative_error(read, rest @ (rounded * scale[:, None]).T))
    assert errors[0] > 0.5 and errors[1] < 0.02


@needs_integers
def test_each_token_has_a_scale_of_its_own() -> None:
    rounded, scale = quantised_rows(random(48, 96))
    product, x = Int8Product(packed(rounded), scale), random(6, 96, seed=3) * torch.logspace(-4, 4, 6)[:, None]
    alone = torch.cat([product(row[None]) for row in x])
    torch.testing.assert_close(product(x), alone, rtol=1e-5, atol=0)


@pytest.mark.parametrize("products", [torch.float32, torch.bfloat16, pytest.param(torch.int8, marks=needs_integers)])
def test_a_product_is_found_by_its_name(products: torch.dtype) -> None:
    rounded, scale = quantised_rows(random(16, 32))
    weights = {"a.weight": rounded, "a.scale": scale, "a.bias": random(16, seed=1)}
    x = random(3, 32, seed=2)
    exact = x @ (rounded * scale[:, None]).T
    assert relative_error(Int8Weights(weights, products).product("a")(x), exact + weights["a.bias"]) < 0.01
    del weights["a.bias"]
    assert relative_error(Int8Weights(weights, products).product("a")(x), exact) < 0.01


def test_a_processor_multiplies_what_it_can() -> None:
    assert fastest_products(torch.device("cpu")) in (torch.int8, torch.float32, torch.bfloat16)
    assert fastest_products(torch.device("cuda")) == torch.bfloat16
