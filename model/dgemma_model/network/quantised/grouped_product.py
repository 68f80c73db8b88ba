"""Products over experts in 4 or 8 bits on a GPU, in one Triton kernel for all experts that were chosen.

The pairs of a token and one of its experts are put in the order of the experts and cut into tiles, each of one expert.
How many tiles there are is bounded by sizes alone, so that nothing waits for the GPU and the work can be recorded in a
CUDA graph; tiles that are left over end at once. For few tokens a tile has 16 pairs, and the time is that of reading
the weights; for many it has 64.

Integers of 8 bits are exact in bfloat16. So each product is exact, sums are float32, and a group's scale is applied to
its sum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
import triton
import triton.language as tl
from torch import Tensor

from dgemma_model.network.quantised.groupwise import GroupwiseMatrices

FEW, MANY = 16, 64
"""Pairs of a tile."""
MANY_FROM = 32
"""Mean number of pairs of an expert from which tiles are large."""
OUTPUTS = 64
"""Outputs of a tile."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """The pairs of tokens and experts in the order of their experts, cut into tiles."""

    order: Tensor
    """int64 [pairs]: the number of each pair, token * top_k + slot."""
    experts: Tensor
    """int64 [tiles]: the expert of a tile; the number of experts where a tile has nothing to do."""
    starts: Tensor
    """int64 [tiles]: the place of a tile's first pair in `order`."""
    ends: Tensor
    """int64 [experts + 1]: the place after an expert's last pair; 0 for the expert of tiles that are left over."""
    pairs: int
    """Most pairs of a tile."""


def tiles_of(chosen: Tensor, experts: int) -> Tiles:
    """Cut the experts that were chosen, [tokens, top_k], into tiles; without waiting for the device."""
    count = chosen.numel()
    pairs = MANY if count >= MANY_FROM * experts else FEW
    order = chosen.flatten().argsort(stable=True)
    counts = torch.zeros(experts, dtype=torch.int64, device=chosen.device)
    counts.index_add_(0, chosen.flatten(), torch.ones_like(order))
    ends = counts.cumsum(0)
    last_tiles = ((counts + pairs - 1) // pairs).cumsum(0)
    tile = torch.arange(min(count, experts) + count // pairs, device=chosen.device)
    expert = torch.searchsorted(last_tiles, tile, right=True)
    known = expert.clamp(max=experts - 1)
    first_tile = torch.where(known > 0, last_tiles[known - 1], 0)
    starts = ends[known] - counts[known] + (tile - first_tile) * pairs
    return Tiles(order, expert, starts, F.pad(ends, (0, 1)), pairs)


def expert_products(
    x: Tensor, weights: Tensor, chosen: Tensor, gate_up: GroupwiseMatrices, down: GroupwiseMatrices
) -> Tensor:
    """See `diffusion_gemma.Experts`; the matrices are [E, 2F, D] and [E, D, F]."""
    top_k = chosen.shape[1]
    tiles = tiles_of(chosen, len(gate_up.row_scales))
    gate, up = product(x, gate_up, tiles, shared_by=top_k).chunk(2, dim=-1)
    inner = F.gelu(gate, approximate="tanh") * up
    part = product(inner, down, tiles, shared_by=1)
    return (part.view(*chosen.shape, -1) * weights[..., None]).sum(1).to(x.dtype)


def product(x: Tensor, matrices: GroupwiseMatrices, tiles: Tiles, *, shared_by: int) -> Tensor:
    """The product of each pair's row of `x` with the matrix of its expert, [pairs, out]; pairs in their own order.

    A row of `x` [rows, in] is that of `shared_by` pairs, one after the other.
    """
    outputs = matrices.row_scales.shape[-1]
    out = x.new_empty(len(tiles.order), outputs)
    grid = (len(tiles.experts), triton.cdiv(outputs, OUTPUTS))
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]  # where the kernel is started
        _multiply[grid](
            x.contiguous(), matrices.codes, matrices.group_scales, matrices.row_scales, out,
            tiles.order, tiles.experts, tiles.starts, tiles.ends,
            outputs, matrices.inputs, shared_by,
            len(matrices.row_scales),
            tile_pairs=tiles.pairs, tile_outputs=OUTPUTS, group_size=matrices.group, bits=matrices.bits,
        )  # fmt: skip
    return out


@triton.jit  # type: ignore[untyped-decorator]
def _multiply(  # type: ignore[no-untyped-def]
    x, codes, group_scales, row_scales, out, order, tile_experts, tile_starts, expert_ends,
    outputs, inputs, shared_by, experts,
    tile_pairs: tl.constexpr, tile_outputs: tl.constexpr, group_size: tl.constexpr, bits: tl.constexpr,
):  # fmt: skip
    """A tile of one expert: some pairs, some outputs, all inputs."""
    expert = tl.load(tile_experts + tl.program_id(0))
    if expert == experts:
        return
    place = tl.load(tile_starts + tl.program_id(0)) + tl.arange(0, tile_pairs)
    is_pair = place < tl.load(expert_ends + expert)
    pair = tl.load(order + place, mask=is_pair, other=0)
    output = tl.program_id(1) * tile_outputs + tl.arange(0, tile_outputs)
    is_output = output < outputs
    matrix_row = expert * outputs + output
    parts: tl.constexpr = 8 // bits  # codes of a byte
    width: tl.constexpr = group_size // parts
    column = tl.arange(0, width)
    first = x + (pair // shared_by)[:, None] * inputs + column[None, :]
    stored = codes + matrix_row[:, None] * (inputs // parts) + column[None, :]
    groups = inputs // group_size
    total = tl.zeros((tile_pairs, tile_outputs), dtype=tl.float32)
    for group in range(groups):
        code = tl.load(stored + group * width, mask=is_output[:, None], other=0).to(tl.int32)
        row = tl.load(first + group * group_size, mask=is_pair[:, None], other=0.0)
        if bits == 4:
            second = tl.load(first + group * group_size + width, mask=is_pair[:, None], other=0.0)
            part = tl.dot(row, tl.trans(((code & 15) - 8).to(row.dtype)))
            part = tl.dot(second, tl.trans(((code >> 4) - 8).to(row.dtype)), acc=part)
        else:
            part = tl.dot(row, tl.trans((code - 128).to(row.dtype)))
        scale = tl.load(group_scales + matrix_row * groups + group, mask=is_output, other=0).to(tl.float32)
        total += part * scale[None, :]
    total *= tl.load(row_scales + matrix_row, mask=is_output, other=0.0).to(tl.float32)[None, :]
    target = out + pair[:, None] * outputs + output[None, :]
    tl.store(target, total.to(out.dtype.element_ty), mask=is_pair[:, None] & is_output[None, :])
