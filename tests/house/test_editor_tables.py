"""What the editors have in writing agrees with the server: its table of languages, and what its catalogue offers."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from dgemma_model.checkpoint import catalogue
from dgemma_model.checkpoint.selection import offer
from dgemma_model.source import languages

EDITORS = Path(__file__).parents[2] / "editors"


def test_the_extension_is_activated_for_every_language() -> None:
    manifest = json.loads((EDITORS / "vscode" / "package.json").read_text("utf-8"))
    events = [event for event in manifest["activationEvents"] if event != "onStartupFinished"]
    assert events == [f"onLanguage:{name}" for name in languages.IDENTIFIERS]
    settings = (EDITORS / "vscode" / "src" / "settings.ts").read_text("utf-8")
    assert "import { activationEvents } from '../package.json'" in settings, "it has a list of its own"


def test_the_plugin_offers_what_the_catalogue_has() -> None:
    """There is no server to ask before it is installed."""
    entry = catalogue.named(catalogue.DEFAULT)
    written = (EDITORS / "nvim" / "lua" / "dgemma" / "default_checkpoint.lua").read_text("utf-8")
    assert entry is not None and f"'{entry.name}'" in written and f"'{offer(entry)}'" in written


def test_the_plugin_is_for_every_language() -> None:
    listed = (EDITORS / "nvim" / "lua" / "dgemma" / "filetypes.lua").read_text("utf-8")
    assert re.findall(r"'([\w-]+)'", listed) == list(languages.IDENTIFIERS)


def test_the_extension_for_zed_names_every_language_and_this_version() -> None:
    zed = EDITORS / "zed"
    manifest = tomllib.loads((zed / "extension.toml").read_text("utf-8"))
    crate = tomllib.loads((zed / "Cargo.toml").read_text("utf-8"))["package"]
    project = tomllib.loads((EDITORS.parent / "pyproject.toml").read_text("utf-8"))["project"]
    assert manifest["version"] == crate["version"] == project["version"]
    ((name, server),) = manifest["language_servers"].items()
    assert f'"{name}"' in (zed / "src" / "lib.rs").read_text("utf-8") and name in project["scripts"]
    assert list(server["language_ids"]) == server["languages"]
    rows = [languages.row_of(identifier) for identifier in server["language_ids"].values()]
    assert set(languages.ROWS) == set(rows)
