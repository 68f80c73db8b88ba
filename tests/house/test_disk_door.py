"""Nothing in `dgemma_lsp` touches the file system but by `documents.disk`; what a command line writes and where a
checkpoint lies is said here by name."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "dgemma_lsp"

FORBIDDEN = frozenset(
    {
        *("read_bytes", "read_text", "write_bytes", "write_text", "exists", "lexists", "stat", "lstat", "is_file"),
        *("is_dir", "is_symlink", "is_mount", "is_fifo", "is_socket", "isfile", "isdir", "islink", "iterdir", "glob"),
        *("rglob", "walk", "scandir", "listdir", "realpath", "readlink", "samefile", "access", "getsize", "getmtime"),
        *("mkdir", "makedirs", "unlink", "rmdir", "rename", "touch", "chmod", "symlink_to", "hardlink_to", "owner"),
        *("mkstemp", "NamedTemporaryFile", "TemporaryDirectory", "copyfile", "copytree", "rmtree", "fdopen"),
        *("FileIO", "fromfile", "memmap", "mmap", "safe_open", "load_file", "ZipFile", "getline", "getlines", "iglob"),
        *("fwalk", "copy2", "mkdtemp", "TemporaryFile", "Popen", "check_output", "check_call", "system", "popen"),
    }
)
"""Methods and functions that look at files or change them, of whatever they are called, and that start what might."""
OPENERS = frozenset({"open", "resolve"})
"""Those that mean a file unless they are called of one of"""
NO_FILES = frozenset({"documents", "notebooks", "server"})

EXCEPTIONS = {
    ("documents/disk.py", "*"): "the door itself",
    ("server/transport.py", "open"): "the null device, in place of standard input",
    ("pipeline/proofreading.py", "walk"): "the nodes of a syntax tree",
    ("command/pull.py", "open"): "the null device, in place of standard output that nobody reads",
    ("command/check.py", "glob"): "weights of a checkpoint that the user names",
    ("command/check.py", "is_dir"): "weights of a checkpoint that the user names",
    ("command/check.py", "stat"): "weights of a checkpoint that the user names",
    ("command/check.py", "open"): "weights of a checkpoint that the user names",
    ("command/eval_run.py", "write_text"): "tables that the user wants",
    ("command/eval_run.py", "is_dir"): "where the user wants tables, and tasks that he names",
    ("command/eval_run.py", "glob"): "weights of a checkpoint that the user names",
}


def touches(source: str) -> Iterator[str]:
    """The names of all that `source` uses to look at files or to change them."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name == "open" or name in FORBIDDEN:
                yield name
            case ast.Attribute(attr=name) if name in FORBIDDEN:  # called, or handed on to be called
                yield name
            case ast.Call(func=ast.Attribute(attr=name, value=value)) if name in OPENERS:
                if ast.unparse(value).rpartition(".")[2] not in NO_FILES:
                    yield name
            case ast.ImportFrom(names=names):
                yield from (one.name for one in names if one.asname and (one.name == "open" or one.name in FORBIDDEN))


MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("module", MODULES)
def test_files_are_reached_by_the_one_door(module: str) -> None:
    found = touches((PACKAGE / module).read_text("utf-8"))
    assert [name for name in found if not {(module, name), (module, "*")} & set(EXCEPTIONS)] == []


def test_each_exception_is_needed() -> None:
    used = {(module, name) for module in MODULES for name in touches((PACKAGE / module).read_text("utf-8"))}
    assert {key for key in EXCEPTIONS if key[1] != "*" and key not in used} == set()


@pytest.mark.parametrize(
    "source",
    ["open('a')", "path.read_text()", "Path('a').open()", "os.open('a', 0)", "io.open('a')", "os.path.exists('a')",
     "(folder / 'a').exists()", "path.resolve()", "from os import scandir\nscandir('a')", "map(Path.read_text, paths)",
     "from os import scandir as listed\nlisted('a')", "from io import open as read\nread('a')", "io.FileIO('a')",
     "look = path.stat", "subprocess.check_output(['cat', 'a'])"],
)  # fmt: skip
def test_a_touch_is_found(source: str) -> None:
    assert list(touches(source))


@pytest.mark.parametrize(
    "source", ["self.documents.open(uri)", "server.open(uri)", "code_actions.resolve", "text.find('open')"]
)
def test_what_is_none_is_not(source: str) -> None:
    assert not list(touches(source))
