"""Fixtures that several test files share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from wire import Wire


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A server of the test's own, initialized, with its (fake) model loaded."""
    with Wire() as wire:
        wire.initialize()
        wire.wait_until_loaded()
        yield wire
