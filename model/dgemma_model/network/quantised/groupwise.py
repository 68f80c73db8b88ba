"""Weights rounded to 4 or 8 bits, with a scale for each group of neighbours in a row.

A weight is `(code - 2 ** (bits - 1)) * group scale * row scale`. Codes and group scales are unsigned integers; the row
scale is bfloat16. A group has up to 128 weights, so that 4 bits become 4.06 to 4.13 with the scales.

A group's scale makes its largest weight fit. Where a smaller one has the smaller mean squared error, that is taken, and
the largest weights are clipped: 8 % less error on Gaussian weights, 9 % on heavier tails (log/experts-in-four-bits.md).
Codes are chosen last, so that the rounding of the scales costs nothing more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Bits = Literal[4, 8]

LARGEST_GROUP = 128
LARGEST_GROUP_SCALE = 255
SHRUNK = (1.0, 0.9, 0.8)
"""Scales that are tried for a group, as shares of the one that fits its largest weight."""
TINY = 1e-30
"""Scale of a row that is all zeros."""


@dataclass(frozen=True, slots=True)
class GroupwiseMatrices:
    """One or several matrices [..., out, in]."""

    codes: Tensor
    """uint8 [..., out, in * bits / 8]. In 4 bits, a byte of a group has a weight of the group's first half in its low
    digit, and the weight that is half a group further on in the high one."""
    group_scales: Tensor
    """uint8 [..., out, in / group]."""
    row_scales: Tensor
    """bfloat16 [..., out]."""
    bits: Bits

    @property
    def inputs(self) -> int:
        """Weights in a row."""
        return self.codes.shape[-1] * 8 // self.bits

    @property
    def group(self) -> int:
        """Weights in a group."""
        return self.inputs // self.group_scales.shape[-1]

    def __getitem__(self, part: int | slice) -> GroupwiseMatrices:
        """Some of several matrices."""
        return GroupwiseMatrices(self.codes[part], self.group_scales[part], self.row_scales[part], self.bits)

    def dequantised(self, dtype: torch.dtype) -> Tensor:
        """The weights, [..., out, in]."""
        groups = self.codes.view(*self.group_scales.shape, -1)
        if self.bits == 4:
            groups = torch.cat((groups & 15, groups >> 4), dim=-1)
        scales = self.group_scales.to(torch.float32) * self.row_scales.to(torch.float32)[..., None]
        weights = (groups.to(torch.float32) - float(2 ** (self.bits - 1))) * scales[..., None]
        return weights.flatten(-2).to(dtype)


def group_size(inputs: int) -> int:
    """Weights in a group of rows of that length: the largest power of two up to 128 that divides it.

    Raises:
        ValueError: the length is odd.
    """
    if inputs % 2:
        raise ValueError(f"rows of {inputs} weights cannot be rounded in pairs")
    return math.gcd(inputs, LARGEST_GROUP)


def rounded(weights: Tensor, bits: Bits) -> GroupwiseMatrices:
    """[..., out, in] floats -> the same in `bits`.

    Raises:
        ValueError: see `group_size`.
    """
    size, most = group_size(weights.shape[-1]), 2 ** (bits - 1)
    groups = weights.to(torch.float32).view(*weights.shape[:-1], -1, size)
    fitting = groups.abs().amax(-1) / (most - 0.5)  # half a step beyond the largest code on both sides
    row_scales = (fitting.amax(-1) / LARGEST_GROUP_SCALE).clamp_min_(TINY).mul_(1 + 2**-7).to(torch.bfloat16)
    unit = row_scales.to(torch.float32)[..., None]
    best = torch.zeros_like(fitting)
    codes = torch.zeros_like(groups, dtype=torch.uint8)
    least = torch.full_like(fitting, torch.inf)
    for share in SHRUNK:
        scales = (fitting * share / unit).ceil_().clamp_(1, LARGEST_GROUP_SCALE)
        steps = (scales * unit)[..., None]
        signed = (groups / steps).round_().clamp_(-most, most - 1)
        error = (signed * steps).sub_(groups).square_().sum(-1)
        better = error < least
        least, best = torch.where(better, error, least), torch.where(better, scales, best)
        codes = torch.where(better[..., None], (signed + most).to(torch.uint8), codes)
    if bits == 4:
        first, second = codes.chunk(2, dim=-1)
        codes = first | second << 4
    return GroupwiseMatrices(codes.flatten(-2), best.to(torch.uint8), row_scales, bits)


def shapes(outputs: int, inputs: int, bits: Bits) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """The dtype and shape of each tensor of a matrix [out, in], by the name of its field.

    Raises:
        ValueError: see `group_size`.
    """
    return {
        "codes": (torch.uint8, (outputs, inputs * bits // 8)),
        "group_scales": (torch.uint8, (outputs, inputs // group_size(inputs))),
        "row_scales": (torch.bfloat16, (outputs,)),
    }
