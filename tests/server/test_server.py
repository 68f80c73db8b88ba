"""The server as a client of pytest-lsp sees it: a process of its own, with a model that says what it is told."""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import pytest_lsp
from lsprotocol import types
from pygls.exceptions import JsonRpcRequestCancelled
from pytest_lsp import ClientServerConfig, LanguageClient, client_capabilities
from wire import FAKE_SERVER, TIMEOUT_S, inline, insertion

pytestmark = pytest.mark.asyncio(loop_scope="module")

INLINE = types.TEXT_DOCUMENT_INLINE_COMPLETION
_numbers = itertools.count()


@pytest_lsp.fixture(scope="module", config=ClientServerConfig(server_command=[sys.executable, "-P", str(FAKE_SERVER)]))
async def session(lsp_client: LanguageClient) -> AsyncIterator[None]:
    capabilities = client_capabilities("neovim")
    params = types.InitializeParams(capabilities=capabilities, initialization_options={"debounce_ms": 20})
    await lsp_client.initialize_session(params)
    editor = Editor(lsp_client, "")
    await editor.invoke()  # waits until the model is loaded
    yield
    await lsp_client.shutdown_session()


class Editor:
    """One document and its cursor, at the end of what was typed into it."""

    def __init__(self, client: LanguageClient, text: str) -> None:
        self.client = client
        self.uri = f"file:///project/module_{next(_numbers)}.py"
        self.line, self.character = text.count("\n"), len(text.rpartition("\n")[2])
        self.version = 1
        item = types.TextDocumentItem(uri=self.uri, language_id="python", version=1, text=text)
        client.text_document_did_open(types.DidOpenTextDocumentParams(text_document=item))

    def type(self, text: str) -> None:
        self.version += 1
        self.notify_change(insertion(self.line, self.character, text))
        self.character += len(text)

    def backspace(self) -> None:
        self.version += 1
        end = {"line": self.line, "character": self.character}
        self.character -= 1
        start = {"line": self.line, "character": self.character}
        self.notify_change({"range": {"start": start, "end": end}, "text": ""})

    def notify_change(self, change: dict[str, Any]) -> None:
        document = {"uri": self.uri, "version": self.version}
        params = {"textDocument": document, "contentChanges": [change]}
        structured = self.client.protocol._converter.structure(params, types.DidChangeTextDocumentParams)
        self.client.text_document_did_change(structured)

    def request(self, kind: int = 2, msg_id: str | None = None) -> asyncio.Future[Any]:
        """Ask for a suggestion at the cursor; 2 is automatic, 1 invoked."""
        params = inline(self.uri, self.line, self.character, kind)
        structured = self.client.protocol._converter.structure(params, types.InlineCompletionParams)
        return asyncio.wrap_future(self.client.protocol.send_request(INLINE, structured, msg_id=msg_id))

    async def suggest(self) -> list[str]:
        return texts(await asyncio.wait_for(self.request(), TIMEOUT_S))

    async def invoke(self) -> list[str]:
        return texts(await asyncio.wait_for(self.request(kind=1), TIMEOUT_S))

    async def silence(self) -> str | None:
        """The name of the reason for the last silence."""
        params = types.ExecuteCommandParams(command="dgemma.explainSilence", arguments=[self.uri])
        said = await self.client.workspace_execute_command_async(params)
        return None if said is None else str(said["name"])


def texts(items: Any) -> list[str]:
    assert items is not None
    return [item.insert_text for item in items]


class Model:
    """The server's model, from outside."""

    def __init__(self, client: LanguageClient) -> None:
        self.client = client

    async def ask(self, method: str, **params: object) -> Any:
        return await asyncio.wait_for(self.client.protocol.send_request_async(method, params), TIMEOUT_S)

    async def say(self, text: str, **options: object) -> None:
        defaults = {"steps": 3, "held": False, "fails": False}
        await self.ask("test/say", text=text, **(defaults | options))

    async def standing(self) -> None:
        """Return when a held fill has come to its next step."""
        await self.ask("test/reached")

    async def release(self) -> None:
        await self.ask("test/release")

    async def counts(self) -> tuple[int, int]:
        """Fills begun and steps taken since the server started."""
        counted = await self.ask("test/counts")
        return counted.fills, counted.steps


