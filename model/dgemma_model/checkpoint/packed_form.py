"""A converted checkpoint's matrices in the layout of this machine's products, in a file beside the plain ones.

It is mapped: the network is ready at once, and all processes that serve it share one copy. Another version of torch or
another processor needs another layout, so the file's name holds a key of both, and stale ones are replaced.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dgemma_model.checkpoint.weights import write_tensors
from dgemma_model.network.packed import PackedWeight, as_bytes, can_restore, from_bytes, layout_key, packed
from dgemma_model.network.qwen2_weights import Layout

logger = logging.getLogger(__name__)

STEM = "packed-"
_END = ".weight"
_SOURCE = "source"


def packed_path(directory: Path) -> Path:
    """Where the file of this machine belongs."""
    return directory / f"{STEM}{layout_key()}.safetensors"


def packed_matrices(
    directory: Path, layout: Layout, tensors: Mapping[str, Tensor], source: str
) -> dict[str, PackedWeight]:
    """The matrices of a converted checkpoint, mapped from the file of this machine, which is written now if it is
    missing or damaged; none where that is not possible.

    `layout` and `tensors` are those of the plain matrices, and `source` names what they were converted from.
    `embed_tokens` is the tied head's.
    """
    if not can_restore():
        return {}
    names = [name.removesuffix(_END) for name, (dtype, _) in layout.items() if dtype == torch.int8]
    if "lm_head" in names:
        names.remove("embed_tokens")
    shapes = {name: layout[name + _END][1] for name in names}
    path = packed_path(directory)
    try:
        return _mapped(path, shapes, source)
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError):
        logger.info("packing the weights of %s for this machine", directory)
    try:
        _write(path, shapes, tensors, source)
        return _mapped(path, shapes, source)
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        logger.info("packed weights cannot be kept in %s: %s", directory, error)
        return {}


def _mapped(path: Path, shapes: Mapping[str, tuple[int, ...]], source: str) -> dict[str, PackedWeight]:
    found = {}
    with safe_open(path, framework="pt") as file:
        notes = file.metadata() or {}
        if notes.get(_SOURCE) != source:
            raise ValueError(f"{path.name} was made of something else")
        for name, (outputs, inputs) in shapes.items():
            found[name] = from_bytes(file.get_tensor(name), bytes.fromhex(notes[name]), (outputs, inputs))
    return found


def _write(path: Path, shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor], source: str) -> None:
    of_shape: dict[tuple[int, ...], tuple[Tensor, bytes]] = {}  # the layout depends on nothing else
    for name, shape in shapes.items():
        if shape not in of_shape:
            of_shape[shape] = as_bytes(packed(tensors[name + _END]))
    layout: Layout = {name: (torch.uint8, tuple(of_shape[shape][0].shape)) for name, shape in shapes.items()}
    notes = {name: of_shape[shape][1].hex() for name, shape in shapes.items()}
    notes[_SOURCE] = source
    of_shape.clear()
    memories = ((name, as_bytes(packed(tensors[name + _END]))[0]) for name in shapes)
    handle, partial = tempfile.mkstemp(prefix=".packed.", dir=path.parent)
    os.close(handle)
    try:
        write_tensors(Path(partial), layout, memories, notes)
        for stale in path.parent.glob(f"{STEM}*.safetensors"):
            with suppress(OSError):
                stale.unlink()
        Path(partial).replace(path)
    finally:
        Path(partial).unlink(missing_ok=True)
