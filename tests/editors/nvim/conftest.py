"""Every Neovim that is at hand: PyPI's in this environment, and those that `make test-editors` fetches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from editor import SCRIPTED, Editor, Neovim, neovims


def name_of(neovim: Neovim) -> str:
    return f"{neovim.path.parent.name}-{'native' if neovim.native else 'own'}"


def pytest_report_header() -> str:
    return "neovim: " + (", ".join(map(name_of, neovims())) or "NONE")


@pytest.fixture(params=neovims(), ids=name_of)
def neovim(request: pytest.FixtureRequest) -> Neovim:
    chosen: Neovim = request.param
    return chosen


@pytest.fixture
def bare(neovim: Neovim, tmp_path: Path) -> Iterator[Editor]:
    """The plugin is on the runtime path; nothing has been called."""
    editor = Editor(neovim, tmp_path / "home")
    yield editor
    assert "Error" not in editor.messages(), editor.messages()
    editor.close()


@pytest.fixture
def editor(bare: Editor) -> Editor:
    """Set up with the scripted server, in an empty file, where every key writes itself."""
    bare.nvim.command("filetype plugin off | filetype indent off")
    bare.set_up(SCRIPTED)
    bare.open()
    return bare
