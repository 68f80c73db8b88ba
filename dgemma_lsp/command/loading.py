"""Loading a checkpoint for a command, or asking an engine, and errors that its user can put right."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dgemma_lsp.engine.access_token import token_for
from dgemma_lsp.engine.address import AddressError
from dgemma_lsp.engine.choice import ChosenEngine, chosen_engine
from dgemma_model.checkpoint.config import Quantize

if TYPE_CHECKING:
    from dgemma_lsp.engine.infiller import EngineInfiller
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


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """The options that name what a command fills with: a checkpoint on a device, or an engine."""

    checkpoint: str | None = None
    device: str | None = None
    quantize: Quantize | None = None
    engine: str | None = None
    engine_token_file: Path | None = None

    def chosen_engine(self) -> ChosenEngine | None:
        """The engine; None if a checkpoint fills.

        Raises:
            UserError: what is named is no engine's address, or there is a checkpoint beside it.
        """
        if self.engine is not None and self.checkpoint is not None:
            raise UserError("pass either --engine or --checkpoint: an engine has a model of its own")
        try:
            return chosen_engine(self.engine, checkpoint=self.checkpoint)
        except AddressError as error:
            raise UserError(str(error)) from error

    def load(self) -> Infiller | EngineInfiller:
        """Load the checkpoint, or ask the engine what it serves.

        Raises:
            UserError: it cannot be used.
        """
        if (chosen := self.chosen_engine()) is None:
            return load_infiller(self.checkpoint, self.device, self.quantize)
        from dgemma_lsp.engine.infiller import EngineInfiller

        try:
            infiller = EngineInfiller(chosen.address, token_for(chosen.address, self.engine_token_file))
        except AddressError as error:
            raise UserError(str(error)) from error
        if not (health := infiller.check_health()).well:
            raise UserError(health.message)
        return infiller
