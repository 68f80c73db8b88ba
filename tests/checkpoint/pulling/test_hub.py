"""Checkpoints by their name on the hub: pulls from a hub on this machine, its own cache, how names are read."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_hub import COMMIT, FakeHub, fake_hub
from gemma_fixtures import write_gemma
from tiny_checkpoints import TinyWorld, sha256

from dgemma_model.checkpoint import store
from dgemma_model.checkpoint.pulling import hub

NAME = "someone/small-gemma"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_gemma(tmp_path_factory.mktemp("hub") / "files")
    (directory / "LICENSE").write_text("its own licence")
    (directory / "README.md").write_text("not needed")
    (directory / "pytorch_model.bin").write_bytes(b"never downloaded")
    return directory


@pytest.fixture
def server(published: Path) -> Iterator[FakeHub]:
    with fake_hub(NAME, published) as running:
        yield running


@pytest.fixture
def world(tmp_path: Path) -> TinyWorld:
    return TinyWorld.build(tmp_path)


def pulled(world: TinyWorld, name: str, server: FakeHub) -> subprocess.CompletedProcess[str]:
    return world.run("pull", name, HF_ENDPOINT=server.url)


def refused(world: TinyWorld, name: str, server: FakeHub) -> str:
    """What a pull says that cannot be."""
    done = pulled(world, name, server)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


def filled(world: TinyWorld, checkpoint: object) -> subprocess.CompletedProcess[str]:
    """A batch that is filled with it; there is no connection."""
    (world.folder / "tasks.jsonl").write_text('{"id": 1, "prefix": "x = ", "suffix": "\\n"}\n')
    return world.run("fill", "--batch", "tasks.jsonl", "--steps", 2, "--checkpoint", checkpoint)


def lay_out_cache(world: TinyWorld, published: Path, name: str = NAME) -> Path:
    """The hub's cache as its own library leaves it after a download."""
    folder = world.folder / "home" / "hub" / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    return Path(shutil.copytree(published, folder / "snapshots" / COMMIT))


# ---------------------------------------------------------------------- pull


def test_a_repository_is_pulled_once_and_then_used_without_a_connection(
    world: TinyWorld, server: FakeHub, published: Path
) -> None:
    done = pulled(world, NAME, server)
    assert done.returncode == 0, done.stderr
    folder = world.store / "someone@small-gemma"
    got = {name for name, _ in server.ranges}
    assert {"config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors.index.json"} <= got
    assert "README.md" not in got and "pytorch_model.bin" not in got
    assert {path.name for path in folder.iterdir()} == got | {"NOTICE", "source.json"}
    assert all((folder / name).read_bytes() == (published / name).read_bytes() for name in got)
    record = json.loads((folder / "source.json").read_text())
    assert (record["source"], record["revision"], record["verified"]) == ("hub", COMMIT, True)
    assert {(file["name"], file["sha256"]) for file in record["files"]} == {
        (name, sha256((published / name).read_bytes())) for name in got
    }
    assert (folder / "LICENSE").read_text() == "its own licence"
    answer = filled(world, NAME)
    assert answer.returncode == 0 and json.loads(answer.stdout)["id"] == 1, answer.stderr


def test_a_pull_of_several_files_continues_with_those_that_are_missing(
    world: TinyWorld, server: FakeHub, published: Path
) -> None:
    last = sorted(path.name for path in published.glob("model-*.safetensors"))[-1]
    server.broken = {last}
    assert "the hub refuses someone/small-gemma" in refused(world, NAME, server)
    assert not (world.store / "someone@small-gemma").exists()
    server.broken = set()
    server.ranges.clear()
    assert pulled(world, NAME, server).returncode == 0
    got = [name for name, _ in server.ranges]
    assert last in got and not any(name.startswith("model-") and name != last for name in got)


def test_a_small_file_that_is_not_the_one_of_the_commit_is_refused(world: TinyWorld, server: FakeHub) -> None:
    server.lies["tokenizer.json"] = (server.folder / "tokenizer.json").read_bytes().replace(b"1", b"2")
    assert "tokenizer.json from there is not the right file" in refused(world, NAME, server)
    assert not (world.store / "someone@small-gemma").exists()


def test_another_family_is_refused_before_its_weights_are_downloaded(world: TinyWorld, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "config.json").write_text('{"model_type": "bert"}')
    (foreign / "model.safetensors").write_bytes(b"weights")
    with fake_hub("someone/bert", foreign) as running:
        assert "'bert' model; only diffusion_gemma, qwen2, llama, a2d-qwen2 run here" in refused(
            world, "someone/bert", running
        )
    assert [name for name, _ in running.ranges] == ["config.json"]


