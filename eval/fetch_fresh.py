"""Held-out code that a pretrained model has not read: get packages first published in 2025 or later, and cut holes.

    python eval/fetch_fresh.py get eval/fresh/packages.json FOLDER          # archives, unpacked into FOLDER
    python eval/fetch_fresh.py cut FOLDER                                   # writes eval/fresh/*.jsonl.xz
    python eval/fetch_fresh.py get eval/fresh/fitting_packages.json OTHER   # to fit the judge and probes on

A manifest is a JSON list of packages: `name`, `version`, `ecosystem` (a key of `CLIENTS`), `first_release`, `evidence`
of that date, `licence`, `sha256` of the archive, `languages` to read, and with `only` the paths to read (`fnmatch`).
`get` asks each ecosystem's own client (pip, npm, apt-get) by name and version. It refuses an archive with another hash.
It needs pip 23 or later, and npm and apt-get where a manifest has such packages. Debian's archive keeps one version of
a package, so an old version may be gone.
"""

from __future__ import annotations

import argparse
import fnmatch
import hashlib
import json
import lzma
import math
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from tempfile import TemporaryDirectory
from typing import Any

from dgemma_model.evaluation.held_out import SETS, HeldOutHole
from dgemma_model.source.languages import language_of
from dgemma_model.train.corpus import SKIPPED_FOLDERS, NearDuplicates, is_usable
from dgemma_model.train.cut_held_out import cut_from
from dgemma_model.train.holes import HoleCutter, HoleKind
from dgemma_model.train.several_holes import cut_cases_from

FRESH = SETS["fresh"]
MANIFEST = Path("eval/fresh/packages.json")
SEED = 2025

PYTHON_COUNTS: dict[HoleKind, int] = {
    "line": 640,
    "rest_of_line": 300,
    "expression": 300,
    "statement": 80,
    "block": 120,
    "span": 60,
    "empty": 80,
}
OTHER_COUNTS: dict[HoleKind, int] = {"line": 90, "rest_of_line": 60}
"""Of each other language."""

MOST_CHARS_IN_FILE = 100_000
MOST_CHARS = {"python": 330_000}
MOST_CHARS_OF_OTHERS = 130_000
"""What is kept of a package in one language, whole folders together."""

SKIPPED = re.compile(
    r"(?i)(^|/)(node_modules|dist|build|3rdparty|third[_-]party|vendor|deps|external|__tests__|tests?|specs?|fixtures|testdata|"
    r"examples?|docs?|e2e|mocks?|__mocks__|bench(es|marks?)?|generated|_generated|_version|resources)(/|$)"
)
TEST_FILE = re.compile(r"(?i)(^test_|_test\.|\.test\.|\.spec\.|_spec\.|tests?\.(cs|java|php)$|^conftest\.py$)")
GENERATED_FILE = re.compile(
    r"(\.d\.[mc]?ts|\.min\.js|_pb2(_grpc)?\.py|\.pb\.\w+|\.gen\.\w+|[._-]generated\.\w+|^_version\.py)$"
)
PYTHON_VERSION = "3.13"
"""Wheels are taken for this version, whatever runs the script."""
SDIST_BACKEND = '''\
"""Answers pip with the metadata that a source archive has. pip asks for it before it keeps the archive."""
import sys
from pathlib import Path

def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    info = Path("PKG-INFO").read_text("utf-8")
    fields = dict(line.split(": ", 1) for line in info.splitlines() if line.startswith(("Name: ", "Version: ")))
    folder = fields["Name"].replace("-", "_").replace(".", "_") + "-" + fields["Version"] + ".dist-info"
    (Path(metadata_directory) / folder).mkdir()
    (Path(metadata_directory) / folder / "METADATA").write_text(info, "utf-8")
    return folder

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    raise NotImplementedError("only metadata")

__legacy__ = sys.modules[__name__]
'''
SDIST_BACKENDS = ("maturin.py", "setuptools/build_meta.py", "scikit_build_core/build.py")
"""The build backends of the source archives, which need compilers to answer."""


@dataclass(frozen=True, slots=True)
class Package:
    """One entry of a manifest."""

    name: str
    version: str
    ecosystem: str
    first_release: str
    """`YYYY-MM`, or only `YYYY` where no more is known."""
    evidence: str
    """How `first_release` is known."""
    licence: str
    sha256: str
    languages: list[str]
    only: list[str] | None = None

    @property
    def folder(self) -> str:
        """Its name as that of a folder: the first part of its files' paths."""
        return self.name.replace("@", "").replace("/", "-")


