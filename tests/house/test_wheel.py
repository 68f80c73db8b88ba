"""The wheel, as it would be published."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
EMBEDDED = ("config.json", "dgemma.json", "generation_config.json", "model.safetensors", "RECIPE.md", "tokenizer.json")


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
    assert "dgemma_model/checkpoint/pulling/legal/Apache-2.0.txt" in names
    assert {"dgemma_lsp/server/server.py", "dgemma_model/network/diffusion_gemma.py", "dgemma_model/py.typed"} <= names
    assert weights == (ROOT / "model/dgemma_model/embedded/model.safetensors").read_bytes()
    assert not any(name.startswith(("tests/", "model/", "eval/")) for name in names)
