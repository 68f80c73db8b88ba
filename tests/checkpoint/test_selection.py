"""Which checkpoint a name means, which one a machine should use, and how downloads grow."""

from __future__ import annotations

import json
import os
import random
import shutil
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_checkpoints import CONTENT, FILE, NAME, sha256

from dgemma_model.checkpoint import catalogue, selection, store
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.checkpoint.machine import Machine, free_memory, this_machine
from dgemma_model.checkpoint.pulling.partial import Partial, UnavailableError, Wanted
from dgemma_model.checkpoint.selection import (
    default_checkpoint,
    embedded_directory,
    find,
    offer,
    recommended,
    shortage,
)

GB = 10**9
PLAIN = Machine(16 * GB, 8 * GB, None, None)
SMALL = Machine(2 * GB, GB // 2, None, None)
UNKNOWN = Machine(None, None, None, None)
LARGE = Machine(64 * GB, 60 * GB, "H200", 140 * GB)
ENTHUSIAST = Machine(64 * GB, 48 * GB, "RTX 4090", 24 * GB)
GAMER = Machine(32 * GB, 24 * GB, "RTX 3060", 12 * GB)
DEFAULT, DIFFUSION, EMBEDDED = catalogue.DEFAULT, "diffusiongemma-26b-a4b", catalogue.EMBEDDED


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DGEMMA_CHECKPOINTS", str(tmp_path / "store"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "store"


def put(root: Path, name: str, content: bytes = CONTENT) -> Path:
    """A checkpoint in the store, as a pull leaves it."""
    folder = root / name.replace("/", "@")
    folder.mkdir(parents=True)
    (folder / FILE).write_bytes(content)
    file = store.StoredFile(FILE, len(content), sha256(content), "hub")
    store.Stored(name, folder, "hub", name, "main", (file,)).write()
    return folder / FILE


# ----------------------------------------------------------------- catalogue


def test_every_row_is_consistent() -> None:
    rows = catalogue.ENTRIES
    assert len({entry.name for entry in rows}) == len(rows)
    assert {DEFAULT, EMBEDDED} <= {entry.name for entry in rows}
    for entry in rows:
        assert store.folder_of(entry.name).name == entry.name
        assert not store.is_hub_name(entry.name) and entry.name != store.OTHER_FORMS
        assert entry.sha256 is None or (entry.file is not None and entry.revision is not None)
        if entry.wheels:
            assert sum(wheel.member_bytes for wheel in entry.wheels) == entry.disk_bytes
        hashes = [wheel.sha256 for wheel in entry.wheels] + [entry.sha256 or "0" * 64]
        assert all(len(digest) == 64 and int(digest, 16) >= 0 for digest in hashes)


# ---------------------------------------------------------------------- find


def test_without_a_name_it_is_the_embedded_one_until_the_default_is_here(root: Path) -> None:
    assert find(None) == find("") == find(EMBEDDED) == embedded_directory()
    file = put(root, DEFAULT)
    assert find(None) == find(DEFAULT) == file
    assert find(EMBEDDED) == embedded_directory()


def test_a_row_that_is_not_here_is_an_error_with_its_command() -> None:
    with pytest.raises(CheckpointError, match=f"not on this machine; get it with `dgemma-lsp pull {DEFAULT}`"):
        find(DEFAULT)


def test_a_name_on_the_hub_that_was_pulled_is_found(root: Path) -> None:
    file = put(root, "someone/some")
    assert find("someone/some") == file
    assert selection.name_of(file) == selection.name_of(file.parent) == "someone/some"


def test_directories_and_files_are_found_before_names_on_the_hub(tmp_path: Path, root: Path) -> None:
    put(root, "google/gemma")
    (tmp_path / "google" / "gemma").mkdir(parents=True)
    assert find("google/gemma") == Path("google/gemma")
    (tmp_path / "mine.gguf").write_bytes(b"GGUF")
    assert find("mine.gguf") == Path("mine.gguf")
    assert selection.name_of(Path("mine.gguf")) == "mine"


def test_a_folder_that_is_called_like_a_row_is_not_that_row(tmp_path: Path) -> None:
    (tmp_path / DEFAULT).mkdir()
    with pytest.raises(CheckpointError, match="is not on this machine"):
        find(DEFAULT)
    assert find(f"./{DEFAULT}") == Path(DEFAULT)


@pytest.mark.parametrize(
    "checkpoint", ["nowhere", "/nowhere", "a/b/c", "x" * 300, f"{'x' * 300}/{'y' * 300}", "a\0b", "runs/mistyped"]
)
def test_what_is_nowhere_is_said(tmp_path: Path, checkpoint: str) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(CheckpointError, match=r"no checkpoint .*; pass a directory, a \.gguf file, owner/model"):
        find(checkpoint)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda file: file.unlink(), "cannot be read"),
        (lambda file: file.write_bytes(b"GGUF"), "has 4 bytes, and had 3000004"),
        (lambda file: (file.parent / "source.json").write_text("{}"), "source.json is damaged"),
        (lambda file: (file.parent / "source.json").write_text("[1]"), "source.json is damaged"),
        (lambda file: (file.parent / "source.json").write_bytes(b"\xff"), "source.json"),
    ],
)
def test_a_damaged_checkpoint_is_said_and_not_the_default(root: Path, spoil: object, words: str) -> None:
    file = put(root, DEFAULT)
    assert callable(spoil)
    spoil(file)
    with pytest.raises(CheckpointError, match=words):
        find(DEFAULT)
    default = default_checkpoint(machine=PLAIN)
    assert (default.name, default.path) == (EMBEDDED, embedded_directory())
    assert default.advice is not None and words in default.advice
    assert find(None) == embedded_directory()
    whole, damaged = store.survey()
    assert whole == [] and words in damaged[DEFAULT]