def read_manifest(path: Path) -> list[Package]:
    """The packages of a manifest."""
    return [Package(**fields) for fields in json.loads(path.read_text("utf-8"))]


# ---------------------------------------------------------------- archives


def wheel(package: Package, folder: Path) -> None:
    """Download a wheel into `folder`."""
    options = ["--only-binary=:all:", "--python-version", PYTHON_VERSION]
    pip("download", *options, "--dest", str(folder), f"{package.name}=={package.version}")


def sdist(package: Package, folder: Path) -> None:
    """Download a source archive into `folder`, without building anything."""
    with TemporaryDirectory() as backends:
        for name in SDIST_BACKENDS:
            module = Path(backends, name)
            module.parent.mkdir(exist_ok=True)
            (module.parent / "__init__.py").touch()
            module.write_text(SDIST_BACKEND, "utf-8")
        options = ["--no-binary=:all:", "--no-build-isolation", "--dest", str(folder)]
        pip("download", *options, f"{package.name}=={package.version}", PYTHONPATH=backends)


def pip(*arguments: str, **environment: str) -> None:
    """Run pip, which looks where its own configuration says."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments, "--no-deps"]
    subprocess.run(command, check=True, env=os.environ | environment)


def npm(package: Package, folder: Path) -> None:
    """Download an npm package into `folder`."""
    subprocess.run(["npm", "pack", "--silent", f"{package.name}@{package.version}"], check=True, cwd=folder)


def debian(package: Package, folder: Path) -> None:
    """Download a binary package of Debian's unstable suite into `folder`."""
    apt(folder, "download", f"{package.name}={package.version}")


def debian_source(package: Package, folder: Path) -> None:
    """Download a source package of Debian's unstable suite into `folder`."""
    apt(folder, "source", "--download-only", f"{package.name}={package.version}")


def apt(folder: Path, *arguments: str) -> None:
    """Run apt-get for Debian's unstable suite, with lists of its own beside `folder`; the system's stay as they are."""
    places = folder.parent / ".apt"
    settings = {
        "Dir::State": places,
        "Dir::State::Lists": places / "lists",
        "Dir::State::status": places / "status",
        "Dir::Cache": places,
        "Dir::Etc::SourceList": places / "sources.list",
        "Dir::Etc::SourceParts": "/dev/null",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    command = ["apt-get", "-qq", *(part for item in settings.items() for part in ("-o", "{}={}".format(*item)))]
    if not (places / "sources.list").exists():
        known = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN)", "Created-By: Packages"]
        targets = subprocess.run(known, check=True, capture_output=True, text=True).stdout.splitlines()
        archives = [target.split()[0] for target in targets if target.endswith(" Debian")]
        if not archives:
            raise SystemExit("there is no Debian archive among this machine's package sources")
        for sub in ("lists/partial", "archives/partial"):
            (places / sub).mkdir(parents=True, exist_ok=True)
        (places / "status").touch()
        source = f"[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {archives[0]} sid main\n"
        (places / "sources.list").write_text(f"deb {source}deb-src {source}")
        subprocess.run([*command, "update"], check=True)
    subprocess.run([*command, *arguments], check=True, cwd=folder)


CLIENTS: dict[str, Callable[[Package, Path], None]] = {
    "pypi-wheel": wheel,
    "pypi-sdist": sdist,
    "npm": npm,
    "debian": debian,
    "debian-source": debian_source,
}


def get(manifest: Path, folder: Path) -> None:
    """Get and unpack every package of a manifest; what is there is not got again.

    Raises:
        SystemExit: an archive has another hash than the manifest says.
        CalledProcessError: a client could not get a package.
    """
    for package in read_manifest(manifest):
        archives = folder.resolve() / "archives" / package.folder
        if not archives.is_dir():
            shutil.rmtree(part := archives.with_name(f".{archives.name}"), ignore_errors=True)
            part.mkdir(parents=True)
            CLIENTS[package.ecosystem](package, part)
            part.rename(archives)
        archive = next((path for path in sorted(archives.iterdir()) if digest(path) == package.sha256), None)
        if archive is None:
            raise SystemExit(
                f"{archives} holds no archive of {package.name} {package.version} with the manifest's hash"
            )
        if not (folder / package.folder).is_dir():
            unpack(archive, folder / package.folder)
        print(package.name, package.version, flush=True)


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def unpack(archive: Path, folder: Path) -> None:
    """Unpack an archive of any of the ecosystems."""
    folder.mkdir()
    if archive.suffix == ".deb":
        subprocess.run(["dpkg-deb", "--extract", str(archive), str(folder)], check=True)
    elif archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel_file:
            wheel_file.extractall(folder)
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")


