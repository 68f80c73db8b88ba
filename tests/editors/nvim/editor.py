"""A real Neovim with the plugin folder on its runtime path, a screen attached, and whatever server a test wants."""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pynvim

ROOT = Path(__file__).parents[3]
PLUGIN = ROOT / "editors" / "nvim"
SCRIPTED = [sys.executable, "-P", str(Path(__file__).with_name("scripted_server.py"))]
FAKE = [sys.executable, "-P", str(ROOT / "tests" / "support" / "fake_server.py")]
REAL = [sys.executable, "-P", "-m", "dgemma_lsp"]
TIMEOUT_S = 30
COLUMNS, LINES = 160, 24

GHOST = """
local found = {}
for _, name in ipairs({ 'dgemma', 'nvim.lsp.inline_completion' }) do
  local namespace = vim.api.nvim_get_namespaces()[name]
  for _, mark in ipairs(namespace and vim.api.nvim_buf_get_extmarks(0, namespace, 0, -1, { details = true }) or {}) do
    local lines = { mark[4].virt_text, unpack(mark[4].virt_lines or {}) }
    for index, chunks in ipairs(lines) do
      lines[index] = table.concat(vim.tbl_map(function(chunk) return chunk[1] end, chunks))
    end
    table.insert(found, { mark[2], mark[3], table.concat(lines, '\\n') })
  end
end
return found
"""

ASK_SERVER = """
local method, params = ...
local client = vim.lsp.get_clients({ name = 'dgemma' })[1]
local call = vim.fn.has('nvim-0.11') == 1 and function(...) return client:request_sync(...) end or client.request_sync
local reply = assert(call(method, params, 30000, vim.api.nvim_get_current_buf()))
assert(reply.err == nil, vim.inspect(reply.err))
return reply.result
"""

NOTICE = """
_G.notices = {}
vim.notify = function(message, level) table.insert(_G.notices, message) end
"""


class Neovim(NamedTuple):
    """Which Neovim, and who draws."""

    path: Path
    native: bool


FETCHED = ROOT / ".cache" / "neovim"


def neovims() -> list[Neovim]:
    """PyPI's in this environment, and what `make test-editors` has fetched."""
    own = Path(sys.executable).with_name("nvim")
    found = [Neovim(own, native=False)] if own.exists() else []
    for path in sorted(FETCHED.glob("*/nvim")):
        found.append(Neovim(path, native=False))
        if (path.parent / "root/usr/share/nvim/runtime/lua/vim/lsp/inline_completion.lua").exists():
            found.append(Neovim(path, native=True))
    return found


class Editor:
    """One Neovim. Waiting is by looking again, never by the clock."""

    def __init__(self, neovim: Neovim, home: Path) -> None:
        self.neovim = neovim
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        environment = [f"{name}={home / folder}" for name, folder in XDG.items()]
        arguments = ["env", f"HOME={home}", *environment, "NVIM_APPNAME=nvim", str(neovim.path)]
        self.nvim = pynvim.attach("child", argv=[*arguments, "--embed", "--clean", "-n", "-i", "NONE"])
        self.nvim.ui_attach(COLUMNS, LINES, rgb=True)
        self.nvim.command(f"set rtp^={PLUGIN} noswapfile hidden | runtime! plugin/dgemma.lua")
        self.lua(NOTICE)

    def close(self) -> None:
        self.nvim.command("qall!", async_=True)
        self.nvim.close()

    def lua(self, code: str, *arguments: Any) -> Any:
        return self.nvim.exec_lua(code, *arguments)

    def set_up(self, command: list[str], **options: Any) -> None:
        """Call the plugin's `setup`."""
        options = {"cmd": command, "native": self.neovim.native} | options
        self.lua("require('dgemma').setup(...)", options)

    def open(self, text: str = "", name: str = "module.py") -> Path:
        """Open a file, and wait for the server to be attached to it."""
        file = self.home / name
        file.write_bytes(text.encode())
        self.nvim.command(f"edit {file}")
        self.wait_attached()
        return file

    def wait_attached(self) -> None:
        attached = "local client = vim.lsp.get_clients({ name = 'dgemma', bufnr = 0 })[1] "
        self.wait(lambda: self.lua(attached + "return client ~= nil and client.initialized"), "the server is attached")

    def wait(self, condition: Any, what: str, timeout_s: float = TIMEOUT_S) -> Any:
        """Look until the condition holds; its value."""
        deadline = time.monotonic() + timeout_s
        for pause in itertools.chain([0.0, 0.01, 0.02], itertools.repeat(0.04)):
            if value := condition():
                return value
            assert time.monotonic() < deadline, f"not so in {timeout_s} s: {what}\n{self.report()}"
            time.sleep(pause)

    def report(self) -> str:
        shown = "\n".join(self.screen())
        return f"{shown}\nmode {self.nvim.api.get_mode()}, ghost {self.ghost()}, notices {self.lua('return notices')}"

    def keys(self, keys: str) -> None:
        """Type keys in one go, and return when Neovim has taken the last."""
        self.nvim.input(f"{keys}<Cmd>call rpcnotify({self.nvim.channel_id}, 'typed')<CR>")
        while self.nvim.next_message()[1] != "typed":
            pass

    def type(self, text: str) -> None:
        """Type one key after the other, as people do."""
        for key in text:
            self.nvim.input("<lt>" if key == "<" else "<CR>" if key == "\n" else key)
            self.nvim.api.get_mode()

    def lines(self) -> list[str]:
        return list(self.nvim.current.buffer[:])

    def cursor(self) -> tuple[int, int]:
        """The row from 0, and the column in bytes."""
        row, column = self.nvim.current.window.cursor
        return row - 1, column

    def ghost(self) -> list[tuple[int, int, str]]:
        """Every mark that draws: its row, its column in bytes, its text."""
        return [tuple(mark) for mark in self.lua(GHOST)]

    def wait_ghost(self, text: str) -> None:
        """Wait until exactly this is drawn."""
        self.wait(lambda: "".join(mark[2] for mark in self.ghost()) == text, f"{text!r} is drawn")

    def wait_no_ghost(self) -> None:
        self.wait(lambda: not self.ghost(), "nothing is drawn")

    def screen(self) -> list[str]:
        """The rows of the screen that show text, as they are seen."""
        cells = "return vim.tbl_map(function(row) return table.concat(vim.tbl_map(function(column) "
        cells += "return vim.fn.screenstring(row, column) end, vim.fn.range(1, vim.o.columns))) end, "
        self.nvim.command("redraw")
        rows = [row.rstrip() for row in self.lua(cells + "vim.fn.range(1, vim.o.lines))")]
        return [row for row in rows[:-2] if row != "~"]

    def server(self, method: str, **params: Any) -> Any:
        """Ask the server something of a test's own."""
        return self.lua(ASK_SERVER, f"test/{method}", params or {"_": 0})

    def plan(self, *items: dict[str, Any], **more: Any) -> None:
        """What the scripted server answers from now on."""
        self.server("plan", items=list(items), **more)

    def notices(self) -> list[str]:
        return list(self.lua("return notices"))

    def messages(self) -> str:
        return str(self.nvim.command_output("messages"))


XDG = {
    "XDG_CONFIG_HOME": "config",
    "XDG_DATA_HOME": "data",
    "XDG_STATE_HOME": "state",
    "XDG_CACHE_HOME": "cache",
    "XDG_RUNTIME_DIR": "run",
}
