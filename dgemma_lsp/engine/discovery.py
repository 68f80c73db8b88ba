"""Finds out which model an engine serves and which interface fills with it, by asking the engine."""

from __future__ import annotations

import re

from dgemma_lsp.documents.edits import NoSuggestion
from dgemma_lsp.engine.address import Address, Interface
from dgemma_lsp.engine.connection import Connection, Event, StaleConnectionError, Waiting
from dgemma_lsp.engine.errors import EngineError, plain_line
from dgemma_lsp.engine.interfaces import ServedModel
from dgemma_lsp.engine.prompts import MARKERS

_LISTED = 8
"""Most models that an error message lists."""


def discover(connection: Connection, address: Address) -> Waiting[ServedModel]:
    """The model that will fill, and the interface for it.

    The interface is `completions` if the engine's tokenizer has the markers of Qwen2.5-Coder. Otherwise it is `infill`
    for llama.cpp, which works if its model has markers of its own, and `chat` for DiffusionGemma.

    Raises:
        EngineError: the engine does not answer, lacks the named model, or no interface is known for its model.
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
        there = ", ".join(plain_line(other) for other in list(models)[:_LISTED])
        raise EngineError(NoSuggestion.ENGINE_MODEL, f"{address.url} has no model {plain_line(name)}; it has {there}")
    tokens = _context_tokens(props, models.get(name, {}))
    if address.interface in ("infill", "chat"):
        return ServedModel(name, address.interface, tokens)
    ids = yield from _marker_ids(connection, name)
    interface = address.interface or _interface(name, is_llama=is_llama, has_markers=bool(ids))
    if interface is None:
        raise EngineError(
            NoSuggestion.ENGINE_MODEL,
            f"how to fill with {plain_line(name)} of {address.url} is not known; name the way in the address, for "
            f"example completions+{address.url} for Qwen2.5-Coder, or chat+{address.url}",
        )
    return ServedModel(name, interface, tokens, ids)


def _interface(name: str, *, is_llama: bool, has_markers: bool) -> Interface | None:
    plain_name = re.sub(r"[^a-z0-9]", "", name.lower())
    if has_markers or ("qwen" in plain_name and "coder" in plain_name):
        return "completions"
    if is_llama:
        return "infill"
    return "chat" if "diffusiongemma" in plain_name else None


def _asked_if_there(connection: Connection, path: str) -> Waiting[Event]:
    """The answer; an empty one if the engine does not have that path, or answers with something else than JSON."""
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
    """The ids of `MARKERS`, if the engine tokenizes each of them as one token; otherwise none.

    The text is sent under the two names that llama.cpp and vLLM take it by.
    """
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
    """Most tokens of a prompt and its answer: of a slot of llama.cpp, or of a model of vLLM; None if not given."""
    settings = props.get("default_generation_settings")
    tokens = settings.get("n_ctx") if isinstance(settings, dict) else model.get("max_model_len")
    return tokens if isinstance(tokens, int) and tokens > 0 else None


def _objects(value: object) -> list[Event]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
