"""The server is missing, ends, hangs, is renamed under; what the user hears of it."""

from __future__ import annotations

import os
import signal
import stat
import sys
from pathlib import Path

import pytest
from editor import FAKE, SCRIPTED, Editor

from dgemma_model.source import languages

pytestmark = pytest.mark.editors


def process_ids(editor: Editor) -> list[int]:
    """Of the servers: none for a moment while one takes the place of another."""
    return [int(child) for child in editor.lua("return vim.api.nvim_get_proc_children(vim.fn.getpid())")]


def process_id(editor: Editor) -> int:
    """Of the one server."""
    (child,) = process_ids(editor)
    return child


def script(path: Path, text: str) -> list[str]:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return [str(path)]


def test_nothing_happens_without_setup(bare: Editor) -> None:
    bare.nvim.command(f"edit {bare.home}/module.py")
    bare.keys("ix = <Tab>1<Esc>")
    assert bare.lua("return #vim.lsp.get_clients()") == 0
    assert bare.lua("return vim.fn.exists('#dgemma')") == 0
    loaded = (
        "return vim.tbl_filter(function(name) return vim.startswith(name, 'dgemma') end, vim.tbl_keys(package.loaded))"
    )
    assert bare.lua(loaded) == []
    assert bare.nvim.funcs.exists(":Dgemma") == 2


def test_neovims_own_way_to_enable_it(bare: Editor) -> None:
    if not bare.lua("return vim.lsp.config ~= nil"):
        pytest.skip("Neovim 0.10 has no vim.lsp.config")
    bare.lua("vim.lsp.config('dgemma', { cmd = ... }); vim.lsp.enable('dgemma')", SCRIPTED)
    bare.open()
    assert bare.lua("return vim.lsp.get_clients()[1].config.filetypes") == list(languages.IDENTIFIERS)
    assert bare.lua("return vim.fn.exists('#dgemma')") == 0


def test_one_server_for_all_files(bare: Editor) -> None:
    bare.set_up(SCRIPTED)
    bare.open(name="one.py")
    project = bare.home / "project"
    (project / ".git").mkdir(parents=True)
    bare.open(name="project/two.py")
    bare.open(name="three.py")
    assert bare.lua("return #vim.lsp.get_clients()") == 1
    bare.nvim.command(f"edit {bare.home}/notes.txt")
    assert bare.lua("return #vim.lsp.get_clients({ bufnr = 0 })") == 0
    assert bare.lua("return require('dgemma').statusline()") == ""


@pytest.mark.parametrize("name", ["module.go", "lib.rs", "page.tsx", "query.sql", "script.sh", "kernel.cu"])
def test_it_is_started_for_every_language_of_the_table(bare: Editor, name: str) -> None:
    bare.set_up(FAKE)
    bare.nvim.command("filetype on")
    bare.open(name=name)
    row = languages.row_of(bare.lua("return vim.bo.filetype"))
    assert row is not None and Path(name).suffix in row.extensions


def test_file_types_that_the_user_takes_out(bare: Editor) -> None:
    bare.set_up(SCRIPTED, disabled_filetypes=["json", "go"])
    bare.open(name="module.py")
    for name in ("data.json", "module.go"):
        bare.nvim.command(f"edit {bare.home / name}")
        assert bare.lua("return #vim.lsp.get_clients({ bufnr = 0, _uninitialized = true })") == 0
        assert bare.lua("return require('dgemma').statusline()") == ""
        assert "not for this kind of file" in bare.nvim.command_output("Dgemma why")
    bare.open(name="script.rb")


def test_the_server_is_not_started_in_the_project(bare: Editor) -> None:
    bare.set_up(SCRIPTED)
    bare.nvim.command(f"cd {bare.home}")
    bare.home.joinpath("project").mkdir()
    bare.nvim.command("cd project")
    bare.open()
    assert Path(f"/proc/{process_id(bare)}/cwd").resolve() == bare.home


