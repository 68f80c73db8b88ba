"""A checkpoint's sampler and policy: every default of the project lives here, once. No torch.

`generation_config.json` is read in the published spelling; what only this project knows about a checkpoint (its noise,
its languages, its thresholds, what was fitted to it) is in `dgemma.json` beside it, because `transformers` refuses
unknown keys.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from dgemma_model.network.config import LARGEST_SIZE, ConfigError
from dgemma_model.project.copy_model import CopyWeights
from dgemma_model.project.judge import FIGURES
from dgemma_model.request import Drafting

Quantize = Literal["none", "8bit", "4bit"]
"""In how many bits the experts of a checkpoint are held; its other weights stay as they are."""
QUANTIZE: tuple[Quantize, ...] = get_args(Quantize)
"""The largest first."""


@dataclass(frozen=True, slots=True)
class SamplerConfig:
    """The published sampler's settings, with the values of the published `generation_config.json`."""

    max_denoising_steps: int = 48
    entropy_bound: float = 0.1
    t_min: float = 0.4
    t_max: float = 0.8
    stability_threshold: int = 1
    confidence_threshold: float = 0.005

    @classmethod
    def read(cls, directory: Path) -> SamplerConfig:
        """That of a checkpoint directory; the published values where it has none.

        Raises:
            ConfigError: `generation_config.json` is unusable.
        """
        return cls.from_json(read_json(directory / "generation_config.json"))

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> SamplerConfig:
        """Read the content of a `generation_config.json`; what it does not set keeps its default.

        Raises:
            ConfigError: a value is of the wrong kind.
        """
        flat = dict(config)
        sampler = flat.get("sampler_config")
        if isinstance(sampler, Mapping) and "entropy_bound" in sampler:
            flat["entropy_bound"] = sampler["entropy_bound"]
        try:
            known = {
                f.name: type(f.default)(flat[f.name])  # type: ignore[misc]
                for f in fields(cls)
                if flat.get(f.name) is not None
            }
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f"generation_config.json: {error}") from error
        sampler_config = replace(cls(), **known)
        if not (sampler_config.t_min >= 0 and sampler_config.t_max > 0):
            raise ConfigError("generation_config.json: t_min must be at least 0, and t_max more")
        return sampler_config


