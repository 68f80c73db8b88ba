from __future__ import annotations

import json as json_module
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma_lsp.settings import DEFAULTS, OPTIONS, Settings, own_part, parse, schema, table

EDITORS = Path(__file__).parents[2] / "editors"

json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(sorted(asdict(DEFAULTS))), inner),
)


@pytest.mark.parametrize("options", [None, {}, {"dgemma": {}}, {"dgemma": None}])
def test_nothing_said_is_the_defaults(options: object) -> None:
    assert parse(options) == (Settings(), [])


def test_everything_can_be_set_bare_or_by_name() -> None:
    options = {
        "enabled": False,
        "trigger": "Manual",
        "eagerness": "HIGH",
        "languages": ["python", "go"],
        "disabled_languages": ["markdown", "python"],
        "in_comments": True,
        "in_strings": True,
        "next_edit": True,
        "nearby_files": False,
        "debounce_ms": 0,
        "time_budget_ms": 1000.0,
        "engine": "http://127.0.0.1:8080",
        "engine_token_file": "/home/me/token",
        "checkpoint": "/models/small",
        "device": "cpu",
        "quantize": "4BIT",
        "log_level": "DEBUG",
    }
    assert list(options) == list(OPTIONS)
    known, unknown = frozenset({"python", "go"}), frozenset({"markdown", "python"})
    engine, model = ("http://127.0.0.1:8080", "/home/me/token"), ("/models/small", "cpu", "4bit")
    expected = Settings(
        False, "manual", "high", known, unknown, True, True, True, False, 0, 1000, *engine, *model, "debug"
    )
    assert parse(options) == (expected, [])
    assert parse({"dgemma": options, "other": {"server": "settings"}}) == (expected, [])


def test_what_editors_keep_for_themselves_is_no_mistake() -> None:
    assert parse({"trace": {"server": "verbose"}, "path": "dgemma-lsp"}) == (Settings(), [])


def test_the_documentation_has_the_table_and_the_schema() -> None:
    """What is missing there is in the failure's message, ready to be pasted."""
    assert table() in (EDITORS / "README.md").read_text("utf-8"), table()
    kept = json_module.loads((EDITORS / "settings.schema.json").read_text("utf-8"))
    assert kept == schema(), json_module.dumps(schema(), indent=2)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"debounceMs": 10}, 'unknown setting "debounceMs"; the nearest one is "debounce_ms"'),
        ({"time_buget": 10}, 'unknown setting "time_buget"; the nearest one is "time_budget_ms"'),
        ({"enabled": "yes"}, "\"enabled\" must be true or false, not 'yes'; True is used"),
        ({"debounce_ms": -1}, '"debounce_ms" must be milliseconds from 0 to 60000, not -1; 60 is used'),
        ({"debounce_ms": True}, '"debounce_ms" must be milliseconds from 0 to 60000, not True; 60 is used'),
        (
            {"time_budget_ms": float("nan")},
            '"time_budget_ms" must be milliseconds from 0 to 60000, not nan; 1000 is used',
        ),
        (
            {"checkpoint": " "},
            "\"checkpoint\" must be a name, a directory, a .gguf file, or null, not ' '; None is used",
        ),
        ({"quantize": 4}, '"quantize" must be one of none, 8bit, 4bit, or null, not 4; None is used'),
        ({"log_level": "loud"}, "\"log_level\" must be one of debug, info, warning, error, not 'loud'; 'info' is used"),
        (
            {"trigger": "sometimes"},
            "\"trigger\" must be one of automatic, manual, not 'sometimes'; 'automatic' is used",
        ),
        (
            {"languages": "python"},
            "\"languages\" must be a list of language identifiers or null, not 'python'; None is used",
        ),
        ([1, 2], "settings must be an object, not [1, 2]"),
    ],
)
def test_what_is_not_understood_costs_one_complaint(options: object, complaint: str) -> None:
    assert parse(options) == (Settings(), [complaint])


def test_good_settings_count_beside_bad_ones() -> None:
    settings, complaints = parse({"debounce_ms": 5, "device": 7, "nonsense": 1})
    assert settings == Settings(debounce_ms=5)
    assert len(complaints) == 2


def test_what_is_missing_or_bad_is_as_it_was() -> None:
    before = Settings(debounce_ms=5, device="cpu")
    assert parse({"device": 7, "enabled": False}, before)[0] == Settings(enabled=False, debounce_ms=5, device="cpu")
    assert parse(None, before) == (before, [])


@given(json)
def test_never_raises_and_always_gives_usable_settings(options: object) -> None:
    settings, complaints = parse(options)
    lists = {name: sorted(value) for name, value in asdict(settings).items() if isinstance(value, frozenset)}
    again, nothing = parse(asdict(settings) | lists)
    assert (again, nothing) == (settings, [])
    assert all(len(complaint) < 250 for complaint in complaints)


@pytest.mark.parametrize(
    ("said", "ours"),
    [
        ({"pylsp": {"plugins": {"jedi": {"enabled": True}}}}, None),
        ({"pylsp": {}, "gopls": {"analyses": {}}}, None),
        ({"pylsp": {}, "trigger": "manual"}, {"trigger": "manual"}),
        ({"pylsp": {}, "dgemma": {"enabled": False}}, {"pylsp": {}, "dgemma": {"enabled": False}}),
        ({"enabled": {"pylsp": True}}, {"enabled": {"pylsp": True}}),
        ({"debounce": 5}, {"debounce": 5}),
        ({}, {}),
        (7, 7),
        (None, None),
    ],
)
def test_sections_of_other_servers_are_theirs(said: object, ours: object) -> None:
    assert own_part(said) == ours
