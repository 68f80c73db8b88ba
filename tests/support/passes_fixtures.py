"""The compiled passes that this processor runs."""

from __future__ import annotations

import pytest

from dgemma_model.network.passes import native

COMPILED = tuple(
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name not in native.runnable() or native.opened(name) is None,
            reason=f"{name}: this processor does not have it, or passes.c was not compiled for it",
        ),
    )
    for name in native.INSTRUCTIONS
)
"""Their sets of instructions, as parameters of a test; the others are skipped, and the report says why."""