# -------------------------------------------------------------------- holes


def files_of(package: Package, folder: Path) -> Iterator[tuple[str, str, str]]:
    """Language, path and text of what people wrote of a package in its languages: no tests, nothing generated."""
    for path in sorted(folder.rglob("*")):
        shown = path.relative_to(folder).as_posix()
        language = language_in(package, path)
        if language not in package.languages or path.is_symlink() or not path.is_file():
            continue
        if package.only is not None and not any(fnmatch.fnmatch(f"/{shown}", pattern) for pattern in package.only):
            continue
        parent = PurePath(shown).parent.as_posix()
        if SKIPPED.search(parent) or SKIPPED_FOLDERS.search(parent):
            continue
        if TEST_FILE.search(path.name) or GENERATED_FILE.search(path.name):
            continue
        try:
            text = path.read_text("utf-8").replace("\r\n", "\n")
        except UnicodeDecodeError:
            continue
        if is_usable(text) and len(text) <= MOST_CHARS_IN_FILE:
            yield language, f"{package.folder}/{shown}", text


def language_in(package: Package, path: Path) -> str:
    """The language of a file; a header's is C++ where the package has C++."""
    language = language_of(path)
    return "cpp" if language == "c" and "cpp" in package.languages else language


def kept(files: Iterable[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """As many files as there is room for in each language, whole folders together, in an order by hash."""
    left: dict[str, int] = {}
    found = []
    for language, path, text in sorted(
        files, key=lambda file: (zlib.crc32(PurePath(file[1]).parent.as_posix().encode()), file)
    ):
        room = left.setdefault(language, MOST_CHARS.get(language, MOST_CHARS_OF_OTHERS))
        if len(text) <= room:
            left[language] = room - len(text)
            found.append((language, path, text))
    return found


def cut(folder: Path) -> None:
    """Cut the holes of all languages, and keep the files."""
    by_language: dict[str, dict[str, list[tuple[str, HoleCutter]]]] = {}
    licences: dict[str, str] = {}
    files: list[dict[str, Any]] = []
    duplicates = NearDuplicates()
    for package in read_manifest(MANIFEST):
        licences[package.name] = package.licence
        new = (file for file in files_of(package, folder / package.folder) if duplicates.is_new(file[2]))
        for language, path, text in kept(new):
            cutter = HoleCutter(text, language=language, code_lines=True)
            by_language.setdefault(language, {}).setdefault(package.name, []).append((path, cutter))
            files.append({"package": package.name, "path": path, "text": text})
    holes: list[HeldOutHole] = []
    for language, by_package in sorted(by_language.items(), key=lambda item: (item[0] != "python", item[0])):
        counts = PYTHON_COUNTS if language == "python" else OTHER_COUNTS
        sizes = {name: sum(len(cutter.text) for _, cutter in found) for name, found in by_package.items()}
        weights = {name: math.sqrt(size) for name, size in sizes.items()}  # large ones more, but not by far
        holes += cut_from(by_package, licences, SEED, counts, len(holes), weights)
    write(FRESH.holes, map(asdict, holes))
    write(FRESH.several, map(asdict, cut_cases_from(by_language["python"], licences, SEED)))
    write(FRESH.files, files)


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write compressed JSON lines."""
    with lzma.open(path, "wt", encoding="utf-8", preset=9 | lzma.PRESET_EXTREME) as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    getting, cutting = commands.add_parser("get"), commands.add_parser("cut")
    getting.add_argument("manifest", type=Path)
    for command in (getting, cutting):
        command.add_argument("folder", type=Path)
    args = parser.parse_args()
    if args.command == "get":
        get(args.manifest, args.folder)
    else:
        cut(args.folder)


if __name__ == "__main__":
    main()
