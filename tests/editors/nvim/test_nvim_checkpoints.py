"""Checkpoints in Neovim: got, cancelled, continued, chosen and removed, with a hub of the tests' own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from baskets import BASKETS
from editor import FAKE, PLUGIN, ROOT, SCRIPTED, Editor, neovims
from fake_hub import FakeHub, fake_hub
from first_suggestion import assert_in_time
from take_pictures import Camera
from tiny_checkpoints import CONTENT, FILE, NAME, REPOSITORY, TinyWorld

from dgemma_model.checkpoint.catalogue import DEFAULT

pytestmark = pytest.mark.editors

PICTURES = ROOT / ".cache" / "pictures"

SELECT = """
_G.asked, _G.answers = {}, ...
vim.ui.select = function(items, options, on_choice)
  local shown = vim.tbl_map(options.format_item or tostring, items)
  table.insert(_G.asked, { options.prompt, shown })
  local wanted = table.remove(_G.answers, 1)
  for index, text in ipairs(shown) do
    if wanted and vim.startswith(text, wanted) then
      return on_choice(items[index], index)
    end
  end
  on_choice(nil, nil)
end
"""
"""Choose, in each list that is shown, what begins with the next answer; without one, nothing."""


@pytest.fixture
def world(tmp_path: Path) -> TinyWorld:
    folder = tmp_path / "world"
    folder.mkdir()
    return TinyWorld.build(folder)


@pytest.fixture
def hub(world: TinyWorld) -> Iterator[FakeHub]:
    with fake_hub(REPOSITORY, world.folder / "published") as running:
        yield running


@pytest.fixture
def editor(bare: Editor, world: TinyWorld, hub: FakeHub) -> Editor:
    """Set up with the fake server, whose subcommands know the world's row."""
    bare.set_up(world.server(hub.url, FAKE_BETTER=NAME))
    bare.open()
    return bare


def run(editor: Editor, command: str, *answers: str) -> None:
    editor.lua(SELECT, list(answers))
    editor.nvim.command(f"Dgemma {command}")


def asked(editor: Editor, count: int) -> list[Any]:
    """Wait until so many lists were shown; their prompts and lines."""
    editor.wait(lambda: len(editor.lua("return asked")) == count, f"{count} lists were shown")
    return list(editor.lua("return asked"))


def wait_notice(editor: Editor, words: str) -> None:
    editor.wait(lambda: any(words in notice for notice in editor.notices()), f"it is said: {words}")


def test_one_is_chosen_that_is_not_here(editor: Editor, world: TinyWorld, hub: FakeHub) -> None:
    hub.holds[FILE] = 2_000_000
    run(editor, "checkpoint", "tiny", "Get it")
    (should, rows), (question, _) = asked(editor, 2)
    assert should.startswith("This machine should use ")
    assert rows[0] == "automatic (the best that is here: embedded)"
    assert any(row.startswith("qwen2.5-coder-0.5b (not on this machine): 491 MB") for row in rows)
    assert any(row.startswith("diffusiongemma-26b-a4b (too large for this machine, ") for row in rows)
    assert question.startswith("Get tiny (3 MB, none")
    line = "return require('dgemma').statusline()"
    editor.wait(lambda: editor.lua(line).startswith("dgemma: getting tiny, tiny.gguf: 6"), "it is on its way")
    wait_notice(editor, "getting tiny, tiny.gguf: ")
    hub.released.set()
    wait_notice(editor, "to keep it: setup({ settings = { checkpoint = 'tiny' } })")
    assert world.file.read_bytes() == CONTENT
    editor.wait_attached()
    editor.wait(lambda: editor.lua(line) == "dgemma: ready", "it is ready again")
    said = editor.lua("return require('dgemma.config').options.settings.checkpoint")
    assert said == NAME


def test_the_better_one_is_told_once(editor: Editor) -> None:
    said = "dgemma: fake fills now; tiny would fill better (3 MB, all languages): :Dgemma install"
    wait_notice(editor, said)
    editor.nvim.command("Dgemma restart")
    editor.lua("vim.wait(100)")
    editor.wait_attached()
    editor.wait(lambda: "checkpoint: fake" in editor.nvim.command_output("Dgemma status"), "it is ready again")
    assert editor.notices().count(said) == 1