@dataclass(frozen=True, slots=True)
class Policy:
    """What a checkpoint was trained for, from its `dgemma.json`. The defaults suit a checkpoint that has none."""

    name: str = ""
    noise: Literal["uniform", "mask"] = "uniform"
    denoises: bool = True
    """It was trained to denoise canvases. If not, every fill is written causally, whatever the request asks for."""
    ends_by_rules: bool = False
    """Its fills do not end by themselves. They are ended where they reach the text after the hole
    (decoding/fill_end.py)."""
    ends: tuple[float, ...] | None = None
    """Weights of the probe that tells where its fills end (decoding/end_probe.py); None without a probe."""
    reads_project: bool = False
    """Project text gives drafts and candidates for its fills, even if copies do not change what it writes."""
    reviews: bool = False
    """The words that it would replace in a text are wrong often enough to tell (decoding/review.py)."""
    verify: bool = False
    """Write as the causal head does: check drafts with it, and draft again from the first disagreement."""
    drafting: Drafting = "copied"
    """Where the drafts of a verified fill come from."""
    renoise: bool = False
    """In unverified fills, re-noise positions where the causal head disagrees."""
    together: bool = True
    """Fill several holes in one canvas rather than one after the other."""
    copy_weight: float = 0.0
    """How much copies change the probabilities of verified fills, 0 to 1 (project/copy_model.py). With 0, copies are
    drafts only."""
    token_cost: float = 0.0
    """What each token after the first two adds to a pass, as a share of a pass over one. So much of a draft is checked
    as pays."""
    draft_steps: int = 1
    """Denoising steps of a draft that will be verified."""
    canvas_lengths: tuple[int, ...] = (64, 128, 256)
    hole_widths: tuple[int, ...] = (4, 8, 16, 32, 64)
    """Widths of a hole, in tokens, that are tried side by side if the checkpoint was not trained to end holes."""
    prompt_tokens: int = 1024
    languages: tuple[str, ...] | None = None
    """Languages it knows; None for all."""
    judge: tuple[float, ...] | None = None
    """Weights of the judge that chooses among texts for a line (project/judge.py); None for the likeliest text."""
    copies: CopyWeights = field(default_factory=CopyWeights)
    """How much copies are trusted (project/copy_model.py)."""
    threshold: float = float("-inf")
    """The `Draft.score`, in nats, under which a fill is not offered unasked."""

    @classmethod
    def read(cls, directory: Path) -> Policy:
        """That of a checkpoint directory; the defaults where it has none.

        Raises:
            ConfigError: `dgemma.json` is unusable.
        """
        return cls.from_json(read_json(directory / "dgemma.json"))

    @classmethod
    def from_json(cls, config: Mapping[str, Any]) -> Policy:
        """Read the content of a `dgemma.json`.

        Raises:
            ConfigError: an unknown key, or a value of the wrong kind.
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(config) - known)
        if unknown:
            raise ConfigError(f"dgemma.json: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")
        for key, value in config.items():
            expected, is_so = _POLICY_KINDS[key]
            if not is_so(value):
                raise ConfigError(f"dgemma.json: {key} must be {expected}, not {value!r}")
        values: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in config.items()
        }
        if "copies" in values:
            copies: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value for key, value in values["copies"].items()
            }
            values["copies"] = CopyWeights(**copies)
        return cls(**values)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST_SIZE


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_list(value: object, is_item: Callable[[object], bool]) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_item, value))


_POLICY_KINDS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "name": ("a string", lambda value: isinstance(value, str)),
    "noise": ("'uniform' or 'mask'", lambda value: value in ("uniform", "mask")),
    "denoises": ("true or false", lambda value: isinstance(value, bool)),
    "ends_by_rules": ("true or false", lambda value: isinstance(value, bool)),
    "ends": ("null or a list of numbers", lambda value: value is None or _is_list(value, _is_number)),
    "reads_project": ("true or false", lambda value: isinstance(value, bool)),
    "reviews": ("true or false", lambda value: isinstance(value, bool)),
    "verify": ("true or false", lambda value: isinstance(value, bool)),
    "drafting": ("one of " + ", ".join(get_args(Drafting)), lambda value: value in get_args(Drafting)),
    "renoise": ("true or false", lambda value: isinstance(value, bool)),
    "together": ("true or false", lambda value: isinstance(value, bool)),
    "copy_weight": ("a number from 0 to 1", lambda value: isinstance(value, int | float) and 0 <= value <= 1),
    "token_cost": ("a number of 0 or more", lambda value: isinstance(value, int | float) and value >= 0),
    "draft_steps": ("a whole number", _is_count),
    "canvas_lengths": ("a list of lengths", lambda value: _is_list(value, lambda item: _is_count(item) and item != 0)),
    "hole_widths": ("a list of lengths", lambda value: _is_list(value, lambda item: _is_count(item) and item != 0)),
    "prompt_tokens": ("16 or more", lambda value: _is_count(value) and value not in range(16)),
    "languages": (
        "null or a list of names",
        lambda value: value is None or _is_list(value, lambda item: isinstance(item, str)),
    ),
    "judge": (
        f"null or a list of {FIGURES} numbers",
        lambda value: (
            value is None or (isinstance(value, list) and len(value) == FIGURES and all(map(_is_number, value)))
        ),
    ),
    "copies": (
        "an object of numbers: " + ", ".join(f.name for f in fields(CopyWeights)),
        lambda value: (
            isinstance(value, dict)
            and value.keys() <= {f.name for f in fields(CopyWeights)}
            and all(
                _is_list(each, _is_number) if key == "by_match" else _is_number(each) for key, each in value.items()
            )
        ),
    ),
    "threshold": ("a number", _is_number),
}


def read_json(path: Path, *, required: bool = False) -> dict[str, Any]:
    """The object in a JSON file; an empty one where the file is missing and not `required`.

    Raises:
        ConfigError: the file is missing or unusable; the message names it.
    """
    if not path.is_file():
        if required:
            raise ConfigError(f"{path.name} is missing in {path.parent}")
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path.name} in {path.parent} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path.name} in {path.parent} is not a JSON object")
    return content
