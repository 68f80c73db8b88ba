"""What a user can set. Every field has a default, and a bad value costs a complaint, never the server."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import Any, Literal

from dgemma_lsp import eagerness


@dataclass(frozen=True, slots=True)
class Settings:
    """What is used. Fields keep the names that users write; `OPTIONS` says what each means."""

    enabled: bool = True
    trigger: str = "automatic"
    eagerness: str = "normal"
    languages: frozenset[str] | None = None
    disabled_languages: frozenset[str] = frozenset()
    in_comments: bool = False
    in_strings: bool = False
    next_edit: bool = False
    nearby_files: bool = True
    debounce_ms: int = 60
    time_budget_ms: int = 1000
    engine: str | None = None
    engine_token_file: str | None = None
    checkpoint: str | None = None
    device: str | None = None
    quantize: Literal["none", "8bit", "4bit"] | None = None
    log_level: str = "info"


DEFAULTS = Settings()

SECTION = "dgemma"
"""Where editors keep our settings."""

_MAX_MS = 60_000
_TRIGGERS = ("automatic", "manual")
_LOG_LEVELS = ("debug", "info", "warning", "error")
_QUANTIZE = ("none", "8bit", "4bit")


def parse(options: object, defaults: Settings = DEFAULTS) -> tuple[Settings, list[str]]:
    """Settings from what a client sent, and a complaint for each thing that was not understood.

    `options` is a mapping of settings, or one with them under "dgemma"; None says nothing. What is missing or
    bad is taken from `defaults`. Never raises.
    """
    if isinstance(options, Mapping) and SECTION in options:
        options = options[SECTION]
    if options is None:
        return defaults, []
    if not isinstance(options, Mapping):
        return defaults, [f"settings must be an object, not {_shown(options)}"]
    good: dict[str, Any] = {}
    complaints: list[str] = []
    for name, value in options.items():
        if name in _EDITORS_OWN:
            continue
        if name not in OPTIONS:
            complaints.append(_unknown(str(name)))
            continue
        option = OPTIONS[name]
        try:
            good[name] = option.read(value)
        except ValueError:
            kept = getattr(defaults, name)
            complaints.append(f'"{name}" must be {option.expected}, not {_shown(value)}; {_shown(kept)} is used')
    return replace(defaults, **good), complaints


def own_part(options: object) -> object:
    """The part of a notification that is about our settings: some clients send those of all servers at once.

    Ours are under our name, or bare. No setting of ours is an object, so an unknown bare name with an object is another
    server's section. None if all of them are.
    """
    if not isinstance(options, Mapping) or not options or SECTION in options:
        return options
    ours = {name: value for name, value in options.items() if name in OPTIONS or not isinstance(value, Mapping)}
    return ours or None


def table() -> str:
    """The settings as a Markdown table, for the documentation."""
    rows = [f"| `{name}` | `{_default(name)}` | {option.meaning} |" for name, option in OPTIONS.items()]
    return "\n".join(["| setting | default | meaning |", "|---|---|---|", *rows]) + "\n"


def schema() -> dict[str, Any]:
    """The settings as a JSON schema, for editors that check what users write."""
    properties = {
        name: {**option.schema, "default": json.loads(_default(name)), "description": option.meaning}
        for name, option in OPTIONS.items()
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "dgemma-lsp settings",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _default(name: str) -> str:
    value = getattr(DEFAULTS, name)
    return json.dumps(sorted(value) if isinstance(value, frozenset) else value)


def _unknown(name: str) -> str:
    close = get_close_matches(name.lower(), OPTIONS, n=1, cutoff=0.0)
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


def _optional_languages(value: object) -> frozenset[str] | None:
    return None if value is None else _languages(value)


def _one_of(names: tuple[str, ...]) -> Callable[[object], str]:
    def read(value: object) -> str:
        if not isinstance(value, str) or value.lower() not in names:
            raise ValueError
        return value.lower()

    return read


@dataclass(frozen=True, slots=True)
class Option:
    """How a setting is read, described and checked."""

    read: Callable[[object], object]
    """The value that is used; raises ValueError for what it cannot be."""
    expected: str
    """What it must be, for a complaint."""
    schema: dict[str, object]
    """The same as a JSON schema."""
    meaning: str


def _switch(meaning: str) -> Option:
    return Option(_boolean, "true or false", {"type": "boolean"}, meaning)


def _duration(meaning: str) -> Option:
    limits = {"type": "number", "minimum": 0, "maximum": _MAX_MS}
    return Option(_milliseconds, f"milliseconds from 0 to {_MAX_MS}", limits, meaning)


def _choice(names: tuple[str, ...], meaning: str) -> Option:
    return Option(_one_of(names), f"one of {', '.join(names)}", {"enum": list(names)}, meaning)


_NAMES: dict[str, object] = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
_NAME_OR_NULL: dict[str, object] = {"type": ["string", "null"]}

OPTIONS: dict[str, Option] = {
    "enabled": _switch("suggest at all"),
    "trigger": _choice(
        _TRIGGERS, "`automatic` suggests while you type, `manual` only when you ask: the model rests otherwise"
    ),
    "eagerness": _choice(
        tuple(eagerness.LEVELS),
        f"how sure the model must be before something is shown unasked: {eagerness.description()}",
    ),
    "languages": Option(
        _optional_languages,
        "a list of language identifiers or null",
        {"type": ["array", "null"], "items": {"type": "string"}, "uniqueItems": True},
        "language identifiers to suggest in; `null` means those that the checkpoint was trained on"
        " (the embedded one: Python, as it writes nonsense in others)",
    ),
    "disabled_languages": Option(
        _languages, "a list of language identifiers", _NAMES, "language identifiers for which nothing is suggested"
    ),
    "in_comments": _switch("suggest in comments unasked"),
    "in_strings": _switch("suggest in strings unasked"),
    "next_edit": _switch(
        "suggest further places to change after an edit, to editors that ask for it; off until more is known of"
        " how often it is right"
    ),
    "nearby_files": _switch(
        "copy from files near the open one, too, not only from open documents; ignored and secret-looking ones are"
        " never read"
    ),
    "debounce_ms": _duration(
        "how long a keystroke waits at least for the next one before the model is asked; for a fast typist, up to"
        " four times as long"
    ),
    "time_budget_ms": _duration("how long the model may work on one suggestion; the best draft so far is shown"),
    "engine": Option(
        _optional_name,
        "an address such as http://127.0.0.1:8080, or null",
        _NAME_OR_NULL,
        "the address of an engine that fills in place of a checkpoint: llama.cpp's server, vLLM, or another with their"
        " HTTP interface. Text around the cursor is sent there. `null`: the model runs inside the server",
    ),
    "engine_token_file": Option(
        _optional_name,
        "the path of a file, or null",
        _NAME_OR_NULL,
        "a file that nobody else can read, with the token that the engine wants; `null`: the environment has it"
        " (DGEMMA_ENGINE_TOKEN, or a file in DGEMMA_ENGINE_TOKEN_FILE), or there is none",
    ),
    "checkpoint": Option(
        _optional_name,
        "a name, a directory, a .gguf file, or null",
        _NAME_OR_NULL,
        "a checkpoint that is on this machine: a name that `dgemma-lsp checkpoints` lists, a directory, a `.gguf` file,"
        " or a name on the Hugging Face hub after `dgemma-lsp pull`; `null` is the best one that is here",
    ),
    "device": Option(
        _optional_name,
        "a device such as cpu or cuda:0, or null",
        _NAME_OR_NULL,
        "where the model runs, as torch writes it: `cpu`, `cuda:0`; `null` chooses",
    ),
    "quantize": Option(
        lambda value: None if value is None else _one_of(_QUANTIZE)(value),
        f"one of {', '.join(_QUANTIZE)}, or null",
        {"enum": [*_QUANTIZE, None]},
        "in how many bits the experts of DiffusionGemma are held: `none` as published, `8bit`, `4bit`; `null` takes as"
        " many as fit the memory. Checkpoints without experts are not loaded with any other value",
    ),
    "log_level": _choice(_LOG_LEVELS, "how much is logged; logs go to standard error, which editors keep"),
}
assert list(OPTIONS) == [field.name for field in fields(Settings)]

_EDITORS_OWN = frozenset({"trace", "path", "command", "server", "token"})
"""What editors keep in the same section for themselves, and what lets them in over TCP."""
