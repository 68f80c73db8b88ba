"""The three ways to ask an engine: what is sent for an excerpt, and what each event of the answer says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from dgemma_lsp.documents.edits import NoSuggestion
from dgemma_lsp.engine.address import Interface
from dgemma_lsp.engine.connection import DONE, Event
from dgemma_lsp.engine.errors import EngineError
from dgemma_lsp.engine.prompts import Chat, Prompt
from dgemma_model.request import FillRequest

_TEMPERATURE = 0.7
"""Of another candidate than the likeliest text."""


@dataclass(frozen=True, slots=True)
class Model:
    """What an engine serves, and how it is asked."""

    name: str
    interface: Interface
    context_tokens: int | None = None
    """How long a prompt and its answer may be together; None where the engine does not say."""
    marker_ids: tuple[int, ...] = ()
    """The ids of `prompts.MARKERS`, where the engine says them."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is sent."""

    path: str
    body: dict[str, Any]
    healed: str
    """What the answer must begin with; it is no part of the fill."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What an event says."""

    text: str
    log_probabilities: tuple[float, ...]
    """Of its tokens, in nats; none where the engine does not say them."""
    ended: bool = False
    """It is the last one."""
    complete: bool = False
    """The model, or a rule that was sent along, has ended the text; False where a limit did."""


def question(model: Model, request: FillRequest) -> Question:
    """What is sent for a request with one hole."""
    body: dict[str, Any] = {"stream": True, "temperature": _TEMPERATURE if request.seed else 0.0}
    if request.seed:
        body["seed"] = request.seed
    if request.one_line:
        body["stop"] = ["\n"]
    if model.interface == "chat":
        return _chat_question(model, request, body)
    prompt = Prompt.of(request.excerpt)
    if model.interface == "infill":
        # llama.cpp puts what is typed before the suffix: with a blank less the model would take the line to be over
        typed = prompt.typed + prompt.healed
        body |= {"input_prefix": prompt.above, "input_suffix": prompt.suffix, "prompt": typed, "n_probs": 1}
        body |= {"n_predict": request.max_tokens, "cache_prompt": True}
        body["response_fields"] = ["content", "stop", "stop_type", "completion_probabilities"]
        return Question("/infill", body, "")
    body |= {"model": model.name, "prompt": prompt.in_the_middle, "max_tokens": request.max_tokens, "logprobs": 1}
    if model.marker_ids:
        body["stop_token_ids"] = list(model.marker_ids)
    return Question("/v1/completions", body, prompt.healed)


def _chat_question(model: Model, request: FillRequest, body: dict[str, Any]) -> Question:
    """No log-probabilities: engines that serve diffusion models fail when several requests of a batch ask for them
    (vLLM 45689). A line does not stop at its break where the answer must begin with one."""
    chat = Chat.of(request.excerpt)
    if "\n" in chat.healed:
        body.pop("stop", None)
    messages = [{"role": "user", "content": chat.user}, {"role": "assistant", "content": chat.answer}]
    body |= {"model": model.name, "messages": messages, "max_tokens": request.max_tokens}
    body |= {"continue_final_message": True, "add_generation_prompt": False}
    body["chat_template_kwargs"] = {"enable_thinking": False}
    return Question("/v1/chat/completions", body, chat.healed)


def piece(interface: Interface, event: Event) -> Piece:
    """What an event of the answer says.

    Raises:
        EngineError: it is no event of this interface.
    """
    if event is DONE:  # some engines forget to say why an answer ends
        return Piece("", (), ended=True)
    try:
        if interface == "infill":
            return _infill_piece(event)
        return _choice_piece(event, chat=interface == "chat")
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise EngineError(
            NoSuggestion.ENGINE_GARBAGE, f"the engine's answer cannot be used: it is none of /{interface}"
        ) from error


def _infill_piece(event: Event) -> Piece:
    ended = event.get("stop") is True
    complete = ended and event.get("stop_type") in ("eos", "word")
    told = event.get("completion_probabilities") or []
    return Piece(_text(event["content"]), _numbers(one["logprob"] for one in told), ended, complete)


def _choice_piece(event: Event, *, chat: bool) -> Piece:
    choices = event["choices"]
    if not choices:  # the last event may count tokens only
        return Piece("", ())
    choice = choices[0]
    text = choice["delta"].get("content") or "" if chat else choice["text"]
    told = choice.get("logprobs") or {}
    numbers = told.get("token_logprobs") or [one["logprob"] for one in told.get("content") or []]
    finish = choice.get("finish_reason")
    return Piece(_text(text), _numbers(numbers), finish is not None, finish == "stop")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values if isinstance(value, int | float) and math.isfinite(value))
