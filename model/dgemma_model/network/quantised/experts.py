"""A layer's experts in 4 or 8 bits: the products of `diffusion_gemma.Experts` over weights that are widened as they are
read.

On a GPU one kernel reads the rounded weights of all experts that were chosen (grouped_product.py). On other devices the
weights are widened, one expert after the other. Tests compare the kernel with that plain form.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
from torch import Tensor, nn

from dgemma_model.network.config import NetworkConfig
from dgemma_model.network.quantised.groupwise import Bits, GroupwiseMatrices, rounded, shapes

MATRICES = ("gate_up", "down")
"""[2F, D] and [D, F] for each expert; in 16 bits they are the parameters `gate_up_proj` and `down_proj`."""
PARTS = ("codes", "group_scales", "row_scales")
"""Of `GroupwiseMatrices`."""
WEIGHTS_AT_ONCE = {"cpu": 1 << 18, "cuda": 1 << 24}
"""That are rounded together: on a processor what is between stays in its cache, which is twice as fast."""


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
        codes, groups, rows = (getattr(self, f"{name}_{part}") for part in PARTS)
        return GroupwiseMatrices(codes, groups, rows, self.bits)

    def forward(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """[tokens, D], and what `Router` gives for them -> [tokens, D]."""
        if x.device.type == "cuda" and self.fits_kernel:
            from dgemma_model.network.quantised.grouped_product import expert_products  # needs triton

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


def rounded_tensors(name: str, blocks: Iterable[Tensor], experts: int, bits: Bits) -> Iterator[tuple[str, Tensor]]:
    """The buffers that hold the experts' parameter `name` (it ends in `_proj`), by their names, on the CPU.

    `blocks` are the weights of some of the `experts` at a time, [some, out, in] each.
    """
    whole: dict[str, Tensor] = {}
    done = 0
    for block in blocks:
        outputs, inputs = block.shape[1:]
        step = max(1, WEIGHTS_AT_ONCE.get(block.device.type, WEIGHTS_AT_ONCE["cuda"]) // inputs)
        for rows in torch.split(block.reshape(-1, inputs), step):
            found = rounded(rows, bits)
            for part in PARTS:
                value = getattr(found, part)
                if part not in whole:
                    whole[part] = torch.empty(experts * outputs, *value.shape[1:], dtype=value.dtype)
                whole[part][done : done + len(rows)] = value
            done += len(rows)
    for part, tensor in whole.items():
        yield f"{name.removesuffix('_proj')}_{part}", tensor.view(experts, -1, *tensor.shape[1:])
