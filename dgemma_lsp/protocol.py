"""Every conversion between LSP's types and ours, and the leniency that sloppy clients need."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cattrs import Converter
from lsprotocol import types

from dgemma_lsp.actions import Action, ActionKind
from dgemma_lsp.documents import Encoding, Position, TextChange, position_at
from dgemma_lsp.edits import Edit, NoSuggestion, Rewrite, Snapshot, Suggestion
from dgemma_lsp.text import Text
from dgemma_lsp.watched import Frame

MENU_TRIGGERS = [" ", ".", "(", "[", "{", "=", ",", ":"]
"""Characters after which a menu is worth opening; editors open it in words anyway."""

EXPLAIN_SILENCE = "dgemma.explainSilence"
"""Command: takes a document's uri, gives why its last request showed nothing, or null."""


class InlineRequest(NamedTuple):
    """What a client asks for."""

    uri: str
    position: Position
    invoked: bool
    """The user asked, rather than typed."""
    selected: tuple[Position, Position, str] | None
    """What the completion menu would put in place of a range, if it is open."""


DID_ACCEPT = "dgemma.didAccept"
"""Command: takes the number that came with a suggestion; clients run it when the user accepts."""

STATUS = "dgemma/status"
"""Request, with a document's uri or without: what the server is doing, and the rule that excludes the document. Also a
notification of the same shape, whenever that changes, for clients whose experimental capabilities have
`{"dgemma": {"status": true}}`."""
OUTCOME = "dgemma/outcome"
"""Notification to the same clients after each request for a suggestion that was not replaced: the document's `uri`, the
milliseconds `ms` of a fill where there was one, and where nothing is shown the `reason`."""
WATCH = "dgemma/watch"
"""Request for a fill to look at: `{textDocument, position, watch}`, where `watch` is any number of the client's. The
answer, when the fill has ended, has its `text`, or the `reason` why there is none. Whatever else is asked for goes
first, and ends it."""
CANVAS = "dgemma/canvas"
"""Notification after each step of a fill that is watched: its `watch`, `step`, `ms`, `done`, and the `tokens` of the
canvas with `text`, `confidence` and `state` (`watched.TokenState`)."""
STATS = "dgemma/stats"
"""Request: how often suggestions were of use in this session. Counted in memory, never sent anywhere else."""
DID_SHOW = "textDocument/didShowCompletion"
DID_ACCEPT_PARTLY = "textDocument/didPartiallyAcceptCompletion"
"""Notifications about items, as Copilot's clients send them."""

NEXT_EDIT = "dgemma/nextEdit"
COPILOT_INLINE_EDIT = "textDocument/copilotInlineEdit"
"""Requests for the next place to change: ours, and the one that Neovim's clients for such edits send."""
DID_SHOW_EDIT = "textDocument/didShowInlineEdit"

NOTEBOOKS = types.NotebookDocumentSyncOptions(
    notebook_selector=[types.NotebookDocumentFilterWithNotebook(notebook="*")], save=False
)
"""Every notebook, every cell."""

OWN_SOURCE = "dgemma"
"""What our own diagnostics would name as their source."""

_ANNOTATION = "dgemma"


@dataclass(frozen=True, slots=True)
class Client:
    """What the client can do, as far as it matters here."""

    inline_completion: bool = False
    resolves_actions: bool = False
    """It asks for an action's edit when the action is chosen."""
    takes_actions: bool = False
    """It understands actions, not commands alone."""
    tags_actions: bool = False
    versioned_edits: bool = False
    annotated_edits: bool = False
    applies_edits: bool = False
    shows_progress: bool = False
    describes_labels: bool = False
    shows_status: bool = False
    keeps_settings: bool = False
    """It can be asked for them."""


class ActionsRequest(NamedTuple):
    """What a client asks for when it asks what can be done."""

    uri: str
    start: Position
    end: Position
    problems: list[types.Diagnostic]
    """Of other servers."""
    only: list[str] | None
    """The kinds that it wants, and what is below them; None for all."""


