"""Runs one filled program and its tests, and reports on them: the child process of execution.py, never imported there.

Run as `python -I -S -c`. It reads its job from stdin, limits itself, and runs the program in this very process: what
it reports is the program's own word. What the program may reach is for confinement.py, whether it is to be believed
for execution.py.
"""

from __future__ import annotations

import marshal
import os
import resource
import sys
from types import ModuleType

MEMORY_BYTES = 512 * 2**20
FILE_BYTES = 2**20
OPEN_FILES = 32


def set_limits(cpu_seconds: int) -> None:
    """Hard limits for this process, which may start neither another one nor a thread (unless root runs it)."""
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
    program, test, entry_point, cpu_seconds = marshal.load(sys.stdin.buffer)
    report = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    set_limits(cpu_seconds)
    kind, detail = verdict(program, test, entry_point)
    os.write(report, f"{kind} {detail}\n".encode("utf-8", "replace"))
    os._exit(0)  # neither threads nor exit handlers of the program get another turn


if __name__ == "__main__":
    main()