def test_a_record_cannot_name_a_file_outside_of_its_folder(root: Path, tmp_path: Path) -> None:
    file = put(root, DEFAULT)
    (tmp_path / "outside.gguf").write_bytes(CONTENT)
    record = json.loads((file.parent / "source.json").read_text())
    record["files"][0]["name"] = "../../outside.gguf"
    (file.parent / "source.json").write_text(json.dumps(record))
    with pytest.raises(CheckpointError):
        find(DEFAULT)


def test_converted_forms_are_beside_their_source_or_in_a_folder_of_their_own(root: Path, tmp_path: Path) -> None:
    file = put(root, DEFAULT)
    there = store.stored_at(file)
    assert there is not None and there == store.stored_at(file.parent) == store.stored(DEFAULT)
    assert store.converted_folder(file, "0" * 64) == there.converted == file.parent / "converted"
    assert store.converted_folder(file.parent, "0" * 64) == there.converted
    assert store.stored_at(tmp_path / "mine.gguf") is None
    outside = store.converted_folder(tmp_path / "mine.gguf", "0" * 64)
    assert outside.parent == root / ".converted"
    assert outside != store.converted_folder(tmp_path / "mine.gguf", "1" * 64)


def test_sizes_are_counted_while_others_delete(tmp_path: Path) -> None:
    done = threading.Event()

    def make_and_delete() -> None:
        while not done.is_set():
            folder = tmp_path / "busy" / "deep" / "down"
            folder.mkdir(parents=True)
            (folder / "file").write_bytes(b"1234")
            shutil.rmtree(tmp_path / "busy")

    thread = threading.Thread(target=make_and_delete)
    thread.start()
    try:
        assert {store.size_of(tmp_path) for _ in range(3000)} <= {0, 4}
    finally:
        done.set()
        thread.join()


# ------------------------------------------------------------ recommendation


@pytest.mark.parametrize(
    ("machine", "name", "why"),
    [
        (PLAIN, DEFAULT, "8.0 GB of memory are free, and it needs 1.2 GB"),
        (SMALL, EMBEDDED, "500 MB of memory are free, and qwen2.5-coder-0.5b needs 1.2 GB"),
        (UNKNOWN, DEFAULT, "unknown"),
        (LARGE, DIFFUSION, "H200 has 140.0 GB free, and it needs 18.0 GB"),
        (ENTHUSIAST, DIFFUSION, "RTX 4090 has 24.0 GB free, and it needs 18.0 GB"),
        (GAMER, DEFAULT, "24.0 GB of memory are free"),
    ],
)
def test_what_a_machine_should_use(machine: Machine, name: str, why: str) -> None:
    advice = recommended(machine)
    assert advice.entry.name == name and why in advice.why


