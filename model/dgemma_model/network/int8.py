"""Products of integers: int8 weights with a scale per row, activations in digits of 8 bits with a scale per token.

They run in oneDNN over packed weights. Its product takes one scale for all activations, so that is one, and each
token's own is multiplied afterwards. Activations have outliers beside which one digit rounds away the others. So a
second digit holds what the first one left: the same product over twice the rows, which costs little for few tokens,
because reading the weights takes the time (log/products.md).

Processors without VNNI add two products in 16 bits, which overflow in silence with digits of 8 bits. There a digit has
7 bits, and activations two of them. Whether a processor is one of these is found out by a product that would overflow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
from torch import Tensor

from dgemma_model.network import kernels
from dgemma_model.network.kernels import CAN_PACK
from dgemma_model.network.packed import PackedWeight, packed
from dgemma_model.network.passes.blocks import Blocks

LARGEST_WEIGHT = 127
LARGEST_DIGIT, LARGEST_SHORT_DIGIT = 127, 63
"""Of 8 and of 7 bits. The unsigned digits that oneDNN wants are larger by one more than that."""
SERVED_DIGITS = 2
"""Of each activation, as networks are served."""
ROWS_TOGETHER = 32
"""Tokens that are cut into digits together: what is between stays in the processor's cache."""
FEWEST_ROWS = 4
"""That are multiplied together: oneDNN reads the weights more slowly for fewer."""
TINY = 1e-30
"""Peak of a token that is all zeros, so that its digits are zeros too."""


def quantised_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[out, in] floats -> int8 [out, in] and the scale of each row, float32 [out]; rounded to the nearest."""
    scale = weight.abs().amax(1).clamp_min_(TINY) / LARGEST_WEIGHT
    return (weight / scale[:, None]).round_().to(torch.int8), scale


def digits(rows: Tensor, count: int, largest: int = LARGEST_DIGIT) -> tuple[Tensor, Tensor]:
    """[T, in] floats -> `count` unsigned digits each [count * T, in], first those that count most, and peaks [T, 1].

    A token of peak p is `largest` / p times smaller than its digits say; the second digit counts a `2 * largest`th.
    """
    signed = torch.empty(count, *rows.shape, dtype=torch.int8)
    peaks = torch.empty(len(rows), 1)
    for start in range(0, len(rows), ROWS_TOGETHER):
        some = slice(start, start + ROWS_TOGETHER)
        _cut(rows[some], peaks[some], signed[:, some], largest)
    return signed.view(torch.uint8).add_(largest + 1).view(-1, rows.shape[-1]), peaks  # wraps around below zero


def _cut(rows: Tensor, peaks: Tensor, signed: Tensor, largest: int) -> None:
    """Write the peaks [T, 1] and signed digits [1 or 2, T, in] of some tokens."""
    torch.amax(rows.abs(), -1, keepdim=True, out=peaks).clamp_min_(TINY)
    scaled = rows * (largest / peaks)
    if len(signed) == 2:
        first = scaled.round()
        signed[0].copy_(first)
        scaled.sub_(first).mul_(2 * largest)
    signed[-1].copy_(scaled.round_())


class Int8Product:
    """`x @ weight.T + bias`, [..., in] -> float32 [..., out]."""

    def __init__(
        self,
        weight: PackedWeight,
        scale: Tensor,
        bias: Tensor | None = None,
        *,
        digits: int = 1,
        largest: int = LARGEST_DIGIT,
    ) -> None:
        """`weight` is [out, in]; `scale` [out] and `bias` [out] are float32.

        `digits`, one or two, is how many each activation is cut into; `largest` is the largest one.
        """
        self._weight = weight
        self._scale = scale / largest
        self._zeros = torch.zeros(weight.outputs, dtype=torch.int64)
        self._bias, self._digits, self._largest = bias, digits, largest

    def __call__(self, x: Tensor) -> Tensor:
        """The product."""
        rows = x.reshape(-1, x.shape[-1])
        quantised, peak = digits(rows, self._digits, self._largest)
        out = self._multiplied(quantised)
        if self._digits == 2:
            out = out[: len(rows)].add_(out[len(rows) :], alpha=0.5 / self._largest)
        out = out.mul_(peak) if self._bias is None else torch.addcmul(self._bias, out, peak)
        return out.view(*x.shape[:-1], self._weight.outputs)

    def _multiplied(self, quantised: Tensor) -> Tensor:
        """Unsigned digits [rows, in] -> [rows, out], without the tokens' scales."""
        weight, scale, zero = self._weight.tensor, self._scale, self._largest + 1
        run = torch.ops.onednn.qlinear_pointwise
        rows = len(quantised)
        if rows < FEWEST_ROWS:
            quantised = F.pad(quantised, (0, 0, 0, FEWEST_ROWS - rows))
        out = run(quantised, 1.0, zero, weight, scale, self._zeros, None, 1.0, 0, torch.float32, "none", [], "")
        return cast(Tensor, out[:rows])


@lru_cache(maxsize=1)
def overflows() -> bool:
    """Whether this processor's products of 8-bit digits are wrong where they are large."""
    weight = torch.full((64, 256), LARGEST_WEIGHT, dtype=torch.int8)
    product = Int8Product(packed(weight), torch.ones(64))(torch.ones(8, 256))
    return bool((product - LARGEST_WEIGHT * 256.0).abs().max() > 1)


class WideProduct:
    """The same product in floating point, for processors without those of integers: activations are not rounded to
    8 bits, and the weights are widened once."""

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None = None, *, dtype: torch.dtype) -> None:
        """`weight` int8 [out, in]; `scale` [out] and `bias` [out] are float32; `dtype` is that of the operands."""
        self._weight = (weight * scale[:, None]).to(dtype)
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """The product."""
        out = F.linear(x.to(self._weight.dtype), self._weight).float()
        return out if self._bias is None else out.add_(self._bias)


def fastest_products(device: torch.device) -> torch.dtype:
    """The dtype of the operands that `device` multiplies fastest over int8 weights."""
    return torch.int8 if device.type == "cpu" and CAN_PACK else kernels.fastest_products(device)


@dataclass(frozen=True, slots=True)
class Int8Weights:
    """Weights by name, and how they are multiplied."""

    tensors: Mapping[str, Tensor]
    """Matrices as `name.weight` int8 [out, in], `name.scale` float32 [out] and, where there is one, `name.bias`."""
    products: torch.dtype
    """Of the operands of products: see `fastest_products`."""
    ready: Mapping[str, PackedWeight] = field(default_factory=dict)
    """Matrices that are packed already, by name; all others are packed when they are asked for."""
    blocks: Mapping[str, Blocks] = field(default_factory=dict)
    """Matrices that are laid out for compiled passes already, by name."""

    def product(self, name: str) -> Int8Product | WideProduct:
        """The product over the matrix of that name."""
        scale, bias = self.tensors[f"{name}.scale"], self.tensors.get(f"{name}.bias")
        if self.products != torch.int8:
            return WideProduct(self.tensors[f"{name}.weight"], scale, bias, dtype=self.products)
        weight = self.ready[name] if name in self.ready else packed(self.tensors[f"{name}.weight"])
        largest = LARGEST_SHORT_DIGIT if overflows() else LARGEST_DIGIT
        return Int8Product(weight, scale, bias, digits=SERVED_DIGITS, largest=largest)
