"""What keeps a program that a model wrote from the machine: the operating system, not the interpreter.

Such a program gets namespaces of its own for files, processes, network, and what else Linux has, no capability, no
way to gain one, and a root of its own: the interpreter and the system's libraries, read-only, two devices, and a
`/tmp` in memory. There is no home, no `/proc`, no `/sys`, no `/etc`. When its first process ends, all end.

Bubblewrap does that, or `unshare`, `mount`, `pivot_root` and `setpriv` of util-linux do. A program that root runs
becomes `nobody`, as the kernel does not count the processes of root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

Confine = Callable[[Sequence[str], str], list[str]]
"""The command that runs a command confined. Takes an empty folder, too, where the new root may be put together."""

SEARCH_PATH = "/usr/bin:/usr/sbin:/bin:/sbin"
MEMORY_FOLDER_BYTES = 16 * 2**20
"""How much fits in the program's `/tmp`."""
TRIAL_S = 10.0
NOBODY = 65534

_FOLDERS = ("/usr", "/bin", "/lib", "/lib32", "/lib64", "/nix/store")
_DEVICES = ("/dev/null", "/dev/urandom")

_BUILD_ROOT = """
set -eu
root=$1
shift
mount -t tmpfs -o mode=755,size=$MEMORY_FOLDER_BYTES,nr_inodes=4096,nosuid,nodev program "$root"
mkdir "$root/dev" "$root/proc" "$root/tmp" "$root/old"
chmod 1777 "$root/tmp"
while [ "$1" != -- ]; do
    if [ -L "$1" ]; then
        cp -P "$1" "$root$1"
    elif [ -d "$1" ]; then
        mkdir -p "$root$1"
        mount -o bind,ro,nosuid,nodev "$1" "$root$1"
    else
        : > "$root$1"
        mount --bind "$1" "$root$1"
    fi
    shift
done
shift
cd "$root"
mount --rbind /proc proc
pivot_root . old
cd /tmp
umount -l /old
umount -l /proc
rmdir /old /proc
status=0
"$@" || status=$?
exit $status
"""
"""Takes the folder, what is to be seen, `--`, and the command. The shell stays as the first process: that one would
not be hit by its own signals. `umount` wants `/proc`, which goes last."""


def interpreter() -> str:
    """The interpreter itself, not the link in a virtual environment, which is not there for a confined program."""
    program = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    return str(program if program.is_file() else Path(sys.executable).resolve())


@cache
def find() -> Confine | None:
    """The first way that works on this machine, tried with a program that does nothing; None where none does."""
    if sys.platform != "linux":
        return None
    ways = (_by_unshare,) if os.geteuid() == 0 else (_by_bubblewrap, _by_unshare)
    return next((way for way in ways if _works(way)), None)


def _works(way: Confine) -> bool:
    with TemporaryDirectory(prefix="trial-", ignore_cleanup_errors=True) as folder:
        command = way([interpreter(), "-I", "-S", "-c", ""], folder)
        if shutil.which(command[0], path=SEARCH_PATH) is None:
            return False
        try:
            trial = subprocess.run(
                command, env={"PATH": SEARCH_PATH}, stdin=subprocess.DEVNULL, capture_output=True, timeout=TRIAL_S
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        return trial.returncode == 0


def _seen() -> list[str]:
    """The folders that a confined program sees. One below another would be hidden by it, or is in it already."""
    folders = [folder for folder in _FOLDERS if Path(folder).exists()]
    prefix = Path(sys.base_prefix)
    return folders if any(prefix.is_relative_to(folder) for folder in folders) else [*folders, str(prefix)]


def _by_unshare(command: Sequence[str], folder: str) -> list[str]:
    is_root = os.geteuid() == 0
    user = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if is_root else []
    return [
        "unshare",
        *(() if is_root else ("--user", "--map-root-user")),
        *("--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup", "--fork", "--kill-child"),
        *("sh", "-c", _BUILD_ROOT.replace("$MEMORY_FOLDER_BYTES", str(MEMORY_FOLDER_BYTES)), "sh"),
        *(folder, *_seen(), *_DEVICES, "--"),
        *("setpriv", *user, "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"),
        *command,
    ]


def _by_bubblewrap(command: Sequence[str], folder: str) -> list[str]:
    return [
        *("bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        *(word for path in _seen() for word in ("--ro-bind", path, path)),
        *(word for path in _DEVICES for word in ("--dev-bind", path, path)),
        *("--size", str(MEMORY_FOLDER_BYTES), "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp"),
        *command,
    ]
