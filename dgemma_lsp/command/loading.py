"""Loading a checkpoint for a command, and errors that its user can put right."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dgemma_model.infill import Infiller


class UserError(Exception):
    """Something that the user can put right; the message says how."""


def load_infiller(checkpoint: str | None, device: str | None, *, cache_bytes: int | None = None) -> Infiller:
    """Load a checkpoint; see `Infiller.load`.

    Raises:
        UserError: it cannot be used.
    """
    from dgemma_model.checkpoint.errors import CheckpointError
    from dgemma_model.infill import Infiller

    try:
        return Infiller.load(checkpoint, device, cache_bytes=cache_bytes)
    except CheckpointError as error:
        raise UserError(str(error)) from error
