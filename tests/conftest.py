"""Fixtures that several test files share."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import users_store  # noqa: F401 (sets the store of this process and of those it starts)
from hypothesis import settings
from wire import Wire

from dgemma_model.source import bounded

settings.register_profile("untimed", deadline=None)  # a busy machine takes longer, and is not what is tested
settings.load_profile("untimed")
signal.signal(signal.SIGINT, signal.default_int_handler)  # what is started in the background ignores interrupts


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


@pytest.fixture
def parsed_anew(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The texts that are parsed without an earlier tree while the test runs."""
    texts, real = list[bytes](), bounded.parse

    def parse(grammar, data, old=None, *, limit_s=bounded.PARSE_S):  # type: ignore[no-untyped-def]
        if old is None:
            texts.append(data)
        return real(grammar, data, old, limit_s=limit_s)

    monkeypatch.setattr(bounded, "parse", parse)
    return texts
