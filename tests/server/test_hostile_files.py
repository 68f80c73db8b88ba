"""What a repository may hold, and what a disk may do: the server answers, stays small, and ends."""

from __future__ import annotations

import itertools
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import ordinary_user
import pytest
from planted_secrets import FORMS, Planted, planted
from wire import TIMEOUT_S, Wire, inline

from dgemma_lsp.documents.verdicts import UNKNOWN

INLINE = "textDocument/inlineCompletion"
SHOWS_ALL = {"FAKE_PROMPT": "32768", "FAKE_PROJECT": "1"}
"""The model reads much, and makes use of the project's text."""


def served(folder: Path | None, env: dict[str, str] | None = None, *command: str) -> Wire:
    wire = Wire(*command, env=SHOWS_ALL | (env or {}))
    folders = [] if folder is None else [{"uri": folder.as_uri(), "name": "project"}]
    wire.initialize(workspaceFolders=folders, initializationOptions={"debounce_ms": 0})
    wire.wait_until_loaded()
    return wire


def ends(wire: Wire) -> bool:
    """Whether the process ends when it is asked to; one that is held up never does."""
    wire.request("shutdown", None)
    wire.notify("exit", None)
    return wire.exit_code() == 0


def ask(wire: Wire, uri: str, line: int, character: int) -> list[str]:
    return [item["insertText"] for item in wire.request(INLINE, inline(uri, line, character, kind=1))]


def shown(wire: Wire, uri: str, text: str, until: str = "") -> str:
    """All that the model is shown when it is asked at the end of a document, once that has `until` in it: the first
    answers wait for no disk."""
    lines, deadline = text.split("\n"), time.monotonic() + TIMEOUT_S
    for version in itertools.count(2):
        wire.change(uri, version, {"text": text})
        ask(wire, uri, len(lines) - 1, len(lines[-1]))
        found: dict[str, Any] = wire.request("test/seen", {})
        seen = "\n".join([found["prefix"], found["suffix"], *found["project_text"]])
        if until in seen or time.monotonic() > deadline:
            return seen
    raise AssertionError


@pytest.mark.parametrize("kind", ["a pipe", "a link to a pipe", "a link to an endless device"])
def test_a_file_that_is_none_is_not_waited_for(tmp_path: Path, kind: str) -> None:
    os.mkfifo(tmp_path / "somewhere")
    (tmp_path / "beside.py").write_text("beside = 1\n")
    match kind:
        case "a pipe":
            os.mkfifo(tmp_path / "queue.py")
        case "a link to a pipe":
            (tmp_path / "queue.py").symlink_to("somewhere")
        case _:
            (tmp_path / "queue.py").symlink_to("/dev/zero")
    uri = (tmp_path / "main.py").as_uri()
    with served(tmp_path) as wire:
        wire.open(uri, "x = ")
        assert "beside = 1" in shown(wire, uri, "x = ", "beside = 1"), "what else is there is read"
        assert ends(wire)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        (".gitignore", ".gitignore in {}, Not a regular file"),
        (".dgemmaignore", ".dgemmaignore in {}, Not a regular file"),
        (".git/info/exclude", ".git/info/exclude in info, Not a regular file"),
        (".git/config", None),
        (".git", None),
    ],
)
def test_an_ignore_file_without_end_costs_nothing(tmp_path: Path, name: str, rule: str | None) -> None:
    """Read to its end, it would fill the memory, and its rules would never be known."""
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).symlink_to("/dev/zero")
    uri, deadline = (tmp_path / "main.py").as_uri(), time.monotonic() + TIMEOUT_S
    with served(tmp_path) as wire:
        wire.open(uri, "x = ")
        ask(wire, uri, 0, 4)
        while UNKNOWN.rule == (status := wire.request("dgemma/status", {"uri": uri})).get("excluded"):
            assert peak(wire) < 400 * 2**20 and time.monotonic() < deadline
        assert status.get("excluded") == (rule and f"its rules are not known: {rule.format(tmp_path.name)}")
        assert peak(wire) < 400 * 2**20
        assert ends(wire)


def peak(wire: Wire) -> int:
    """The most bytes that the server has had in memory; none where that cannot be told."""
    status = Path(f"/proc/{wire.process.pid}/status")
    found = re.search(r"VmHWM:\s+(\d+)", status.read_text()) if status.exists() else None
    return int(found[1]) * 1024 if found else 0


