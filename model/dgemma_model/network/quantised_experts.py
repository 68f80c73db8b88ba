"""A layer's experts in 4 or 8 bits: the products of `diffusion_gemma.Experts` over weights that are widened as they are
read.

On a GPU one kernel reads the rounded weights of all experts that were chosen (grouped_product.py). Elsewhere the
weights of an expert are widened, one expert after the other: the plain form, which tests hold the kernel to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
from torch import Tensor, nn

from dgemma_model.network.config import NetworkConfig
from dgemma_model.network.groupwise import Bits, GroupwiseMatrices, rounded, shapes

MATRICES = ("gate_up", "down")
"""[2F, D] and [D, F] for each expert; in 16 bits they are the parameters `gate_up_proj` and `down_proj`."""


class QuantisedExperts(nn.Module):
    """See `Experts`; its weights are buffers, `gate_up_codes` and so on (`GroupwiseMatrices`)."""

    def __init__(self, config: NetworkConfig, bits: Bits) -> None:
        """Buffers without content.

        Raises:
            ValueError: the sizes are odd.
        """
        super().__init__()
        self.bits = bits
        for matrix, shape in zip(MATRICES, expert_shapes(config), strict=True):
            for part, (dtype, each) in shapes(*shape, bits).items():
                self.register_buffer(f"{matrix}_{part}", torch.empty(config.num_experts, *each, dtype=dtype))

    def matrices(self, name: str) -> GroupwiseMatrices:
        """One of `MATRICES`, of all experts."""
        codes, groups, rows = (getattr(self, f"{name}_{part}") for part in ("codes", "group_scales", "row_scales"))
        return GroupwiseMatrices(codes, groups, rows, self.bits)

    def forward(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """[tokens, D], and what `Router` gives for them -> [tokens, D]."""
        if x.device.type == "cuda" and self.fits_kernel:
            from dgemma_model.network.grouped_product import expert_products  # needs triton

            return expert_products(x, weights, chosen, self.matrices("gate_up"), self.matrices("down"))
        return self.one_by_one(x, weights, chosen)

    @property
    def fits_kernel(self) -> bool:
        """Whether groups are as long as products of matrices are on a GPU, 16 bytes or more."""
        shortest = min(self.matrices(name).group for name in MATRICES)
        return shortest * self.bits >= 128

    def one_by_one(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """The same, expert by expert."""
        out = torch.zeros_like(x)
        gate_up, down = (self.matrices(name) for name in MATRICES)
        for expert in torch.unique(chosen).tolist():
            token, slot = torch.where(chosen == expert)
            gate, up = F.linear(x[token], gate_up[expert].dequantised(x.dtype)).chunk(2, dim=-1)
            part = F.linear(F.gelu(gate, approximate="tanh") * up, down[expert].dequantised(x.dtype))
            out.index_add_(0, token, (part * weights[token, slot, None]).to(out.dtype))
        return out


def expert_shapes(config: NetworkConfig) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns of an expert's `MATRICES`."""
    inner, size = config.moe_intermediate_size, config.hidden_size
    return (2 * inner, size), (size, inner)


def rounded_tensors(name: str, blocks: Iterable[Tensor], bits: Bits) -> Iterator[tuple[str, Tensor]]:
    """The buffers that hold the experts' parameter `name` (it ends in `_proj`), by their names: from the weights of a
    few experts at a time, [some, out, in] each."""
    parts = [rounded(block, bits) for block in blocks]
    matrix = name.removesuffix("_proj")
    yield f"{matrix}_codes", torch.cat([part.codes for part in parts])
    yield f"{matrix}_group_scales", torch.cat([part.group_scales for part in parts])
    yield f"{matrix}_row_scales", torch.cat([part.row_scales for part in parts])
