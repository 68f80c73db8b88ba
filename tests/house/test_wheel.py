"""The wheel, as it would be published."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from dgemma_model.checkpoint import catalogue
from dgemma_model.network.passes import native

ROOT = Path(__file__).parents[2]
EMBEDDED = ("config.json", "dgemma.json", "generation_config.json", "model.safetensors", "RECIPE.md", "tokenizer.json")
DRAFTER = ("drafter.safetensors", "manifest.json", "RECIPE.md")


def test_the_wheel_holds_both_packages_and_the_embedded_checkpoint(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        tmp_path,
        ROOT,
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        weights = archive.read("dgemma_model/embedded/model.safetensors")
    assert {f"dgemma_model/embedded/{name}" for name in EMBEDDED} <= names
    assert {f"dgemma_model/checkpoint/drafters/{catalogue.DEFAULT}/{name}" for name in DRAFTER} <= names
    assert "dgemma_model/checkpoint/pulling/legal/Apache-2.0.txt" in names
    assert {"dgemma_lsp/server/server.py", "dgemma_model/network/diffusion_gemma.py", "dgemma_model/py.typed"} <= names
    assert "dgemma_model/network/passes/passes.c" in names
    assert weights == (ROOT / "model/dgemma_model/embedded/model.safetensors").read_bytes()
    assert not any(name.startswith(("tests/", "model/", "eval/")) for name in names)


@pytest.mark.skipif(platform.system() != "Linux" or platform.machine() != "x86_64", reason="compiled for no other")
@pytest.mark.skipif(shutil.which("cc") is None, reason="no compiler")
def test_the_installed_package_has_the_compiled_passes_of_its_source() -> None:
    assert [name for name in native.runnable() if native.opened(name) is None] == []


def test_a_library_of_another_source_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(native.__file__).parent
    for file in [*folder.glob("passes.*.so"), folder / "passes.c"]:
        shutil.copy(file, tmp_path)
    monkeypatch.setattr(native, "__file__", str(tmp_path / "native.py"))
    before = {name: native.opened(name) is not None for name in native.runnable()}
    with (tmp_path / "passes.c").open("a") as source:
        source.write("/* changed */")
    assert all(before.values())
    assert not any(native.opened(name) for name in native.runnable())


def test_without_a_compiler_the_package_is_built_without_them(tmp_path: Path) -> None:
    copied = tmp_path / "source"
    shutil.copytree(
        ROOT, copied, ignore=shutil.ignore_patterns(".*", "*.so", "node_modules", "embedded", "tests", "log")
    )
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, copied]
    subprocess.run(command, check=True, capture_output=True, timeout=300, env=os.environ | {"CC": "no-such-compiler"})
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert not [name for name in archive.namelist() if name.endswith(".so")]
