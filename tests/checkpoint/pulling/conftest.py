"""A world of its own for each pull: a tiny checkpoint, and a hub that publishes it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import FakeHub, fake_hub
from tiny_checkpoints import REPOSITORY, TinyWorld


@pytest.fixture
def world(tmp_path: Path) -> TinyWorld:
    return TinyWorld.build(tmp_path)


@pytest.fixture
def hub(world: TinyWorld) -> Iterator[FakeHub]:
    with fake_hub(REPOSITORY, world.folder / "published") as running:
        yield running