def test_the_server_is_missing(bare: Editor) -> None:
    bare.set_up(["no-such-server"])
    for name in ("one.py", "two.py"):
        bare.nvim.command(f"edit {bare.home / name}")
        bare.keys("ix = <Tab>1<Esc>")
    bare.wait(bare.notices, "it is said")
    bare.type("oy = 1")
    (notice,) = bare.notices()
    assert "'no-such-server' was not found; install the server" in notice
    assert bare.lua("return require('dgemma').statusline()").startswith("dgemma: not running: 'no-such-server'")
    assert bare.lines()[1] == "y = 1"


def test_installed_later(bare: Editor) -> None:
    path = bare.home / "server"
    bare.set_up([str(path)])
    bare.nvim.command(f"edit {bare.home}/module.py")
    bare.wait(bare.notices, "it is said")
    script(path, f"#!/bin/sh\nexec '{SCRIPTED[0]}' {' '.join(SCRIPTED[1:])}\n")
    bare.nvim.command("Dgemma restart")
    bare.wait_attached()
    assert bare.lua("return require('dgemma').statusline()") == "dgemma: ready"


@pytest.mark.parametrize("text", ["#!/no/such/python\n", f"#!{sys.executable}\nimport no_such_module\n"])
def test_the_server_does_not_start(bare: Editor, text: str) -> None:
    """A wrong Python, for instance."""
    bare.set_up(script(bare.home / "server", text))
    bare.nvim.command(f"edit {bare.home}/module.py")
    bare.type("ix = 1")

    def said() -> list[str]:
        return [notice for notice in bare.notices() if "server check`, then :Dgemma restart" in notice]

    bare.type("\ny = 2")
    bare.keys("<Esc>")
    bare.wait(said, "what to do is said")
    assert bare.lines() == ["x = 1", "y = 2"]
    assert len(said()) == 1


def test_a_server_that_was_killed_comes_back(editor: Editor) -> None:
    editor.plan({"text": "one"})
    editor.keys("ix = ")
    editor.wait_ghost("one")
    os.kill(process_id(editor), signal.SIGKILL)
    editor.wait(lambda: any("it is started again in 1 s" in notice for notice in editor.notices()), "it is said")
    assert editor.ghost() == []
    editor.type("12")
    editor.wait_attached()
    editor.plan({"text": "two"})
    editor.type("3")
    editor.wait_ghost("two")
    editor.keys("<Tab>")
    assert editor.lines() == ["x = 123two"]


def test_a_message_that_does_not_fit_waits_for_the_end_of_typing(bare: Editor) -> None:
    """Neovim would ask for a key otherwise, and take the next one typed."""
    bare.nvim.command("filetype plugin off | filetype indent off")
    bare.nvim.command("set columns=40")
    bare.nvim.command(f"edit {bare.home}/module.py")
    bare.type("ix")
    bare.set_up(["no-such-server"])
    bare.type(" = 1")
    assert bare.notices() == []
    bare.keys("<Esc>")
    bare.wait(bare.notices, "it is said")
    assert bare.lines() == ["x = 1"]


def test_a_server_that_keeps_ending_is_given_up(editor: Editor) -> None:
    editor.lua("require('dgemma.server').backoff_ms = { 10, 20 }")
    for _ in range(3):
        editor.wait_attached()
        os.kill(process_id(editor), signal.SIGKILL)
        editor.wait(lambda: editor.lua("return #vim.lsp.get_clients()") == 0, "its end is noticed")
    editor.wait(lambda: any("keeps ending (signal 9)" in notice for notice in editor.notices()), "it is given up")
    assert "not running: the server keeps ending" in editor.lua("return require('dgemma').statusline()")
    editor.nvim.command("Dgemma restart")
    editor.wait_attached()


def test_a_server_that_was_stopped_stays_so(editor: Editor) -> None:
    editor.lua("require('dgemma.server').backoff_ms = { 1 }")
    editor.lua("require('dgemma.server').call(vim.lsp.get_clients()[1], 'stop')")
    editor.wait(lambda: editor.lua("return #vim.lsp.get_clients()") == 0, "it has ended")
    editor.lua("vim.wait(200)")
    assert editor.lua("return #vim.lsp.get_clients()") == 0
    assert editor.lua("return require('dgemma').statusline()") == "dgemma: not running"


