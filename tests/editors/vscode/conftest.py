"""VS Code as `make test-editors` has fetched it; without it these tests fail, for nothing would have been tested."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from code_server import install_extensions, is_there
from vscode import Editor, Open


def pytest_report_header() -> str:
    return f"code-server: {'there' if is_there() else 'NONE'}"


@pytest.fixture(scope="session")
def extensions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packaged extension installed."""
    assert is_there(), "there is no VS Code to test: tests/editors/vscode/fetch_codeserver.sh .cache/code-server"
    home = tmp_path_factory.mktemp("installing")
    install_extensions(home / "extensions", home)
    return home / "extensions"


@pytest.fixture
def window(tmp_path: Path, extensions: Path) -> Iterator[Open]:
    """Opens windows."""
    opened: list[Editor] = []

    def open_window(command: list[str] | None = None, **more: Any) -> Editor:
        editor = Editor(tmp_path / f"home{len(opened)}", extensions, command, **more)
        opened.append(editor)
        return editor

    yield open_window
    for editor in opened:
        editor.close()
