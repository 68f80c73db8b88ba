"""Compiles `passes.c` for each set of instructions, when the package is built or installed from source.

Where it cannot be compiled the package works without it, more slowly; so nothing here fails a build. The wheel stays
one for all machines: a library is loaded only on the system and processor that its name says.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("model") / "dgemma_model" / "network" / "passes"
AVX512 = [
    *("-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vnni"),
    "-mprefer-vector-width=512",
]
INSTRUCTIONS = {
    "avx2": ["-mavx2", "-mfma", "-Wno-psabi"],
    "avx_vnni": ["-mavx2", "-mfma", "-mavxvnni", "-Wno-psabi"],
    "avx512_vnni": AVX512,
    "amx_int8": [*AVX512, "-mamx-tile", "-mamx-int8"],
}
FLAGS = [
    *("-std=c11", "-O3", "-fPIC", "-shared", "-fopenmp-simd"),
    *("-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
]


class CompilePasses(BuildHookInterface):  # type: ignore[type-arg]
    """Run by hatchling before it packs a wheel or installs the package in place."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile what can be compiled."""
        machine = platform.machine().lower()
        if self.target_name != "wheel" or not sys.platform.startswith("linux") or machine not in ("x86_64", "amd64"):
            return
        source = Path(self.root) / FOLDER / "passes.c"
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        for name, flags in INSTRUCTIONS.items():
            library = source.with_name(f"passes.{sys.platform}-{machine}-{name}.so")
            compiler = shlex.split(os.environ.get("CC", "cc"))
            command = [*compiler, *FLAGS, *flags, f'-DSOURCE="{digest}"', str(source), "-o", str(library)]
            try:
                subprocess.run(command, check=True, capture_output=True, text=True)
            except (OSError, subprocess.CalledProcessError) as error:
                library.unlink(missing_ok=True)
                detail = getattr(error, "stderr", None) or error
                self.app.display_warning(f"passes.c is not compiled for {name}, fills will be slower: {detail}")
