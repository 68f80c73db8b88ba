"""What this machine has, and memory that goes back to it."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

from dgemma_model.checkpoint import machine

PROGRAM = """
from dgemma_model.checkpoint.machine import give_back_memory

def own():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous:"))

blocks = [bytes(2000) for _ in range(30_000)]
last = bytes(2000)  # what is before it is not at the end of the heap
del blocks
before = own()
give_back_memory()
print(before - own())
"""


def keeps_freed_memory() -> bool:
    """Whether the C library is one that keeps freed memory, and the system tells how much a process holds."""
    return (
        sys.platform == "linux"
        and hasattr(ctypes.CDLL(None), "malloc_trim")
        and Path("/proc/self/smaps_rollup").exists()
    )


@pytest.mark.skipif(not keeps_freed_memory(), reason="the C library keeps nothing here")
def test_freed_memory_goes_back_to_the_system() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    assert int(done.stdout) > 40_000  # of 60,000 kB


def test_without_such_a_library_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: object) -> object:
        raise OSError("no such library")

    monkeypatch.setattr(machine.ctypes, "CDLL", missing)
    machine.give_back_memory()
