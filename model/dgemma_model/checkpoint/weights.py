"""Weights on disk: safetensors files, checked by their headers before the first weight is read, and memory."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dgemma_model.checkpoint import machine
from dgemma_model.checkpoint.errors import CheckpointError


def check_tensor(name: str, tensor: StoredTensor, expected: torch.Size | None) -> None:
    if expected is None:
        raise CheckpointError(f"unexpected tensor {name!r}: the weights are not of the architecture in config.json")
    if list(expected) != tensor.shape:
        raise CheckpointError(f"tensor {name!r} has shape {tensor.shape}, config.json asks for {list(expected)}")
    if tensor.dtype not in FLOATS:
        kind = _DTYPES.get(tensor.dtype, tensor.dtype)
        raise CheckpointError(
            f"tensor {name!r} is stored as {kind}; quantised checkpoints do not run here, take one in bfloat16"
        )


def placed(name: str, value: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A copy of `value` where it is to be; never memory that is mapped from the file, which may change."""
    placed = value.to(device=device, dtype=dtype, copy=True)
    check_finite(name, placed)
    return placed


def check_finite(name: str, value: Tensor) -> None:
    if not is_finite(value):
        raise CheckpointError(
            f"tensor {name!r} holds NaN or infinite values; the file is damaged, download or copy it again"
        )


def is_finite(value: Tensor) -> bool:
    """Whether no value is NaN or infinite; unlike `isfinite().all()`, this needs no memory."""
    lowest, highest = value.aminmax()  # NaN if one is
    return math.isfinite(lowest.item()) and math.isfinite(highest.item())


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be allocated on `device`; None where that cannot be known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return machine.free_memory() if device.type == "cpu" else None


FLOATS = ("BF16", "F16", "F32", "F64")


_DTYPES = {"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "I8": "int8", "U8": "uint8", "I32": "int32"}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """What the header of a safetensors file says of a tensor."""

    name: str
    path: Path
    shape: list[int]
    dtype: str

    @property
    def size(self) -> int:
        """Numbers in it."""
        return math.prod(self.shape)


def stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Every tensor of a checkpoint, in one file or in the shards that an index names; reads their headers only."""
    index = directory / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        try:
            names = sorted(set(map(str, json.loads(index.read_text("utf-8"))["weight_map"].values())))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(f"{index.name} cannot be read: {error}") from error
    stored: dict[str, StoredTensor] = {}
    for name in names:
        path = directory / name
        if not path.is_file():
            raise CheckpointError(f"{name} is missing in {directory}; download or copy the checkpoint again")
        with _opened(path) as file:
            for key in file.keys():  # noqa: SIM118 (not a mapping)
                header = file.get_slice(key)
                stored[key] = StoredTensor(key, path, header.get_shape(), str(header.get_dtype()))
    return stored


def tensor_values(tensors: dict[str, StoredTensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors themselves, file by file, one at a time."""
    for path in dict.fromkeys(tensor.path for tensor in tensors.values()):
        with _opened(path) as file:
            for name, tensor in tensors.items():
                if tensor.path == path:
                    yield name, file.get_tensor(tensor.name)


def tensor_blocks(tensor: StoredTensor, rows: int | None = None) -> Iterator[Tensor]:
    """A tensor, or some of its first dimension at a time. Each is mapped from the file alone, until nobody holds it."""
    step = rows or max(1, tensor.shape[0])
    for start in range(0, tensor.shape[0], step):
        with _opened(tensor.path) as file:
            yield file.get_slice(tensor.name)[start : start + step]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path.name} in {path.parent} is damaged ({error}); download or copy it again"
        ) from error


WRITTEN = {
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float32: "F32",
}
"""As the format spells them."""
PAGE = 4096
"""Bytes to which the data begin: tensors whose sizes are multiples of a cache line stay aligned to one."""


def write_tensors(
    path: Path,
    layout: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
    tensors: Iterable[tuple[str, Tensor]],
    notes: Mapping[str, str] | None = None,
) -> None:
    """Write a safetensors file one tensor at a time, so that memory never holds all of them.

    `layout` announces dtypes and shapes, and tensors come in any order; `notes` are texts in the file's header.

    Raises:
        OSError: the file cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": dict(notes)} if notes else {}
    end = 0
    for name, (dtype, shape) in sorted(layout.items(), key=lambda item: -item[1][0].itemsize):  # floats: aligned
        start, end = end, end + dtype.itemsize * math.prod(shape)
        header[name] = {"dtype": WRITTEN[dtype], "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-(len(encoded) + 8) % PAGE)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        begin = file.tell()
        for name, tensor in tensors:
            file.seek(begin + header[name]["data_offsets"][0])
            file.write(tensor.contiguous().view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())
