"""Nested settings: defaults, overrides, and paths with dots."""

from typing import Any

Settings = dict[str, Any]


def merged(base: Settings, changes: Settings) -> Settings:
    """A new dictionary: tables are merged level by level, everything else is replaced."""
    result = dict(base)
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):  # hole: 4 lines
            result[key] = merged(result[key], value)
        else:
            result[key] = value
    return result


def flatten(settings: Settings, prefix: str = "") -> Settings:
    """One level with dotted keys."""
    flat: Settings = {}
    for key, value in settings.items():
        path = f"{prefix}.{key}" if prefix else key  # hole
        if isinstance(value, dict):
            flat.update(flatten(value, path))  # hole
        else:
            flat[path] = value
    return flat


def lookup(settings: Settings, path: str, default: Any = None) -> Any:
    """The value at a dotted path, or the default where any step is missing."""
    value: Any = settings
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            return default  # hole
        value = value[key]
    return value


def assign(settings: Settings, path: str, value: Any) -> None:
    """Set the value at a dotted path; tables on the way are made."""
    *tables, last = path.split(".")
    for key in tables:
        settings = settings.setdefault(key, {})
    settings[last] = value  # hole


# ---- tests
base = {"ui": {"font": "mono", "size": 11}, "tabs": 4}
new = merged(base, {"ui": {"size": 14}, "tabs": {"width": 8}})
assert new == {"ui": {"font": "mono", "size": 14}, "tabs": {"width": 8}}
assert base == {"ui": {"font": "mono", "size": 11}, "tabs": 4}
assert flatten(new) == {"ui.font": "mono", "ui.size": 14, "tabs.width": 8}
assert lookup(new, "ui.size") == 14
assert lookup(new, "ui.size.big", 0) == 0 and lookup(new, "net.host", "none") == "none"
assign(new, "net.proxy.host", "h")
assert new["net"] == {"proxy": {"host": "h"}}
