"""Fixtures that several test files share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import users_store  # noqa: F401 (sets the store of this process and of those it starts)
from wire import Wire


@pytest.fixture
def own_wire() -> Iterator[Wire]:
    """A server of the test's own, initialized, with its (fake) model loaded."""
    with Wire() as wire:
        wire.initialize()
        wire.wait_until_loaded()
        yield wire


@pytest.fixture(scope="module")
def shared_wire() -> Iterator[Wire]:
    with Wire() as wire:
        wire.initialize()
        wire.wait_until_loaded()
        yield wire


@pytest.fixture
def wire(shared_wire: Wire) -> Wire:
    """A server that the tests of a file share, so that each shows that it survived those before."""
    shared_wire.request("test/say", {"text": "value", "steps": 3, "held": False, "fails": False})
    shared_wire.drop_unread()
    return shared_wire


@pytest.fixture
def ordinary_folder() -> Iterator[Path]:
    """A folder that any user may enter; those of `tmp_path` are for one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
