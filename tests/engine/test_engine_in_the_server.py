"""A server that asks an engine: what it says of it, who may name one, what leaves it, how it goes on without one."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from planted_secrets import planted
from small_engine import Handler, SmallEngine, completion_events
from typer.testing import CliRunner
from wire import TIMEOUT_S, Wire, inline, insertion

from dgemma_lsp.command.cli import app

INLINE, STATUS = "textDocument/inlineCompletion", "dgemma/status"
URI = "file:///project/basket.py"
COMMAND = (sys.executable, "-P", "-m", "dgemma_lsp")
WANTS_STATUS = {"capabilities": {"experimental": {"dgemma": {"status": True}}}}
PATIENT = {"time_budget_ms": 60_000}
ELSEWHERE = "http://192.0.2.1:9"
"""An address for documentation, where nobody is."""


@pytest.fixture
def engine() -> Iterator[SmallEngine]:
    with SmallEngine() as engine:
        engine.events = completion_events(["value"])
        yield engine


def asked(wire: Wire, text: str, uri: str = URI, kind: int = 1) -> Any:
    """What is suggested at the end of a text."""
    wire.open(uri, text)
    lines = text.split("\n")
    return wire.request(INLINE, inline(uri, len(lines) - 1, len(lines[-1]), kind))


def silence(wire: Wire) -> str:
    found = wire.request("workspace/executeCommand", {"command": "dgemma.explainSilence", "arguments": [URI]})
    return str(found["name"])


@pytest.mark.parametrize("named", ["option", "environment", "options"])
def test_an_engine_fills_in_place_of_a_checkpoint(engine: SmallEngine, named: str) -> None:
    command = (*COMMAND, "--engine", engine.url) if named == "option" else COMMAND
    env = {"DGEMMA_ENGINE": engine.url} if named == "environment" else {}
    options = PATIENT | ({"engine": engine.url} if named == "options" else {})
    with Wire(*command, env=env) as wire:
        wire.initialize(initializationOptions=options)
        (item, *_) = asked(wire, "x =")
        assert item["insertText"] == "value"
        status = wire.request(STATUS, {})
        assert status["state"] == "ready" and status["engine"] == engine.url
        assert status["text_goes_to"] == f"{engine.url}, on this machine"
        assert status["why"].startswith("named ") and "Qwen2.5-Coder-7B" in status["message"]
        assert "engine: Qwen2.5-Coder-7B at " in wire.log


def test_it_goes_on_without_the_engine_and_with_it_again(engine: SmallEngine) -> None:
    with Wire(*COMMAND, "--engine", engine.url) as wire:
        wire.initialize(**WANTS_STATUS, initializationOptions=PATIENT)
        assert asked(wire, "x =")
        engine.stop()
        assert asked(wire, "xx =") == []
        assert silence(wire) == "ENGINE_DOWN"
        assert wire.request(STATUS, {})["state"] == "failed"
        wire.change(URI, 2, insertion(0, 0, "y"))  # the editor goes on
        with SmallEngine(engine.port) as back:
            back.events = completion_events([" 17"])
            deadline = time.monotonic() + TIMEOUT_S
            while not (found := asked(wire, f"x{len(back.asked)} =")):
                assert time.monotonic() < deadline, "it is not asked again"
                time.sleep(0.05)  # as a user goes on typing
            assert found[0]["insertText"] == " 17"
        told = [message["params"]["state"] for message in wire._waiting if message.get("method") == STATUS]
        assert told[-2:] == ["failed", "ready"]
        assert "Traceback" not in wire.log


def test_an_engine_need_not_be_there_at_the_start(engine: SmallEngine) -> None:
    engine.answer = Handler.break_off
    with Wire(*COMMAND, "--engine", "http://127.0.0.1:9") as wire:
        wire.initialize(initializationOptions=PATIENT)
        assert asked(wire, "x =") == []
        status = wire.request(STATUS, {})
        assert status["state"] == "failed" and "is the engine running?" in status["message"]


@pytest.mark.parametrize("way", ["asked", "sent"])
@pytest.mark.parametrize("engine_there", [ELSEWHERE, "https://evil.example"])
def test_a_workspace_cannot_name_an_engine_on_another_machine(way: str, engine_there: str, engine: SmallEngine) -> None:
    """Settings that a client keeps, or sends later, may be those of a folder that somebody opened."""
    with Wire(*COMMAND) as wire:
        keeps = {"capabilities": {"workspace": {"configuration": way == "asked"}}}
        wire.initialize(**keeps, initializationOptions={"engine": engine.url})
        if way == "asked":
            question = wire.wait(lambda message: message.get("method") == "workspace/configuration")
            wire.send({"jsonrpc": "2.0", "id": question["id"], "result": [{"engine": engine_there}]})
        else:
            wire.notify("workspace/didChangeConfiguration", {"settings": {"dgemma": {"engine": engine_there}}})
        complaint = wire.wait(lambda message: message.get("method") == "window/showMessage")
        assert "taken only from initializationOptions" in complaint["params"]["message"]
        assert asked(wire, "x =")
        assert wire.request(STATUS, {})["engine"] == engine.url


def test_the_file_of_the_token_is_the_users_to_name(engine: SmallEngine, tmp_path: Path) -> None:
    """One that a workspace names is not read, and the user's goes on."""
    for name in ("own", "other"):
        (tmp_path / name).write_text(f"t0ken-{name}")
        (tmp_path / name).chmod(0o600)
    engine.token = "t0ken-own"
    options = PATIENT | {"engine": engine.url, "engine_token_file": str(tmp_path / "own")}
    with Wire(*COMMAND) as wire:
        wire.initialize(capabilities={"workspace": {"configuration": True}}, initializationOptions=options)
        question = wire.wait(lambda message: message.get("method") == "workspace/configuration")
        answer = {"engine": engine.url, "engine_token_file": str(tmp_path / "other")}
        wire.send({"jsonrpc": "2.0", "id": question["id"], "result": [answer]})
        complaint = wire.wait(lambda message: message.get("method") == "window/showMessage")
        assert '"engine_token_file" is taken only from initializationOptions' in complaint["params"]["message"]
        assert asked(wire, "x =")[0]["insertText"] == "value"