def test_cancelled_and_continued(editor: Editor, world: TinyWorld, hub: FakeHub) -> None:
    hub.holds[FILE] = 2_000_000
    run(editor, "checkpoint", "tiny", "Get it")
    editor.wait(lambda: "getting tiny" in editor.lua("return require('dgemma').statusline()"), "it is on its way")
    run(editor, "checkpoint")
    editor.nvim.command("Dgemma install")
    wait_notice(editor, "something is on its way already: getting tiny")
    editor.nvim.command("Dgemma cancel")
    wait_notice(editor, "cancelled; what has arrived is kept")
    (path,) = (world.store / ".pulling" / NAME).glob("*.partial")
    begun = path.read_bytes()
    assert begun and CONTENT.startswith(begun)
    assert "there is nothing to cancel" in editor.nvim.command_output("Dgemma cancel")
    hub.holds.clear()
    hub.ranges.clear()
    run(editor, "checkpoint", "tiny", "Get it")
    wait_notice(editor, "tiny is here")
    assert hub.ranges[0] == (FILE, f"bytes={len(begun)}-")


def test_what_cannot_be_had_is_said(editor: Editor, world: TinyWorld) -> None:
    run(editor, "install", "Get it")
    ((question, _),) = asked(editor, 1)
    assert question.startswith("Get qwen2.5-coder-0.5b (491 MB, 92 programming languages")
    wait_notice(editor, "qwen2.5-coder-0.5b cannot be pulled: ")
    assert not world.file.exists()


def test_who_does_not_want_it_gets_nothing(editor: Editor, world: TinyWorld, hub: FakeHub) -> None:
    run(editor, "checkpoint", "tiny", "Leave it")
    asked(editor, 2)
    assert hub.asked == [] and not world.store.exists()


def test_what_is_on_the_disk_is_said_and_removed(editor: Editor, world: TinyWorld) -> None:
    assert world.run("pull", NAME, "--from", world.folder / "published" / FILE).returncode == 0
    run(editor, "remove", "tiny", "Delete it")
    (_, shown), (question, _) = asked(editor, 2)
    assert shown == [f"tiny (3 MB) in {world.store}"] and question == f"Delete {shown[0]}?"
    wait_notice(editor, "tiny is deleted; 3 MB are free again")
    assert not world.file.parent.exists()
    run(editor, "remove")
    wait_notice(editor, "neither a checkpoint nor a server of the plugin is on this disk")


# ------------------------------------------------------------------- install


def install_with(bare: Editor, python: str, *answers: str) -> None:
    """Without a server, and with this program for every Python."""
    programs = bare.home / "programs"
    programs.mkdir()
    for name in ("python3.14", "python3.13", "python3.12", "python3.11", "python3", "python"):
        (programs / name).write_text(f"#!/bin/sh\n{python}\n")
        (programs / name).chmod(0o755)
    bare.lua("vim.env.PATH = ... .. ':/usr/bin:/bin'", str(programs))
    bare.lua("require('dgemma').setup({ native = ... })", bare.neovim.native)
    bare.nvim.command(f"edit {bare.home}/module.py")
    run(bare, "install", *answers)


INSTALLING_S = 900


def test_from_nothing_to_the_first_suggestion_of_the_default_checkpoint(tmp_path: Path) -> None:
    """As the README says, in one Neovim: an empty home, the plugin folder, and what the package index has."""
    began = time.monotonic()
    editor = Editor(neovims()[0], tmp_path / "home")
    pip = Path.home() / ".config" / "pip" / "pip.conf"
    names = {"PIP_CONFIG_FILE": str(pip) if pip.exists() else None, "PATH": "/usr/local/bin:/usr/bin:/bin"}
    for name, value in (names | {"DGEMMA_CHECKPOINTS": None, "PYTHONPATH": None}).items():
        editor.lua("local name, value = ... vim.env[name] = value", name, value)
    editor.nvim.command("filetype on")
    editor.lua("require('dgemma').setup({ settings = { time_budget_ms = 6000 } })")
    basket, file = BASKETS["basket.ts"], editor.home / "basket.ts"
    file.write_text(basket.before + basket.after)
    editor.nvim.command(f"edit {file}")
    wait_notice(editor, "'dgemma-lsp' was not found; install the server by :Dgemma install")
    run(editor, "install", "Install with ")
    line = "return require('dgemma').statusline()"
    editor.wait(lambda: editor.lua(line).startswith("dgemma: installing the server"), "it is said")

    def told(words: str) -> bool:
        failed = [notice for notice in editor.notices() if "failed" in notice or "cannot be" in notice]
        assert failed == []
        return any(words in notice for notice in editor.notices())

    editor.wait(lambda: told("the server is installed"), "the server is there", INSTALLING_S)
    editor.wait(lambda: told("50 %"), "half of the checkpoint is there", INSTALLING_S)
    editor.wait(lambda: told(f"{DEFAULT} is here"), "all of it is there", INSTALLING_S)
    assert (editor.home / "data/dgemma-lsp/checkpoints" / DEFAULT / "source.json").exists()
    said = f"checkpoint: {DEFAULT}, because "
    editor.wait(lambda: said in editor.nvim.command_output("Dgemma status"), "it is used", INSTALLING_S)
    editor.wait(lambda: editor.lua(line) == "dgemma: ready", "it is loaded", INSTALLING_S)
    editor.keys(f"{basket.place[0] + 1}GA")
    editor.lua("vim.wait(500)")
    editor.keys("<M-\\>")
    editor.wait(lambda: editor.lua("return require('dgemma').visible()"), "something is drawn", INSTALLING_S)
    assert_in_time(began)
    assert "".join(mark[2] for mark in editor.ghost()).startswith("item.")
    camera = Camera(editor)
    camera.look(1)
    camera.save(PICTURES / "nvim-first-suggestion.svg")
    editor.close()