def test_a_document_in_a_locked_folder_concerns_itself_only(ordinary_folder: Path) -> None:
    locked = ordinary_folder / "locked"
    (locked / "in").mkdir(parents=True)
    locked.chmod(0)
    hidden, free = (locked / "in" / "a.py").as_uri(), (ordinary_folder / "b.py").as_uri()
    with served(ordinary_folder, None, sys.executable, "-P", ordinary_user.__file__) as wire:
        wire.open(hidden, "locked_away = 1\nx = ")
        wire.open(free, "y = ")
        assert "locked_away" not in shown(wire, free, "y = ")
        assert ask(wire, free, 0, 4) == ["value"]
        actions = {"textDocument": {"uri": free}, "range": inline(free, 0, 0)["position"], "context": {}}
        actions["range"] = {"start": actions["range"], "end": actions["range"]}
        actions["context"] = {"diagnostics": []}
        assert isinstance(wire.request("textDocument/codeAction", actions), list)
        assert "excluded" not in wire.request("dgemma/status", {"uri": free})
        assert ask(wire, hidden, 1, 4) == []
        assert "locked" in wire.request("dgemma/status", {"uri": hidden})["excluded"]
        explain = {"command": "dgemma.explainSilence", "arguments": [hidden]}
        assert wire.request("workspace/executeCommand", explain)["name"] == "EXCLUDED"
        assert ends(wire)
        assert "Traceback" not in wire.final_log()
    locked.chmod(0o700)


def test_a_disk_that_never_answers_concerns_its_own_documents_only(tmp_path: Path) -> None:
    (tmp_path / "free").mkdir()
    (tmp_path / "free" / "beside.py").write_text("beside = 1\n")
    stuck, free = (tmp_path / "stuck" / "a.py").as_uri(), (tmp_path / "free" / "b.py").as_uri()
    with served(tmp_path / "free", {"FAKE_STUCK": str(tmp_path / "stuck")}) as wire:
        for number in range(100):
            wire.open((tmp_path / "stuck" / f"{number}.py").as_uri(), "x = ")
        wire.open(stuck, "x = ")
        wire.open(free, "y = ")
        for _ in range(3):
            assert ask(wire, stuck, 0, 4) == []
        assert "beside = 1" in shown(wire, free, "y = ", "beside = 1")
        assert "excluded" in wire.request("dgemma/status", {"uri": stuck})
        assert ask(wire, free, 0, 4) == ["value"]
        assert ends(wire)


def test_the_program_s_files_that_never_answer_hold_up_no_end(tmp_path: Path) -> None:
    """The folder of the document itself: neither its rules nor the files near it are ever known."""
    uri = (tmp_path / "a.py").as_uri()
    with served(tmp_path, {"FAKE_STUCK": str(tmp_path)}) as wire:
        wire.open(uri, "x = ")
        assert ask(wire, uri, 0, 4) == []
        assert ends(wire)


def test_a_loose_file_does_not_show_what_is_below_its_folder(tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "private.py").write_text("private = 1\n")
    (tmp_path / "beside.py").write_text("beside = 1\n")
    uri = (tmp_path / "loose.py").as_uri()
    with served(None) as wire:
        wire.open(uri, "x = ")
        seen = shown(wire, uri, "x = ", "beside = 1")
        assert "beside = 1" in seen and "private = 1" not in seen


def test_an_open_document_is_not_shown_by_another_name(tmp_path: Path) -> None:
    """It is excluded by the name that the client uses; the file itself lies beside the other document."""
    (tmp_path / ".dgemmaignore").write_text("link.py\n")
    (tmp_path / "real.py").write_text("private = 1\n")
    (tmp_path / "beside.py").write_text("beside = 1\n")
    (tmp_path / "link.py").symlink_to("real.py")
    link, main = (tmp_path / "link.py").as_uri(), (tmp_path / "main.py").as_uri()
    with served(tmp_path) as wire:
        wire.open(link, "private = 1\n")
        assert ask(wire, link, 1, 0) == []
        wire.open(main, "x = ")
        seen = shown(wire, main, "x = ", "beside = 1")
        assert "beside = 1" in seen and "private = 1" not in seen


def test_answers_never_carry_tracebacks(own_wire: Wire) -> None:
    answer = own_wire.response(own_wire.start("test/text", {"no": "uri"}))
    assert answer["error"] == {"code": -32603, "message": "the request failed; the server's log says why"}
    own_wire.wait_for_log("AttributeError")


@pytest.mark.parametrize("pattern", ["*a" * 30, "[z-a]", "!", "**/" * 200])
def test_hostile_patterns_keep_nobody_waiting(tmp_path: Path, pattern: str) -> None:
    (tmp_path / ".gitignore").write_text(f"hidden.py\n{pattern}\n")
    name = "a" * 60 + "b.py"
    with served(tmp_path) as wire:
        for file in (name, "hidden.py"):
            wire.open((tmp_path / file).as_uri(), "x = ")
        assert ask(wire, (tmp_path / name).as_uri(), 0, 4) == ["value"]
        assert ask(wire, (tmp_path / "hidden.py").as_uri(), 0, 4) == []
        status = wire.request("dgemma/status", {"uri": (tmp_path / "hidden.py").as_uri()})
        assert status["excluded"] == ".gitignore: hidden.py"


