"""Which engine is used: named on the command line, in the settings or in the environment, in this order."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import NamedTuple

from dgemma_lsp.engine.address import Address, is_on_loopback
from dgemma_lsp.settings import Settings

VARIABLE = "DGEMMA_ENGINE"
_ONLY_FROM = "is taken only from initializationOptions, the command line or the environment"


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


def kept_to_user(using: Settings, own: Settings) -> tuple[Settings, list[str]]:
    """Settings that may be a workspace's, without what only the user's `own` may say: an engine on another machine, and
    the file of its token; and a complaint for each."""
    complaints: list[str] = []
    if using.engine not in (None, own.engine) and not is_on_loopback(using.engine):
        using = replace(using, engine=own.engine)
        complaints.append(f'"engine" on another machine {_ONLY_FROM}')
    if using.engine_token_file not in (None, own.engine_token_file):
        using = replace(using, engine_token_file=own.engine_token_file)
        complaints.append(f'"engine_token_file" {_ONLY_FROM}')
    return using, complaints
