"""Engines that are down, slow, wrong, or want something: each has its reason, and the next fill may succeed.

Each fault is made by a real server, or by the want of one.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from small_engine import Handler, SmallEngine, completion_events

from dgemma_lsp.documents.edits import NoSuggestion
from dgemma_lsp.engine.access_token import token_for
from dgemma_lsp.engine.address import Address, AddressError, is_on_loopback
from dgemma_lsp.engine.connection import Connection
from dgemma_lsp.engine.errors import EngineError, plain_line
from dgemma_lsp.engine.health import Health
from dgemma_lsp.engine.infiller import EngineInfiller
from dgemma_lsp.engine.outage import FIRST_S, LONGEST_S, Outage
from dgemma_model.request import Excerpt, FillRequest

LINE = FillRequest(Excerpt("x =", "\n"), one_line=True)
PATIENCE_S = 30.0


@pytest.fixture
def engine() -> Iterator[SmallEngine]:
    with SmallEngine() as engine:
        yield engine


def failure(engine: SmallEngine, *, silence_s: float = PATIENCE_S) -> EngineError:
    """What a fill fails with; the fill after it, without the fault, succeeds."""
    address = Address.parse(engine.url)
    asked_again = Outage(clock=iter(range(0, 10_000, 100)).__next__)
    infiller = EngineInfiller(address, connection=Connection(address, None, silence_s=silence_s), outage=asked_again)
    with pytest.raises(EngineError) as failed:
        list(infiller.fill(LINE))
    answer, engine.answer, engine.events = engine.answer, None, completion_events([" 1"])
    *_, draft = infiller.fill(LINE)
    assert draft.text == " 1"
    infiller.close()
    engine.answer = answer
    return failed.value


def says(status: int, content: object, **headers: str) -> Callable[[Handler], None]:
    return lambda handler: handler.reply(status, content, **headers)


def streams(*data: bytes, then: Callable[[Handler], None] = lambda handler: handler.send(b""), **headers: str):  # type: ignore[no-untyped-def]
    def answer(handler: Handler) -> None:
        with contextlib.suppress(OSError):
            handler.begin_stream(**headers)
            for part in data:
                handler.send(part)
            then(handler)

    return answer


HALF = b'data: {"choices": [{"index": 0, "text": " wid", "logprobs": null, "finish_reason": null}]}\n\n'
FAULTS = {
    "it fails": (says(500, {"error": {"message": "out of memory"}}), "ENGINE_GARBAGE", r"status 500 \(out of memory\)"),
    "it refuses": (says(400, {"message": "too long"}), "ENGINE_GARBAGE", r"status 400 \(too long\)"),
    "loading": (says(503, {"error": {"message": "Loading model"}}), "ENGINE_BUSY", "Loading model"),
    "busy": (says(429, {}, Retry_After="7"), "ENGINE_BUSY", "busy"),
    "busy for no number": (says(429, {}, Retry_After="\u00b2"), "ENGINE_BUSY", "busy"),
    "a token": (says(401, {"error": {"message": "Invalid"}}), "ENGINE_TOKEN", "DGEMMA_ENGINE_TOKEN"),
    "forbidden": (says(403, b"no"), "ENGINE_TOKEN", "DGEMMA_ENGINE_TOKEN"),
    "no such model": (says(404, {"message": "The model `x` does not exist"}), "ENGINE_MODEL", "x does not exist"),
    "a web page": (says(200, b"<html>", Content_Type="text/html"), "ENGINE_GARBAGE", "text/html"),
    "no JSON": (streams(b"data: {oh\n\n"), "ENGINE_GARBAGE", "no JSON"),
    "no object": (streams(b"data: [1]\n\n"), "ENGINE_GARBAGE", "no JSON object"),
    "a deep object": (streams(b"data: " + b"[" * 100_000 + b"\n\n"), "ENGINE_GARBAGE", "no JSON"),
    "no UTF-8": (streams(b'data: {"a": "\xff"}\n\n'), "ENGINE_GARBAGE", "no JSON"),
    "another interface": (streams(b'data: {"content": "x"}\n\n'), "ENGINE_GARBAGE", "none of /completions"),
    "a number for a text": (streams(b'data: {"choices": [{"text": 5}]}\n\n'), "ENGINE_GARBAGE", "none of"),
    "an error later": (streams(HALF, b'data: {"error": {"message": "KV"}}\n\n'), "ENGINE_GARBAGE", "it fails: KV"),
    "an endless line": (streams(*[b"x" * 65_536] * 8), "ENGINE_GARBAGE", "too long"),
    "an endless answer": (streams(*[b": ping\n" * 10_000] * 20), "ENGINE_GARBAGE", "too long"),
    "compressed": (streams(HALF, Content_Encoding="gzip"), "ENGINE_GARBAGE", "compressed"),
    "an early end": (streams(HALF), "ENGINE_BROKE_OFF", "before the answer's end"),
    "closed in the middle": (streams(HALF, then=Handler.break_off), "ENGINE_BROKE_OFF", "during its answer"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_has_its_reason(engine: SmallEngine, fault: str) -> None:
    engine.answer, reason, message = FAULTS[fault]
    error = failure(engine)
    assert error.reason is NoSuggestion[reason]
    assert re.search(message, str(error)), error


def test_a_text_that_does_not_end(engine: SmallEngine) -> None:
    engine.events = completion_events(["x" * 50_000] * 4)
    assert "its text is too long" in str(failure(engine))


@pytest.mark.parametrize("where", ["before", "within"])
def test_an_engine_that_says_nothing_is_slow(engine: SmallEngine, where: str) -> None:
    silent = Handler.wait_until_closed
    engine.answer = silent if where == "before" else streams(HALF, then=silent)
    error = failure(engine, silence_s=0.2)
    assert error.reason is NoSuggestion.ENGINE_SLOW and engine.closed_by_client.wait(PATIENCE_S)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_an_engine_that_is_not_there() -> None:
    heard: list[Health] = []
    infiller = EngineInfiller(Address.parse(f"http://127.0.0.1:{free_port()}"), None, heard.append)
    with pytest.raises(EngineError) as failed:
        list(infiller.fill(LINE))
    assert failed.value.reason is NoSuggestion.ENGINE_DOWN and "is the engine running?" in str(failed.value)
    assert [health.well for health in heard] == [False]


def test_an_engine_that_goes_away_and_comes_back_with_another_model() -> None:
    heard: list[Health] = []
    with SmallEngine() as first:
        address = Address.parse(first.url)
        infiller = EngineInfiller(
            address, None, heard.append, outage=Outage(clock=iter(range(0, 10_000, 100)).__next__)
        )
        list(infiller.fill(LINE))
    with pytest.raises(EngineError) as failed:
        list(infiller.fill(LINE))
    assert failed.value.reason is NoSuggestion.ENGINE_DOWN
    with SmallEngine(first.port, model="qwen2.5-coder-1.5b"):
        *_, draft = infiller.fill(LINE)
    assert draft.text == "value" and infiller.name == "qwen2.5-coder-1.5b"
    assert [health.well for health in heard] == [True, False, True]
    assert "qwen2.5-coder-1.5b at " in heard[-1].message


def test_what_an_engine_serves_is_asked_again_after_a_minute() -> None:
    now = 0.0
    with SmallEngine() as first:
        infiller = EngineInfiller(Address.parse(first.url), clock=lambda: now)
        list(infiller.fill(LINE))
    now = 61.0
    with SmallEngine(first.port, model="qwen2.5-coder-1.5b") as second:
        list(infiller.fill(LINE))
        assert infiller.name == "qwen2.5-coder-1.5b" == second.questions()[0].json["model"]


def test_a_connection_that_the_engine_gives_up_as_it_is_used_again_costs_nothing(engine: SmallEngine) -> None:
    infiller = EngineInfiller(Address.parse(engine.url))
    list(infiller.fill(LINE))

    def once(handler: Handler) -> None:
        engine.answer = None
        handler.break_off()

    engine.answer = once
    *_, draft = infiller.fill(LINE)
    assert draft.text == "value"


def test_the_same_while_it_is_asked_what_it_serves(engine: SmallEngine) -> None:
    now = 0.0
    infiller = EngineInfiller(Address.parse(engine.url), clock=lambda: now)
    list(infiller.fill(LINE))
    now, engine.broken_once = 61.0, {"/props"}  # which it does not have: asked again, it says 404
    *_, draft = infiller.fill(LINE)
    assert draft.text == "value" and not engine.broken_once


def test_no_storm_begins() -> None:
    """While an engine is out, few of many keystrokes reach it, and ever fewer."""
    now = 0.0
    with SmallEngine() as engine:
        engine.answer = says(500, {})
        infiller = EngineInfiller(
            Address.parse(engine.url), outage=Outage(clock=lambda: now, chance=lambda: 1.0), clock=lambda: now
        )
        reasons = set()
        for _ in range(600):  # ten keystrokes a second, for a minute
            with pytest.raises(EngineError) as failed:
                list(infiller.fill(LINE))
            reasons.add(failed.value.reason)
            now += 0.1
        assert reasons == {NoSuggestion.ENGINE_GARBAGE}
        assert 5 <= len(engine.questions()) <= 12


def test_pauses_double_and_an_engine_may_ask_for_more() -> None:
    now, error = 0.0, EngineError(NoSuggestion.ENGINE_BUSY, "busy")
    outage = Outage(clock=lambda: now, chance=lambda: 1.0)

    def pause() -> float:
        nonlocal now
        began = now
        while True:
            try:
                outage.check()
            except EngineError:
                now += 0.25
            else:
                return now - began

    found = []
    for _ in range(7):
        outage.failed(error)
        found.append(pause())
    assert found == [FIRST_S, 1.0, 2.0, 4.0, 8.0, LONGEST_S, LONGEST_S]
    outage.failed(EngineError(NoSuggestion.ENGINE_BUSY, "busy", wait_s=30.0))
    assert pause() == 30.0
    outage.recovered()
    outage.failed(error)
    assert pause() == FIRST_S


def test_what_was_wanted_is_slow_when_nobody_waits_any_more(engine: SmallEngine) -> None:
    heard: list[Health] = []
    engine.answer = Handler.wait_until_closed
    now = 0.0
    infiller = EngineInfiller(Address.parse(engine.url), None, heard.append, clock=lambda: now)
    drafts = infiller.fill(LINE)
    while not engine.questions():
        next(drafts)
    now = 1.5
    drafts.close()
    assert [health.well for health in heard] == [True, False] and "no word of an answer within 1.5 s" in heard[
        1
    ].message
    engine.answer = None
    list(infiller.fill(LINE))
    assert heard[-1].well


# ------------------------------------------------------------------------------------------------------------- trust


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(engine: SmallEngine, status: int) -> None:
    with SmallEngine() as other:
        engine.answer = says(status, {}, Location=f"{other.url}/v1/completions")
        error = failure(engine)
        assert error.reason is NoSuggestion.ENGINE_GARBAGE and "name that address instead" in str(error)
        assert other.asked == [] and other.connections == 0


def test_the_token_is_said_and_nothing_else_of_the_environment(
    engine: SmallEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.token = "t0ken-of-a-test"
    monkeypatch.setenv("DGEMMA_ENGINE_TOKEN", "t0ken-of-a-test\n")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    address = Address.parse(engine.url)
    assert EngineInfiller(address, token_for(address)).check_health().well
    assert {asked.headers["Authorization"] for asked in engine.asked} == {"Bearer t0ken-of-a-test"}
    assert "cookie" not in {name.lower() for asked in engine.asked for name in asked.headers}
    without = EngineInfiller(address).check_health()
    assert not without.well and "DGEMMA_ENGINE_TOKEN" in without.message


def test_a_token_comes_from_a_file_that_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address, file = Address.parse("https://gpu.example"), tmp_path / "token"
    file.write_text("t0ken-in-a-file\n")
    file.chmod(0o600)
    assert token_for(address, file) == "t0ken-in-a-file"
    monkeypatch.setenv("DGEMMA_ENGINE_TOKEN_FILE", str(file))
    assert token_for(address) == "t0ken-in-a-file"
    if os.name == "posix":
        file.chmod(0o644)
        with pytest.raises(AddressError, match="chmod 600"):
            token_for(address)
        file.chmod(0o600)
    for wrong in ("", "two words", "ümlaut"):
        file.write_text(wrong)
        with pytest.raises(AddressError):
            token_for(address)
    with pytest.raises(AddressError, match="No such file"):
        token_for(address, tmp_path / "none")


def test_no_token_is_sent_unencrypted_to_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGEMMA_ENGINE_TOKEN", "t0ken")
    with pytest.raises(AddressError, match="unencrypted"):
        token_for(Address.parse("http://192.0.2.1:8000"))
    assert token_for(Address.parse("http://[::1]:8000")) == "t0ken"


def test_a_certificate_that_nobody_vouches_for_ends_it_before_anything_is_sent(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except OSError as error:
        pytest.fail(f"openssl is needed to make a certificate: {error}")
    with SmallEngine().encrypted(certificate, key) as engine:
        health = EngineInfiller(Address.parse(engine.url)).check_health()
        assert not health.well and "not trusted" in health.message and engine.asked == []
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SSL_CERT_FILE", str(certificate))
            *_, draft = EngineInfiller(Address.parse(engine.url)).fill(LINE)
        assert draft.text == "value"


@pytest.mark.parametrize(
    ("text", "url", "interface", "model"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080", None, None),
        (" https://gpu.example/ ", "https://gpu.example", None, None),
        ("http://gpu:8000/v1", "http://gpu:8000", None, None),
        ("https://gpu.example/team/a/v1/", "https://gpu.example/team/a", None, None),
        ("infill+http://[::1]:8080", "http://[::1]:8080", "infill", None),
        ("chat+https://gpu.example#google%2Fdiffusiongemma", "https://gpu.example", "chat", "google/diffusiongemma"),
        ("completions+http://GPU:80#m", "http://gpu:80", "completions", "m"),
    ],
)
def test_addresses(text: str, url: str, interface: str | None, model: str | None) -> None:
    assert Address.parse(text) == Address(url, interface, model)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    ["", "8080", "gpu:8000", "ftp://gpu", "file:///etc", "http://", "talk+http://gpu", "+http://gpu", "http://a:b@gpu",
     "http://me@gpu", "http://gpu:99999", "http://gpu?key=1", "http://gpu\n/x", "http://[::1", "http://" + "g" * 3000],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(AddressError):
        Address.parse(text)
    assert not is_on_loopback(text)


@pytest.mark.parametrize(
    ("text", "on_loopback"),
    [
        *((f"http://{host}:80", True) for host in ("localhost", "127.0.0.1", "127.8.9.1", "[::1]")),
        *((f"http://{host}:80", False) for host in ("gpu", "localhost.evil.example", "10.0.0.1", "[::2]", "0.0.0.0")),
        *((f"http://{host}:80", False) for host in ("127.0.0.1.evil.example", "2130706433", "[::ffff:10.0.0.1]")),
    ],
)
def test_what_is_on_this_machine(text: str, on_loopback: bool) -> None:
    address = Address.parse(text)
    assert address.on_loopback is on_loopback
    assert ("this machine" in address.described) is on_loopback


def test_what_an_engine_says_is_shown_without_markup() -> None:
    said = plain_line("[click](command:evil) \x1b[31m<b>now</b>\u202e\n" + "x" * 1000)
    assert not set("[]()<>\x1b\u202e\n`*") & set(said) and len(said) <= 200 and said.startswith("click command:evil")
    assert plain_line(None) == plain_line({"a": 1}) == ""


def test_connections_are_closed_at_the_end(engine: SmallEngine) -> None:
    infiller = EngineInfiller(Address.parse(engine.url))
    list(infiller.fill(LINE))
    infiller.close()
    infiller.close()
