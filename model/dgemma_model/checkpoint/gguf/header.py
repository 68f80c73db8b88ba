"""Parse the header of a `.gguf` file: its metadata, and where which tensor is.

The reader of the package `gguf` makes an array object of every token, which takes seconds and half a gigabyte, and
follows a damaged count for ever; this one checks every length against the file's. The package, which brings YAML and
more, is imported where tensors are read: a server that has a converted form never does. Layout: the GGUF specification
(github.com/ggml-org/ggml, docs/gguf.md), versions 2 and 3, little-endian.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gguf.constants import GGMLQuantizationType

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32
"""Of the tensors' data, in bytes, where the metadata do not say another one."""
MOST_DIMENSIONS = 4
BLOCK_ELEMENTS = 1 << 23
"""Elements that are dequantised together, so that temporary arrays are small compared with the result."""

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


class GgufError(ValueError):
    """A `.gguf` file that cannot be used; the message is for users and says what to do."""


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor of the file, still as it is stored."""

    name: str
    shape: tuple[int, ...]
    """Slowest dimension first, as in torch; the file lists them in the opposite order."""
    kind: GGMLQuantizationType
    data: NDArray[np.uint8]
    """[rows, bytes of a row], a view of the mapped file."""

    def dequantised(self, rows: slice | NDArray[np.int64] = slice(None)) -> NDArray[np.float32]:
        """Some rows of it, by slice or numbers, in float32, [rows, length of a row]; a vector is one row.

        Raises:
            GgufError: the type cannot be read, or a value is not finite.
        """
        from gguf.quants import dequantize

        stored = self.data[rows]
        out = np.empty((len(stored), self.shape[-1]), dtype=np.float32)
        step = max(1, BLOCK_ELEMENTS // self.shape[-1])
        for start in range(0, len(stored), step):
            try:
                out[start : start + step] = dequantize(stored[start : start + step], self.kind)
            except NotImplementedError as error:
                raise GgufError(
                    f"tensor {self.name!r} is stored as {self.kind.name}, which cannot be read here; take a file in "
                    "Q4_K_M, Q5_K_M, Q6_K, Q8_0, F16 or BF16"
                ) from error
            if not np.isfinite(out[start : start + step]).all():
                raise GgufError(
                    f"tensor {self.name!r} holds NaN or infinite values; the file is damaged, download or copy it again"
                )
        return out


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a file says before its weights."""

    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]


def read_header(path: Path) -> GgufHeader:
    """Map a file and parse its header.

    Raises:
        GgufError: the file is missing, of another format, or shorter than its header says.
    """
    with _parsed(path) as parser:
        return parser.header()


def architecture(path: Path) -> str | None:
    """The kind of model that a file says it holds, which is near its beginning: a fraction of the header is read.

    Raises:
        GgufError: as `read_header`.
    """
    with _parsed(path) as parser:
        return parser.architecture()


@contextmanager
def _parsed(path: Path) -> Iterator[_Parser]:
    """A parser at the beginning of a file. Its errors name the file."""
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise GgufError(f"{path.name} is not a GGUF file")
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise GgufError(f"{path.name} cannot be read: {error}") from error
    try:
        yield _Parser(mapped)
    except GgufError as error:
        raise GgufError(f"{path.name}: {error}") from error
    except (struct.error, UnicodeDecodeError, OverflowError, RecursionError) as error:
        raise GgufError(f"{path.name} is damaged or cut short ({error}); download or copy it again") from error


class _Parser:
    """Reads forward through the header; every read beyond the file's end raises."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = len(MAGIC)

    def header(self) -> GgufHeader:
        tensors, entries = self._counts()
        metadata = {self._string(): self._value(self._scalar("I")) for _ in range(entries)}
        infos = [self._info() for _ in range(tensors)]
        alignment = metadata.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1:
            raise GgufError(f"cannot be aligned to {alignment}")
        start = -(-self._at // alignment) * alignment
        return GgufHeader(metadata, {info[0]: self._tensor(start, *info) for info in infos})

    def architecture(self) -> str | None:
        _, entries = self._counts()
        for _ in range(entries):
            name, value = self._string(), self._value(self._scalar("I"))
            if name == "general.architecture":
                return str(value)
        return None

    def _counts(self) -> tuple[int, int]:
        """Numbers of tensors and of metadata."""
        version = self._scalar("I")
        if version not in VERSIONS:
            raise GgufError(f"is GGUF of version {version}; versions 2 and 3 can be read, in little-endian order")
        return self._scalar("Q"), self._scalar("Q")

    def _info(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape, type and offset of a tensor."""
        name, count = self._string(), self._scalar("I")
        if not 1 <= count <= MOST_DIMENSIONS:
            raise GgufError(f"tensor {name!r} has {count} dimensions; the file is damaged, download or copy it again")
        shape = tuple(self._scalar("Q") for _ in range(count))[::-1]
        return name, shape, self._scalar("I"), self._scalar("Q")

    def _tensor(self, start: int, name: str, shape: tuple[int, ...], kind: int, offset: int) -> GgufTensor:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        try:
            stored_as = GGMLQuantizationType(kind)
        except ValueError as error:
            raise GgufError(f"tensor {name!r} is stored as the unknown type {kind}") from error
        block, block_bytes = GGML_QUANT_SIZES[stored_as]
        rows, row = int(np.prod(shape[:-1], dtype=object)), shape[-1]
        if not row or row % block:
            raise GgufError(f"tensor {name!r} has rows of {row} values, which {stored_as.name} cannot store")
        row_bytes = row // block * block_bytes
        if start + offset + rows * row_bytes > len(self._data):
            raise GgufError(
                f"is cut short: tensor {name!r} ends beyond its {len(self._data):,} bytes; download or copy it again"
            )
        data = np.frombuffer(self._data, np.uint8, rows * row_bytes, start + offset).reshape(rows, row_bytes)
        return GgufTensor(name, shape, stored_as, data)

    def _value(self, kind: int) -> Any:
        if kind in _SCALARS:
            return self._scalar(_SCALARS[kind])
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            raise GgufError(f"has metadata of the unknown type {kind}; the file is damaged, download or copy it again")
        inner, count = self._scalar("I"), self._scalar("Q")
        if inner in _SCALARS:
            values = struct.unpack(f"<{count}{_SCALARS[inner]}", self._bytes(count * struct.calcsize(_SCALARS[inner])))
            return list(values)
        return [self._value(inner) for _ in range(count)]

    def _string(self) -> str:
        return self._bytes(self._scalar("Q")).decode("utf-8")

    def _scalar(self, form: str) -> Any:
        return struct.unpack(f"<{form}", self._bytes(struct.calcsize(form)))[0]

    def _bytes(self, count: int) -> bytes:
        end = self._at + count
        if end > len(self._data):
            raise GgufError(f"is cut short: its header ends beyond its {len(self._data):,} bytes; download or copy it "
                            "again")  # fmt: skip
        self._at, start = end, self._at
        return self._data[start:end]
