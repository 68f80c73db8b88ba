"""Every Neovim that is at hand: PyPI's in this environment, and those that `make test-editors` fetches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from editor import ROOT, SCRIPTED, Editor, Neovim

FETCHED = ROOT / ".cache" / "neovim"


def neovims() -> list[Neovim]:
    own = Path(sys.executable).with_name("nvim")
    found = [Neovim(own, native=False)] if own.exists() else []
    for path in sorted(FETCHED.glob("*/nvim")):
        found.append(Neovim(path, native=False))
        if (path.parent / "root/usr/share/nvim/runtime/lua/vim/lsp/inline_completion.lua").exists():
            found.append(Neovim(path, native=True))
    return found


def name_of(neovim: Neovim) -> str:
    return f"{neovim.path.parent.name}-{'native' if neovim.native else 'own'}"


def pytest_report_header() -> str:
    return "neovim: " + (", ".join(map(name_of, neovims())) or "none")


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
