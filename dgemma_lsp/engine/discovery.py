"""What an engine serves, and how it is to be asked: found out by asking it."""

from __future__ import annotations

import re

from dgemma_lsp.documents.edits import NoSuggestion
from dgemma_lsp.engine.address import Address, Interface
from dgemma_lsp.engine.connection import Connection, Event, StaleConnectionError, Waiting
from dgemma_lsp.engine.errors import EngineError, plain
from dgemma_lsp.engine.interfaces import Model
from dgemma_lsp.engine.prompts import MARKERS

_LISTED = 8
"""How many models a message names."""


def discover(connection: Connection, address: Address) -> Waiting[Model]:
    """The model that will fill.

    An engine whose tokenizer has the markers of Qwen2.5-Coder is asked for completions. Otherwise llama.cpp is asked to
    infill, which works where its model can, and a DiffusionGemma is asked in a chat.

    Raises:
        EngineError: the engine cannot be asked, it has not the model that was named, or no way to fill is known for it.
    """
    props = yield from _asked_if_there(connection, "/props")
    listed = yield from _asked_if_there(connection, "/v1/models")
    is_llama = isinstance(props.get("default_generation_settings"), dict)
    models = {name: model for model in _objects(listed.get("data")) if isinstance(name := model.get("id"), str)}
    if not models and not is_llama:
        raise EngineError(
            NoSuggestion.ENGINE_MODEL, f"{address.url} lists no models; is it an engine with /v1/models or /infill?"
        )
    name = address.model or next(iter(models), "the model")
    if models and name not in models:
        there = ", ".join(plain(other) for other in list(models)[:_LISTED])
        raise EngineError(NoSuggestion.ENGINE_MODEL, f"{address.url} has no model {plain(name)}; it has {there}")
    tokens = _context_tokens(props, models.get(name, {}))
    if address.interface in ("infill", "chat"):
        return Model(name, address.interface, tokens)
    ids = yield from _marker_ids(connection, name)
    interface = address.interface or _interface(name, is_llama=is_llama, has_markers=bool(ids))
    if interface is None:
        raise EngineError(
            NoSuggestion.ENGINE_MODEL,
            f"how to fill with {plain(name)} of {address.url} is not known; name the way in the address, for example "
            f"completions+{address.url} for Qwen2.5-Coder, or chat+{address.url}",
        )
    return Model(name, interface, tokens, ids)


def _interface(name: str, *, is_llama: bool, has_markers: bool) -> Interface | None:
    plain_name = re.sub(r"[^a-z0-9]", "", name.lower())
    if has_markers or ("qwen" in plain_name and "coder" in plain_name):
        return "completions"
    if is_llama:
        return "infill"
    return "chat" if "diffusiongemma" in plain_name else None


def _asked_if_there(connection: Connection, path: str) -> Waiting[Event]:
    """The answer; empty where the engine has nothing at that path."""
    try:
        try:
            return (yield from connection.ask(path))
        except StaleConnectionError:
            return (yield from connection.ask(path))
    except EngineError as error:
        if error.reason in (NoSuggestion.ENGINE_MODEL, NoSuggestion.ENGINE_GARBAGE):
            return {}
        raise


def _marker_ids(connection: Connection, model: str) -> Waiting[tuple[int, ...]]:
    """The ids of Qwen's markers, if each is a token to the engine and it says so. llama.cpp and vLLM take the text
    under different names."""
    text = "".join(MARKERS)
    body = {"model": model, "content": text, "prompt": text, "add_special": False, "parse_special": True}
    try:
        found = (yield from connection.ask("/tokenize", body | {"add_special_tokens": False})).get("tokens")
    except EngineError as error:
        if error.reason in (NoSuggestion.ENGINE_MODEL, NoSuggestion.ENGINE_GARBAGE):
            return ()
        raise
    ids = tuple(found) if isinstance(found, list) else ()
    return ids if len(ids) == len(MARKERS) and all(isinstance(one, int) for one in ids) else ()


def _context_tokens(props: Event, model: Event) -> int | None:
    """How long prompt and answer may be: as llama.cpp says it of each slot, or as vLLM does of the model."""
    settings = props.get("default_generation_settings")
    said = settings.get("n_ctx") if isinstance(settings, dict) else model.get("max_model_len")
    return said if isinstance(said, int) and said > 0 else None


def _objects(value: object) -> list[Event]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