@pytest.mark.parametrize(
    ("machine", "here", "used", "better"),
    [
        (PLAIN, [], EMBEDDED, DEFAULT),
        (PLAIN, [DEFAULT], DEFAULT, None),
        (PLAIN, [DIFFUSION], EMBEDDED, DEFAULT),
        (SMALL, [], EMBEDDED, None),
        (SMALL, [DEFAULT], EMBEDDED, None),
        (LARGE, [], EMBEDDED, DIFFUSION),
        (LARGE, [DEFAULT], DEFAULT, DIFFUSION),
        (LARGE, [DEFAULT, DIFFUSION], DIFFUSION, None),
    ],
)
def test_what_is_used_and_what_would_be_better(
    root: Path, machine: Machine, here: list[str], used: str, better: str | None
) -> None:
    for name in here:
        put(root, name)
    default = default_checkpoint(machine=machine)
    assert default.name == used
    assert (default.better and default.better.name) == better
    if better is None:
        assert default.advice is None and default.why == recommended(machine).why
        return
    assert default.why == "no better one that can be used is on this machine"
    assert default.better is not None and default.advice == (
        f"{better} fills better on this machine; get it with `dgemma-lsp pull {better}` ({offer(default.better)})"
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (DEFAULT, "491 MB, 92 programming languages, 63 % of 150 tasks right, Apache-2.0"),
        (EMBEDDED, "27 MB, Python, 6 % of 150 tasks right, Apache-2.0"),
        (DIFFUSION, "about 52.0 GB, all languages, not measured, Apache-2.0"),
    ],
)
def test_what_a_row_brings(name: str, words: str) -> None:
    entry = catalogue.named(name)
    assert entry is not None and offer(entry) == words


@pytest.mark.parametrize(
    ("name", "machine", "words"),
    [
        (DEFAULT, PLAIN, None),
        (DEFAULT, SMALL, "it needs 1.2 GB of memory, and 500 MB are free"),
        (DEFAULT, UNKNOWN, None),
        (DIFFUSION, LARGE, None),
        (DIFFUSION, GAMER, "it needs 18.0 GB of GPU memory, and 12.0 GB are free"),
        (DIFFUSION, PLAIN, "it needs a GPU with 18.0 GB free, and there is none"),
    ],
)
def test_what_a_machine_lacks(name: str, machine: Machine, words: str | None) -> None:
    entry = catalogue.named(name)
    assert entry is not None and shortage(entry, machine) == words


def test_this_machine_is_known() -> None:
    machine = this_machine()
    assert machine.total_bytes is not None and machine.free_bytes is not None
    assert 0 < machine.free_bytes <= machine.total_bytes
    assert free_memory() is not None
    assert this_machine(look_for_gpu=False).gpu is None


def test_a_gpu_program_in_the_working_directory_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "nvidia-smi"
    fake.write_text("#!/bin/sh\necho '81000, Fake GPU'\n")
    fake.chmod(0o755)
    torch = tmp_path / "with_cuda" / "torch"
    (torch / "lib").mkdir(parents=True)
    (torch / "__init__.py").write_text("")
    (torch / "lib" / "libtorch_cuda.so").write_text("")
    monkeypatch.delitem(os.sys.modules, "torch", raising=False)  # type: ignore[attr-defined]
    monkeypatch.syspath_prepend(str(torch.parent))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert this_machine().gpu != "Fake GPU"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert (this_machine().gpu, this_machine().gpu_free_bytes) == ("Fake GPU", 81000 * 2**20)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert this_machine().gpu is None


# -------------------------------------------------------------------- partial


@settings(deadline=None)
@given(st.integers(0, 5000), st.lists(st.integers(0, 5000), max_size=5), st.integers(1, 700))
def test_whatever_was_interrupted_the_whole_is_the_same(size: int, breaks: list[int], chunk: int) -> None:
    """Any number of sources, each of which gives up somewhere, and one that ends it."""
    content = random.Random(size).randbytes(size)
    folder = store.staging_of(NAME)
    folder.mkdir(parents=True, exist_ok=True)
    wanted = Wanted(FILE, size, sha256(content))
    Partial(folder, wanted).discard()
    for at in [*sorted(breaks), size]:
        partial = Partial(folder, wanted)
        rest = content[partial.size : at]
        chunks = (rest[i : i + chunk] for i in range(0, len(rest), chunk))
        partial.append(chunks, partial.size, lambda arrived: None)
    assert Partial(folder, wanted).checked() == store.StoredFile(FILE, size, sha256(content), None)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=300), st.data())
def test_a_single_wrong_byte_is_found_and_all_is_deleted(content: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(content) - 1))
    wrong = content[:at] + bytes([content[at] ^ data.draw(st.integers(1, 255))]) + content[at + 1 :]
    folder = store.staging_of(NAME)
    folder.mkdir(parents=True, exist_ok=True)
    partial = Partial(folder, Wanted(FILE, len(content), sha256(content)))
    partial.append([wrong], 0, lambda arrived: None)
    with pytest.raises(UnavailableError, match="is not the right file"):
        partial.checked()
    assert partial.size == 0