def test_of_several_packed_files_the_usual_one_is_taken(world: TinyWorld, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    packed.mkdir()
    for form in ("Q2_K", "Q4_K_M", "F16"):
        (packed / f"some-{form}.gguf").write_bytes(b"GGUF" + form.encode())
    with fake_hub("someone/packed", packed) as running:
        assert pulled(world, "someone/packed", running).returncode == 0
    assert (world.store / "someone@packed" / "some-Q4_K_M.gguf").read_bytes() == b"GGUFQ4_K_M"
    assert [name for name, _ in running.ranges] == ["some-Q4_K_M.gguf"]


def test_a_repository_without_weights_is_said(world: TinyWorld, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "README.md").write_text("nothing")
    with fake_hub("someone/empty", empty) as running:
        assert "does not have a config.json with .safetensors files" in refused(world, "someone/empty", running)


def test_a_name_that_nobody_has_is_said(world: TinyWorld, server: FakeHub) -> None:
    assert "the hub has no model someone/mistyped" in refused(world, "someone/mistyped", server)


def test_terms_that_were_not_accepted_are_said(world: TinyWorld, server: FakeHub) -> None:
    words = refused(world, "gated/gemma", server)
    assert "accept them on https://huggingface.co/gated/gemma" in words and "hf auth login" in words


def test_a_directory_is_stored_under_a_name(world: TinyWorld, published: Path) -> None:
    done = world.run("pull", NAME, "--from", published)
    assert done.returncode == 0, done.stderr
    assert "from the file; unverified: nobody knows a hash of it" in done.stderr
    assert json.loads((world.store / "someone@small-gemma" / "source.json").read_text())["verified"] is False


@pytest.mark.parametrize("lost", ["tokenizer.json", "config.json"])
def test_a_directory_that_is_not_whole_is_not_stored(world: TinyWorld, published: Path, lost: str) -> None:
    mine = Path(shutil.copytree(published, world.folder / "mine"))
    (mine / lost).unlink()
    done = world.run("pull", NAME, "--from", mine)
    assert done.returncode == 2 and "is no checkpoint: it needs config.json" in done.stderr
    assert not (world.store / "someone@small-gemma").exists()


# ----------------------------------------------------------------------- use


def test_an_absent_name_is_not_downloaded_but_its_command_is_said(world: TinyWorld, server: FakeHub) -> None:
    (world.folder / "tasks.jsonl").write_text("{}\n")
    done = world.run("fill", "--batch", "tasks.jsonl", "--checkpoint", NAME, HF_ENDPOINT=server.url)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"dgemma-lsp: {NAME} is not on this machine; get it from the Hugging Face hub with `dgemma-lsp pull {NAME}`\n"
    )
    assert server.asked == []


def test_what_is_in_the_hubs_own_cache_is_used_as_it_is(world: TinyWorld, published: Path) -> None:
    lay_out_cache(world, published)
    answer = filled(world, NAME)
    assert answer.returncode == 0 and json.loads(answer.stdout)["id"] == 1, answer.stderr
    assert not world.store.exists()


def test_half_a_cache_is_not_used(world: TinyWorld, published: Path) -> None:
    cached = lay_out_cache(world, published)
    next(iter(cached.glob("model-*.safetensors"))).unlink()
    assert "is not on this machine" in filled(world, NAME).stderr


# --------------------------------------------------------------------- names


@pytest.mark.parametrize(
    ("checkpoint", "expected"),
    [
        ("google/diffusiongemma-26B-A4B-it", True),
        ("a/b", True),
        ("./a/b", False),
        ("/a/b", False),
        ("~/a", False),
        ("../a", False),
        ("a", False),
        ("a/b/c", False),
        ("a/", False),
        ("a/..", False),
        ("a\\b", False),
        ("a b/c", False),
        ("a/é", False),
        ("a@b/c", False),
        ("https://huggingface.co/a", False),
        (f"{'a' * 300}/b", False),
        ("", False),
    ],
)
def test_what_looks_like_a_name(checkpoint: str, expected: bool) -> None:
    assert store.is_hub_name(checkpoint) == expected


@pytest.mark.parametrize(
    ("spoil", "complete"),
    [
        (lambda d: None, True),
        (lambda d: (d / "README.md").unlink(), True),
        (lambda d: (d / "config.json").unlink(), False),
        (lambda d: (d / "tokenizer.json").unlink(), False),
        (lambda d: sorted(d.glob("model-*"))[-1].unlink(), False),
        (lambda d: (d / "model.safetensors.index.json").unlink(), False),
        (lambda d: (d / "model.safetensors.index.json").write_text("[]"), True),
        (lambda d: (d / "model.safetensors.index.json").write_text('{"weight_map": {"a": "config.json"}}'), True),
    ],
)
def test_what_is_complete(tmp_path: Path, published: Path, spoil: Callable[[Path], object], complete: bool) -> None:
    directory = Path(shutil.copytree(published, tmp_path / "copy"))
    spoil(directory)
    assert hub.is_complete(directory) == complete