class ActionTarget(NamedTuple):
    """What an action is about to be done to, as it comes back from a client."""

    kind: ActionKind
    uri: str
    version: int | None
    checksum: int
    start: int
    end: int


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
        kept: dict[str, Any] = {"triggerKind": trigger.value}
        selected = context.get("selectedCompletionInfo") if isinstance(context, Mapping) else None
        if _is_readable(converter, selected, types.SelectedCompletionInfo):
            kept["selectedCompletionInfo"] = selected
        params: types.InlineCompletionParams = strict({**value, "context": kept}, cls)
        return params

    converter.register_structure_hook(types.InlineCompletionParams, inline_params)
    _make_actions_lenient(converter)
    _make_menu_lenient(converter)
    for kind in _WITH_TEXT:
        converter.register_structure_hook(kind, _wanting_text(converter.get_structure_hook(kind)))
    return converter


def _is_readable(converter: Converter, value: Any, kind: type[Any]) -> bool:
    try:
        converter.structure(value, kind)
    except Exception:
        return False
    return isinstance(value, Mapping)


def _make_actions_lenient(converter: Converter) -> None:
    """A document and a range are enough to ask what can be done; a diagnostic that cannot be read is left out."""
    strict = converter.get_structure_hook(types.CodeActionParams)

    def readable(value: Any) -> bool:
        return _is_readable(converter, value, types.Diagnostic) and isinstance(value.get("message"), str)

    def action_params(value: Any, cls: type[types.CodeActionParams]) -> types.CodeActionParams:
        context = value.get("context") if isinstance(value, Mapping) else None
        context = context if isinstance(context, Mapping) else {}
        listed, only = context.get("diagnostics"), context.get("only")
        kept: dict[str, Any] = {"diagnostics": list(filter(readable, listed)) if isinstance(listed, list) else []}
        if isinstance(only, list):
            kept["only"] = [kind for kind in only if isinstance(kind, str)]
        params: types.CodeActionParams = strict({**value, "context": kept}, cls)
        return params

    converter.register_structure_hook(types.CodeActionParams, action_params)


def _make_menu_lenient(converter: Converter) -> None:
    """A document and a position are enough; how a menu was opened does not matter."""
    strict = converter.get_structure_hook(types.CompletionParams)

    def menu_params(value: Any, cls: type[types.CompletionParams]) -> types.CompletionParams:
        params: types.CompletionParams = strict({name: value[name] for name in value if name != "context"}, cls)
        return params

    converter.register_structure_hook(types.CompletionParams, menu_params)


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


def client(capabilities: types.ClientCapabilities) -> Client:
    """What matters of a client's capabilities."""
    documents, workspace, window = capabilities.text_document, capabilities.workspace, capabilities.window
    actions = documents and documents.code_action
    completion = documents and documents.completion
    edits = workspace and workspace.workspace_edit
    resolves = actions and actions.resolve_support
    return Client(
        inline_completion=bool(documents and documents.inline_completion),
        resolves_actions=bool(resolves and "edit" in resolves.properties and actions and actions.data_support),
        takes_actions=bool(actions and actions.code_action_literal_support),
        tags_actions=bool(actions and actions.tag_support),
        versioned_edits=bool(edits and edits.document_changes),
        annotated_edits=bool(edits and edits.change_annotation_support),
        applies_edits=bool(workspace and workspace.apply_edit),
        shows_status=_wants_status(capabilities.experimental),
        keeps_settings=bool(workspace and workspace.configuration),
        shows_progress=bool(window and window.work_done_progress),
        describes_labels=bool(
            completion and completion.completion_item and completion.completion_item.label_details_support
        ),
    )


def _wants_status(experimental: object) -> bool:
    match plain(experimental):
        case {"dgemma": {"status": True}}:
            return True
        case _:
            return False


def status_uri(params: object) -> str | None:
    """The document that a request for the status is about, if any."""
    match plain(params):
        case {"uri": str(uri)}:
            return uri
        case _:
            return None


def outcome(uri: str, answer: Suggestion | NoSuggestion) -> dict[str, object]:
    """What came of a request, for clients that show it."""
    if isinstance(answer, NoSuggestion):
        return {"uri": uri, "reason": answer.value}
    return {"uri": uri, "ms": round(sum(answer.trace.values()), 1)} if answer.steps else {"uri": uri}


