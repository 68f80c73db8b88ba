"""A real Neovim as the client. 0.11 has no inline completion of its own: it is asked for from Lua."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pynvim
import pytest
from wire import FAKE_SERVER

NVIM = Path(sys.executable).with_name("nvim")

START = """
local command = ...
vim.bo.filetype = 'python'
local id = vim.lsp.start({ name = 'dgemma', cmd = command, root_dir = vim.fn.getcwd() })
assert(vim.wait(30000, function()
  local client = vim.lsp.get_client_by_id(id)
  return client ~= nil and client.initialized and vim.lsp.buf_is_attached(0, id)
end, 10), 'the server did not start')
return id
"""

SUGGEST = """
local id, kind = ...
local client = vim.lsp.get_client_by_id(id)
local params = vim.lsp.util.make_position_params(0, client.offset_encoding)
params.context = { triggerKind = kind }
-- The buffer's own number: for 0, Neovim 0.11 does not send the changes that it still holds back.
local buffer = vim.api.nvim_get_current_buf()
local reply = assert(client:request_sync('textDocument/inlineCompletion', params, 30000, buffer))
assert(reply.err == nil, vim.inspect(reply.err))
return reply.result
"""

ACCEPT = """
local id, item = ...
local client = vim.lsp.get_client_by_id(id)
local edit = { range = item.range, newText = item.insertText }
vim.lsp.util.apply_text_edits({ edit }, vim.api.nvim_get_current_buf(), client.offset_encoding)
"""

STOP = """
local id = ...
vim.lsp.get_client_by_id(id):stop()
return vim.wait(30000, function() return vim.lsp.get_client_by_id(id) == nil end, 10)
"""

INVOKED, AUTOMATIC = 1, 2


class Editor:
    """A Neovim with one Python buffer and a server attached to it."""

    def __init__(self, nvim: pynvim.Nvim, command: list[str], file: Path) -> None:
        self.nvim = nvim
        nvim.command(f"edit {file}")
        self.client_id = nvim.exec_lua(START, command)

    def type(self, keys: str) -> None:
        """Type, and return when Neovim has taken the last key."""
        self.nvim.input(f"{keys}<Cmd>call rpcnotify({self.nvim.channel_id}, 'typed')<CR>")
        while self.nvim.next_message()[1] != "typed":
            pass

    def lines(self) -> list[str]:
        return list(self.nvim.current.buffer[:])

    def suggest(self, kind: int) -> list[dict[str, object]]:
        items: list[dict[str, object]] = self.nvim.exec_lua(SUGGEST, self.client_id, kind)
        return items

    def accept(self, item: dict[str, object]) -> None:
        self.nvim.exec_lua(ACCEPT, self.client_id, item)

    def stop_server(self) -> bool:
        return bool(self.nvim.exec_lua(STOP, self.client_id))


@pytest.fixture
def nvim() -> Iterator[pynvim.Nvim]:
    arguments = [str(NVIM), "--embed", "--headless", "-u", "NONE", "-i", "NONE", "-n"]
    with pynvim.attach("child", argv=arguments) as nvim:
        yield nvim


@pytest.fixture
def editor(nvim: pynvim.Nvim, tmp_path: Path) -> Iterator[Editor]:
    editor = Editor(nvim, [sys.executable, "-P", str(FAKE_SERVER)], tmp_path / "module.py")
    yield editor
    assert editor.stop_server()


def test_a_suggestion_is_asked_for_and_inserted(editor: Editor) -> None:
    editor.type("iresult = <Esc>a")
    (item,) = editor.suggest(INVOKED)
    editor.accept(item)
    assert editor.lines() == ["result = value"]


def test_typing_along_beyond_characters_of_several_bytes(editor: Editor) -> None:
    editor.type("iéa😀 = 'ü'<CR>x = <Esc>a")
    (item,) = editor.suggest(INVOKED)
    assert item["insertText"] == "value"
    editor.type("va")
    (item,) = editor.suggest(AUTOMATIC)
    assert item["insertText"] == "lue"
    editor.accept(item)
    assert editor.lines() == ["éa😀 = 'ü'", "x = value"]


def test_what_neovim_does_to_a_buffer_reaches_the_server(editor: Editor) -> None:
    """Undo, joined lines, a macro over many lines: the server's text is the buffer's."""
    editor.type("ione = 1<CR>zwei = 'ä'<CR>three = 3<Esc>")
    editor.type("ggJ")
    editor.type("u")
    editor.type(":%s/ = / \u2028= /<CR>")
    editor.type("Go<C-v>x0cfour = 4<Esc>ggddp")
    uri = editor.nvim.exec_lua("return vim.uri_from_bufnr(0)")
    ask = "local id, uri = ... return vim.lsp.get_client_by_id(id):request_sync('test/text', { uri = uri }, 30000)"
    reply = editor.nvim.exec_lua(ask, editor.client_id, uri)
    assert uri.endswith("module.py")
    assert reply["result"]["text"] == "\n".join(editor.lines()) + "\n"
    assert "\f" in reply["result"]["text"] and "\u2028" in reply["result"]["text"]


def test_the_installed_server_fills_a_file(nvim: pynvim.Nvim, tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "dgemma_lsp"]
    editor = Editor(nvim, command, tmp_path / "module.py")
    editor.type("iclass A:<CR>    def __init__(self, name, price):<CR>    self.name = name<CR>self.price = <Esc>a")
    item, *_ = editor.suggest(INVOKED)
    assert str(item["insertText"]).strip()
    editor.accept(item)
    *before, last = [line.strip() for line in editor.lines()[:4]]
    assert before == ["class A:", "def __init__(self, name, price):", "self.name = name"]
    assert last.startswith("self.price = ") and len(last) > len("self.price = ")
    assert editor.stop_server()