FAKE_PYTHON = f"""
case "$*" in
  *sys.version_info*) echo 3 12;;
  *venv*) for last; do :; done; mkdir -p "$last/bin"; cp "$0" "$last/bin/python"; echo "$@" >>"$last/../said";;
  *pip*) echo "Collecting torch"; echo "$@" >>"$(dirname "$0")/../../said"
     printf '#!/bin/sh\\nexec {SCRIPTED[0]} {" ".join(SCRIPTED[1:])}\\n' >"$(dirname "$0")/dgemma-lsp"
     chmod +x "$(dirname "$0")/dgemma-lsp";;
esac
"""
"""A Python that makes an environment with the scripted server, and writes down what it was asked for."""


def test_the_server_is_installed_and_started(bare: Editor) -> None:
    install_with(bare, FAKE_PYTHON, "Install the server only")
    ((question, choices),) = asked(bare, 1)
    assert "GB to download" in question
    assert choices[0].startswith("Install with qwen2.5-coder-0.5b (491 MB, 92 programming languages")
    wait_notice(bare, "the server is installed")
    bare.wait_attached()
    own = bare.home / "data" / "nvim" / "dgemma"
    said = (own / "said").read_text().splitlines()
    assert said[0] == f"-I -m venv --clear {own}/server"
    assert said[-1].endswith(f"+cpu {PLUGIN.parents[1]}") and "torch==" in said[-1]
    assert bare.lua("return require('dgemma.config').options.cmd") == [f"{own}/server/bin/dgemma-lsp"]
    assert not (own / "server.installing").exists()
    run(bare, "remove", "the server", "Delete it")
    wait_notice(bare, "server is deleted")
    assert not (own / "server").exists()


@pytest.mark.parametrize(
    ("python", "said"),
    [
        ("exit 1", "Python 3.11 or later was not found; install it, then run :Dgemma install again"),
        ("echo 3 8", "python is Python 3.8, and 3.11 or later is needed"),
        ("echo 3 12; exit 1", "python cannot make environments; install python3.12-venv"),
    ],
)
def test_a_machine_without_the_right_python(bare: Editor, python: str, said: str) -> None:
    install_with(bare, python)
    wait_notice(bare, said)


def test_a_failure_leaves_nothing(bare: Editor) -> None:
    failing = FAKE_PYTHON.replace('echo "Collecting torch";', "echo 'ERROR: no network'; exit 1;")
    install_with(bare, failing, "Install the server only")
    wait_notice(bare, "installing failed: ERROR: no network")
    assert not (bare.home / "data/nvim/dgemma/server").exists()


def test_another_neovim_is_installing(bare: Editor) -> None:
    lock = bare.home / "data/nvim/dgemma/server.installing"
    lock.parent.mkdir(parents=True)
    lock.write_text(str(bare.lua("return vim.uv.os_getppid()")))
    install_with(bare, FAKE_PYTHON, "Install the server only")
    wait_notice(bare, "another Neovim is installing the server; wait for it")
    assert not (bare.home / "data/nvim/dgemma/server").exists()


def test_a_command_of_the_users_own_is_not_replaced(bare: Editor) -> None:
    bare.set_up(["no-such-server"])
    bare.nvim.command("Dgemma install")
    wait_notice(bare, "'no-such-server' was not found; correct the option cmd, or leave it out")


def test_nothing_is_missing(bare: Editor) -> None:
    program = bare.home / "server"
    answer = '{"recommended": {"name": "embedded"}, "used": {"name": "embedded"}, "checkpoints": []}'
    program.write_text(f"#!/bin/sh\n[ $# = 0 ] || {{ echo '{answer}'; exit; }}\nexec {' '.join(FAKE)}\n")
    program.chmod(0o755)
    bare.set_up([str(program)])
    bare.open()
    bare.nvim.command("Dgemma install")
    wait_notice(bare, "nothing is missing: embedded fills on this machine")
