"""`dgemma-lsp checkpoints` and `remove`: what they say, and what they delete."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest
from tiny_checkpoints import CONTENT, FILE, NAME, UNPRIVILEGED, TinyWorld

from dgemma_model.checkpoint import catalogue


@pytest.fixture
def world(tmp_path: Path) -> TinyWorld:
    return TinyWorld.build(tmp_path)


@pytest.fixture
def filled_world(world: TinyWorld) -> TinyWorld:
    """With the row pulled and converted, forms of a file outside the store, an interrupted pull, and a damaged one."""
    assert world.run("pull", NAME, "--from", world.folder / "published" / FILE).returncode == 0
    (world.file.parent / "converted" / "x86").mkdir(parents=True)
    (world.file.parent / "converted" / "x86" / "weights.safetensors").write_bytes(bytes(2_000_000))
    (world.store / ".converted" / "0123").mkdir(parents=True)
    (world.store / ".converted" / "0123" / "weights.safetensors").write_bytes(bytes(4_000_000))
    (world.store / ".pulling" / "someone@half").mkdir(parents=True)
    (world.store / ".pulling" / "someone@half" / "half.gguf.0.partial").write_bytes(bytes(1_000_000))
    (world.store / "someone@damaged").mkdir()
    (world.store / "someone@damaged" / "source.json").write_text("{")
    return world


def test_every_row_is_shown_with_what_this_machine_should_use(world: TinyWorld) -> None:
    done = world.run("checkpoints")
    assert (done.returncode, done.stderr) == (0, "")
    for entry in catalogue.ENTRIES:
        assert entry.name in done.stdout and entry.about in done.stdout and entry.licence in done.stdout
    for words in (
        "63 % of 150",
        f"Kept in {world.store}.",
        "This machine: ",
        " GB free; ",
        "It should use ",
        "Without a checkpoint in the settings it uses embedded",
        "get it with `dgemma-lsp pull ",
    ):
        assert words in done.stdout
    assert not world.store.exists()  # looking makes no folders


def test_what_is_here_is_shown_with_its_size(filled_world: TinyWorld) -> None:
    shown = filled_world.run("checkpoints").stdout
    for words in (
        "here from the file, 2 MB of it converted, verified: size and hash are what the catalogue says",
        "1 MB have arrived; `dgemma-lsp pull someone/half` continues",
        "cannot be used: ",
        "source.json is damaged; `dgemma-lsp remove someone/damaged` and",
        "Converted forms of files outside of the store: 4 MB (`dgemma-lsp remove converted` deletes them).",
    ):
        assert words in shown, shown


def test_a_table_of_eighty_columns_breaks_no_name(filled_world: TinyWorld) -> None:
    lines = filled_world.run("checkpoints", COLUMNS="80").stdout.splitlines()
    for entry in catalogue.ENTRIES:
        (line,) = [line for line in lines if line.startswith(f"{entry.name} ")]
        assert line.rstrip().endswith(entry.licence) and len(line) <= 80


def test_programs_get_one_document(filled_world: TinyWorld) -> None:
    done = filled_world.run("checkpoints", "--json")
    document = json.loads(done.stdout)
    assert document["store"] == str(filled_world.store)
    assert document["machine"]["free_bytes"] > 0
    assert document["used"]["name"] == "embedded" and document["used"]["advice"]
    assert document["recommended"]["name"] in {entry.name for entry in catalogue.ENTRIES}
    assert document["converted_elsewhere_bytes"] == 4_000_000
    rows = {row["name"]: row for row in document["checkpoints"]}
    tiny = rows[NAME]
    assert tiny["path"] == str(filled_world.file)
    assert tiny["converted_bytes"] == 2_000_000 and tiny["stored_bytes"] > len(CONTENT) + 2_000_000
    assert tiny["verified"] is True and tiny["problem"] is None
    assert rows["someone/half"]["unfinished_bytes"] == 1_000_000 and rows["someone/half"]["path"] is None
    assert "source.json is damaged" in rows["someone/damaged"]["problem"]
    assert rows["qwen2.5-coder-1.5b"]["sha256"] is None and rows["qwen2.5-coder-1.5b"]["quality"] is None


# -------------------------------------------------------------------- remove


def test_removing_says_what_and_how_much(filled_world: TinyWorld) -> None:
    folder = filled_world.file.parent
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    done = filled_world.run("remove", NAME, "--yes")
    assert done.returncode == 0
    assert done.stderr.splitlines() == [f"{folder}  5 MB", "tiny is deleted; 5 MB are free again"]
    assert size == pytest.approx(5e6, rel=0.01)
    assert not folder.exists() and not list(filled_world.store.glob(".removing"))
    assert (filled_world.store / ".converted").exists()
    again = filled_world.run("remove", NAME, "--yes")
    assert again.returncode == 2 and f"nothing of {NAME} is in {filled_world.store}" in again.stderr


@pytest.mark.parametrize("name", ["someone/half", "someone/damaged", "converted"])
def test_what_is_left_of_others_can_be_removed(filled_world: TinyWorld, name: str) -> None:
    assert filled_world.run("remove", name, "--yes").returncode == 0
    rest = filled_world.run("checkpoints").stdout
    assert name not in rest.replace("of it converted", "")
    assert filled_world.file.exists()


@pytest.mark.parametrize("name", ["nosuch", "../published", "/etc", "..", ".pulling", "", "x" * 300])
def test_nothing_else_is_removed(filled_world: TinyWorld, name: str) -> None:
    before = sorted(filled_world.folder.rglob("*"))
    done = filled_world.run("remove", name, "--yes")
    assert done.returncode == 2 and done.stderr.startswith("dgemma-lsp: ") and "Traceback" not in done.stderr
    assert [path for path in sorted(filled_world.folder.rglob("*")) if ".locks" not in path.parts] == [
        path for path in before if ".locks" not in path.parts
    ]


def test_nobody_who_could_be_asked_means_no(filled_world: TinyWorld) -> None:
    done = filled_world.run("remove", NAME)
    assert done.returncode == 2 and "pass --yes" in done.stderr
    assert filled_world.file.exists()


@pytest.mark.parametrize(("answer", "deleted"), [("n", False), ("", False), ("y", True)])
def test_the_user_is_asked(filled_world: TinyWorld, answer: str, deleted: bool) -> None:
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        filled_world.program("remove", NAME),
        env=filled_world.environment(),
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    os.close(terminal)
    os.write(master, f"{answer}\n".encode())
    said, _ = process.communicate(timeout=60)
    os.close(master)
    assert "Delete this?" in said
    assert process.returncode == (0 if deleted else 1)
    assert filled_world.file.exists() is not deleted


def test_what_may_not_be_deleted_is_said_and_stays_whole(filled_world: TinyWorld) -> None:
    (filled_world.store / ".locks").chmod(0o777)
    filled_world.store.chmod(0o555)
    done = filled_world.run("remove", NAME, "--yes", before=UNPRIVILEGED)
    filled_world.store.chmod(0o755)
    assert done.returncode == 2 and "cannot be deleted (Permission denied)" in done.stderr
    assert filled_world.file.read_bytes() == CONTENT
