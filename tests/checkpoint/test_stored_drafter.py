"""A drafter's file: read back, and left out with a message where it cannot be used."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from qwen2_fixtures import tiny_drafter, write_gguf
from safetensors.torch import load_file, save_file
from torch import Tensor

from dgemma_model.checkpoint import catalogue, load
from dgemma_model.checkpoint.causal_code import converted_form
from dgemma_model.checkpoint.contract import Checkpoint
from dgemma_model.checkpoint.converted import ORIGIN, sha256
from dgemma_model.checkpoint.drafters import stored
from dgemma_model.checkpoint.drafters.stored import DRAFTER, write_drafter
from dgemma_model.checkpoint.mapped import packed_form
from dgemma_model.checkpoint.mapped.packed_form import DRAFTER_STEM, PackedForm
from dgemma_model.infill import Infiller
from dgemma_model.network.cache import Cache
from dgemma_model.network.contract import Proposal
from dgemma_model.network.packed import can_restore
from dgemma_model.network.passes import native
from dgemma_model.network.qwen2_served import ServedQwen2
from dgemma_model.request import Excerpt, FillRequest

IDS = torch.arange(3, 403, 2)
EXCERPT = Excerpt("def add(a, b):\n    return ", "\n")


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The converted form of a tiny writer, with a drafter beside its weights."""
    monkeypatch.setenv("DGEMMA_CHECKPOINTS", str(tmp_path / "store"))
    write_gguf(tmp_path / "model.gguf")
    directory = converted_form(tmp_path / "model.gguf")
    writer_sha256 = json.loads((directory / ORIGIN).read_text())["sha256"]
    write_drafter(directory / DRAFTER, tiny_drafter(len(IDS)), IDS, writer_sha256)
    return directory


def loaded(directory: Path) -> Checkpoint:
    return load.load(directory, torch.device("cpu"), torch.float32)


