"""The packed form: the same products from a mapped file, made anew when it is damaged, stale, or cannot be kept."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from qwen2_fixtures import write_gguf
from torch import Tensor

from dgemma_model.checkpoint.converted import CONFIG, convert, load
from dgemma_model.checkpoint.mapped import packed_form
from dgemma_model.network.cache import Cache
from dgemma_model.network.packed import as_bytes, can_restore, from_bytes, packed
from dgemma_model.network.passes import native
from dgemma_model.network.qwen2_config import Qwen2Config

pytestmark = pytest.mark.skipif(not can_restore(), reason="packed weights cannot be mapped here")


@pytest.fixture(scope="module", params=["compiled", "oneDNN"])
def products(request: pytest.FixtureRequest) -> Iterator[str]:
    """Whose layout is kept."""
    if request.param == "compiled" and native.library() is None:
        pytest.skip("the passes were not compiled for this machine")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "oneDNN":
            patch.setattr(native, "library", lambda: None)
        yield request.param


@pytest.fixture(scope="module", params=["qwen2", "qwen2, untied"])
def made(request: pytest.FixtureRequest, products: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A converted checkpoint."""
    folder = tmp_path_factory.mktemp("packed")
    write_gguf(folder / "model.gguf", request.param)
    convert(folder / "model.gguf", folder / "model")
    return folder / "model"


def packed_path(directory: Path) -> Path:
    config = Qwen2Config.from_json(json.loads((directory / CONFIG).read_text()))
    return packed_form.writer_form(directory, config, {}, "").path


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


def logits(directory: Path) -> Tensor:
    network = load(directory)
    return network.logits(network.encode(torch.arange(30)[None], Cache()))


def test_a_packed_matrix_survives_as_bytes() -> None:
    weight = torch.randint(-127, 128, (80, 48), dtype=torch.int8)
    memory, description = as_bytes(packed(weight))
    restored = from_bytes(memory, description, (80, 48))
    again, described = as_bytes(restored)
    assert torch.equal(again, memory) and described == description
    assert restored.outputs == 80


def test_converting_packs_and_loading_maps(made: Path) -> None:
    assert packed_path(made).is_file()
    before = packed_path(made).stat()
    logits(made)
    after = packed_path(made).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    mapped = Path("/proc/self/maps")
    if mapped.exists():
        network = load(made)
        assert str(packed_path(made)) in mapped.read_text()
        assert network.vocab_size


def test_a_packed_form_computes_what_freshly_packed_weights_do(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = logits(copied)
    kept = packed_path(copied)
    monkeypatch.setattr(packed_form.PackedForm, "weights", lambda form, plain: plain)
    kept.unlink()
    assert torch.equal(logits(copied), mapped)
    assert not kept.exists()


@pytest.mark.parametrize("damage", ["missing", "cut short", "foreign", "of another checkpoint"])
def test_a_damaged_form_is_made_anew(damage: str, copied: Path, tmp_path: Path) -> None:
    expected, path = logits(copied), packed_path(copied)
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "cut short":
        path.write_bytes(content[:-64])
    elif damage == "foreign":
        path.write_bytes(b"not a tensor in it")
    else:
        write_gguf(tmp_path / "other.gguf", "qwen2, one key head")
        convert(tmp_path / "other.gguf", tmp_path / "other")
        shutil.copy(packed_path(tmp_path / "other"), path)
    assert torch.equal(logits(copied), expected)
    assert path.read_bytes() == content
    assert {file.name for file in copied.iterdir() if "packed" in file.name} == {path.name}


def test_the_form_of_another_processor_is_replaced(copied: Path) -> None:
    program = "import sys, pathlib; from dgemma_model.checkpoint.converted import load; load(pathlib.Path(sys.argv[1]))"
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "default"}
    subprocess.run([sys.executable, "-c", program, str(copied)], env=environment, check=True)
    others = [file for file in copied.iterdir() if file.name.startswith(packed_form.STEM)]
    assert len(others) == 1 and others[0] != packed_path(copied)
    logits(copied)
    assert packed_path(copied).is_file() and not others[0].exists()


def test_without_room_on_disk_weights_are_packed_in_memory(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = logits(copied)
    packed_path(copied).unlink()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packed_form, "write_tensors", full)
    assert torch.equal(logits(copied), expected)
    assert [file for file in copied.iterdir() if "packed" in file.name] == []


def test_what_a_killed_process_left_is_removed(copied: Path) -> None:
    expected = logits(copied)
    packed_path(copied).unlink()
    (copied / ".packed.abcdefgh").write_bytes(b"half a form")
    assert torch.equal(logits(copied), expected)
    assert {file.name for file in copied.iterdir() if "packed" in file.name} == {packed_path(copied).name}


def test_one_that_another_process_makes_meanwhile_is_waited_for(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, path = logits(copied), packed_path(copied)
    content = path.read_bytes()
    path.unlink()

    @contextmanager
    def held_by_another(folder: Path) -> Iterator[None]:
        path.write_bytes(content)  # and let go
        yield

    monkeypatch.setattr(packed_form, "hold_form", held_by_another)
    monkeypatch.setattr(packed_form.PackedForm, "_write", None)  # nothing is written a second time
    assert torch.equal(logits(copied), expected)