@pytest_asyncio.fixture(loop_scope="module")
async def model(session: LanguageClient) -> AsyncIterator[Model]:
    model = Model(session)
    yield model
    await model.say("value")  # a test that failed may have left it held


async def test_a_fill_arrives(session: LanguageClient, model: Model) -> None:
    await model.say("range(10):")
    assert await Editor(session, "for i in ").suggest() == ["range(10):"]


async def test_a_retyped_bracket_is_covered(session: LanguageClient, model: Model) -> None:
    await model.say('"hi")')
    editor = Editor(session, "print()")
    editor.character -= 1
    (item,) = await editor.request()
    covered = types.Range(start=types.Position(line=0, character=6), end=types.Position(line=0, character=7))
    assert (item.insert_text, item.range) == ('"hi")', covered)


async def test_fifty_keystrokes_get_fifty_answers_and_the_newest_wins(session: LanguageClient, model: Model) -> None:
    await model.say("compute(everything)")
    editor = Editor(session, "")
    answers = []
    for character in "the_result_of_fifty_keystrokes_typed_in_a_hurry = ":
        editor.type(character)
        answers.append(editor.request())
    assert len(answers) == 50
    *earlier, last = await asyncio.wait_for(asyncio.gather(*answers), TIMEOUT_S)
    assert not any(earlier)
    assert texts(last) == ["compute(everything)"]
    assert last[0].range.start == types.Position(line=0, character=50)


async def test_a_replaced_fill_answers_null_at_once_and_stops(session: LanguageClient, model: Model) -> None:
    await model.say("value", held=True, steps=100)
    _, steps_before = await model.counts()
    editor = Editor(session, "x = ")
    first = editor.request()
    await model.standing()
    second = editor.request()
    assert await asyncio.wait_for(first, TIMEOUT_S) is None
    await model.say("other", steps=2)
    await model.release()
    assert texts(await second) == ["other"]
    _, steps = await model.counts()
    assert steps - steps_before == 1 + 2


async def test_a_cancelled_request_gets_its_error_and_stops(session: LanguageClient, model: Model) -> None:
    await model.say("value", held=True, steps=100)
    _, steps_before = await model.counts()
    editor = Editor(session, "x = ")
    running = editor.request(msg_id="to be cancelled")
    await model.standing()
    session.cancel_request(types.CancelParams(id="to be cancelled"))
    with pytest.raises(JsonRpcRequestCancelled) as caught:
        await asyncio.wait_for(running, TIMEOUT_S)
    assert caught.value.code == -32800
    assert await editor.silence() == "CANCELLED"
    await model.say("other", steps=2)
    await model.release()
    assert await Editor(session, "x = ").suggest() == ["other"]
    _, steps = await model.counts()
    assert steps - steps_before == 1 + 2


async def test_a_request_cancelled_while_it_waits_for_the_next_key(session: LanguageClient, model: Model) -> None:
    editor = Editor(session, "x = ")
    fills_before, _ = await model.counts()
    waiting = editor.request(msg_id="hardly begun")
    session.cancel_request(types.CancelParams(id="hardly begun"))
    with pytest.raises(JsonRpcRequestCancelled):
        await asyncio.wait_for(waiting, TIMEOUT_S)
    fills, _ = await model.counts()
    assert fills == fills_before


async def test_a_keystroke_does_not_kill_what_the_user_asked_for(session: LanguageClient, model: Model) -> None:
    await model.say("value", held=True, steps=1)
    editor = Editor(session, "x = ")
    asked = editor.request(kind=1)
    await model.standing()
    typed = editor.request()
    await model.release()
    assert texts(await asyncio.wait_for(asked, TIMEOUT_S)) == ["value"]
    assert texts(await asyncio.wait_for(typed, TIMEOUT_S)) == ["value"]


async def test_typing_along_needs_no_model(session: LanguageClient, model: Model) -> None:
    await model.say("compute(1)")
    editor = Editor(session, "x = ")
    assert await editor.suggest() == ["compute(1)"]
    fills_before, _ = await model.counts()
    for typed, rest in (("c", "ompute(1)"), ("omp", "ute(1)"), ("ute(", "1)")):
        editor.type(typed)
        assert await editor.suggest() == [rest]
    assert await editor.suggest() == ["1)"]
    fills, _ = await model.counts()
    assert fills == fills_before


