"""A drafter's file: int8 weights of `network.state_drafter_served`, its shape, and which writer it belongs to.

Drafts never change what is written, so a drafter that cannot be used is left out with a message, and the writer works
on.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.checkpoint.mapped.packed_form import DRAFTER_STEM, PackedForm
from dgemma_model.checkpoint.weights import WRITTEN, write_tensors
from dgemma_model.network.int8 import Int8Weights, fastest_products
from dgemma_model.network.passes.native_drafter import can_draft
from dgemma_model.network.qwen2_served import ServedQwen2
from dgemma_model.network.state_drafter import DrafterConfig, StateDrafter
from dgemma_model.network.state_drafter_served import (
    IDS,
    DrafterTensors,
    ServedStateDrafter,
    product_shapes,
    served_layout,
    served_weights,
)

logger = logging.getLogger(__name__)

DRAFTER = "drafter.safetensors"
"""The file's name, in `SHIPPED` or beside the weights of the writer that it belongs to."""
SHIPPED = Path(__file__).parent
"""The folder of those that come with the package, each in a folder with its writer's name."""
CONFIG, WRITER = "config", "writer_sha256"
"""The notes in its header: the shape, in JSON, and the hash of the file that the writer was converted from."""


def write_drafter(path: Path, drafter: StateDrafter, ids: Tensor, writer_sha256: str) -> None:
    """Write a trained drafter for a writer; `ids` [N] are those of its vocabulary.

    Raises:
        OSError: the file cannot be written.
    """
    notes = {CONFIG: json.dumps(drafter.config.to_json()), WRITER: writer_sha256}
    write_tensors(path, served_layout(drafter.config), served_weights(drafter, ids).items(), notes)


def drafter_of(directory: Path, writer: ServedQwen2, writer_sha256: str) -> ServedStateDrafter | None:
    """The drafter in the directory of a writer's converted form, or else the one that comes with the package for this
    writer. None where there is none, or none that can be used, which is logged."""
    own = directory / DRAFTER
    try:
        path = own if own.is_file() else shipped_for(writer_sha256)
        return None if path is None else read_drafter(path, writer, writer_sha256, directory)
    except (CheckpointError, OSError) as error:
        logger.warning("%s; fills take more passes without it", error)
        return None


def shipped_for(writer_sha256: str) -> Path | None:
    """The drafter in the package for a writer that was converted from a file with this hash.

    Raises:
        CheckpointError: a manifest is damaged; the message is for users.
    """
    for manifest in SHIPPED.glob("*/manifest.json"):
        try:
            is_its = json.loads(manifest.read_text("utf-8"))["writer"]["sha256"] == writer_sha256
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{manifest} is damaged ({error}); install dgemma-lsp again") from error
        if is_its:
            return manifest.with_name(DRAFTER)
    return None


def read_drafter(
    path: Path, writer: ServedQwen2, writer_sha256: str, packed_in: Path | None = None
) -> ServedStateDrafter:
    """Read a drafter for a writer that was converted from a file with this hash. Its matrices are packed into a file of
    the folder `packed_in`, which all processes that serve the drafter share; without one, into memory.

    Raises:
        CheckpointError: it is damaged, belongs to another writer, or does not fit this one; the message is for users.
    """
    try:
        with safe_open(path, framework="pt") as file:
            notes: Mapping[str, str] = file.metadata() or {}
            config = DrafterConfig.from_json(json.loads(notes[CONFIG]))
            if notes[WRITER] != writer_sha256:
                raise CheckpointError(f"the drafter {path} belongs to another checkpoint")
            if problem := _misfit(config, writer):
                raise CheckpointError(f"the drafter {path} does not fit its checkpoint: {problem}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"the drafter {path} is damaged ({error})") from error
    _check(path, config, tensors, writer.vocab_size)
    weights = Int8Weights(DrafterTensors(tensors, writer), fastest_products(torch.device("cpu")))
    if packed_in is not None:
        source = hashlib.sha256(path.read_bytes()).hexdigest()
        form = PackedForm(packed_in, product_shapes(config), source, can_draft(config), DRAFTER_STEM)
        weights = form.weights(weights)
    return ServedStateDrafter(config, weights, writer)


def _misfit(config: DrafterConfig, writer: ServedQwen2) -> str | None:
    """In what the shape of a drafter and its writer differ."""
    its = writer.config
    for name in ("hidden_size", "num_key_value_heads", "head_dim", "rope_theta"):
        if getattr(config, name) != getattr(its, name):
            return f"{name} is {getattr(config, name)} and not {getattr(its, name)}"
    layers = its.num_hidden_layers
    if max((*config.keys_of, *config.states_before)) >= layers:
        return f"it reads more than {layers} layers"
    return None


def _check(path: Path, config: DrafterConfig, tensors: Mapping[str, Any], vocab_size: int) -> None:
    """Compare tensors with the shape."""
    layout = served_layout(config)
    found = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    for name, expected in layout.items():
        if found.get(name) != expected:
            dtype, shape = expected
            raise CheckpointError(f"the drafter {path} has no tensor {name!r} of {list(shape)} {WRITTEN[dtype]}")
    if any(tensor.is_floating_point() and not bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise CheckpointError(f"the drafter {path} holds NaN or infinite values")
    lowest, highest = tensors[IDS].aminmax()
    if not 0 <= int(lowest) <= int(highest) < vocab_size:
        raise CheckpointError(f"the drafter {path} is for another vocabulary")
