"""The extension's manifest says what the server says."""

from __future__ import annotations

import json
import re
from pathlib import Path

from dgemma_lsp.pipeline.actions import ActionKind
from dgemma_lsp.pipeline.watched import TokenState
from dgemma_lsp.server import from_client, to_client
from dgemma_lsp.settings import schema
from dgemma_model.checkpoint import catalogue
from dgemma_model.checkpoint.selection import offer

EXTENSION = Path(__file__).parents[2] / "editors" / "vscode"
MANIFEST = json.loads((EXTENSION / "package.json").read_text("utf-8"))
OF_PRESENTATION = ("scope", "order", "markdownDescription")


def source(name: str) -> str:
    return (EXTENSION / "src" / name).read_text("utf-8")


def test_it_has_the_servers_settings() -> None:
    properties = dict(MANIFEST["contributes"]["configuration"]["properties"])
    del properties["dgemma.server.path"]
    kept = {
        name.removeprefix("dgemma."): {key: value for key, value in described.items() if key not in OF_PRESENTATION}
        | {"description": described["markdownDescription"]}
        for name, described in properties.items()
    }
    assert kept == schema()["properties"], "run: node scripts/settings.mjs in editors/vscode"


def test_no_workspace_says_where_text_goes_or_which_weights_are_loaded_untrusted() -> None:
    """A setting of scope `machine` is none of a workspace's, trusted or not."""
    properties = MANIFEST["contributes"]["configuration"]["properties"]
    for name in ("engine", "engine_token_file"):
        assert properties[f"dgemma.{name}"]["scope"] == "machine"
    restricted = MANIFEST["capabilities"]["untrustedWorkspaces"]["restrictedConfigurations"]
    for name in ("server.path", "engine", "engine_token_file", "checkpoint", "device", "quantize"):
        name = f"dgemma.{name}"
        assert properties[name]["scope"] in ("machine", "machine-overridable") and name in restricted


def test_it_offers_every_action() -> None:
    offered = {command["command"] for command in MANIFEST["contributes"]["commands"]}
    assert {to_client.command_name(kind) for kind in ActionKind} <= offered


def test_it_speaks_the_servers_words() -> None:
    spoken = source("protocol.ts")
    for method in (from_client.STATUS, from_client.OUTCOME, from_client.WATCH, from_client.CANVAS):
        assert f"'{method}'" in spoken
    states = re.search(r"TokenState = ([^;]*);", spoken)
    assert states is not None
    assert re.findall(r"'(\w+)'", states[1]) == [state.value for state in TokenState]


def test_it_offers_what_the_catalogue_has() -> None:
    """There is no server to ask before it is installed."""
    written = source("catalogue.ts")
    for name in (catalogue.DEFAULT, catalogue.EMBEDDED):
        entry = catalogue.named(name)
        assert entry is not None and f"'{offer(entry)}'" in written and f"name: '{name}'" in written
    default = catalogue.named(catalogue.DEFAULT)
    assert default is not None and f"memoryBytes: {default.memory_bytes:_}," in written


def test_the_lock_file_names_no_registry() -> None:
    lock = json.loads((EXTENSION / "package-lock.json").read_text("utf-8"))
    assert [name for name, package in lock["packages"].items() if "resolved" in package] == []


def test_it_runs_where_the_files_are_and_nowhere_else() -> None:
    """On the far side of a remote window; not in workspaces that are on no disk."""
    assert MANIFEST["extensionKind"] == ["workspace"]
    assert MANIFEST["capabilities"]["virtualWorkspaces"]["supported"] is False


def test_pictures_are_there_and_small() -> None:
    for page in (*EXTENSION.parent.glob("*/README.md"), *EXTENSION.glob("walkthrough/*.md")):
        for name in re.findall(r"!\[[^\]]*\]\(([^)]*)\)", page.read_text("utf-8")):
            assert (page.parent / name).stat().st_size < 400_000, f"{name} in {page.name}"