def test_restart(editor: Editor) -> None:
    before = process_ids(editor)
    editor.nvim.command("Dgemma restart")
    editor.wait(lambda: len(process_ids(editor)) == 1 and process_ids(editor) != before, "another")
    editor.wait_attached()
    assert editor.notices() == []


def test_a_server_that_hangs_at_start(bare: Editor) -> None:
    bare.nvim.command("filetype plugin off | filetype indent off")
    bare.lua("require('dgemma.server').patience_ms = 100")
    bare.set_up(script(bare.home / "server", "#!/bin/sh\nexec sleep 1000\n"))
    bare.nvim.command(f"edit {bare.home}/module.py")
    bare.type("ix = (1)\ny = 2")
    bare.keys("<Tab>")
    assert bare.lines() == ["x = (1)", "y = 2\t"]
    assert bare.lua("return require('dgemma').statusline()") == "dgemma: starting"
    bare.wait(bare.notices, "it is said")
    (notice,) = bare.notices()
    assert "has not answered" in notice and ":Dgemma restart" in notice


def test_a_file_is_renamed_under_a_request(editor: Editor) -> None:
    editor.plan({"text": "one"}, held=True)
    editor.keys("ix = ")
    editor.wait(lambda: editor.server("waiting") == 1, "the request arrived")
    editor.keys(f"<C-o>:file {editor.home}/other.py<CR>")
    editor.plan({"text": "two"})
    editor.keys(" ")
    editor.wait_ghost("two")
    editor.keys("<Tab>")
    assert editor.lines() == ["x =  two"]
    methods = [method for method in editor.server("received")["methods"] if method.startswith("textDocument/did")]
    assert "textDocument/didClose" in methods
    assert methods.count("textDocument/didOpen") == 2


def test_a_file_is_deleted_under_a_request(editor: Editor) -> None:
    file = Path(editor.nvim.current.buffer.name)
    editor.plan({"text": "one"}, held=True)
    editor.keys("ix = ")
    editor.wait(lambda: editor.server("waiting") == 1, "the request arrived")
    file.unlink()
    editor.server("release")
    editor.wait_ghost("one")
    editor.keys("<Tab>")
    assert editor.lines() == ["x = one"]


def test_a_buffer_is_wiped_out_under_a_request(editor: Editor) -> None:
    editor.plan({"text": "one"}, held=True)
    editor.keys("ix = ")
    editor.wait(lambda: editor.server("waiting") == 1, "the request arrived")
    editor.keys("<Esc>")
    editor.open(name="other.py")
    editor.nvim.command("bwipeout! 1")
    editor.server("release")
    editor.plan({"text": "two"})
    editor.keys("iy = ")
    editor.wait_ghost("two")
    editor.keys("<Tab>")
    assert editor.lines() == ["y = two"]


def test_loading_is_shown(bare: Editor) -> None:
    bare.set_up(["env", "FAKE_LOAD=wait", *FAKE])
    bare.open()
    line = "return require('dgemma').statusline()"
    said: list[str] = []

    def says(text: str) -> bool:
        said.append(bare.lua(line))
        return said[-1] == text

    bare.wait(lambda: says("dgemma: loading the model 25%"), "it is loading")
    assert "dgemma: ready" not in said
    bare.server("release")
    bare.wait(lambda: bare.lua(line) == "dgemma: ready", "it is ready")
    bare.nvim.command("Dgemma pause")
    assert bare.lua(line) == "dgemma: paused"


def test_a_model_that_cannot_be_loaded(bare: Editor) -> None:
    bare.set_up(["env", "FAKE_LOAD=fail", *FAKE])
    bare.open()
    line = "return require('dgemma').statusline()"
    bare.wait(lambda: bare.lua(line) == "dgemma: the model could not be loaded", "it is said")
