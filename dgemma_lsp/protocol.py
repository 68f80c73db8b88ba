"""Every conversion between LSP's types and ours, and the leniency that sloppy clients need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cattrs import Converter
from lsprotocol import types

from dgemma_lsp.documents import Encoding, Position, TextChange, position_at
from dgemma_lsp.edits import NoSuggestion, Suggestion

EXPLAIN_SILENCE = "dgemma.explainSilence"
"""Command: takes a document's uri, gives why its last request showed nothing, or null."""


class InlineRequest(NamedTuple):
    """What a client asks for."""

    uri: str
    position: Position
    invoked: bool
    """The user asked, rather than typed."""


def make_lenient(converter: Converter) -> Converter:
    """The same converter, for which a document and a position are enough to ask for a completion.

    In one thing it is stricter: what is no text does not become a document's text.
    """
    strict = converter.get_structure_hook(types.InlineCompletionParams)

    def inline_params(value: Any, cls: type[types.InlineCompletionParams]) -> types.InlineCompletionParams:
        context = value.get("context") if isinstance(value, Mapping) else None
        kind = context.get("triggerKind") if isinstance(context, Mapping) else None
        invoked = kind == types.InlineCompletionTriggerKind.Invoked.value
        trigger = types.InlineCompletionTriggerKind.Invoked if invoked else types.InlineCompletionTriggerKind.Automatic
        params: types.InlineCompletionParams = strict({**value, "context": {"triggerKind": trigger.value}}, cls)
        return params

    converter.register_structure_hook(types.InlineCompletionParams, inline_params)
    for kind in _WITH_TEXT:
        converter.register_structure_hook(kind, _wanting_text(converter.get_structure_hook(kind)))
    return converter


_WITH_TEXT = (
    types.TextDocumentItem,
    types.TextDocumentContentChangePartial,
    types.TextDocumentContentChangeWholeDocument,
)


def _wanting_text(structure: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def checked(value: Any, cls: Any) -> Any:
        if not isinstance(value, Mapping) or not isinstance(value.get("text"), str):
            raise ValueError("a text must be a string")  # the converter would write null as "None"
        return structure(value, cls)

    return checked


def encoding(kind: types.PositionEncodingKind | str | None) -> Encoding:
    """The encoding of positions that was agreed on; UTF-16 where nothing was."""
    match str(getattr(kind, "value", kind)):
        case "utf-8":
            return "utf-8"
        case "utf-32":
            return "utf-32"
        case _:
            return "utf-16"


def inline_request(params: types.InlineCompletionParams) -> InlineRequest:
    """The request for a completion."""
    invoked = params.context.trigger_kind is types.InlineCompletionTriggerKind.Invoked
    return InlineRequest(params.text_document.uri, _position(params.position), invoked)


def text_changes(params: types.DidChangeTextDocumentParams) -> list[TextChange]:
    """The changes of a notification, in order."""
    return [
        TextChange(change.text, (_position(change.range.start), _position(change.range.end)))
        if isinstance(change, types.TextDocumentContentChangePartial)
        else TextChange(change.text)
        for change in params.content_changes
    ]


def changed_uri(params: object) -> str | None:
    """The document that the raw parameters of a notification are about, if that much can be read."""
    match params:
        case {"textDocument": {"uri": str(uri)}}:
            return uri
        case _:
            return None


def inline_answer(answer: Suggestion | NoSuggestion, encoding: Encoding) -> list[types.InlineCompletionItem] | None:
    """One item or none.

    A replaced request answers null: Neovim ignores it, but an empty list would hide the newer request's text.
    """
    if answer is NoSuggestion.SUPERSEDED:
        return None
    if isinstance(answer, NoSuggestion):
        return []
    text, edit = answer.snapshot.text, answer.edit
    covered = types.Range(
        start=_lsp_position(position_at(text, edit.start, encoding)),
        end=_lsp_position(position_at(text, edit.end, encoding)),
    )
    return [types.InlineCompletionItem(insert_text=edit.new_text, range=covered)]


def silence(reason: NoSuggestion | None) -> dict[str, str] | None:
    """The answer to "why did I see nothing?"."""
    return None if reason is None else {"name": reason.name, "reason": reason.value}


def _position(position: types.Position) -> Position:
    return Position(position.line, position.character)


def _lsp_position(position: Position) -> types.Position:
    return types.Position(line=position.line, character=position.character)
