"""The door to the disk: what it opens, what it says instead of raising, and that it waits for nothing."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import ordinary_user
import pytest

from dgemma_lsp.documents import disk
from dgemma_lsp.documents.disk import DiskThreads, Fault

MOST = 1_000


def test_a_file_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for size in (0, 1, MOST):
        file.write_bytes(b"x" * size)
        assert disk.read(file, MOST) == b"x" * size
    file.write_bytes(b"x" * (MOST + 1))
    assert disk.read(file, MOST) is Fault.TOO_LARGE


def test_what_is_no_regular_file_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "endless").symlink_to("/dev/zero")
    (tmp_path / "terminal").symlink_to("/dev/tty")
    (tmp_path / "link to a pipe").symlink_to("pipe")
    listener = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(tmp_path)  # the name of a socket may not be long
    listener.bind("socket")
    os.chdir(here)

    def opened(*_: object) -> int:
        raise AssertionError("opened")

    monkeypatch.setattr(os, "open", opened)
    for name in ("pipe", "folder", "endless", "terminal", "link to a pipe", "socket"):
        assert disk.read(tmp_path / name, MOST) is Fault.NOT_REGULAR, name
        assert disk.stamp(tmp_path / name) is Fault.NOT_REGULAR, name
    listener.close()


def test_a_path_that_becomes_a_pipe_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at the path and the opening; on a pipe, an ordinary opening would wait for a writer."""
    file, real_open = tmp_path / "file", os.open
    file.write_text("text")

    def replaced(path: object, flags: int) -> int:
        file.unlink()
        os.mkfifo(file)
        return real_open(file, flags)

    monkeypatch.setattr(os, "open", replaced)
    assert disk.read(file, MOST) is Fault.NOT_REGULAR


def test_a_file_that_grows_while_it_is_read_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, real_open = tmp_path / "file", os.open
    file.write_text("text")

    def grown(path: object, flags: int) -> int:
        file.write_bytes(b"x" * 10 * MOST)
        return real_open(file, flags)

    monkeypatch.setattr(os, "open", grown)
    assert disk.read(file, MOST) is Fault.TOO_LARGE


def test_a_file_that_says_it_is_empty_is_bounded_too() -> None:
    status = disk.read(Path("/proc/self/status"), 100_000)
    assert isinstance(status, bytes) and b"VmSize" in status
    assert disk.read(Path("/proc/self/status"), 10) is Fault.TOO_LARGE


def test_the_null_device_is_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "none").symlink_to(os.devnull)
    assert disk.read(tmp_path / "none", MOST) == b""


def test_what_cannot_be_there_is_missing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("absent", "file/below", "x" * 300, "null\0byte", "half\ud800"):
        assert disk.read(tmp_path / name, MOST) is Fault.MISSING, ascii(name)
        assert disk.is_there(tmp_path / name) is False
        assert not disk.is_folder(tmp_path / name)
        assert disk.listing(tmp_path / name, MOST) == disk.Listing()
    (tmp_path / "loop").symlink_to("loop")
    assert disk.read(tmp_path / "loop", MOST) is Fault.BROKEN


def test_links_are_followed_only_where_they_may_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to("file")
    assert disk.read(tmp_path / "link", MOST) == b"text"
    assert isinstance(disk.read(tmp_path / "link", MOST, follow=False), Fault)
    assert disk.real(tmp_path / "link") == disk.real(tmp_path) / "file"


def test_a_listing_has_files_and_folders_only(tmp_path: Path) -> None:
    for age, name in enumerate(("newest.py", "older.py", ".hidden")):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    os.mkfifo(tmp_path / "pipe")
    assert disk.listing(tmp_path, MOST) == disk.Listing(("newest.py", "older.py"), ("folder",))
    listed = disk.listing(tmp_path, 2)
    assert len(listed.files + listed.folders) <= 2


def test_an_ordinary_user_is_told_what_may_not_be_read(ordinary_folder: Path) -> None:
    locked = ordinary_folder / "locked"
    locked.mkdir()
    (locked / "file").write_text("")
    locked.chmod(0)
    program = (
        "import sys; from pathlib import Path; from dgemma_lsp.documents import disk; import ordinary_user\n"
        "ordinary_user.become_nobody()\n"
        "folder = Path(sys.argv[1])\n"
        "print(disk.read(folder / 'file', 10).name, disk.stamp(folder / 'file').name,"
        " disk.is_there(folder / 'file').name, disk.is_folder(folder / 'file'), len(disk.listing(folder, 10).files))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(locked)],
        capture_output=True,
        text=True,
        cwd=Path(ordinary_user.__file__).parent,
    )
    locked.chmod(0o700)
    assert done.stdout.split() == ["DENIED", "DENIED", "DENIED", "False", "0"], done.stderr


def test_a_place_that_hangs_keeps_no_other_waiting() -> None:
    """However many questions there are about it, before and after those about other places."""
    never, others = threading.Event(), threading.active_count()

    async def ask() -> tuple[list[int], bool]:
        threads = DiskThreads()
        hanging = [threads.ask(never.wait, "stuck") for _ in range(200)]
        answers = [threads.ask(lambda number=number: number, number) for number in range(100)]
        hanging += [threads.ask(never.wait, "stuck") for _ in range(200)]
        answers += [threads.ask(lambda number=number: number, "free") for number in range(100)]
        found = await asyncio.wait_for(asyncio.gather(*answers), 30)
        return found, threading.active_count() - others < 100 and not any(one.done() for one in hanging)

    assert asyncio.run(ask()) == ([*range(100), *range(100)], True)
    never.set()


def test_no_question_waits_behind_one_that_hangs_while_another_thread_may_be_started() -> None:
    """Asked by turns, at whatever moment a thread takes the one before."""

    async def ask() -> None:
        for _ in range(200):
            never, threads = threading.Event(), DiskThreads()
            assert await threads.ask(lambda: 1, "warm") == 1
            threads.ask(never.wait, "stuck")
            assert await asyncio.wait_for(threads.ask(lambda: 2, "free"), 30) == 2
            never.set()

    asyncio.run(ask())


def test_what_a_question_raises_is_raised_where_it_was_asked() -> None:
    async def ask() -> None:
        await DiskThreads().ask(lambda: 1 // 0, None)

    with pytest.raises(ZeroDivisionError):
        asyncio.run(ask())


def test_a_process_ends_although_the_disk_hangs() -> None:
    program = (
        "import asyncio, threading\n"
        "from dgemma_lsp.documents.disk import DiskThreads\n"
        "async def main():\n"
        "    asking = DiskThreads().ask(threading.Event().wait, None)\n"
        "    await asyncio.wait([asking], timeout=0.05)\n"
        "asyncio.run(main())\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=30).returncode == 0
