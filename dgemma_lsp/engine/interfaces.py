"""The three interfaces of engines: the request body for an excerpt, and what each event of the answer holds."""

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
"""The temperature for further candidates; the first one is greedy."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The model that an engine fills with, and the interface for it."""

    name: str
    interface: Interface
    context_tokens: int | None = None
    """Most tokens of a prompt and its answer together; None if the engine does not tell."""
    marker_ids: tuple[int, ...] = ()
    """The token ids of `prompts.MARKERS`; none if the engine's tokenizer lacks them."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request to an engine."""

    path: str
    body: dict[str, Any]
    healed: str
    """The healed text (token healing): the answer must begin with it, and it is not part of the fill."""


@dataclass(frozen=True, slots=True)
class AnswerPart:
    """What one event of an answer holds."""

    text: str
    log_probabilities: tuple[float, ...]
    """Of the tokens of `text`, in nats; none if the engine does not give them."""
    ended: bool = False
    """Whether this is the last part."""
    complete: bool = False
    """Whether the model or a stop string of the request ended the text; False if a limit of tokens did."""


def question(model: ServedModel, request: FillRequest) -> Question:
    """The request to an engine for a fill request with one hole."""
    body: dict[str, Any] = {"stream": True, "temperature": _TEMPERATURE if request.seed else 0.0}
    if request.seed:
        body["seed"] = request.seed
    if request.one_line:
        body["stop"] = ["\n"]
    if model.interface == "chat":
        return _chat_question(model, request, body)
    prompt = Prompt.of(request.excerpt)
    if model.interface == "infill":
        # llama.cpp puts `prompt` before the suffix. Without its last blank the model would take the line as complete.
        typed = prompt.typed + prompt.healed
        body |= {"input_prefix": prompt.above, "input_suffix": prompt.suffix, "prompt": typed, "n_probs": 1}
        body |= {"n_predict": request.max_tokens, "cache_prompt": True}
        body["response_fields"] = ["content", "stop", "stop_type", "completion_probabilities"]
        return Question("/infill", body, "")
    body |= {"model": model.name, "prompt": prompt.in_the_middle, "max_tokens": request.max_tokens, "logprobs": 1}
    if model.marker_ids:
        body["stop_token_ids"] = list(model.marker_ids)
    return Question("/v1/completions", body, prompt.healed)


def _chat_question(model: ServedModel, request: FillRequest, body: dict[str, Any]) -> Question:
    """Asks for no log-probabilities: engines of diffusion models fail if several requests of a batch do (vLLM 45689).

    If the healed text has a line break, a line cannot be stopped at its first one.
    """
    chat = Chat.of(request.excerpt)
    if "\n" in chat.healed:
        body.pop("stop", None)
    messages = [{"role": "user", "content": chat.user}, {"role": "assistant", "content": chat.answer}]
    body |= {"model": model.name, "messages": messages, "max_tokens": request.max_tokens}
    body |= {"continue_final_message": True, "add_generation_prompt": False}
    body["chat_template_kwargs"] = {"enable_thinking": False}
    return Question("/v1/chat/completions", body, chat.healed)


def answer_part(interface: Interface, event: Event) -> AnswerPart:
    """The part of the answer that an event holds.

    Raises:
        EngineError: the event does not have the form of this interface.
    """
    if event is DONE:  # some engines send no event with a reason before it
        return AnswerPart("", (), ended=True)
    try:
        if interface == "infill":
            return _infill_part(event)
        return _choice_part(event, chat=interface == "chat")
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise EngineError(
            NoSuggestion.ENGINE_GARBAGE, f"the engine's answer cannot be used: it is none of /{interface}"
        ) from error


def _infill_part(event: Event) -> AnswerPart:
    ended = event.get("stop") is True
    complete = ended and event.get("stop_type") in ("eos", "word")
    tokens = event.get("completion_probabilities") or []
    return AnswerPart(_text(event["content"]), _numbers(token["logprob"] for token in tokens), ended, complete)


def _choice_part(event: Event, *, chat: bool) -> AnswerPart:
    choices = event["choices"]
    if not choices:  # an event that only counts tokens
        return AnswerPart("", ())
    choice = choices[0]
    text = choice["delta"].get("content") or "" if chat else choice["text"]
    scores = choice.get("logprobs") or {}
    numbers = scores.get("token_logprobs") or [token["logprob"] for token in scores.get("content") or []]
    finish = choice.get("finish_reason")
    return AnswerPart(_text(text), _numbers(numbers), finish is not None, finish == "stop")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(float(value) for value in values if isinstance(value, int | float) and math.isfinite(value))
