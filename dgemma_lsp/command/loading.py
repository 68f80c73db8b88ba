"""Loading a checkpoint for a command, and errors that its user can put right."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from dgemma_model.checkpoint.config import Quantize

if TYPE_CHECKING:
    from dgemma_model.infill import Infiller


class UserError(Exception):
    """Something that the user can put right; the message says how."""


def load_infiller(
    checkpoint: str | None, device: str | None, quantize: Quantize | None = None, *, cache_bytes: int | None = None
) -> Infiller:
    """Load a checkpoint; see `Infiller.load`. What a large one needs is printed on standard error before that.

    Raises:
        UserError: it cannot be used.
    """
    from dgemma_model.checkpoint.errors import CheckpointError
    from dgemma_model.infill import Infiller

    needs, printed = logging.getLogger("dgemma_model.checkpoint.quantised.budget"), logging.StreamHandler()
    needs.setLevel(logging.INFO)
    needs.addHandler(printed)
    try:
        return Infiller.load(checkpoint, device, quantize=quantize, cache_bytes=cache_bytes)
    except CheckpointError as error:
        raise UserError(str(error)) from error
    finally:
        needs.removeHandler(printed)
