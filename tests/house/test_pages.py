"""What the documents say can be tried: links lead somewhere, commands and options exist, tables agree with the code."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_layers import ROOMS
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from dgemma_lsp.command.cli import app
from dgemma_lsp.documents.edits import NoSuggestion
from dgemma_model.checkpoint import catalogue
from dgemma_model.checkpoint.store import in_words

ROOT = Path(__file__).parents[2]
ARCHIVE = ROOT / "log" / "archive.md"
PAGES = sorted(
    path
    for place in ("*.md", "docs/*.md", "log/*.md", "eval/*.md", "model/**/*.md", "editors/**/*.md")
    for path in ROOT.glob(place)
    if not {"node_modules", "dist"} & set(path.parts)
)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^ {4}\S.*$", re.MULTILINE)
CODE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SOURCE = re.compile(r'<(?:img|source)\b[^>]*\bsrc(?:set)?="([^"]+)"')
"""What pictures in HTML show."""
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)

TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
CLI = get_command(app)


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    headings = HEADING.findall(FENCE.sub("", text))
    plain = (re.sub(r"[^\w\- ]", "", LINK.sub(lambda link: link[0], heading)) for heading in headings)
    return {heading.strip().lower().replace(" ", "-") for heading in plain}


def broken_links(text: str, page: Path) -> list[str]:
    """The links of a page with this text that lead nowhere in the repository; links to other hosts are not followed."""
    broken = []
    prose = CODE.sub("", FENCE.sub("", text))
    for target in (*LINK.findall(prose), *SOURCE.findall(prose)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        there = path.exists() and path.is_relative_to(ROOT)
        if not there or (anchor and anchor not in anchors(text if path == page else path.read_text("utf-8"))):
            broken.append(target)
    return broken


def code_of(text: str) -> Iterator[str]:
    """The lines of code of a page: those of fences, indented ones, and code inside of sentences."""
    for fence in FENCE.findall(text):
        yield from fence.splitlines()[1:-1]
    outside = FENCE.sub("", text)
    yield from INDENTED.findall(outside)
    for span in CODE.findall(outside):
        yield " ".join(span.split())


def wrong_commands(line: str) -> list[str]:
    """What a line of code runs that does not exist."""
    line = line.partition(" #")[0]
    wrong = [f"make {name}" for name in re.findall(r"(?:^|&& )make ([a-z][\w-]*)", line) if name not in TARGETS]
    for name in re.findall(r"python[\d.]*(?: -[A-Z])* -m ([\w.]+)", line):
        if importlib.util.find_spec(name) is None:
            wrong.append(f"python -m {name}")
    for script in re.findall(r"(?:python|node) ([\w./-]+\.(?:py|mjs))", line):
        if not any((folder / script).exists() for folder in (ROOT, ROOT / "editors" / "vscode")):
            wrong.append(script)
    for arguments in re.findall(r"dgemma-lsp((?: +[^\s\"'|&;]+)*)", line):
        wrong += wrong_arguments(arguments.split())
    return wrong


def wrong_arguments(arguments: list[str]) -> list[str]:
    """The command or the options after `dgemma-lsp` that it does not know."""
    assert isinstance(CLI, TyperGroup)
    command: TyperGroup | TyperCommand = CLI
    if arguments and re.fullmatch("[a-z]+", arguments[0]):
        if arguments[0] not in CLI.commands:
            return [f"dgemma-lsp {arguments[0]}"]
        command = CLI.commands[arguments[0]]
    known = {"--help"} | {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    named = (argument.partition("=")[0].rstrip(".,;:)") for argument in arguments if argument.startswith("--"))
    return [f"dgemma-lsp {command.name} {name}" for name in named if name not in known]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page.read_text("utf-8"), page) == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != ARCHIVE], ids=lambda page: page.stem)
def test_commands_exist(page: Path) -> None:
    """The archive tells of commands as they were."""
    wrong = [complaint for line in code_of(page.read_text("utf-8")) for complaint in wrong_commands(line)]
    assert wrong == []


def test_what_is_wrong_is_found() -> None:
    page = ROOT / "README.md"
    good = "# A heading, here\n[x](#a-heading-here) [y](docs/silence.md#nothing-was-tried) [z](https://nowhere.invalid)"
    assert broken_links(good, page) == []
    bad = "[a](missing.md) [b](#none) [c](docs/silence.md#none) [d](../outside.md)"
    assert broken_links(bad, page) == ["missing.md", "#none", "docs/silence.md#none", "../outside.md"]
    assert list(code_of("a `b\nc`\n\n    d e\n\n```\nf\n```\n")) == ["f", "    d e", "b c"]
    for line in (
        *("make nothing", "python -m dgemma_model.nothing", "python eval/nothing.py", "dgemma-lsp nothing"),
        *("dgemma-lsp fill --nothing", "dgemma-lsp --nothing", "dgemma-lsp remove --steps 1"),
    ):
        assert len(wrong_commands(line)) == 1, line
    for line in (
        *("make test", "python -m dgemma_model.train.losses", "python eval/soak.py", "dgemma-lsp fill --no-one-line"),
        *("dgemma-lsp", "dgemma-lsp --tcp HOST:PORT", "dgemma-lsp COMMAND --help"),
    ):
        assert wrong_commands(line) == [], line


def test_readme_names_every_command_and_every_room() -> None:
    assert isinstance(CLI, TyperGroup)
    readme = (ROOT / "README.md").read_text("utf-8")
    for name in CLI.commands:
        assert f"dgemma-lsp {name}" in readme
        assert CliRunner().invoke(app, [name, "--help"]).exit_code == 0
    for folder in (ROOT / "dgemma_lsp", ROOT / "model" / "dgemma_model"):
        rooms = {path.parent.name for path in folder.glob("*/*") if path.name in ("__init__.py", "RECIPE.md")}
        assert [room for room in sorted(rooms) if f"\n  {room}/ " not in readme] == []


def test_every_silence_has_its_row() -> None:
    rows = re.findall(
        r"^\| `([A-Z_]+)` \| (.*?) \| (.+?) \|$", (ROOT / "docs/silence.md").read_text("utf-8"), re.MULTILINE
    )
    assert {name: answer for name, answer, _ in rows} == {reason.name: reason.value for reason in NoSuggestion}


def test_every_checkpoint_has_its_row() -> None:
    rows = re.findall(r"^\| `([\w.-]+)` \| (.*) \|$", (ROOT / "docs/checkpoints.md").read_text("utf-8"), re.MULTILINE)
    cells = {name: rest.split(" | ") for name, rest in rows}
    assert list(cells) == [entry.name for entry in catalogue.ENTRIES]
    for entry in catalogue.ENTRIES:
        suits, languages, download, memory, right, licence = cells[entry.name]
        assert entry.languages.split()[0] == languages and entry.licence == licence
        assert in_words(entry.memory_bytes) in memory and (entry.quality or "not measured") == right
        assert entry.repository is None or in_words(entry.disk_bytes) in download
        assert suits


def test_the_log_lists_its_pages() -> None:
    index = (ROOT / "log" / "README.md").read_text("utf-8")
    pages = [page.name for page in (ROOT / "log").glob("*.md") if page.name != "README.md"]
    assert [name for name in pages if f"({name})" not in index] == []


def test_the_architecture_has_the_layers_that_imports_are_held_to() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    table = next(fence for fence in FENCE.findall(text) if "dgemma_lsp.__main__" in fence)
    assert [set(row.split()) for row in table.splitlines()[1:-1]] == ROOMS
    glossary = text.partition("## Glossary")[2]
    assert 1 < len(re.findall(r"^\| (?!word )[a-z]", glossary, re.MULTILINE)) <= 15
