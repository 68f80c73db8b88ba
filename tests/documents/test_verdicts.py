"""What the rules say, asked from the event loop: remembered, asked for anew, and never waited for long."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from dgemma_lsp.documents import verdicts
from dgemma_lsp.documents.disk import DiskThreads
from dgemma_lsp.documents.verdicts import UNKNOWN, Verdicts


@pytest.fixture
def stuck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A folder `stuck` that does not answer before the event is set."""
    answering, real_stat = threading.Event(), os.stat
    folder = str(tmp_path / "stuck")

    def stat(path: object, **options: object) -> object:
        if str(path).startswith(folder):
            answering.wait()
        return real_stat(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", stat)
    return answering


def test_a_rule_counts_as_soon_as_it_is_asked_for_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "FRESH_S", -1.0)
    uri = (tmp_path / "a.py").as_uri()

    async def rules() -> list[str | None]:
        known = Verdicts(DiskThreads(), [tmp_path.as_uri()])
        before = known.rule(uri)
        await known.judged([uri])
        free = known.rule(uri)
        (tmp_path / ".dgemmaignore").write_text("a.py\n")
        await known.judged([uri])
        return [before, free, known.rule(uri)]

    assert asyncio.run(rules()) == [UNKNOWN.rule, None, ".dgemmaignore: a.py"]


def test_a_folder_that_hangs_excludes_its_own_documents_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stuck: threading.Event
) -> None:
    monkeypatch.setattr(verdicts, "PATIENCE_S", 0.05)
    monkeypatch.setattr(verdicts, "FRESH_S", -1.0)
    hanging = [(tmp_path / "stuck" / f"{number}.py").as_uri() for number in range(100)]
    free = (tmp_path / "free.py").as_uri()
    others = threading.active_count()

    async def rules() -> list[str | None]:
        known = Verdicts(DiskThreads(), [tmp_path.as_uri()])
        for _ in range(50):  # each is waited for once, and asked about once
            await known.judged(hanging)
        monkeypatch.setattr(verdicts, "PATIENCE_S", 30.0)
        await known.judged([free, *hanging])
        said = [known.rule(uri) for uri in (free, *hanging)]
        assert threading.active_count() - others < 12, "what hangs is a folder, not each of its documents"
        stuck.set()
        known._known[hanging[0]].in_vain = False
        await known.judged(hanging[:1])
        return [*said, known.rule(hanging[0])]

    assert asyncio.run(rules()) == [None, *[UNKNOWN.rule] * 100, None]


def test_what_a_client_names_is_not_remembered_without_end() -> None:
    async def count() -> int:
        known = Verdicts(DiskThreads())
        for number in range(1000):
            await known.judged([f"file:///nowhere/{number}.py"])
            known.opened(f"file:///somewhere/{number}.py")
            known.closed(f"file:///somewhere/{number}.py")
        await known.judged(["file:///nowhere/999.py"])
        return len(known._known)

    assert asyncio.run(count()) <= 513


def test_no_verdict_is_forgotten_while_a_request_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "PATIENCE_S", 30.0)
    uris = [f"file:///nowhere/{number}.py" for number in range(1000)]

    async def rules() -> set[str | None]:
        known = Verdicts(DiskThreads())

        async def rule(uri: str) -> str | None:
            await known.judged([uri])
            return known.rule(uri)

        return set(await asyncio.gather(*map(rule, uris)))

    assert asyncio.run(rules()) == {None}


def test_the_names_of_a_document_are_known_for_as_long_as_it_is_open(tmp_path: Path) -> None:
    (tmp_path / "real.py").write_text("")
    (tmp_path / "link.py").symlink_to("real.py")
    link = (tmp_path / "link.py").as_uri()

    async def names() -> list[bool]:
        known = Verdicts(DiskThreads())
        known.opened(link)
        await known.judged([link])
        said = []
        for _ in range(2):
            for number in range(1000):
                await known.judged([f"file:///nowhere/{number}.py"])
            said.append(tmp_path / "real.py" in known.paths([link]))
            known.closed(link)
        return said

    assert asyncio.run(names()) == [True, False]
