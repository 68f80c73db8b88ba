"""DiffusionGemma with rounded experts on disk: made once from a published directory, then mapped at each start.

A directory beside the source, or among the converted forms of files that are elsewhere: `weights.safetensors` holds the
tensors of `Network` with rounded experts, all others in bfloat16, and `converted.json` says of what they were made. It
is written beside its place, one matrix at a time, and moved there when it is whole.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dgemma_model.checkpoint import store
from dgemma_model.checkpoint.contract import Progress
from dgemma_model.checkpoint.converted import (
    ORIGIN,
    WEIGHTS,
    ConvertedError,
    MappedWeights,
    read_json,
    replacing,
)
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.checkpoint.quantised.source_hash import weights_hash
from dgemma_model.checkpoint.weights import StoredTensor, check_finite, tensor_blocks, write_tensors
from dgemma_model.network.diffusion_gemma import Network
from dgemma_model.network.quantised.experts import rounded_tensors
from dgemma_model.network.quantised.groupwise import Bits

logger = logging.getLogger(__name__)

Layout = dict[str, tuple[torch.dtype, tuple[int, ...]]]
Place = Callable[[str, Tensor], Tensor]

VERSION = 1
"""Of the form; forms of other versions are made anew."""


def form_of(
    network: Network,
    bits: Bits,
    stored: Mapping[str, StoredTensor],
    device: torch.device,
    place: Place,
    progress: Progress = lambda share: None,
) -> dict[str, Tensor]:
    """The tensors of `network`, which has experts of so many bits and no weights yet: what `place` makes of each one
    that is mapped from the form on disk.

    `stored` are the tensors of the published directory by the names of a network with plain experts, checked against
    it. The form is made now if it is missing, stale or damaged; experts are rounded on `device`.

    Raises:
        CheckpointError: a file cannot be read, the weights are not finite, or the form cannot be written.
    """
    files = {tensor.path for tensor in stored.values()}
    layout = {
        name: (tensor.dtype if tensor.dtype == torch.uint8 else torch.bfloat16, tuple(tensor.shape))
        for name, tensor in network.state_dict().items()
    }
    try:
        digest = weights_hash(files)
    except OSError as error:
        raise CheckpointError(f"the weights cannot be read: {error}") from error
    folder = store.converted_folder(next(iter(files)), digest) / f"experts-{bits}bit"
    read = partial(_read, folder, layout, digest, place)
    with suppress(ConvertedError):
        return read()
    try:
        with store.hold_form(folder):
            try:
                return read()  # another process has made it meanwhile
            except ConvertedError as error:
                if folder.exists():
                    logger.warning("%s; it is made anew", error)
            _write(folder, layout, stored, bits, digest, device, progress)
        return read()
    except ConvertedError as error:
        raise CheckpointError(str(error)) from error


def _read(folder: Path, layout: Layout, digest: str, place: Place) -> dict[str, Tensor]:
    """The tensors of a form, placed one by one.

    Raises:
        ConvertedError: it is missing, damaged, or of something else.
    """
    origin = read_json(folder / ORIGIN)
    if origin.get("version") != VERSION:
        raise ConvertedError(f"{folder} was converted by another version of this program")
    if origin.get("sha256") != digest:
        raise ConvertedError(f"{folder} was converted from other files")
    return {name: place(name, value) for name, value in MappedWeights(folder / WEIGHTS, layout).items()}


def _write(
    folder: Path,
    layout: Layout,
    stored: Mapping[str, StoredTensor],
    bits: Bits,
    digest: str,
    device: torch.device,
    progress: Progress,
) -> None:
    needed = sum(dtype.itemsize * torch.Size(shape).numel() for dtype, shape in layout.values())
    with replacing(folder) as new:
        free = shutil.disk_usage(new).free
        if free < needed:
            raise CheckpointError(
                f"the experts in {bits} bits are kept on disk, and {folder.parent} has {store.in_words(free)} free for "
                f"{store.in_words(needed)}; make room there, or set DGEMMA_CHECKPOINTS to a folder that has it"
            )
        source = next(iter(stored.values())).path.parent
        write_tensors(new / WEIGHTS, layout, _tensors(stored, bits, device, progress))
        origin = {"version": VERSION, "bits": bits, "source": source.name, "sha256": digest}
        (new / ORIGIN).write_text(json.dumps(origin, indent=1) + "\n", "utf-8")


def _tensors(
    stored: Mapping[str, StoredTensor], bits: Bits, device: torch.device, progress: Progress
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the form, file by file."""
    whole, done = sum(tensor.size for tensor in stored.values()), 0
    for name, tensor in sorted(stored.items(), key=lambda item: item[1].path):
        layer, is_expert, parameter = name.partition(".experts.")
        if is_expert:
            blocks = _finite(tensor.name, (block.to(device) for block in tensor_blocks(tensor, 1)))
            for part, value in rounded_tensors(parameter, blocks, tensor.shape[0], bits):
                yield f"{layer}{is_expert}{part}", value
        else:
            (value,) = tensor_blocks(tensor)
            check_finite(tensor.name, value)
            yield name, value.to(torch.bfloat16)
        done += tensor.size
        progress(done / whole)


def _finite(name: str, blocks: Iterator[Tensor]) -> Iterator[Tensor]:
    for block in blocks:
        check_finite(name, block)
        yield block