def watch_request(params: object) -> tuple[str, Position, int] | None:
    """Document, position and number of a request for a fill to look at, or None where they cannot be read."""
    match plain(params):
        case {"textDocument": {"uri": str(uri)}, "position": at, "watch": int(number)}:
            position = _plain_position(at)
            return None if position is None else (uri, position, number)
    return None


def canvas(number: int, frame: Frame) -> dict[str, object]:
    """One canvas of a fill that is watched."""
    tokens = [
        {"text": token.text, "confidence": round(token.confidence, 3), "state": state.value}
        for token, state in zip(frame.tokens, frame.states, strict=True)
    ]
    return {"watch": number, "step": frame.step, "ms": round(frame.ms, 2), "done": frame.done, "tokens": tokens}


def watched(answer: Suggestion | NoSuggestion) -> dict[str, str]:
    """What came of a fill that was watched."""
    return {"reason": answer.value} if isinstance(answer, NoSuggestion) else {"text": answer.edit.new_text}


def inline_request(params: types.InlineCompletionParams) -> InlineRequest:
    """The request for a completion."""
    invoked = params.context.trigger_kind is types.InlineCompletionTriggerKind.Invoked
    menu = params.context.selected_completion_info
    selected = None if menu is None else (_position(menu.range.start), _position(menu.range.end), menu.text)
    return InlineRequest(params.text_document.uri, _position(params.position), invoked, selected)


def text_changes(params: types.DidChangeTextDocumentParams) -> list[TextChange]:
    """The changes of a notification, in order."""
    return content_changes(params.content_changes)


def content_changes(changes: Sequence[types.TextDocumentContentChangeEvent]) -> list[TextChange]:
    """Changes to one document, in order."""
    return [
        TextChange(change.text, (_position(change.range.start), _position(change.range.end)))
        if isinstance(change, types.TextDocumentContentChangePartial)
        else TextChange(change.text)
        for change in changes
    ]


def code_cells(cells: Sequence[types.NotebookCell]) -> list[str]:
    """The uris of the cells that hold code."""
    return [cell.document for cell in cells if cell.kind is types.NotebookCellKind.Code]


def changed_uri(params: object) -> str | None:
    """The document that the raw parameters of a notification are about, if that much can be read."""
    match params:
        case {"textDocument": {"uri": str(uri)}} | {"notebookDocument": {"uri": str(uri)}}:
            return uri
        case _:
            return None


def inline_answer(
    answer: Suggestion | NoSuggestion, encoding: Encoding, number: int | None = None
) -> list[types.InlineCompletionItem] | None:
    """The candidates, the best first, or nothing. By `number` the client can speak of what it was given.

    A replaced request answers null: Neovim ignores it, but an empty list would hide the newer request's text.
    """
    if answer is NoSuggestion.SUPERSEDED:
        return None
    if isinstance(answer, NoSuggestion):
        return []
    return [
        types.InlineCompletionItem(
            insert_text=edit.new_text, range=_range(answer.snapshot.source, edit, encoding), command=_accepted(number)
        )
        for edit in (answer.edit, *answer.others)
    ]


def _accepted(number: int | None) -> types.Command | None:
    """What a client runs when the user has accepted an item."""
    return (number and types.Command(title="accepted", command=DID_ACCEPT, arguments=[number])) or None


def shown_number(params: object) -> object:
    """The number of the item that a notification is about, or None."""
    match plain(params):
        case {"item": item}:
            match plain(item):
                case {"command": command}:
                    match plain(command):
                        case {"arguments": [number, *_]}:
                            return number
    return None


def accepted_length(params: object) -> int:
    """How much of its item a notification says is accepted, in UTF-16 units from its start."""
    match plain(params):
        case {"acceptedLength": int(length)}:
            return length
    return 0


def next_edit_request(params: object) -> tuple[str, int | None, Position] | None:
    """Document, version and cursor of a request for the next edit, or None where they cannot be read."""
    match plain(params):
        case {"textDocument": {"uri": str(uri)} as document, "position": at}:
            position, version = _plain_position(at), document.get("version")
            if position is not None and (version is None or isinstance(version, int)):
                return uri, version, position
    return None


