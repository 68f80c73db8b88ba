"""The default checkpoint as the user's store has it, for tests of the real weights."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest
from users_store import USERS_STORE

from dgemma_model.checkpoint import catalogue, store
from dgemma_model.infill import Infiller

ALIKE = "def area(width, height):\n    return width * height\n\n\n"
ALIKE += "def perimeter(width, height):\n    \n\nprint(area(2, 3))\n"
"""A file with a function that begins like the one above it; the text is wanted at line 6, column 5."""


def default_weights() -> Path:
    """The default checkpoint's file. If it is missing, the test fails in CI and is skipped on other machines."""
    with patch.dict(os.environ, {"DGEMMA_CHECKPOINTS": str(USERS_STORE)}):
        there = store.stored(catalogue.DEFAULT)
    if there is None:
        reason = f"NOT TESTED, {catalogue.DEFAULT} is not on this machine: run `dgemma-lsp pull`"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return there.path


@cache
def default_infiller() -> Infiller:
    """The default checkpoint, loaded once for all tests of a process, which takes some 500 MB."""
    path = default_weights()
    with patch.dict(os.environ, {"DGEMMA_CHECKPOINTS": str(USERS_STORE)}):
        return Infiller.load(str(path), "cpu")
