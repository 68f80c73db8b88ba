from __future__ import annotations

from typing import Any

import pytest
from lsprotocol import types
from pygls.protocol import default_converter

from dgemma_lsp.documents.documents import Position, TextChange
from dgemma_lsp.documents.edits import Edit, NoSuggestion, Snapshot, Suggestion
from dgemma_lsp.documents.text import Text
from dgemma_lsp.server import from_client, to_client

CONVERTER = from_client.make_lenient(default_converter())


def request(params: Any) -> from_client.InlineRequest:
    message = {"jsonrpc": "2.0", "id": 1, "method": "textDocument/inlineCompletion", "params": params}
    return from_client.inline_request(CONVERTER.structure(message, types.InlineCompletionRequest).params)


HERE = {"textDocument": {"uri": "file:///a.py"}, "position": {"line": 3, "character": 5}}


@pytest.mark.parametrize(
    ("extra", "invoked"),
    [
        ({"context": {"triggerKind": 1}}, True),
        ({"context": {"triggerKind": 2}}, False),
        ({"context": {"triggerKind": 0}}, False),
        ({"context": {"triggerKind": "Invoked"}}, False),
        ({"context": {"triggerKind": 1, "selectedCompletionInfo": "nonsense"}}, True),
        ({"context": {}}, False),
        ({"context": None}, False),
        ({}, False),
    ],
)
def test_a_document_and_a_position_are_enough(extra: dict[str, Any], invoked: bool) -> None:
    assert request(HERE | extra) == ("file:///a.py", Position(3, 5), invoked, None)


@pytest.mark.parametrize("missing", ["textDocument", "position"])
def test_without_them_there_is_no_request(missing: str) -> None:
    with pytest.raises(Exception, match="InlineCompletion"):
        request({name: value for name, value in HERE.items() if name != missing})


@pytest.mark.parametrize("params", [None, 7, [], "text", HERE | {"position": {"line": -1, "character": 0}}])
def test_nonsense_is_no_request(params: Any) -> None:
    with pytest.raises(Exception, match="InlineCompletion"):
        request(params)


def test_changes_keep_their_order_and_kind() -> None:
    positions = types.Range(start=types.Position(line=1, character=2), end=types.Position(line=3, character=4))
    params = types.DidChangeTextDocumentParams(
        text_document=types.VersionedTextDocumentIdentifier(uri="file:///a.py", version=2),
        content_changes=[
            types.TextDocumentContentChangeWholeDocument(text="all"),
            types.TextDocumentContentChangePartial(range=positions, text="part"),
        ],
    )
    assert from_client.text_changes(params) == [
        TextChange("all"),
        TextChange("part", (Position(1, 2), Position(3, 4))),
    ]


@pytest.mark.parametrize(("encoding", "start", "end"), [("utf-8", 9, 10), ("utf-16", 6, 7), ("utf-32", 5, 6)])
def test_an_item_covers_what_it_retypes_in_the_clients_units(encoding: Any, start: int, end: int) -> None:
    text = "first\r\n\U0001f600é=f()\n"
    offset = text.index(")")
    snapshot = Snapshot("file:///a.py", 1, "python", Text(text), offset)
    edit = Edit(offset, offset + 1, "a)")
    items = to_client.inline_answer(Suggestion(snapshot, edit, score=0.0, steps=1), encoding)
    assert items is not None
    (item,) = items
    assert item.insert_text == "a)"
    assert item.range == types.Range(
        start=types.Position(line=1, character=start), end=types.Position(line=1, character=end)
    )


def test_only_a_replaced_request_answers_null() -> None:
    assert to_client.inline_answer(NoSuggestion.SUPERSEDED, "utf-8") is None
    others = set(NoSuggestion) - {NoSuggestion.SUPERSEDED}
    assert all(to_client.inline_answer(reason, "utf-8") == [] for reason in others)


def test_a_silence_has_a_name_and_a_sentence() -> None:
    said = to_client.silence(NoSuggestion.IN_COMMENT)
    assert said == {"name": "IN_COMMENT", "reason": "the cursor is in a comment"}
    assert to_client.silence(None) is None


@pytest.mark.parametrize(
    ("kind", "encoding"),
    [
        (types.PositionEncodingKind.Utf8, "utf-8"),
        (types.PositionEncodingKind.Utf16, "utf-16"),
        ("utf-32", "utf-32"),
        (None, "utf-16"),
    ],
)
def test_encodings(kind: Any, encoding: str) -> None:
    assert from_client.encoding(kind) == encoding


@pytest.mark.parametrize(
    ("params", "uri"),
    [
        ({"textDocument": {"uri": "file:///a.py"}, "contentChanges": 3}, "file:///a.py"),
        ({"textDocument": {"uri": 3}}, None),
        ({}, None),
        (None, None),
    ],
)
def test_the_document_of_a_change_that_could_not_be_read(params: object, uri: str | None) -> None:
    assert from_client.changed_uri(params) == uri
