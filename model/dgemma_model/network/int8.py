"""Products of integers: int8 weights with a scale per row, 8-bit activations with a scale per token.

They run in oneDNN over packed weights. Its product takes one scale for all activations, so that is one, and each
token's own is multiplied afterwards. Where activations have outliers that one digit of 8 bits rounds away, a second
digit holds what the first one left: the same product over twice the rows, which costs little for few tokens, because
reading the weights takes the time (log/products.md).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
from torch import Tensor

from dgemma_model.network import kernels
from dgemma_model.network.kernels import CAN_PACK

LARGEST = 127
"""Of an 8-bit digit; the unsigned digits that oneDNN wants are larger by `ZERO`."""
ZERO = 128
NEXT_DIGIT = 254
"""What the second digit is finer by: it holds half a step of the first one in either direction."""
TINY = 1e-30
"""Peak of a token that is all zeros, so that its digits are zeros too."""


def quantised_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[out, in] floats -> int8 [out, in] and the scale of each row, float32 [out]; rounded to the nearest."""
    scale = weight.abs().amax(1).clamp_min_(TINY) / LARGEST
    return (weight / scale[:, None]).round_().to(torch.int8), scale


def digits(rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """[T, in] floats -> unsigned digits [count * T, in], first those that count most, and peaks [T, 1]."""
    peak = torch.linalg.vector_norm(rows, torch.inf, -1, keepdim=True).clamp_min_(TINY)
    if count == 1:
        half_up = torch.full((), ZERO + 0.5)
        return torch.addcdiv(half_up, rows, peak, value=LARGEST).to(torch.uint8), peak
    scaled = rows * (LARGEST / peak)
    first = scaled.round()
    both = torch.cat((first, (scaled - first).mul_(NEXT_DIGIT)))
    return both.add_(ZERO + 0.5).to(torch.uint8), peak


class Int8Product:
    """`x @ weight.T + bias`, [..., in] -> float32 [..., out]."""

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor | None = None, *, digits: int = 1) -> None:
        """`weight` int8 [out, in] is copied into oneDNN's own layout; `scale` [out] and `bias` [out] are float32.

        `digits` is how many of 8 bits activations are cut into: one or two.
        """
        self._packed = torch.ops.onednn.qlinear_prepack(weight, None)
        self._scale = scale / LARGEST
        self._zeros = torch.zeros(len(weight), dtype=torch.int64)
        self._bias, self._digits = bias, digits
        self.outputs = len(weight)

    def __call__(self, x: Tensor) -> Tensor:
        """The product."""
        rows = x.reshape(-1, x.shape[-1])
        count = len(rows)
        quantised, peak = digits(rows, self._digits)
        out = torch.ops.onednn.qlinear_pointwise(
            quantised, 1.0, ZERO, self._packed, self._scale, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        if self._digits == 2:
            out = out[:count].add_(out[count:], alpha=1 / NEXT_DIGIT)
        out = out.mul_(peak) if self._bias is None else torch.addcmul(self._bias, out, peak)
        return out.view(*x.shape[:-1], self.outputs)


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


def int8_product(
    weights: Mapping[str, Tensor], name: str, products: torch.dtype, *, digits: int = 1
) -> Int8Product | WideProduct:
    """The product over the int8 matrix of that name, with operands of the dtype `products`.

    `weights` has `name.weight`, `name.scale`, and `name.bias` if there is one.
    """
    matrix = weights[f"{name}.weight"], weights[f"{name}.scale"], weights.get(f"{name}.bias")
    if products == torch.int8:
        return Int8Product(*matrix, digits=digits)
    return WideProduct(*matrix, dtype=products)
