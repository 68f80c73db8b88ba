"""Runs one filled program and its tests, and reports on them: the child process of execution.py, never imported there.

Run as `python -I -S sandbox.py` in an empty folder. It reads its job from stdin, gives up what it needs not, and runs
the program in this very process. Two fences: resource limits, and an audit hook that refuses new processes, sockets,
signals, foreign code, and changes to files outside the folder. That stops the accidents of a language model. It is no
prison for an attacker, who could undo a hook from inside.
"""

from __future__ import annotations

import marshal
import os
import resource
import stat
import sys
from collections.abc import Callable
from types import ModuleType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MEMORY_BYTES = 512 * 2**20
FILE_BYTES = 2**20
OPEN_FILES = 32

REFUSED = (
    "ctypes.",
    "os.exec",
    "os.fork",
    "os.kill",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "pty.",
    "resource.",
    "signal.pthread_kill",
    "socket.",
    "subprocess.",
)
"""How the names of refused audit events begin."""
REFUSED_IMPORTS = frozenset({"ctypes", "_ctypes", "multiprocessing"})
"""They run foreign code, or start processes without an event."""
CHANGES = frozenset(
    f"os.{name}"
    for name in (
        *("chmod", "chown", "link", "mkdir", "remove", "removexattr", "rename"),
        *("rmdir", "setxattr", "symlink", "truncate", "utime"),
    )
)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def set_limits(cpu_seconds: int) -> None:
    """Hard limits for this process. The kernel does not count the processes of root; there the hook alone refuses."""
    limits = {
        resource.RLIMIT_CPU: cpu_seconds,
        resource.RLIMIT_AS: MEMORY_BYTES,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))


def is_folder(path: Any) -> bool:
    """Whether there is a folder; by `os`, as importing pathlib takes longer than most programs under test."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)  # noqa: PTH116
    except OSError:
        return False


def fence(folder: str) -> Callable[[str, tuple[object, ...]], None]:
    """An audit hook that raises `PermissionError` for what a program under test has no business with."""
    folder = os.path.realpath(folder)

    def is_outside(path: object) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        real = os.path.realpath(os.fsdecode(path))
        return real not in (folder, os.devnull) and not real.startswith(folder + os.sep)

    def hook(event: str, args: tuple[object, ...]) -> None:
        if event == "open":
            path, _, flags = args
            writes = not isinstance(flags, int) or bool(flags & WRITES)
            refused = is_outside(path) and (writes or is_folder(path))  # an open folder would serve as `dir_fd`
        elif event == "import":
            refused = args[0] in REFUSED_IMPORTS
        elif event in CHANGES:
            refused = any(is_outside(path) for path in args)
        else:
            refused = event.startswith(REFUSED)
        if refused:
            raise PermissionError(f"{event} is not allowed here")

    return hook


def verdict(program: str, test: str, entry_point: str) -> tuple[str, str]:
    """Run the program and then its tests in one module: `passed` or what failed, and more about it."""
    try:
        code = compile(program, "program.py", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return "syntax", describe(error)
    module = ModuleType("program")
    sys.modules["program"] = module  # dataclasses look their module up
    try:
        exec(code, module.__dict__)
        before = module.__dict__.get("check")
        exec(compile(test, "test.py", "exec", dont_inherit=True), module.__dict__)
        check = module.__dict__.get("check")
        if check is not before and callable(check):
            check(module.__dict__[entry_point])
    except AssertionError as error:
        return "assertion", describe(error)
    except BaseException as error:
        return "error", describe(error)
    return "passed", ""


def describe(error: BaseException) -> str:
    """One short line, whatever a class made by a model does when it is printed."""
    try:
        text = str(error)
    except BaseException:
        text = "(cannot be printed)"
    return " ".join(f"{type(error).__name__}: {text[:300]}".split())


def main() -> None:
    """Job on stdin, one line of report on what was stdout; the program under test has neither."""
    nonce, program, test, entry_point, cpu_seconds = marshal.load(sys.stdin.buffer)
    report = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    set_limits(cpu_seconds)
    sys.addaudithook(fence("."))
    kind, detail = verdict(program, test, entry_point)
    os.write(report, f"{nonce} {kind} {detail}\n".encode("utf-8", "replace"))
    os._exit(0)  # neither threads nor exit handlers of the program get another turn


if __name__ == "__main__":
    main()
