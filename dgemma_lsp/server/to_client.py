"""What the server says, in the protocol's types."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Any

from lsprotocol import types

from dgemma_lsp.documents.documents import Encoding, Position, position_at
from dgemma_lsp.documents.edits import Edit, NoSuggestion, Rewrite, Snapshot, Suggestion
from dgemma_lsp.documents.text import Text
from dgemma_lsp.pipeline.actions import Action, ActionKind
from dgemma_lsp.pipeline.watched import Frame
from dgemma_lsp.server.from_client import DID_ACCEPT, OWN_SOURCE, ActionsRequest, Client

_ANNOTATION = "dgemma"


def outcome(uri: str, answer: Suggestion | NoSuggestion) -> dict[str, object]:
    """What came of a request, for clients that show it."""
    if isinstance(answer, NoSuggestion):
        return {"uri": uri, "reason": answer.value}
    return {"uri": uri, "ms": round(sum(answer.trace.values()), 1)} if answer.steps else {"uri": uri}


def canvas(number: int, frame: Frame) -> dict[str, object]:
    """The parameters of `dgemma/canvas`: one pass of a watched fill. `number` is the client's own for the fill."""
    tokens = [
        {"text": token.text, "confidence": round(token.confidence, 3), "state": state.value}
        for token, state in zip(frame.tokens, frame.states, strict=True)
    ]
    shown = {"watch": number, "step": frame.step, "ms": round(frame.ms, 2), "done": frame.done, "tokens": tokens}
    if (check := frame.check) is None:
        return shown
    counts = {"drafted": len(check.drafted), "accepted": check.accepted, "written": check.written}
    return shown | {"check": {"by": check.drafted_by, **counts}}


def watched(answer: Suggestion | NoSuggestion) -> dict[str, str]:
    """The answer to `dgemma/watch`: the text that would be inserted, or the reason why there is none."""
    return {"reason": answer.value} if isinstance(answer, NoSuggestion) else {"text": answer.edit.new_text}


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


def _lsp_position(position: Position) -> types.Position:
    return types.Position(line=position.line, character=position.character)
