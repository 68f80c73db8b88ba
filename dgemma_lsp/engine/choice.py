"""Which engine is used: named on the command line, in the settings or in the environment, in this order."""

from __future__ import annotations

import os
from typing import NamedTuple

from dgemma_lsp.engine.address import Address

VARIABLE = "DGEMMA_ENGINE"


class ChosenEngine(NamedTuple):
    """An engine that a user named."""

    address: Address
    why: str
    """Where it was named, in words for users."""


def chosen_engine(
    option: str | None, setting: str | None = None, *, checkpoint: str | None = None
) -> ChosenEngine | None:
    """The engine that the command line's `option`, the `setting` or the environment names; the first of these counts.
    None if nothing names one, or if the command line names a `checkpoint` instead.

    Raises:
        AddressError: the named address is not valid.
    """
    if option is None and checkpoint is not None:
        return None
    named = (
        (option, "named on the command line"),
        (setting, "named in the settings"),
        (os.environ.get(VARIABLE), f"named by {VARIABLE}"),
    )
    return next((ChosenEngine(Address.parse(text), why) for text, why in named if text), None)
