"""What this machine has: memory and GPUs. No torch."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Machine:
    """Memory in bytes; None is unknown, and for a GPU also that there is none to use."""

    total_bytes: int | None
    free_bytes: int | None
    gpu: str | None
    """Name of the GPU with the most free memory."""
    gpu_free_bytes: int | None


def this_machine(*, look_for_gpu: bool = True) -> Machine:
    """What is here now; a GPU counts only if the torch that is installed can use it."""
    gpu, gpu_free = _freest_gpu() if look_for_gpu and _torch_uses_cuda() else (None, None)
    return Machine(_total_memory(), free_memory(), gpu, gpu_free)


def free_memory() -> int | None:
    """Bytes that programs can still allocate: what the system has, or what its container is allowed, if less."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration, IndexError):
        return None
    try:
        group = Path("/sys/fs/cgroup")
        allowed = int((group / "memory.max").read_text("ascii"))
        used = int((group / "memory.current").read_text("ascii"))
        statistics = dict(line.split() for line in (group / "memory.stat").read_text("ascii").splitlines())
        free = min(free, max(0, allowed - used + int(statistics["inactive_file"])))
    except (OSError, ValueError, KeyError):  # no container, or "max": no limit
        pass
    return free


def give_back_memory() -> None:
    """Give memory that this process has freed back to the system, where the C library would keep it (glibc)."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):  # no C library of that kind
        return
    trim(0)


def _total_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows has no such function
        return None


def _torch_uses_cuda() -> bool:
    """Whether the installed torch has its libraries for NVIDIA's GPUs."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return False
    return any(Path(found.origin).parent.glob("lib/*torch_cuda.*"))


def _freest_gpu() -> tuple[str | None, int | None]:
    """Name and free memory of the GPU with the most of it, as NVIDIA's own program reports them."""
    program = shutil.which("nvidia-smi")
    if program is None or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return None, None
    if Path(program).resolve().parent == Path.cwd().resolve():  # Windows looks there first; it may be anybody's folder
        return None, None
    query = [program, "--query-gpu=memory.free,name", "--format=csv,noheader,nounits"]
    try:
        printed = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
        rows = [line.split(", ", 1) for line in printed.splitlines() if line.strip()]
        free, name = max((int(mebibytes) * 2**20, name) for mebibytes, name in rows)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None, None
    return name, free