def next_edit_answer(snapshot: Snapshot | None, edit: Edit | None, encoding: Encoding) -> dict[str, Any]:
    """One edit or none, with the version that it is for."""
    if snapshot is None or edit is None:
        return {"edits": []}
    place = _range(snapshot.source, edit, encoding)
    ends = {"start": place.start, "end": place.end}
    return {
        "edits": [
            {
                "text": edit.new_text,
                "textDocument": {"uri": snapshot.uri, "version": snapshot.version},
                "range": {name: {"line": at.line, "character": at.character} for name, at in ends.items()},
            }
        ]
    }


def actions_request(params: types.CodeActionParams) -> ActionsRequest:
    """The request for what can be done."""
    problems = [found for found in params.context.diagnostics if found.source != OWN_SOURCE]
    only = params.context.only
    kinds = None if only is None else [str(getattr(kind, "value", kind)) for kind in only]
    return ActionsRequest(
        params.text_document.uri, _position(params.range.start), _position(params.range.end), problems, kinds
    )


def position(value: types.Position) -> Position:
    """Ours for theirs."""
    return _position(value)


def code_actions(
    actions: Sequence[Action], snapshot: Snapshot, request: ActionsRequest, client: Client
) -> list[types.CodeAction | types.Command]:
    """The actions that the client wants, without their edits."""
    answer: list[types.CodeAction | types.Command] = []
    for action in actions:
        kind = CODE_ACTION_KINDS[action.kind not in _QUICK_FIXES]
        if request.only is not None and not any(_is_below(kind.value, wanted) for wanted in request.only):
            continue
        data = {
            "kind": action.kind.value,
            "uri": snapshot.uri,
            "version": snapshot.version,
            "checksum": checksum(snapshot.text),
            "start": action.start,
            "end": action.end,
        }
        command = types.Command(title=action.title, command=command_name(action.kind), arguments=[data])
        if not client.takes_actions:
            answer.append(command)
            continue
        solved = [request.problems[action.problem]] if action.problem is not None else None
        answer.append(
            types.CodeAction(
                title=action.title,
                kind=kind,
                diagnostics=solved,
                command=None if client.resolves_actions else command,
                data=data if client.resolves_actions else None,
                tags=[types.CodeActionTag.LlmGenerated] if client.tags_actions else None,
            )
        )
    return answer


CODE_ACTION_KINDS = [types.CodeActionKind.QuickFix, types.CodeActionKind.RefactorRewrite]
_QUICK_FIXES = (ActionKind.REPAIR, ActionKind.FILL)


def command_name(kind: ActionKind) -> str:
    """The command that does what the action does."""
    return f"dgemma.{kind.value}"


def checksum(text: str) -> int:
    """Tells one text from another, across the client and back."""
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))


def action_target(data: object) -> ActionTarget | None:
    """What an action's data say, or None where they are not ours."""
    kinds = {kind.value: kind for kind in ActionKind}
    match plain(data):
        case {
            "kind": str(kind),
            "uri": str(uri),
            "version": int() | None as version,
            "checksum": int(checksum),
            "start": int(start),
            "end": int(end),
        } if kind in kinds and 0 <= start <= end:
            return ActionTarget(kinds[kind], uri, version, checksum, start, end)
        case _:
            return None


def command_range(argument: object) -> tuple[str, Position, Position] | None:
    """A document and a range in it, as key bindings give them: `{uri, range}`, or with `position` in its place."""
    match plain(argument):
        case {"uri": str(uri), "range": {"start": start, "end": end}}:
            first, last = _plain_position(start), _plain_position(end)
        case {"uri": str(uri), "position": at}:
            first = last = _plain_position(at)
        case _:
            return None
    return (uri, min(first, last), max(first, last)) if first is not None and last is not None else None


def _plain_position(value: object) -> Position | None:
    match value:
        case {"line": int(line), "character": int(character)} if line >= 0 and character >= 0:
            return Position(line, character)
        case _:
            return None


