"""How the program starts: an editor's server at once, and the command line for everything else."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest
import typer

from dgemma_lsp.command.cli import app
from dgemma_lsp.command.start import OPTIONS, plain_options


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ([], {}),
        (["--checkpoint", "embedded"], {"checkpoint": "embedded"}),
        (["--checkpoint=a=b", "--device", "cpu"], {"checkpoint": "a=b", "device": "cpu"}),
        (["--device=cpu", "--device=cuda:1"], {"device": "cuda:1"}),
    ],
)
def test_what_editors_pass_is_understood(arguments: list[str], options: dict[str, str]) -> None:
    assert plain_options(arguments) == options


@pytest.mark.parametrize(
    "arguments",
    [
        ["check"],
        ["--help"],
        ["--version"],
        ["--device"],
        ["--device="],
        ["--device", "--checkpoint"],
        ["--checkpoint", "embedded", "fill"],
        ["--quantize", "int4"],
        ["--tcp=127.0.0.1:1", "--device=cpu"],
        ["device", "cpu"],
        ["-device", "cpu"],
        [""],
    ],
)
def test_all_else_is_left_to_the_command_line(arguments: list[str]) -> None:
    assert plain_options(arguments) is None


def test_the_command_line_knows_these_options_too() -> None:
    named = {option for parameter in typer.main.get_command(app).params for option in parameter.opts}
    assert {f"--{option}" for option in OPTIONS} <= named


def started(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The program with an end of input, and a list of all that it imports on standard error."""
    command = [sys.executable, "-P", "-X", "importtime", "-m", "dgemma_lsp", *arguments]
    return subprocess.run(command, input="", capture_output=True, text=True, timeout=60)


def test_a_server_does_without_the_libraries_of_the_command_line() -> None:
    imported = {line.split("|")[-1].strip() for line in started("--device=cpu").stderr.splitlines()}
    assert "dgemma_lsp.server.server" in imported
    assert not {"typer", "rich", "pydantic", "torch"} & imported


def test_a_command_is_run() -> None:
    assert started("--version").stdout.strip() == version("dgemma-lsp")