def test_an_engine_that_is_down_explains_the_silence_also_where_nothing_is_asked_unasked(engine: SmallEngine) -> None:
    with Wire(*COMMAND, "--engine", engine.url) as wire:
        wire.initialize(initializationOptions=PATIENT | {"trigger": "manual"})
        assert asked(wire, "x =")
        assert asked(wire, "xx =", kind=2) == [] and silence(wire) == "MANUAL"
        engine.stop()
        assert asked(wire, "xxx =") == [] and silence(wire) == "ENGINE_DOWN"
        assert asked(wire, "xxxx =", kind=2) == [] and silence(wire) == "ENGINE_DOWN"


def test_a_model_that_cannot_be_loaded_explains_the_silence_also_where_nothing_is_asked_unasked() -> None:
    with Wire(*COMMAND) as wire:
        wire.initialize(initializationOptions={"engine": "gpu:8000", "trigger": "manual"})
        wire.wait(lambda message: message.get("method") == "window/showMessage")
        assert asked(wire, "x =", kind=2) == [] and silence(wire) == "NO_MODEL"


def test_a_file_that_others_can_read_is_refused(engine: SmallEngine, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t0ken")
    (tmp_path / "token").chmod(0o644)
    with Wire(*COMMAND) as wire:
        wire.initialize(initializationOptions={"engine": engine.url, "engine_token_file": str(tmp_path / "token")})
        message = wire.wait(lambda message: message.get("method") == "window/showMessage")["params"]["message"]
        assert "others can read" in message and "t0ken" not in message
        assert asked(wire, "x =") == [] and silence(wire) == "NO_MODEL"


def test_a_user_may_name_one_and_hears_where_text_goes() -> None:
    with Wire(*COMMAND) as wire:
        wire.initialize(initializationOptions={"engine": ELSEWHERE})
        while (status := wire.request(STATUS, {}))["state"] in ("starting", "loading"):
            pass
        assert status["text_goes_to"] == f"{ELSEWHERE}, another machine, NOT encrypted"


def test_a_bad_address_is_told(engine: SmallEngine) -> None:
    with Wire(*COMMAND) as wire:
        wire.initialize(initializationOptions={"engine": "gpu:8000"})
        message = wire.wait(lambda message: message.get("method") == "window/showMessage")["params"]["message"]
        assert "is no engine's address" in message
        assert asked(wire, "x =") == [] and silence(wire) == "NO_MODEL"


def test_of_planted_secrets_none_is_on_the_wire(engine: SmallEngine) -> None:
    """In the edited document, around the cursor, and in another one that is open; while they are typed, too."""
    secrets = list(planted(200, seed=19))
    with Wire(*COMMAND, "--engine", engine.url) as wire:
        wire.initialize(initializationOptions=PATIENT)
        for number, (_, secret, source) in enumerate(secrets):
            text = f"import os\n\n{source}\n\n\ndef total_{number}(items):\n    return sum("
            asked(wire, text, f"file:///project/{number}.py", kind=2 if number % 2 else 1)
            if secret in source and f'"{secret}"' in source:  # the cursor is after it, before the closing quote
                asked(wire, source[: source.index(secret) + len(secret)], f"file:///project/typed_{number}.py")
    assert len(engine.questions()) >= 200
    sent = "".join(json.dumps(question.json, ensure_ascii=False) for question in engine.questions())
    leaked = [form for form, secret, _ in secrets if secret in sent or json.dumps(secret)[1:-1] in sent]
    assert leaked == []


def test_the_token_is_in_no_log_and_no_message(engine: SmallEngine, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("t0ken-that-nobody-may-see")
    file.chmod(0o600)
    engine.token = "t0ken-that-nobody-may-see"
    command = (*COMMAND, "--engine", engine.url, "--engine-token-file", str(file))
    with Wire(*command) as wire:
        wire.initialize(initializationOptions=PATIENT | {"log_level": "debug"})
        assert asked(wire, "x =")
        engine.token = "another"
        assert asked(wire, "xx =") == [] and silence(wire) == "ENGINE_TOKEN"
        status = json.dumps(wire.request(STATUS, {}))
    assert "t0ken" not in wire.log + status


def test_check_and_fill_ask_the_engine(engine: SmallEngine, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["check", "--engine", engine.url])
    assert f"text goes to {engine.url}, on this machine" in " ".join(result.output.replace("│", "").split())
    assert result.exit_code == 0, result.output
    file = tmp_path / "a.py"
    file.write_text("x =\n")
    result = CliRunner().invoke(app, ["fill", f"{file}:1:4", "--json", "--engine", engine.url])
    assert json.loads(result.stdout)["result"] == "x =value\n"
    assert json.loads(result.stdout)["device"] == engine.url
    for wrong in (["--engine", "gpu:1"], ["--engine", engine.url, "--checkpoint", "embedded"]):
        for command in (["check"], ["fill", f"{file}:1:4"], []):
            assert CliRunner().invoke(app, [*command, *wrong]).exit_code in (1, 2)


def test_check_says_what_is_wrong_with_an_engine(engine: SmallEngine) -> None:
    engine.token = "secret"
    result = CliRunner().invoke(app, ["check", "--engine", engine.url], env={"COLUMNS": "300"})
    assert result.exit_code == 1 and "DGEMMA_ENGINE_TOKEN" in result.output


def test_a_newer_key_ends_the_older_request_at_the_engine(engine: SmallEngine) -> None:
    with Wire(*COMMAND, "--engine", engine.url) as wire:
        wire.initialize(initializationOptions=PATIENT | {"debounce_ms": 0})
        assert asked(wire, "x =")
        engine.answer = Handler.wait_until_closed
        wire.open(URI, "xx =")
        older = wire.start(INLINE, inline(URI, 0, 4))
        deadline = time.monotonic() + TIMEOUT_S
        while not any("xx =" in question.body.decode() for question in engine.questions()):
            assert time.monotonic() < deadline, "it is not asked"
            time.sleep(0.01)
        engine.answer = None
        wire.change(URI, 2, insertion(0, 4, " y."))
        newer = wire.start(INLINE, inline(URI, 0, 7))
        assert wire.response(older)["result"] is None
        assert engine.closed_by_client.wait(TIMEOUT_S)
        assert "result" in wire.response(newer)
