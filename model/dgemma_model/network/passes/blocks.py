"""How the compiled passes want int8 matrices in memory: in the order in which they are read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
from torch import Tensor

BAND, GROUP, BLOCK = 16, 4, 64
"""Rows and columns of a matrix that lie together, and rows that are multiplied together: see passes.c."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """An int8 matrix [out, in] as `passes.c` reads it."""

    weights: Tensor
    """int8 [out / 16, in / 4, 16, 4], with zeros up to a multiple of 64 rows."""
    sums: Tensor
    """int32 [out]: of the weights of each row."""


def blocks(weight: Tensor) -> Blocks:
    """A copy of an int8 matrix [out, in]; `in` is a multiple of 4."""
    rows, columns = weight.shape
    filled = F.pad(weight, (0, 0, 0, -rows % BLOCK)).view(torch.int32)  # what lies together moves together
    moved = filled.view(-1, BAND, columns // GROUP).transpose(1, 2).contiguous()
    return Blocks(moved.view(torch.int8).view(*moved.shape, GROUP), weight.sum(1, dtype=torch.int32))


def blocks_layout(rows: int, columns: int) -> tuple[tuple[torch.dtype, tuple[int, ...]], ...]:
    """The dtypes and shapes of the weights and sums of `Blocks`."""
    return (torch.int8, (-(-rows // BLOCK) * BLOCK // BAND, columns // GROUP, BAND, GROUP)), (torch.int32, (rows,))
