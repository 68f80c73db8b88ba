"""The int8 matrices of a converted checkpoint or of its drafter, packed for this machine's products, in a file.

The file is mapped: the network is ready at once, and all processes that serve it share one copy. If the compiled passes
can run, the layout is theirs. Otherwise it is oneDNN's, which differs by torch version and processor. The file's name
tells the layout; when a file is written, those of other layouts are deleted.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dgemma_model.checkpoint.store import hold_form
from dgemma_model.checkpoint.weights import write_tensors
from dgemma_model.network.int8 import Int8Weights
from dgemma_model.network.packed import PackedWeight, as_bytes, can_restore, from_bytes, layout_key, packed
from dgemma_model.network.passes import native
from dgemma_model.network.passes.blocks import Blocks, blocks, blocks_layout
from dgemma_model.network.qwen2_config import Qwen2Config
from dgemma_model.network.qwen2_weights import Layout

logger = logging.getLogger(__name__)

STEM, DRAFTER_STEM = "packed-", "drafter-packed-"
"""How the names of the files begin."""
_PARTIAL = ".packed."
_FAULTS = SafetensorError, OSError, KeyError, ValueError, RuntimeError
_END = ".weight"
_SOURCE = "source"
Shapes = Mapping[str, tuple[int, int]]
"""The [out, in] of matrices, by name."""


@dataclass(frozen=True, slots=True)
class PackedForm:
    """A file of packed matrices, and what it must hold."""

    directory: Path
    shapes: Shapes
    """Of the matrices that products use."""
    source: str
    """Identifies what the matrices were made from."""
    compiled: bool
    """Whether the compiled passes read them."""
    stem: str = STEM

    @property
    def path(self) -> Path:
        """The file for this machine's layout."""
        return self.directory / f"{self.stem}{'bands' if self.compiled else layout_key()}.safetensors"

    def weights(self, plain: Int8Weights) -> Int8Weights:
        """`plain` with their matrices mapped from the file.

        The file is written first if it is missing, damaged or of another source. If that fails, `plain` is returned.
        """
        if plain.products != torch.int8 or not (self.compiled or can_restore()):
            return plain
        with suppress(*_FAULTS):
            return self._mapped(plain)
        with hold_form(self.directory):
            with suppress(*_FAULTS):
                return self._mapped(plain)  # another process has written it meanwhile
            logger.info("packing weights in %s for this machine", self.directory)
            try:
                self._write(plain.tensors)
                return self._mapped(plain)
            except _FAULTS as error:
                logger.info("packed weights cannot be kept in %s: %s", self.directory, error)
                return plain

    def _mapped(self, plain: Int8Weights) -> Int8Weights:
        with safe_open(self.path, framework="pt") as file:
            notes = file.metadata() or {}
            if notes.get(_SOURCE) != self.source:
                raise ValueError(f"{self.path.name} was made of something else")
            if self.compiled:
                laid_out = {name: _blocks_of(file, name, shape) for name, shape in self.shapes.items()}
                return Int8Weights(plain.tensors, plain.products, blocks=laid_out)
            ready = {name: _packed_of(file, name, shape, notes[name]) for name, shape in self.shapes.items()}
            return Int8Weights(plain.tensors, plain.products, ready)

    def _write(self, tensors: Mapping[str, Tensor]) -> None:
        layout, notes, parts = (_blocks_to_write if self.compiled else _packed_to_write)(self.shapes, tensors)
        for left in self.directory.glob(f"{_PARTIAL}*"):  # by a process that was killed
            left.unlink(missing_ok=True)
        handle, partial = tempfile.mkstemp(prefix=_PARTIAL, dir=self.directory)
        os.close(handle)
        try:
            write_tensors(Path(partial), layout, parts, notes | {_SOURCE: self.source})
            for stale in self.directory.glob(f"{self.stem}*.safetensors"):
                with suppress(OSError):
                    stale.unlink()
            Path(partial).replace(self.path)
        finally:
            Path(partial).unlink(missing_ok=True)


def writer_form(directory: Path, config: Qwen2Config, layout: Layout, source: str) -> PackedForm:
    """The packed form of a converted checkpoint. `layout` has dtype and shape of each plain tensor, and `source`
    identifies the file that they were converted from. If there is an `lm_head`, `embed_tokens` is not packed: then no
    product uses it."""
    names = [name.removesuffix(_END) for name, (dtype, _) in layout.items() if dtype == torch.int8]
    if "lm_head" in names:
        names.remove("embed_tokens")
    shapes = {name: (layout[name + _END][1][0], layout[name + _END][1][1]) for name in names}
    return PackedForm(directory, shapes, source, native.can_run(config))


def _blocks_of(file: Any, name: str, shape: tuple[int, int]) -> Blocks:
    found = Blocks(file.get_tensor(f"{name}.bands"), file.get_tensor(f"{name}.sums"))
    for tensor, expected in zip((found.weights, found.sums), blocks_layout(*shape), strict=True):
        if (tensor.dtype, tuple(tensor.shape)) != expected:
            raise ValueError(f"{name} has another layout")
    return found


def _packed_of(file: Any, name: str, shape: tuple[int, int], note: str) -> PackedWeight:
    return from_bytes(file.get_tensor(name), bytes.fromhex(note), shape)


ToWrite = tuple[Layout, dict[str, str], Iterator[tuple[str, Tensor]]]
"""The layout of a file, its metadata, and its tensors, made one at a time."""


def _blocks_to_write(shapes: Shapes, tensors: Mapping[str, Tensor]) -> ToWrite:
    layout: Layout = {}
    for name, shape in shapes.items():
        layout[f"{name}.bands"], layout[f"{name}.sums"] = blocks_layout(*shape)

    def parts() -> Iterator[tuple[str, Tensor]]:
        for name in shapes:
            made = blocks(tensors[name + _END])
            yield f"{name}.bands", made.weights
            yield f"{name}.sums", made.sums

    return layout, {}, parts()


def _packed_to_write(shapes: Shapes, tensors: Mapping[str, Tensor]) -> ToWrite:
    of_shape: dict[tuple[int, int], tuple[Tensor, bytes]] = {}  # the layout depends on nothing else
    for name, shape in shapes.items():
        if shape not in of_shape:
            of_shape[shape] = as_bytes(packed(tensors[name + _END]))
    layout: Layout = {name: (torch.uint8, tuple(of_shape[shape][0].shape)) for name, shape in shapes.items()}
    notes = {name: of_shape[shape][1].hex() for name, shape in shapes.items()}
    return layout, notes, ((name, as_bytes(packed(tensors[name + _END]))[0]) for name in shapes)
