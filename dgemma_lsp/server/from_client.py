"""Conversions from LSP's types to ours, lenient where clients are sloppy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cattrs import Converter
from lsprotocol import types

from dgemma_lsp.documents.documents import Encoding, Position, TextChange
from dgemma_lsp.documents.notebooks import Cell
from dgemma_lsp.pipeline.actions import ActionKind

MENU_TRIGGERS = [" ", ".", "(", "[", "{", "=", ",", ":"]
"""Characters after which a menu is worth opening; editors open it in words anyway."""

OWN_SOURCE = "dgemma"
"""What our own diagnostics would name as their source."""
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
"""Request to watch a fill: `{textDocument, position, watch}`, where `watch` is a number that the client chooses. The
answer comes when the fill has ended. It has the `text`, or the `reason` why there is none. Any other request is run
first, and ends this one."""
CANVAS = "dgemma/canvas"
"""Notification after each pass of a watched fill: its `watch`, `step`, `ms`, `done`, and the `tokens` with `text`,
`confidence` and `state` (`watched.TokenState`). After a pass of the writer there is also a `check`: who drafted (`by`),
and how many tokens were `drafted`, `accepted` and `written`. The name is from canvases, but written fills use it,
too."""
STATS = "dgemma/stats"
"""Request: how often suggestions were of use in this session. Counted in memory, and sent to this client only."""
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


def watch_request(params: object) -> tuple[str, Position, int] | None:
    """Document, position and number of a request to watch a fill; None if they cannot be read."""
    match plain(params):
        case {"textDocument": {"uri": str(uri)}, "position": at, "watch": int(number)}:
            position = _plain_position(at)
            return None if position is None else (uri, position, number)
    return None


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


def cells(found: Sequence[types.NotebookCell]) -> list[Cell]:
    """The cells of a notebook, in their order."""
    return [Cell(cell.document, cell.kind is types.NotebookCellKind.Code) for cell in found]


def changed_uri(params: object) -> str | None:
    """The document that the raw parameters of a notification are about, if that much can be read."""
    match params:
        case {"textDocument": {"uri": str(uri)}} | {"notebookDocument": {"uri": str(uri)}}:
            return uri
        case _:
            return None


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


def _position(position: types.Position) -> Position:
    return Position(position.line, position.character)
