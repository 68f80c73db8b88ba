"""Checkpoints by name: real downloads from a hub on this machine, the cache, and every way in which it can fail."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_hub import COMMIT, FakeHub, fake_hub
from gemma_fixtures import write_gemma

from dgemma_model.checkpoint import hub
from dgemma_model.checkpoint.load import find

NAME = "someone/small-gemma"
NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens there


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_gemma(tmp_path_factory.mktemp("hub") / "files")
    (directory / "README.md").write_text("not needed")
    (directory / "pytorch_model.bin").write_bytes(b"never downloaded")
    return directory


@pytest.fixture
def server(published: Path) -> Iterator[FakeHub]:
    with fake_hub(NAME, published) as running:
        yield running


def run(program: str, home: Path, endpoint: str = NOWHERE, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `program` in a process of its own: the library reads its settings when it is imported."""
    settings = {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1"} | environment
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING", "http", "HTTP"))}
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=100, env=kept | settings
    )


FETCH = """
from dgemma_model.checkpoint import hub
try:
    print("FOUND", hub.name_of(hub.fetch("NAME")))
except hub.DownloadError as error:
    print("ERROR", error)
"""
FILL = """
from dgemma_model.infill import Infiller
from dgemma_model.request import Excerpt, FillRequest
infiller = Infiller.load("NAME", "cpu")
*_, draft = infiller.fill(FillRequest(Excerpt("x = ", ""), max_tokens=4, max_denoising_steps=2))
print("FILLED", infiller.name, draft.done)
"""
FOUND = f"FOUND {NAME}"


def said(program: str, name: str, home: Path, endpoint: str = NOWHERE, **environment: str) -> str:
    done = run(program.replace("NAME", name), home, endpoint, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1, done.stdout  # progress is not on standard output
    return done.stdout.strip()


def fetched(name: str, home: Path, endpoint: str = NOWHERE, **environment: str) -> str:
    return said(FETCH, name, home, endpoint, **environment)


def lay_out_cache(home: Path, published: Path, name: str = NAME) -> Path:
    """The cache as the library leaves it after a download."""
    folder = home / "hub" / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    return Path(shutil.copytree(published, folder / "snapshots" / COMMIT))


# ------------------------------------------------------------------ download


def test_a_name_is_downloaded_once_and_then_nobody_is_asked(tmp_path: Path, server: FakeHub) -> None:
    assert said(FILL, NAME, tmp_path, server.url) == f"FILLED {NAME} True"
    got = {request.rpartition("/")[2] for request in server.asked if "/resolve/" in request}
    assert {"config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors.index.json"} <= got
    assert "README.md" not in got and "pytorch_model.bin" not in got
    server.asked.clear()
    assert fetched(NAME, tmp_path, server.url) == FOUND
    assert server.asked == []


def test_a_download_that_broke_off_is_continued(tmp_path: Path, server: FakeHub, published: Path) -> None:
    last = sorted(path.name for path in published.glob("model-*.safetensors"))[-1]
    server.broken = {last}
    assert "cannot be downloaded: the hub refuses it" in fetched(NAME, tmp_path, server.url)
    server.broken = set()
    server.asked.clear()
    done = run(FETCH.replace("NAME", NAME), tmp_path, server.url)
    assert done.stdout.strip() == FOUND
    assert "100%" in done.stderr  # progress
    assert any(request.endswith(last) for request in server.asked if request.startswith("GET"))


def test_a_cached_name_is_found_offline(tmp_path: Path, published: Path) -> None:
    lay_out_cache(tmp_path, published)
    assert fetched(NAME, tmp_path) == FOUND
    assert fetched(NAME, tmp_path, HF_HUB_OFFLINE="1") == FOUND


# -------------------------------------------------------------------- faults


@pytest.mark.parametrize("environment", [{}, {"HF_HUB_OFFLINE": "1"}])
def test_without_a_connection_it_says_so(tmp_path: Path, environment: dict[str, str]) -> None:
    words = fetched(NAME, tmp_path, **environment)
    assert words.startswith(f"ERROR {NAME} is not on this machine and cannot be downloaded: no connection")
    assert "connect and try again" in words and "or pass a directory" in words


def test_half_a_cache_without_a_connection_says_so(tmp_path: Path, published: Path) -> None:
    cached = lay_out_cache(tmp_path, published)
    next(iter(cached.glob("model-*.safetensors"))).unlink()
    assert "cannot be downloaded: no connection" in fetched(NAME, tmp_path)


def test_a_name_that_nobody_has_is_said(tmp_path: Path, server: FakeHub) -> None:
    words = fetched("someone/mistyped", tmp_path, server.url)
    assert words.startswith("ERROR there is no checkpoint directory 'someone/mistyped' here, and no model of that name")


def test_terms_that_were_not_accepted_are_said(tmp_path: Path, server: FakeHub) -> None:
    words = fetched("gated/gemma", tmp_path, server.url)
    assert "accept them on https://huggingface.co/gated/gemma" in words and "hf auth login" in words


def test_a_full_disk_is_said_before_anything_is_downloaded(tmp_path: Path, server: FakeHub) -> None:
    full = "import shutil\nfrom types import SimpleNamespace\n"
    full += "shutil.disk_usage = lambda path: SimpleNamespace(free=1000)\n"
    words = said(full + FETCH, NAME, tmp_path, server.url)
    assert words.startswith(f"ERROR {NAME} needs 0.0 GiB more in {tmp_path}") and "HF_HOME" in words
    assert not any(request.startswith("GET") and "/resolve/" in request for request in server.asked)


def test_a_disk_that_becomes_full_is_said() -> None:
    assert "became full" in hub._explained(NAME, OSError(errno.ENOSPC, "No space left on device"))


def test_a_cache_that_may_not_be_written_is_said(tmp_path: Path, server: FakeHub) -> None:
    denied = "import os\ndef denied(path, *rest, **more): raise PermissionError(13, 'Permission denied', str(path))\n"
    words = said(denied + "os.makedirs = denied\n" + FETCH, NAME, tmp_path, server.url)
    assert "cannot be stored" in words and "Permission denied" in words and "HF_HOME" in words


def test_the_terminal_says_it_too(tmp_path: Path) -> None:
    program = f"import sys; sys.argv[1:] = ['fill', '{__file__}:1:1', '--checkpoint', '{NAME}']\n"
    done = run(program + "from dgemma_lsp.command.cli import main\nmain()", tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"dgemma-lsp: {NAME} is not on this machine and cannot be downloaded")


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
        ("https://huggingface.co/a", False),
        ("", False),
    ],
)
def test_what_looks_like_a_name(checkpoint: str, expected: bool) -> None:
    assert hub.is_name(checkpoint) == expected


def test_a_path_into_a_folder_that_is_here_is_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find("runs/mistyped") == Path("runs/mistyped")
    assert hub.is_name("models/mistyped")


def test_a_directory_is_found_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "google" / "gemma").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert find("google/gemma") == Path("google/gemma")


def test_a_checkpoint_in_the_cache_is_called_by_its_name(tmp_path: Path, published: Path) -> None:
    assert hub.name_of(lay_out_cache(tmp_path, published)) == NAME
    assert hub.name_of(tmp_path / "mine") == "mine"


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
def test_what_is_complete(tmp_path: Path, published: Path, spoil: object, complete: bool) -> None:
    directory = Path(shutil.copytree(published, tmp_path / "copy"))
    assert callable(spoil)
    spoil(directory)
    assert hub.is_complete(directory) == complete