def plain(value: object) -> object:
    """What a client sent as any JSON, as dictionaries, lists and values."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_asdict"):
        return [plain(item) for item in value]
    if hasattr(value, "_asdict"):  # pygls makes named tuples of objects that it knows no type for
        return plain(value._asdict())
    return value


def _is_below(kind: str, wanted: str) -> bool:
    return not wanted or kind == wanted or kind.startswith(wanted + ".")


def workspace_edit(rewrite: Rewrite, client: Client, encoding: Encoding, label: str) -> types.WorkspaceEdit:
    """The edits of one version of one document, with their annotation where the client shows it.

    Where there are several, a client that can is to show them before it makes them.
    """
    ranges = [(_range(rewrite.snapshot.source, edit, encoding), edit.new_text) for edit in rewrite.edits]
    uri = rewrite.snapshot.uri
    if not client.versioned_edits:
        edits = [types.TextEdit(range=place, new_text=text) for place, text in ranges]
        return types.WorkspaceEdit(changes={uri: edits})
    annotation = types.ChangeAnnotation(
        label=label, needs_confirmation=len(ranges) > 1, description="written by a language model"
    )
    document = types.OptionalVersionedTextDocumentIdentifier(uri=uri, version=rewrite.snapshot.version)
    annotated = [
        types.AnnotatedTextEdit(annotation_id=_ANNOTATION, range=place, new_text=text)
        if client.annotated_edits
        else types.TextEdit(range=place, new_text=text)
        for place, text in ranges
    ]
    return types.WorkspaceEdit(
        document_changes=[types.TextDocumentEdit(text_document=document, edits=annotated)],
        change_annotations={_ANNOTATION: annotation} if client.annotated_edits else None,
    )


def _range(text: Text, edit: Edit, encoding: Encoding) -> types.Range:
    return types.Range(
        start=_lsp_position(position_at(text, edit.start, encoding)),
        end=_lsp_position(position_at(text, edit.end, encoding)),
    )


def menu_answer(
    answer: Suggestion | NoSuggestion, encoding: Encoding, client: Client, number: int
) -> types.CompletionList | None:
    """One item or none, for a completion menu; null for a replaced request, as above.

    The list is never complete: what is typed next may make another suggestion. The word before the cursor is part of
    the item, because menus are filtered by it.
    """
    if answer is NoSuggestion.SUPERSEDED:
        return None
    items = [] if isinstance(answer, NoSuggestion) else [_menu_item(answer, encoding, client, number)]
    return types.CompletionList(is_incomplete=True, items=items)


def _menu_item(suggestion: Suggestion, encoding: Encoding, client: Client, number: int) -> types.CompletionItem:
    edit, text = suggestion.edit, suggestion.snapshot.source
    word = _LAST_WORD.search(text[max(0, edit.start - _MAX_WORD_CHARS) : edit.start])
    start = edit.start - len(word[0]) if word else edit.start
    whole = text[start : edit.start] + edit.new_text
    first, newline, _ = whole.lstrip().partition("\n")
    label = first.rstrip() + (" …" if newline else "")
    return types.CompletionItem(
        label=label,
        label_details=types.CompletionItemLabelDetails(description=OWN_SOURCE) if client.describes_labels else None,
        kind=types.CompletionItemKind.Text,
        detail=OWN_SOURCE,
        documentation=types.MarkupContent(kind=types.MarkupKind.PlainText, value=whole) if newline else None,
        sort_text="\t",  # before every letter, digit and underscore
        filter_text=whole,
        insert_text_format=types.InsertTextFormat.PlainText,
        insert_text_mode=types.InsertTextMode.AsIs,
        text_edit=types.TextEdit(range=_range(text, Edit(start, edit.end, ""), encoding), new_text=whole),
        command=_accepted(number),
    )


_LAST_WORD = re.compile(r"\w+\Z")
_MAX_WORD_CHARS = 200


def silence(reason: NoSuggestion | None, rule: str | None = None) -> dict[str, str] | None:
    """The answer to "why did I see nothing?", with the rule that excludes the document."""
    if reason is None:
        return None
    said = {"name": reason.name, "reason": reason.value}
    return said | {"rule": rule} if reason is NoSuggestion.EXCLUDED and rule else said


def _position(position: types.Position) -> Position:
    return Position(position.line, position.character)


def _lsp_position(position: Position) -> types.Position:
    return types.Position(line=position.line, character=position.character)
