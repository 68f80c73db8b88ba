"""The code-server that the tests start, and the extensions that they install into it: the packaged one and `probe`."""

from __future__ import annotations

import os
import subprocess
import zipfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
CODE_SERVER = Path(os.environ.get("DGEMMA_CODE_SERVER", ROOT / ".cache" / "code-server"))
"""What fetch_codeserver.sh has made."""

MANIFEST = """<?xml version="1.0" encoding="utf-8"?>
<PackageManifest Version="2.0.0" xmlns="http://schemas.microsoft.com/developer/vsx-schema/2011">
  <Metadata>
    <Identity Language="en-US" Id="probe" Version="0.0.1" Publisher="tests"/><DisplayName>probe</DisplayName>
  </Metadata>
  <Installation><InstallationTarget Id="Microsoft.VisualStudio.Code"/></Installation>
  <Assets><Asset Type="Microsoft.VisualStudio.Code.Manifest" Path="extension/package.json" Addressable="true"/></Assets>
</PackageManifest>
"""
CONTENT_TYPES = """<?xml version="1.0" encoding="utf-8"?>
<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
  <Default Extension="json" ContentType="application/json"/>
  <Default Extension="js" ContentType="application/javascript"/>
  <Default Extension="vsixmanifest" ContentType="text/xml"/>
</Types>
"""


def is_there() -> bool:
    """Whether there is a VS Code to test."""
    return any(CODE_SERVER.glob("complete-*"))


def vsix() -> Path:
    """The packaged extension."""
    (found,) = (ROOT / "dist").glob("dgemma-*.vsix")
    return found


def install_extensions(extensions: Path, home: Path) -> None:
    """Install the packaged extension, and the tests' own, as users do."""
    probe = home / "probe.vsix"
    with zipfile.ZipFile(probe, "w") as archive:
        archive.writestr("extension.vsixmanifest", MANIFEST)
        archive.writestr("[Content_Types].xml", CONTENT_TYPES)
        for file in (HERE / "probe").iterdir():
            archive.write(file, f"extension/{file.name}")
    arguments = [f"--install-extension={path}" for path in (vsix(), probe)]
    arguments += [
        "--extensions-dir",
        str(extensions),
        "--user-data-dir",
        str(home / "data"),
        "--config",
        str(home / "c"),
    ]
    (home / "c").write_text("auth: none\n")
    done = subprocess.run(
        [*code_server(), *arguments], env=environment(home), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def node() -> str:
    """The version of Node that code-server wants."""
    return str(CODE_SERVER / "node24/node_modules/node/bin/node")


def code_server() -> list[str]:
    return [node(), str(CODE_SERVER / "node_modules/code-server/out/node/entry.js")]


SYSTEM = ("/usr/local/bin", "/usr/bin", "/bin")


def environment(home: Path, path: Sequence[str] = SYSTEM) -> dict[str, str]:
    """Of a user with nothing in his home, but with this machine's way to get packages."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("VSCODE_", "XDG_", "DGEMMA_"))}
    if (pip := Path.home() / ".config" / "pip" / "pip.conf").exists():
        kept["PIP_CONFIG_FILE"] = str(pip)
    # VSCODE_CLI: the environment is this one, and not what a login shell would make of it.
    own = {"HOME": str(home), "PATH": os.pathsep.join([str(Path(node()).parent), *path]), "VSCODE_CLI": "1"}
    return kept | own