def test_a_drafter_beside_its_writer_is_used(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = loaded(directory)
    assert checkpoint.drafter is not None and not caplog.records
    assert isinstance(checkpoint.network, ServedQwen2)
    assert checkpoint.policy.token_cost == checkpoint.network.token_cost > 0  # of the passes that this machine runs
    checkpoint.network.encode(torch.tensor([[5, 6, 7]]), cache := Cache())
    drafted, *_ = checkpoint.drafter.draft(cache, 8)
    assert 1 <= len(drafted) <= 4 and set(drafted) <= set(IDS.tolist())
    (directory / DRAFTER).unlink()
    assert loaded(directory).drafter is None and not caplog.records  # none is no fault


def drafts(directory: Path) -> list[Proposal]:
    """What the drafter of a directory drafts after a few texts."""
    checkpoint, found = loaded(directory), []
    assert checkpoint.drafter is not None
    for ids in torch.randint(400, (12, 20), generator=torch.Generator().manual_seed(0)).tolist():
        checkpoint.network.encode(torch.tensor([ids[:-1]]), cache := Cache())
        found.append(checkpoint.drafter.draft(cache, ids[-1]))
    return found


@pytest.mark.skipif(not can_restore(), reason="packed weights cannot be mapped here")
@pytest.mark.parametrize("products", ["compiled", "oneDNN"])
def test_its_matrices_are_mapped_from_a_file_that_servers_share(
    products: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if products == "oneDNN":
        monkeypatch.setattr(native, "library", lambda: None)
    with monkeypatch.context() as patch:
        patch.setattr(PackedForm, "weights", lambda form, plain: plain)
        expected = drafts(directory)
    assert drafts(directory) == expected
    (packed,) = directory.glob(f"{DRAFTER_STEM}*")
    written = packed.stat()
    assert drafts(directory) == expected and packed.stat().st_mtime_ns == written.st_mtime_ns
    maps = Path("/proc/self/maps")
    if maps.exists():
        held = loaded(directory)
        assert str(packed) in maps.read_text() and held.drafter is not None
    packed.write_bytes(packed.read_bytes()[:-50])
    assert drafts(directory) == expected and packed.stat().st_size == written.st_size  # made anew
    writer_sha256 = json.loads((directory / ORIGIN).read_text())["sha256"]
    write_drafter(directory / DRAFTER, tiny_drafter(len(IDS), canvas=3), IDS, writer_sha256)
    written, before = packed.read_bytes(), drafts(directory)
    assert packed.read_bytes() != written and drafts(directory) == before != expected  # packed anew for another drafter


def test_where_no_file_can_be_written_it_is_packed_into_memory(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = drafts(directory)
    for packed in directory.glob(f"{DRAFTER_STEM}*"):
        packed.unlink()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packed_form, "write_tensors", full)
    assert drafts(directory) == expected
    assert not [*directory.glob(f"{DRAFTER_STEM}*"), *directory.glob(".packed.*")]


def test_one_of_the_package_is_used_where_there_is_no_other(
    directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shipped = tmp_path / "shipped" / "tiny"
    shipped.mkdir(parents=True)
    monkeypatch.setattr(stored, "SHIPPED", shipped.parent)
    expected = drafts(directory)
    writer_sha256 = json.loads((directory / ORIGIN).read_text())["sha256"]
    (directory / DRAFTER).rename(shipped / DRAFTER)
    (shipped / "manifest.json").write_text(json.dumps({"writer": {"sha256": "0" * 64}}))
    assert loaded(directory).drafter is None  # it is another writer's
    (shipped / "manifest.json").write_text(json.dumps({"writer": {"sha256": writer_sha256}}))
    assert drafts(directory) == expected
    write_drafter(directory / DRAFTER, tiny_drafter(len(IDS), canvas=3), IDS, writer_sha256)
    assert drafts(directory) != expected and not caplog.records  # the user's own goes first


Change = Callable[[dict[str, Tensor], dict[str, str]], Any]


def changed_shape(**entries: Any) -> Change:
    def change(_: dict[str, Tensor], notes: dict[str, str]) -> None:
        notes["config"] = json.dumps(json.loads(notes["config"]) | entries)

    return change


FAULTS: dict[str, tuple[Change, str]] = {
    "of another writer": (lambda _, notes: notes.update(writer_sha256="0" * 64), "belongs to another checkpoint"),
    "without its writer's name": (lambda _, notes: notes.pop("writer_sha256"), "damaged"),
    "without a shape": (lambda _, notes: notes.update(config="{}"), "damaged"),
    "of a shape that is no JSON": (lambda _, notes: notes.update(config="{"), "damaged"),
    "of another width": (changed_shape(hidden_size=32), "hidden_size is 32 and not 64"),
    "of a deeper writer": (changed_shape(keys_of=[1, 7]), "more than 3 layers"),
    "of a shape that its tensors do not have": (changed_shape(intermediate_size=48), "no tensor 'layers.0.gate_up"),
    "for another vocabulary": (lambda tensors, _: tensors["ids"].add_(5), "another vocabulary"),
    "for ids below zero": (lambda tensors, _: tensors["ids"].sub_(9), "another vocabulary"),
    "with NaN": (lambda tensors, _: tensors["norm.weight"].fill_(torch.nan), "NaN"),
    "with infinite scales": (lambda tensors, _: tensors["fuse.scale"].fill_(torch.inf), "NaN or infinite"),
    "without a tensor": (lambda tensors, _: tensors.pop("places"), "no tensor 'places'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_that_cannot_be_used_is_named_and_left_out(
    fault: str, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    change, message = FAULTS[fault]
    path = directory / DRAFTER
    tensors, notes = load_file(path), notes_of(path)
    change(tensors, notes)
    save_file(tensors, path, notes)
    writes_on(directory, caplog, message)


@pytest.mark.parametrize("size", [0, 5, 3000, -100])
def test_one_that_is_cut_short_is_named_and_left_out(
    size: int, directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = directory / DRAFTER
    path.write_bytes(path.read_bytes()[:size])
    writes_on(directory, caplog, "damaged")


def writes_on(directory: Path, caplog: pytest.LogCaptureFixture, message: str) -> None:
    """The writer fills as it does without a drafter, and the log names the drafter."""
    with caplog.at_level(logging.WARNING):
        checkpoint = loaded(directory)
    assert checkpoint.drafter is None
    assert [message in record.getMessage() and DRAFTER in record.getMessage() for record in caplog.records] == [True]
    (directory / DRAFTER).unlink()
    request = FillRequest(EXCERPT, max_tokens=6, drafting="both")
    filled, alone = (
        [*Infiller(each, torch.device("cpu")).fill(request)][-1].text for each in (checkpoint, loaded(directory))
    )
    assert filled == alone


@pytest.mark.parametrize("content", ["", "{", "[]", '{"writer": null}', "\x00"])
def test_a_damaged_manifest_is_named_and_the_writer_works_on(
    content: str, directory: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "shipped" / "tiny").mkdir(parents=True)
    (tmp_path / "shipped" / "tiny" / "manifest.json").write_text(content)
    monkeypatch.setattr(stored, "SHIPPED", tmp_path / "shipped")
    (directory / DRAFTER).unlink()
    assert loaded(directory).drafter is None
    assert ["manifest.json is damaged" in record.getMessage() for record in caplog.records] == [True]


def test_the_one_in_the_package_is_what_its_manifest_says() -> None:
    folder = stored.SHIPPED / catalogue.DEFAULT
    manifest, notes = json.loads((folder / "manifest.json").read_text()), notes_of(folder / DRAFTER)
    assert manifest["sha256"] == sha256(folder / DRAFTER)
    assert manifest["writer"]["sha256"] == notes["writer_sha256"]
    entry = catalogue.named(catalogue.DEFAULT)
    assert entry is not None and entry.sha256 == notes["writer_sha256"]
    assert stored.shipped_for(notes["writer_sha256"]) == folder / DRAFTER and stored.shipped_for("0" * 64) is None
    assert all(source["licence"] and source["version"] and source["sha256"] for source in manifest["sources"])


def notes_of(path: Path) -> dict[str, str]:
    header = path.read_bytes()
    size = int.from_bytes(header[:8], "little")
    notes: dict[str, str] = json.loads(header[8 : 8 + size])["__metadata__"]
    return notes
