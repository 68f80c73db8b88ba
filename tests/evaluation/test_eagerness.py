"""What the setting `eagerness` says of itself is what was measured."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from dgemma_lsp.eagerness import LANGUAGES, LEVELS, PLACES, threshold
from dgemma_lsp.settings import DEFAULTS, OPTIONS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("measured_eagerness", ROOT / "eval" / "eagerness.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_shares_are_those_of_the_rows(script: ModuleType) -> None:
    rows = script.rows()
    assert (len(rows), script.languages(rows)) == (PLACES, LANGUAGES)
    assert len({row["case"] for row in rows}) == len(rows)
    for name, found in script.shares(rows).items():
        level = LEVELS[name]
        assert (round(100 * found.offered), round(100 * found.right)) == (level.offered, level.right), name


def test_the_more_eager_the_more_is_shown_and_the_less_of_it_is_right() -> None:
    low, normal, high = (LEVELS[name] for name in ("low", "normal", "high"))
    assert low.offered < normal.offered < high.offered
    assert low.right > normal.right > high.right


def test_users_read_the_shares() -> None:
    texts = [OPTIONS["eagerness"].meaning]
    for file in ("settings.schema.json", "vscode/package.json"):
        shown = json.loads((ROOT / "editors" / file).read_text("utf-8"))
        properties = shown.get("properties") or shown["contributes"]["configuration"]["properties"]
        (setting,) = (value for name, value in properties.items() if name in ("eagerness", "dgemma.eagerness"))
        assert setting["enum"] == list(LEVELS) and setting["default"] == DEFAULTS.eagerness
        texts.append(setting.get("description") or setting["markdownDescription"])
    for text in texts:
        for level in LEVELS.values():
            assert f"{level.offered} of 100 places" in text and f"{level.right} % of it" in text


def test_normal_is_the_checkpoints_own_threshold() -> None:
    assert threshold(-0.25, DEFAULTS.eagerness) == -0.25
    assert threshold(-0.25, "low") > -0.25 > threshold(-0.25, "high")
    assert threshold(float("-inf"), "low") == float("-inf")
