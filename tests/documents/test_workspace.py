"""Files near a document."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from wire import Wire, inline

from dgemma_lsp.documents import workspace
from dgemma_lsp.documents.disk import DiskThreads
from dgemma_lsp.documents.workspace import Workspace


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in {
        "shop/here.py": "here = 1\n",
        "shop/beside.py": "beside = 1\n",
        "shop/older.py": "older = 1\r\n",
        "shop/notes.txt": "notes = 1\n",
        "shop/.hidden/x.py": "hidden = 1\n",
        "shop/parts/inner.py": "inner = 1\n",
        "shop/node_modules/dependency.py": "dependency = 1\n",
        "tools/outer.py": "outer = 1\n",
        "ignored/token.py": "ignored = 1\n",
        ".gitignore": "ignored/\n",
        "shop/fine.py": "fine = 1\n",
        "shop/credentials.py": "named = 1\n",
        "shop/secrets/prod.py": "named = 1\n",
        "shop/binary.py": "\0\udcff\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    for age, name in enumerate(("beside", "fine", "older")):
        os.utime(tmp_path / f"shop/{name}.py", (1000 - age, 1000 - age))
    return tmp_path


def near(files: Workspace, document: Path, *opened: Path) -> tuple[str, ...]:
    async def asked_twice() -> tuple[str, ...]:
        assert files.near(document.as_uri()) == (), "no request waits for a disk"
        await files.settled()
        return files.near(document.as_uri(), opened)

    return asyncio.run(asked_twice())


def test_the_nearest_and_the_last_changed_are_last(project: Path) -> None:
    found = near(Workspace(DiskThreads(), [project.as_uri()]), project / "shop/here.py")
    assert found == ("outer = 1\n", "inner = 1\n", "older = 1\n", "fine = 1\n", "beside = 1\n")


def test_open_documents_are_known_better(project: Path) -> None:
    found = near(Workspace(DiskThreads(), [project.as_uri()]), project / "shop/here.py", project / "shop/beside.py")
    assert "beside = 1\n" not in found and "older = 1\n" in found


def test_of_a_loose_file_only_its_own_folder_is_near(project: Path) -> None:
    beside = ("older = 1\n", "fine = 1\n", "beside = 1\n")
    assert near(Workspace(DiskThreads()), project / "shop/here.py") == beside
    another_folder = [(project / "tools").as_uri()]
    assert near(Workspace(DiskThreads(), another_folder), project / "shop/here.py") == beside
    assert near(Workspace(DiskThreads(), another_folder), project / "tools/outer.py") == ()


def test_links_out_of_the_workspace_are_not_followed(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "strange.py").write_text("strange = 1\n")
    (outside / "deep").mkdir()
    (outside / "deep" / "stranger.py").write_text("stranger = 1\n")
    (project / "shop/linked.py").symlink_to(outside / "strange.py")
    (project / "shop/linked").symlink_to(outside)
    found = near(Workspace(DiskThreads(), [project.as_uri()]), project / "shop/here.py")
    assert not [text for text in found if "strange" in text]
    beside = near(Workspace(DiskThreads(), [project.as_uri()]), project / "shop/linked/here.py")
    assert beside == ("strange = 1\n",), "by its real path it is outside of the workspace"


def test_a_workspace_may_be_a_link_itself(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    link = tmp_path_factory.mktemp("links") / "project"
    link.symlink_to(project)
    found = near(Workspace(DiskThreads(), [link.as_uri()]), link / "shop/here.py", project / "shop/older.py")
    assert found == ("outer = 1\n", "inner = 1\n", "fine = 1\n", "beside = 1\n")


def test_a_repository_in_an_ignored_folder_is_not_read(project: Path) -> None:
    (project / ".git").mkdir()
    (project / "ignored" / ".git").mkdir()
    (project / "kept" / ".git").mkdir(parents=True)
    (project / "kept" / "other.py").write_text("other = 1\n")
    found = near(Workspace(DiskThreads(), [project.as_uri()]), project / "shop/here.py")
    assert "other = 1\n" in found and "ignored = 1\n" not in found


def test_what_looks_secret_is_left_out_of_what_is_read(project: Path) -> None:
    value = "sk-live-" + "4f9a1c7e" * 3
    (project / "shop/older.py").write_text(f'PAYMENT_GATEWAY_TOKEN = "{value}"\nplain = 1\n')
    found = near(Workspace(DiskThreads(), [project.as_uri()]), project / "shop/here.py")
    assert 'PAYMENT_GATEWAY_TOKEN = ""\nplain = 1\n' in found


def test_what_is_no_file_is_not_opened(project: Path) -> None:
    os.mkfifo(project / "shop/queue.py")
    (project / "shop/endless.py").symlink_to("/dev/zero")
    (project / "shop/folder.py").mkdir()
    found = near(Workspace(DiskThreads(), [project.as_uri()]), project / "shop/here.py")
    assert found[-1] == "beside = 1\n"


def test_there_is_a_limit(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "NEARBY_CHARS", 22)
    assert near(Workspace(DiskThreads(), [project.as_uri()]), project / "shop/here.py") == (
        "fine = 1\n",
        "beside = 1\n",
    )


def test_what_changed_is_read_again_and_the_rest_is_not(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_FRESH_S", -1.0)
    files, document = Workspace(DiskThreads(), [project.as_uri()]), (project / "shop/here.py").as_uri()

    async def after_a_change() -> tuple[tuple[str, ...], tuple[str, ...]]:
        files.near(document)
        await files.settled()
        first = files.near(document)
        (project / "shop/older.py").write_text("older = 2\n")
        (project / "tools/outer.py").unlink()
        await files.settled()
        files.near(document)
        await files.settled()
        return first, files.near(document)

    first, second = asyncio.run(after_a_change())
    assert sorted(second) == ["beside = 1\n", "fine = 1\n", "inner = 1\n", "older = 2\n"]
    assert {id(text) for text in first if text in second} == {id(text) for text in second if text in first}


@pytest.mark.parametrize(
    "uri", ["untitled:Untitled-1", "file:///", "file:///nowhere/at/all.py", "file:///Makefile", "file:///a.ipynb"]
)
def test_documents_without_files_near_them(uri: str) -> None:
    async def asked_twice() -> tuple[str, ...]:
        files = Workspace(DiskThreads())
        files.near(uri)
        await files.settled()
        return files.near(uri)

    assert asyncio.run(asked_twice()) == ()


def test_folders_that_were_left_long_ago_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace, "_FOLDERS_KEPT", 2)
    for name in "abc":
        (tmp_path / name).mkdir()
        (tmp_path / name / "beside.py").write_text(f"{name} = 1\n")
    files = Workspace(DiskThreads())

    async def in_turn() -> list[tuple[str, ...]]:
        found = []
        for document in [(tmp_path / name / "here.py").as_uri() for name in "abca"]:
            assert files.near(document) == ()
            await files.settled()
            found.append(files.near(document))
        return found

    found = asyncio.run(in_turn())
    assert found == [("a = 1\n",), ("b = 1\n",), ("c = 1\n",), ("a = 1\n",)]  # and asked for anew in between
    assert len(files._folders) == 2 and len(files._read) == 2


class Forgetful(dict[Any, Any]):
    """As if other folders were read, and this one forgotten, just when a file of it has been read."""

    def __setitem__(self, key: object, value: object) -> None:
        pass


def test_what_is_forgotten_while_it_is_read_is_shown_all_the_same(project: Path) -> None:
    files = Workspace(DiskThreads(), [project.as_uri()])
    files._read = Forgetful()
    assert near(files, project / "shop/here.py")[-1] == "beside = 1\n"


BEFORE = "class {0}:\n    def open(self) -> None:\n        self.door."
AFTER = "\n\n    def close(self) -> None:\n        pass\n"


@pytest.mark.parametrize(("nearby", "copied"), [(True, True), (False, False)])
def test_the_server_copies_from_files_nearby(tmp_path: Path, *, nearby: bool, copied: bool) -> None:
    (tmp_path / "hut.py").write_text(f"{BEFORE.format('Hut')}swing(3, quietly=True){AFTER}")
    document = (tmp_path / "shop.py").as_uri()
    with Wire(sys.executable, "-P", "-m", "dgemma_lsp") as wire:
        folders = [{"uri": tmp_path.as_uri(), "name": "project"}]
        wire.initialize(
            workspaceFolders=folders, initializationOptions={"nearby_files": nearby, "time_budget_ms": 20_000}
        )
        wire.wait_until_loaded()
        wire.open(document, BEFORE.format("Shop") + AFTER)
        for _ in range(3):  # the first answer waits for no disk
            answer = wire.request("textDocument/inlineCompletion", inline(document, 2, 18, kind=1))
            wire.change(document, 2, {"text": BEFORE.format("Shop") + AFTER})
    texts = [item["insertText"] for item in answer]
    assert ("swing(3, quietly=True)" in texts) is copied
