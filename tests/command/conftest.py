"""A file that the command fills."""

from __future__ import annotations

from pathlib import Path

import pytest

HOLED = (
    "class Point:\n    def __init__(self, x, y):\n        self.x = x\n        \n\n    def norm(self):\n        pass\n"
)
"""A file with a line that is still to be written: line 4, column 9."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "point.py"
    path.write_text(HOLED)
    return path
