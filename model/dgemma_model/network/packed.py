"""Weights in oneDNN's own layout, as bytes: in a file they can be mapped, start at once, and are shared by processes.

The layout depends on oneDNN's version and the processor: `layout_key` names both. Torch's ahead-of-time compiler keeps
packed weights in this way, in calls that are not public (torch/csrc/inductor/aoti_torch/c/shim.h); `can_restore` tries
them, and whoever gets False packs plain weights instead.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from dgemma_model.network.kernels import CAN_PACK


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A packed int8 matrix."""

    tensor: Tensor
    """[in, out] in oneDNN's layout; opaque but for products."""
    memory: Tensor | None = None
    """What the tensor lies in, if that is not its own."""

    @property
    def outputs(self) -> int:
        """The rows of the matrix that was packed."""
        return self.tensor.shape[1]


def packed(weight: Tensor) -> PackedWeight:
    """A copy of an int8 matrix [out, in], packed."""
    return PackedWeight(torch.ops.onednn.qlinear_prepack(weight, None))


def as_bytes(weight: PackedWeight) -> tuple[Tensor, bytes]:
    """The memory of a packed matrix, uint8 [N], and the description of its layout."""
    size = torch.ops.mkldnn._nbytes(weight.tensor)
    memory = (ctypes.c_uint8 * size).from_address(torch.ops.mkldnn.data_ptr(weight.tensor))
    description = torch.ops.mkldnn._get_mkldnn_serialized_md(weight.tensor)
    return torch.frombuffer(memory, dtype=torch.uint8).clone(), bytes(description.numpy())


def from_bytes(memory: Tensor, description: bytes, shape: tuple[int, int]) -> PackedWeight:
    """The packed matrix, of `shape` [out, in] before it was packed, that lies in `memory`.

    Raises:
        RuntimeError: torch refuses.
    """
    outputs, inputs = shape
    library = _library()
    handle = ctypes.c_void_p()
    failed = library.aoti_torch_create_tensor_from_blob_v2(
        ctypes.c_void_p(memory.data_ptr()),
        ctypes.c_int64(2),
        (ctypes.c_int64 * 2)(inputs, outputs),
        (ctypes.c_int64 * 2)(1, inputs),
        ctypes.c_int64(0),
        ctypes.c_int32(library.aoti_torch_dtype_int8()),
        ctypes.c_int32(library.aoti_torch_device_type_cpu()),
        ctypes.c_int32(0),
        ctypes.byref(handle),
        ctypes.c_int32(library.aoti_torch_layout__mkldnn()),
        description,
        ctypes.c_int64(len(description)),
    )
    if failed or not handle.value:
        raise RuntimeError("torch cannot make a packed tensor over given memory")
    new_capsule = ctypes.pythonapi.PyCapsule_New
    new_capsule.restype, new_capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    tensor = torch._C._aoti.alloc_tensor_by_stealing_from_void_ptr(new_capsule(handle.value, None, None))
    return PackedWeight(tensor, memory)


@lru_cache(maxsize=1)
def can_restore() -> bool:
    """Whether this torch makes the same products from the bytes of a packed matrix."""
    if not CAN_PACK:
        return False
    weight = torch.arange(64 * 128).remainder(255).sub(127).to(torch.int8).view(64, 128)
    x, ones, zeros = (
        torch.arange(256, dtype=torch.uint8).view(2, 128),
        torch.ones(64),
        torch.zeros(64, dtype=torch.int64),
    )
    own = packed(weight)
    try:
        restored = from_bytes(*as_bytes(own), (64, 128))
    except (AttributeError, OSError, RuntimeError, TypeError):
        return False
    run = torch.ops.onednn.qlinear_pointwise
    both = [
        run(x, 1.0, 128, part.tensor, ones, zeros, None, 1.0, 0, torch.float32, "none", [], "")
        for part in (own, restored)
    ]
    return torch.equal(*both)


@lru_cache(maxsize=1)
def layout_key() -> str:
    """What packed bytes fit: a hash of torch's version and the processor's instructions."""
    instructions = sorted(name for name, has in torch.cpu.get_capabilities().items() if has is True)
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", "")
    return hashlib.sha256(repr((torch.__version__, instructions, limit)).encode()).hexdigest()[:16]


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    folder = Path(torch.__file__).parent / "lib"
    return ctypes.CDLL(str(folder / ("torch_cpu.dll" if os.name == "nt" else "libtorch_cpu.so")))