async def test_typing_another_way_asks_the_model(session: LanguageClient, model: Model) -> None:
    await model.say("compute(1)")
    editor = Editor(session, "x = ")
    await editor.suggest()
    await model.say("_count + 1")
    editor.type("line")
    assert await editor.suggest() == ["_count + 1"]


async def test_an_answer_without_the_model_replaces_a_running_fill(session: LanguageClient, model: Model) -> None:
    await model.say("value")
    editor = Editor(session, "x = ")
    assert await editor.suggest() == ["value"]
    editor.type("w")
    await model.say("hile", held=True)
    running = editor.request()
    await model.standing()
    editor.backspace()
    assert await editor.suggest() == ["value"]
    assert await asyncio.wait_for(running, TIMEOUT_S) is None
    await model.release()


async def test_the_user_can_ask_again_for_what_was_shown(session: LanguageClient, model: Model) -> None:
    await model.say("first")
    editor = Editor(session, "x = ")
    assert await editor.suggest() == ["first"]
    await model.say("second")
    assert await editor.invoke() == ["second"]


async def test_what_is_typed_during_a_fill_is_taken_off_it(session: LanguageClient, model: Model) -> None:
    await model.say("value", held=True)
    editor = Editor(session, "x = ")
    running = editor.request()
    await model.standing()
    editor.type("va")
    await model.release()
    (item,) = await asyncio.wait_for(running, TIMEOUT_S)
    assert (item.insert_text, item.range.start.character) == ("lue", 6)


@pytest.mark.parametrize("change", [insertion(0, 4, "w"), insertion(0, 0, "\n"), {"text": ""}])
async def test_another_change_during_a_fill_makes_it_stale(
    session: LanguageClient, model: Model, change: dict[str, Any]
) -> None:
    await model.say("value", held=True)
    editor = Editor(session, "x = ")
    running = editor.request()
    await model.standing()
    editor.notify_change(change)
    await model.release()
    assert await asyncio.wait_for(running, TIMEOUT_S) == []
    assert await editor.silence() == "STALE"


async def test_closing_during_a_fill_settles_it(session: LanguageClient, model: Model) -> None:
    await model.say("value", held=True)
    editor = Editor(session, "x = ")
    running = editor.request()
    await model.standing()
    identifier = types.TextDocumentIdentifier(uri=editor.uri)
    session.text_document_did_close(types.DidCloseTextDocumentParams(text_document=identifier))
    assert await asyncio.wait_for(running, TIMEOUT_S) is None
    await model.release()


async def test_silences_have_reasons_and_a_suggestion_ends_them(session: LanguageClient, model: Model) -> None:
    await model.say("value")
    editor = Editor(session, "# a comment ")
    assert await editor.silence() is None
    assert await editor.suggest() == []
    assert await editor.silence() == "IN_COMMENT"
    assert await editor.invoke() == ["value"]
    assert await editor.silence() is None


async def test_a_replaced_request_does_not_explain_the_one_that_replaced_it(
    session: LanguageClient, model: Model
) -> None:
    await model.say("value")
    editor = Editor(session, "x = ")
    assert await editor.suggest() == ["value"]
    await model.say("value", held=True)
    editor.type("z")
    replaced = editor.request()
    await model.standing()
    editor.backspace()
    editor.type("v")
    assert await editor.suggest() == ["alue"]  # typed through: answered before the other hears that it was replaced
    assert await asyncio.wait_for(replaced, TIMEOUT_S) is None
    assert await editor.silence() is None
    await model.release()


async def test_a_fill_that_fails_is_a_silence_and_the_server_lives_on(session: LanguageClient, model: Model) -> None:
    await model.say("value", fails=True)
    editor = Editor(session, "x = ")
    assert await editor.suggest() == []
    assert await editor.silence() == "FAILED"
    await model.say("value")
    assert await editor.suggest() == ["value"]
    assert session.messages == []


async def test_a_ping_is_answered_while_the_model_works(session: LanguageClient, model: Model) -> None:
    await model.say("value", held=True)
    editor = Editor(session, "x = ")
    running = editor.request()
    await model.standing()
    assert await editor.silence() is None  # an answer, while the model is held
    await model.release()
    assert texts(await asyncio.wait_for(running, TIMEOUT_S)) == ["value"]
