from __future__ import annotations

from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgemma_lsp.settings import DEFAULTS, Settings, parse

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
        "disabled_languages": ["markdown", "python"],
        "debounce_ms": 0,
        "time_budget_ms": 1000.0,
        "checkpoint": "/models/small",
        "device": "cpu",
        "log_level": "DEBUG",
    }
    expected = Settings(False, frozenset({"markdown", "python"}), 0, 1000, "/models/small", "cpu", "debug")
    assert parse(options) == (expected, [])
    assert parse({"dgemma": options, "other": {"server": "settings"}}) == (expected, [])


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
            '"time_budget_ms" must be milliseconds from 0 to 60000, not nan; 400 is used',
        ),
        (
            {"checkpoint": " "},
            "\"checkpoint\" must be a directory, a name on the hub, or null, not ' '; None is used",
        ),
        ({"log_level": "loud"}, "\"log_level\" must be one of debug, info, warning, error, not 'loud'; 'info' is used"),
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
    assert parse({"device": 7, "enabled": False}, before)[0] == Settings(False, debounce_ms=5, device="cpu")
    assert parse(None, before) == (before, [])


@given(json)
def test_never_raises_and_always_gives_usable_settings(options: object) -> None:
    settings, complaints = parse(options)
    again, nothing = parse(asdict(settings) | {"disabled_languages": list(settings.disabled_languages)})
    assert (again, nothing) == (settings, [])
    assert all(len(complaint) < 250 for complaint in complaints)
