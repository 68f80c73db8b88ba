"""The fastest matrix products and norms on this machine; the served network (served.py) is made of them.

On x86 CPUs, products run in oneDNN over weights that are packed at load time. On processors that are not made by the
maker of torch's default BLAS, this is about twice as fast (log/archive.md).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
from torch import Tensor

from dgemma_model.network.diffusion_gemma import RMSNorm

# Torch and oneDNN each keep what they prepared for the last thousand shapes. served.py uses few shapes, again and
# again, so smaller caches do: a long run once took a gigabyte for the larger ones (log/archive.md). Both libraries
# read these variables at their first product.
os.environ.setdefault("LRU_CACHE_CAPACITY", "256")
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")

CAN_PACK = bool(torch._C._has_mkldnn) and platform.machine().lower() in ("x86_64", "amd64")


def fastest_products(device: torch.device) -> torch.dtype:
    """The dtype of the operands that `device` multiplies fastest: bfloat16 on GPUs and where a CPU has instructions
    for it, else float32."""
    if device.type != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return torch.bfloat16
    return torch.float32


class Product:
    """`activation(x @ weight.T)`, [..., in] -> [..., out] in the dtype of the product; on x86 CPUs in oneDNN, over
    the weight packed in that dtype."""

    def __init__(self, weight: Tensor, dtype: torch.dtype, activation: str = "none") -> None:
        """`weight` is [out, in]; `activation` is "none", "gelu" (tanh-approximated) or "tanh"."""
        self._weight, self._dtype = weight, dtype
        self._activation = activation
        self._packed: Tensor | None = None
        self._pack(weight)

    def __call__(self, x: Tensor) -> Tensor:
        """The product."""
        if self._packed is not None:
            run, algorithm = torch.ops.mkldnn._linear_pointwise.default, "tanh" if self._activation == "gelu" else ""
            return cast(Tensor, run(x.to(self._dtype), self._packed, None, self._activation, [], algorithm))
        out = F.linear(x.to(self._weight.dtype), self._weight)
        if self._activation == "gelu":
            return F.gelu(out, approximate="tanh")
        return out.tanh_() if self._activation == "tanh" else out

    def times(self, x: Tensor, factor: Tensor) -> Tensor:
        """The product, without activation, times `factor` [..., out]."""
        if self._packed is not None:
            run = torch.ops.mkldnn._linear_pointwise.binary
            return cast(Tensor, run(x.to(self._dtype), factor, self._packed, None, "mul"))
        return F.linear(x.to(self._weight.dtype), self._weight).mul_(factor)

    def take_scale(self, scale: Tensor) -> bool:
        """Multiply the inputs by `scale` [in] from now on; False where the weight is not packed, so that changing it
        would take a copy."""
        if self._packed is not None:
            self._pack(self._weight * scale)
        return self._packed is not None

    def _pack(self, weight: Tensor) -> None:
        if weight.device.type == "cpu" and CAN_PACK:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.to(self._dtype).contiguous())


class Norm:
    """An `RMSNorm` in fewer operations: x / hypot(|x|, sqrt(size * eps)), times a scale that includes sqrt(size)."""

    def __init__(self, norm: RMSNorm, followed_by: Iterable[Product] = ()) -> None:
        """Where it can, the scale moves into the products that alone read this norm's output."""
        self._norm = norm
        device = None if norm.weight is None else norm.weight.device
        self._floor = torch.tensor((norm.size * norm.eps) ** 0.5, device=device)
        scale = norm.size**0.5 * (torch.ones(norm.size, device=device) if norm.weight is None else norm.weight.float())
        self._scale: Tensor | None = scale
        for product in followed_by:
            if product.take_scale(scale):
                self._scale = None

    def __call__(self, x: Tensor) -> Tensor:
        """[..., size] -> the same shape and dtype."""
        if not _is_plain(x):
            return F.rms_norm(x, (self._norm.size,), self._norm.weight, self._norm.eps)
        out = x / self._length(x)
        return out if self._scale is None else out.mul_(self._scale)

    def added_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """`residual` plus the norm of `x`."""
        if not _is_plain(x) or self._scale is None:
            return residual + self(x)
        return torch.addcdiv(residual, x * self._scale, self._length(x))

    def _length(self, x: Tensor) -> Tensor:
        return cast(Tensor, torch.linalg.vector_norm(x, dim=-1, keepdim=True).hypot_(self._floor))


def _is_plain(x: Tensor) -> bool:
    """Whether the written-out norm is best for `x`. On GPUs a fused kernel is, and other dtypes need float32 sums."""
    return x.device.type == "cpu" and x.dtype == torch.float32