PLACES = {
    "neighbour": "neighbour_{}.py",
    "secrets": "secrets/prod_{}.py",
    "ignored": "ignored/settings_{}.py",
    "linked": "linked_{}.py",
    "credentials": "credentials_{}.py",
}
SECRETS = list(planted((len(PLACES) + 1) * len(FORMS), seed=2026))
"""One of each form for every place, then one of each for documents that are open."""
OPENED = 4
"""Documents that the server keeps in mind beside the one that is edited."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files with secrets, and with something else by which they would be known."""
    folder = tmp_path_factory.mktemp("project")
    outside = tmp_path_factory.mktemp("outside")
    (folder / ".gitignore").write_text("ignored/\n")
    for number, one in enumerate(SECRETS[: len(PLACES) * len(FORMS)]):
        place = list(PLACES)[number // len(FORMS)]
        path = (outside if place == "linked" else folder) / PLACES[place].format(number)
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"from_{place}_{number} = 1\n{one.source}\n")
        if place == "linked":
            (folder / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def seen_in_the_project(project: Path) -> str:
    """All that the model is shown in a document with neighbours, and with open documents, a few at a time."""
    main = (project / "main.py").as_uri()
    first, text = len(PLACES) * len(FORMS), "x = "
    with served(project) as wire:
        wire.open(main, text)
        seen = [shown(wire, main, text, "from_neighbour_0 = 1")]  # all of a folder's are read before any is shown
        for start in range(first, len(SECRETS), OPENED):
            opened = dict(enumerate(SECRETS[start : start + OPENED], start))
            uris = {number: (project / f"open_{number}.py").as_uri() for number in opened}
            for number, one in opened.items():
                wire.open(uris[number], f"from_open_{number} = 1\n{one.source}\n")
            seen.append(shown(wire, main, text))
            for uri in uris.values():
                wire.notify("textDocument/didClose", {"textDocument": {"uri": uri}})
    return "\n".join(seen)


@pytest.mark.parametrize("form", FORMS)
def test_no_secret_of_another_document_is_shown(seen_in_the_project: str, form: str) -> None:
    assert not [one for one in SECRETS if one.form == form and one.secret in seen_in_the_project]


def test_the_documents_without_their_secrets_are_shown(seen_in_the_project: str) -> None:
    known = set(re.findall(r"from_([a-z]+)_\d+ = 1", seen_in_the_project))
    assert known == {"neighbour", "open"}, "no file that sounds secret, is ignored, or is a link"
    assert len(set(re.findall(r"from_\w+", seen_in_the_project))) == 2 * len(FORMS)


def test_no_secret_of_another_cell_is_shown() -> None:
    notebook = "file:///project/analysis.ipynb"
    cells = [f"vscode-notebook-cell:/project/analysis.ipynb#{number}" for number in range(len(FORMS) + 1)]
    hidden: list[Planted] = SECRETS[: len(FORMS)]
    texts = ["x = ", *(f"cell_{number} = 1\n{one.source}\n" for number, one in enumerate(hidden))]
    with served(None) as wire:
        item = {"uri": notebook, "notebookType": "jupyter-notebook", "version": 1}
        item["cells"] = [{"kind": 2, "document": uri} for uri in reversed(cells)]  # type: ignore[assignment]
        documents = [
            {"uri": uri, "languageId": "python", "version": 1, "text": text}
            for uri, text in zip(cells, texts, strict=True)
        ]
        wire.notify("notebookDocument/didOpen", {"notebookDocument": item, "cellTextDocuments": documents})
        ask(wire, cells[0], 0, 4)
        found = wire.request("test/seen", {})
    seen = "\n".join([found["prefix"], found["suffix"], *found["project_text"]])
    assert "cell_0 = 1" in seen
    assert not [one for one in hidden if one.secret in seen]


def test_what_looks_secret_is_not_suggested_unless_the_document_has_it() -> None:
    uri = "file:///project/app.py"
    with served(None) as wire:
        for one in SECRETS[: len(FORMS)]:
            if "\n" in one.source:
                continue
            wire.request("test/say", {"text": one.source})
            wire.open(uri, "\n")
            assert not [text for text in ask(wire, uri, 0, 0) if one.secret in text], one.form
        explain = {"command": "dgemma.explainSilence", "arguments": [uri]}
        assert wire.request("workspace/executeCommand", explain)["name"] == "SECRET"
        own = 'password = "Summer2031!"\n'
        wire.request("test/say", {"text": 'again = "Summer2031!"'})
        wire.open(uri, f"{own}\n")
        assert ask(wire, uri, 1, 0) == ['again = "Summer2031!"']


def test_a_watched_fill_is_shown_no_more_than_a_suggestion(tmp_path: Path) -> None:
    (tmp_path / ".dgemmaignore").write_text("hidden.py\n")
    main, hidden, private = ((tmp_path / name).as_uri() for name in ("main.py", "hidden.py", "credentials.py"))
    with served(tmp_path) as wire:
        wire.open(hidden, "from_hidden = 1\n")
        wire.open(private, "from_private = 1\n")
        wire.open(main, "x = ")
        at = {"textDocument": {"uri": main}, "position": {"line": 0, "character": 4}, "watch": 1}
        wire.request("dgemma/watch", at)
        found = wire.request("test/seen", {})
    seen = "\n".join([found["prefix"], found["suffix"], *found["project_text"]])
    assert "from_hidden" not in seen and "from_private" not in seen
