"""`dgemma-lsp pull --json`: what programs that show a pull hear of it."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_hub import FakeHub, fake_hub
from tiny_checkpoints import CONTENT, FILE, NAME, REPOSITORY, TinyWorld

from dgemma_model.checkpoint import store


@pytest.fixture
def world(tmp_path: Path) -> TinyWorld:
    return TinyWorld.build(tmp_path)


@pytest.fixture
def hub(world: TinyWorld) -> Iterator[FakeHub]:
    with fake_hub(REPOSITORY, world.folder / "published") as running:
        yield running


def events(printed: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in printed.splitlines()]


def start(world: TinyWorld, hub: FakeHub) -> subprocess.Popen[str]:
    """A pull that is in the middle of the file."""
    hub.holds[FILE] = 2_000_000
    process = subprocess.Popen(
        world.program("pull", NAME, "--json"),
        env=world.environment(HF_ENDPOINT=hub.url),
        cwd=world.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while json.loads(process.stdout.readline()).get("bytes", 0) < 1_000_000:
        pass
    return process


def test_every_per_cent_and_the_end_are_told(world: TinyWorld, hub: FakeHub) -> None:
    done = world.run("pull", NAME, "--json", HF_ENDPOINT=hub.url)
    assert (done.returncode, done.stderr) == (0, "")
    *before, last = events(done.stdout)
    assert last["event"] == "done" and last["path"] == str(world.file) and "verified" in last["message"]
    told = [event for event in before if event["event"] == "progress" and event["doing"] == FILE]
    shares = [event["share"] for event in told]
    assert shares == sorted(shares) and shares[-1] == 1.0 and 1 < len(shares) <= 101
    assert told[-1]["bytes"] == len(CONTENT)
    (said,) = [event["message"] for event in before if event["event"] == "said"]
    assert said.startswith("it cannot be converted: ")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_who_ends_it_keeps_what_has_arrived(world: TinyWorld, hub: FakeHub, number: signal.Signals) -> None:
    process = start(world, hub)
    process.send_signal(number)
    printed, complaints = process.communicate(timeout=60)
    assert (process.returncode, complaints) == (130, "")
    last = events(printed)[-1]
    assert last["event"] == "interrupted" and "pulling again continues" in last["message"]
    hub.holds.clear()
    hub.ranges.clear()
    again = events(world.run("pull", NAME, "--json", HF_ENDPOINT=hub.url).stdout)
    assert again[0]["share"] > 0.3 and again[-1]["event"] == "done"
    assert hub.ranges[0][1] is not None, "it began anew"


def test_it_ends_when_nobody_reads_any_more(world: TinyWorld, hub: FakeHub) -> None:
    """As where an editor was killed."""
    process = start(world, hub)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    hub.released.set()
    assert process.wait(60) == 130
    assert process.stderr.read() == ""


def test_a_failure_is_the_last_event(world: TinyWorld) -> None:
    done = world.run("pull", "nosuch", "--json")
    assert (done.returncode, done.stderr) == (2, "")
    (event,) = events(done.stdout)
    assert event["event"] == "failed" and "there is no checkpoint 'nosuch'" in event["message"]


def test_two_at_once_are_one_and_the_second_says_that_it_waits(world: TinyWorld, hub: FakeHub) -> None:
    first = start(world, hub)
    second = world.start("pull", NAME, "--json", HF_ENDPOINT=hub.url)
    assert second.stdout is not None
    assert "waiting until it has ended" in json.loads(second.stdout.readline())["message"]
    hub.released.set()
    told, _ = second.communicate(timeout=60)
    first.communicate(timeout=60)
    assert events(told)[-1]["event"] == "done" and first.returncode == second.returncode == 0
    assert len(hub.ranges) == 1


def test_that_another_process_converts_the_file_is_told_as_an_event(
    world: TinyWorld, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.run("pull", NAME, HF_ENDPOINT=hub.url)
    monkeypatch.setenv("DGEMMA_CHECKPOINTS", world.environment()["DGEMMA_CHECKPOINTS"])
    with store.hold_form(world.file.parent / "converted"):
        waiting = world.start("pull", NAME, "--json", HF_ENDPOINT=hub.url)
        assert waiting.stdout is not None
        while "waiting until it has ended" not in (line := waiting.stdout.readline()):
            assert json.loads(line)["event"] != "done"
        assert json.loads(line)["event"] == "said"
    told, _ = waiting.communicate(timeout=60)
    assert events(told)[-1]["event"] == "done" and waiting.returncode == 0


def test_a_machine_that_is_too_small_is_told_before_anything_is_fetched(world: TinyWorld) -> None:
    entry = dataclasses.replace(world.entry, memory_bytes=10**15)
    done = world.run("pull", NAME, "--json", entry=entry, HF_HUB_OFFLINE="1")
    first = events(done.stdout)[0]
    assert first["event"] == "said"
    assert "tiny may be too large for this machine: it needs 1000000.0 GB of memory" in first["message"]


def test_programs_are_told_what_a_row_brings_and_what_the_machine_lacks(world: TinyWorld) -> None:
    document = json.loads(world.run("checkpoints", "--json", before=_SMALL).stdout)
    rows = {row["name"]: row for row in document["checkpoints"]}
    assert rows["qwen2.5-coder-0.5b"]["offer"].startswith("491 MB, 92 programming languages")
    assert rows["qwen2.5-coder-0.5b"]["shortage"] is None
    assert rows["qwen2.5-coder-7b"]["shortage"] == "it needs 9.0 GB of memory, and 4.0 GB are free"
    assert "there is none" in rows["diffusiongemma-26b-a4b"]["shortage"]
    assert document["used"]["why"]


_SMALL = (
    "from dgemma_lsp.command import checkpoints\n"
    "from dgemma_model.checkpoint.machine import Machine\n"
    "checkpoints.this_machine = lambda: Machine(8 * 10**9, 4 * 10**9, None, None)"
)
