"""What a user can set. Every field has a default, and a bad value costs a complaint, never the server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any


@dataclass(frozen=True, slots=True)
class Settings:
    """What is used. Fields keep the names that users write."""

    enabled: bool = True
    disabled_languages: frozenset[str] = frozenset()
    """Language identifiers, as editors send them, for which nothing is suggested."""
    debounce_ms: int = 60
    """How long a keystroke waits for the next one before the model is asked."""
    time_budget_ms: int = 400
    """How long the model may work on one suggestion; the best draft so far is shown."""
    checkpoint: str | None = None
    """A checkpoint's directory, or its name on the Hugging Face hub; None is the embedded one."""
    device: str | None = None
    """Where the model runs, as torch writes it (`cpu`, `cuda:0`); None chooses."""
    log_level: str = "info"


DEFAULTS = Settings()

_MAX_MS = 60_000
_LOG_LEVELS = ("debug", "info", "warning", "error")


def parse(options: object, defaults: Settings = DEFAULTS) -> tuple[Settings, list[str]]:
    """Settings from what a client sent, and a complaint for each thing that was not understood.

    `options` is a mapping of settings, or one with them under "dgemma"; None says nothing. What is missing or
    bad is taken from `defaults`. Never raises.
    """
    if isinstance(options, Mapping) and "dgemma" in options:
        options = options["dgemma"]
    if options is None:
        return defaults, []
    if not isinstance(options, Mapping):
        return defaults, [f"settings must be an object, not {_shown(options)}"]
    good: dict[str, Any] = {}
    complaints: list[str] = []
    for name, value in options.items():
        if name not in _READERS:
            complaints.append(_unknown(str(name)))
            continue
        read, expected = _READERS[name]
        try:
            good[name] = read(value)
        except ValueError:
            kept = getattr(defaults, name)
            complaints.append(f'"{name}" must be {expected}, not {_shown(value)}; {_shown(kept)} is used')
    return replace(defaults, **good), complaints


def _unknown(name: str) -> str:
    close = get_close_matches(name.lower(), _READERS, n=1, cutoff=0.0)
    return f'unknown setting "{name[:40]}"; the nearest one is "{close[0]}"'


def _shown(value: object) -> str:
    text = ", ".join(sorted(value)) if isinstance(value, frozenset) else repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _milliseconds(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_MS:
        raise ValueError
    return round(value)


def _languages(value: object) -> frozenset[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise ValueError
    return frozenset(value)


def _optional_name(value: object) -> str | None:
    if value is not None and not (isinstance(value, str) and value.strip()):
        raise ValueError
    return value


def _log_level(value: object) -> str:
    if not isinstance(value, str) or value.lower() not in _LOG_LEVELS:
        raise ValueError
    return value.lower()


_READERS: dict[str, tuple[Callable[[object], object], str]] = {
    "enabled": (_boolean, "true or false"),
    "disabled_languages": (_languages, "a list of language identifiers"),
    "debounce_ms": (_milliseconds, f"milliseconds from 0 to {_MAX_MS}"),
    "time_budget_ms": (_milliseconds, f"milliseconds from 0 to {_MAX_MS}"),
    "checkpoint": (_optional_name, "a directory, a name on the hub, or null"),
    "device": (_optional_name, "a device such as cpu or cuda:0, or null"),
    "log_level": (_log_level, f"one of {', '.join(_LOG_LEVELS)}"),
}
assert set(_READERS) == {field.name for field in fields(Settings)}
