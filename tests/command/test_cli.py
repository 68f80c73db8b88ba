"""The command line: what it answers, and one clear line where it cannot."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from model_fixtures import tiny_checkpoint, write_checkpoint
from typer.testing import CliRunner

from dgemma_lsp.command import check, cli, fill
from dgemma_lsp.command.fill import END_SIGN, view_of
from dgemma_lsp.documents.documents import ParsedSnapshot
from dgemma_lsp.documents.edits import Edit, Snapshot, Suggestion
from dgemma_lsp.documents.text import Text
from dgemma_lsp.pipeline.watched import Frame, TokenState
from dgemma_model.checkpoint.selection import default_checkpoint
from dgemma_model.infill import Infiller
from dgemma_model.network.served import ServedNetwork
from dgemma_model.request import Check, Draft, DraftToken, FillRequest


def invoke(*arguments: object) -> Result:
    """The command in this process."""
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def command(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`dgemma-lsp` in a process of its own, with the embedded checkpoint."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "dgemma_lsp", *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"COLUMNS": "200", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )


def assert_says(result: Result, *words: str) -> None:
    """Exit code 2, nothing on stdout, one clear line on stderr."""
    assert isinstance(result.exception, SystemExit | None), result.exception
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("dgemma-lsp: ") and result.stderr.count("\n") == 1, result.stderr
    for word in words:
        assert word in result.stderr


# ------------------------------------------------------------------ arguments


@pytest.mark.parametrize("arguments", [(), ("a.py:1:1", "--batch", "x.jsonl")])
def test_fill_wants_one_place_or_one_batch(arguments: tuple[str, ...]) -> None:
    assert_says(invoke("fill", *arguments), "FILE:LINE:COLUMN", "--batch")


@pytest.mark.parametrize(
    "place",
    [
        "",
        "a.py",
        "a.py:3",
        ":3:4",
        "a.py:x:1",
        "a.py:1:",
        "a.py:-1:1",
        "a.py:1.5:2",
    ],
)
def test_a_malformed_place_is_named(place: str) -> None:
    assert_says(invoke("fill", place), "is not FILE:LINE:COLUMN")


@pytest.mark.parametrize("where", ["²:1", "1:²", "1:" + "9" * 5000])
def test_a_number_that_is_none_is_named(file: Path, where: str) -> None:
    assert_says(invoke("fill", f"{file}:{where}"), "is not FILE:LINE:COLUMN")


def test_options_before_the_command_are_not_ignored(file: Path) -> None:
    assert_says(invoke("--checkpoint", tiny_checkpoint(), "fill", f"{file}:4:9"), "options go after the command")


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("0:1", "there is no line 0"),
        ("9:1", "8 lines, there is no line 9"),
        ("4:10", "line 4"),
        ("4:0", "columns 1 to 9, there is no column 0"),
        ("99999999999999999999:1", "there is no line"),
    ],
)
def test_a_place_outside_of_the_file_is_named(file: Path, where: str, words: str) -> None:
    assert_says(invoke("fill", f"{file}:{where}"), words, "point.py")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert_says(invoke("fill", f"{tmp_path}/nowhere.py:1:1"), "nowhere.py: No such file")
    assert_says(invoke("fill", f"{tmp_path}:1:1"), "Not a regular file")
    assert_says(invoke("fill", "--batch", tmp_path / "nowhere.jsonl"), "nowhere.jsonl: No such file")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.py")
    done = command("fill", "pipe.py:1:1", cwd=tmp_path)  # in a process that can be given up
    assert (done.returncode, done.stderr) == (2, "dgemma-lsp: pipe.py: Not a regular file\n")
    assert_says(invoke("fill", f"{tmp_path}/pipe.py:1:1"), "pipe.py: Not a regular file")
    assert_says(invoke("fill", "--batch", tmp_path / "pipe.py"), "pipe.py: Not a regular file")
    assert_says(invoke("fill", "--batch", "/dev/zero"), "/dev/zero: Not a regular file")


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_bytes(b"\xff\xfe\x00\x80")
    assert_says(invoke("fill", f"{tmp_path}/a.py:1:1"), "a.py is not UTF-8 text")


def test_a_file_that_is_never_read_is_not_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".gitignore").write_text("local/\n")
    (tmp_path / "local").mkdir()
    (tmp_path / "module.py").symlink_to(tmp_path / ".env")
    (tmp_path / "long.py").write_text("x = '" + "x" * 30_000)
    for name in (".env", "local/a.py"):
        (tmp_path / name).write_text("password = ")
    for name, rule in ((".env", ".env"), ("local/a.py", "local/"), ("module.py", ".env"), ("long.py", "longer than")):
        assert_says(invoke("fill", f"{name}:1:3"), f"{name} is n", rule)
        assert_says(invoke("fill", f"{tmp_path / name}:1:3"), f"{name} is n", rule)


@pytest.mark.parametrize("name", ["a" * 300, "owner/" + "m" * 300, "~nobody-of-this-name/x", "x" * 300 + "/y"])
def test_a_checkpoint_name_that_no_file_can_have_is_named(file: Path, name: str) -> None:
    assert_says(invoke("fill", f"{file}:1:1", "--checkpoint", name), "checkpoint", name[:20])


@pytest.mark.parametrize("address", ["7777", "localhost", "localhost:", "localhost:http", "localhost:70000", "::"])
def test_a_malformed_address_is_named(address: str) -> None:
    assert_says(invoke("--tcp", address), "HOST:PORT")


def test_an_address_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        assert_says(invoke("--tcp", address), f"cannot listen on {address}", "--tcp")


def test_an_address_that_others_reach_and_a_token_that_others_read_are_refused(tmp_path: Path) -> None:
    assert_says(invoke("--tcp", "0.0.0.0:7777"), "0.0.0.0 can be reached", "--insecure-listen")
    (tmp_path / "token").write_text("a token that all can read")
    (tmp_path / "token").chmod(0o644)
    assert_says(invoke("--tcp", "127.0.0.1:7777", "--token-file", tmp_path / "token"), "chmod 600")
    assert_says(invoke("--insecure-listen", "check"), "options go after the command")


def missing(directory: Path) -> None:
    (directory / "model.safetensors").unlink()


def truncated(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def of_another_architecture(directory: Path) -> None:
    (directory / "config.json").write_text('{"model_type": "qwen3"}')


@pytest.mark.parametrize(
    ("spoil", "words"), [(missing, "is missing"), (truncated, "is damaged"), (of_another_architecture, "'qwen3'")]
)
def test_a_broken_checkpoint_is_named(spoil: Callable[[Path], None], words: str, file: Path, tmp_path: Path) -> None:
    directory = write_checkpoint(tmp_path / "checkpoint")
    spoil(directory)
    assert_says(invoke("fill", f"{file}:4:9", "--checkpoint", directory), words)
    (tmp_path / "tasks.jsonl").write_text('{"prefix": "", "suffix": ""}\n')
    assert_says(invoke("fill", "--batch", tmp_path / "tasks.jsonl", "--checkpoint", directory), words)
    checked = invoke("check", "--checkpoint", directory)
    assert checked.exit_code == 1
    assert "no" in checked.stdout and "a fill" in checked.stdout


def test_a_checkpoint_that_is_not_there_is_named(file: Path) -> None:
    assert_says(invoke("fill", f"{file}:4:9", "--checkpoint", "/nowhere/at/all"), "no checkpoint /nowhere/at/all; pass")


def test_a_device_that_is_not_there_is_named(file: Path) -> None:
    assert_says(invoke("fill", f"{file}:4:9", "--checkpoint", tiny_checkpoint(), "--device", "warp"), "device 'warp'")


# --------------------------------------------------------------------- places


@pytest.mark.parametrize(
    ("content", "place", "before"),
    [
        ("ab\ncd\n", "1:1", ""),
        ("ab\ncd\n", "2:2", "ab\nc"),
        ("ab\ncd\n", "2:3", "ab\ncd"),
        ("ab\ncd\n", "3:1", "ab\ncd\n"),
        ("ab\r\ncd\r\n", "1:3", "ab"),
        ("ab\r\ncd\r\n", "2:2", "ab\r\nc"),
        ("ab\rcd\r\nef\ngh", "4:2", "ab\rcd\r\nef\ng"),
        ("é😀x\n", "1:3", "é😀"),
        ("a\fb\u2028c\x0bd\n", "1:7", "a\fb\u2028c\x0b"),
        ("", "1:1", ""),
    ],
)
def test_places_count_lines_and_characters_from_one(tmp_path: Path, content: str, place: str, before: str) -> None:
    path = tmp_path / "a b:c.py"
    path.write_bytes(content.encode())
    snapshot = fill.parsed_at(f"{path}:{place}").snapshot
    assert snapshot.text == content
    assert snapshot.text[: snapshot.offset] == before
    assert (snapshot.language, snapshot.uri) == ("python", path.as_uri())


@pytest.mark.parametrize(("name", "language"), [("a.pyi", "python"), ("a.rs", "rust"), ("Makefile", "plaintext")])
def test_a_language_is_told_by_the_ending(tmp_path: Path, name: str, language: str) -> None:
    (tmp_path / name).write_text("x")
    snapshot, tree = fill.parsed_at(f"{tmp_path}/{name}:1:1")
    assert snapshot.language == language
    assert (tree is not None) == (language != "plaintext")


# --------------------------------------------------------------------- a fill


def test_a_fill_is_one_json_document(file: Path) -> None:
    result = invoke("fill", f"{file}:4:9", "--json", "--checkpoint", tiny_checkpoint(), "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert (document["checkpoint"], document["device"]) == ("tiny", "cpu")
    if document["text"] is None:
        assert document["reason"] and document["message"]
    else:
        holed = file.read_text()
        assert document["result"] == holed[: document["start"]] + document["text"] + holed[document["end"] :]


def test_watching_does_not_disturb_the_json(file: Path) -> None:
    result = invoke("fill", f"{file}:4:9", "--json", "--watch", "--checkpoint", tiny_checkpoint())
    assert json.loads(result.stdout)["checkpoint"] == "tiny"


def test_watching_shows_each_pass_and_ends_with_what_is_suggested(file: Path) -> None:
    options = (f"{file}:4:9", "--checkpoint", tiny_checkpoint())
    watched, suggested = invoke("fill", *options, "--watch").stdout, invoke("fill", *options).stdout
    passes, _, rest = watched.partition("above: how it came about · below: what is suggested")
    assert re.match(r"pass 1 · [\d.]+ ms · (no draft|\w+ drafted \d+, \d+ accepted): ", passes)
    assert re.search(r"\n\d+ tokens in \d+ pass(es)?, [\d.]+ a pass, \d+ ms\n", passes)
    assert "drafted and refused" in passes and "noise" not in passes

    def without_times(text: str) -> list[str]:
        return [re.sub(r"\d+ ms", "", line) for line in text.splitlines() if line.strip()]

    assert without_times(rest) == without_times(suggested)


def test_denoising_is_shown_step_by_step(file: Path) -> None:
    shown = invoke("fill", f"{file}:4:9", "--watch", "--denoise", "--checkpoint", tiny_checkpoint()).stdout
    assert re.match(r"step \d+ · [\d.]+ ms\n", shown) and "accepted, then noise again" in shown
    assert "above: how it came about" in shown


@pytest.mark.parametrize("options", [[], ["--denoise"]])
@pytest.mark.parametrize("watch", [[], ["--watch"]])
def test_one_fill_is_shown_and_suggested(
    file: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], watch: list[str]
) -> None:
    asked: list[bool] = []
    fill = Infiller.fill

    def recorded(self: Infiller, request: FillRequest) -> Iterator[Draft]:
        asked.append(request.denoise)
        return fill(self, request)

    monkeypatch.setattr(Infiller, "fill", recorded)
    shown = invoke("fill", f"{file}:4:9", *watch, *options, "--checkpoint", tiny_checkpoint())
    assert shown.exit_code == 0
    assert asked == [bool(options)]


@pytest.mark.parametrize("check", [None, Check(("x", "y"), "copies", 1, 2)])
def test_the_view_tells_what_became_of_a_token_and_how_certain_it_is(check: Check | None) -> None:
    states, certainties = list(TokenState)[4:] if check is None else list(TokenState)[:4], [0.1, 0.9]
    tokens = tuple(DraftToken(f"{state.value}\n", certainty, True) for state in states for certainty in certainties)
    end = DraftToken("", 1.0, True)
    frame = Frame(3, 12.34, False, (*tokens, end), (*(s for s in states for _ in "12"), states[0]), check, len(tokens))
    shown = view_of([frame], "x = 1\n    y = ")
    first = (
        "step 3 · 12.3 ms\n"
        if check is None
        else (f"pass 3 · 12.3 ms · copies drafted 2, 1 accepted: {END_SIGN}\n2 tokens in 3 passes, 0.7 a pass, 12 ms\n")
    )
    assert shown.plain.startswith(f"{first}    y = {states[0].value}⏎\n{states[0].value}⏎\n{states[1].value}⏎\n")
    assert f"{states[-1].value}⏎\n{END_SIGN}\n" in shown.plain
    coloured = [span.style for span in shown.spans if "⏎" in shown.plain[span.start : span.end]]
    assert len(coloured) == len(set(coloured)) == len(tokens), "each state, and each certainty, looks different"


def test_steps_and_budget_are_the_users(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[FillRequest] = []
    fill = Infiller.fill

    def recorded(self: Infiller, request: FillRequest) -> Iterator[Draft]:
        asked.append(request)
        return fill(self, request)

    monkeypatch.setattr(Infiller, "fill", recorded)
    (tmp_path / "tasks.jsonl").write_text('{"id": 1, "prefix": "x = ", "suffix": ""}\n')
    limits = ("--steps", "3", "--budget-ms", "7.5", "--checkpoint", tiny_checkpoint())
    invoke("fill", f"{file}:4:9", "--json", *limits)
    invoke("fill", "--batch", tmp_path / "tasks.jsonl", *limits)
    assert [(request.max_denoising_steps, request.budget_ms) for request in asked] == [(3, 7.5)] * 2
    assert invoke("fill", f"{file}:4:9", "--budget-ms", "-1").exit_code == 2


def test_a_device_that_fails_is_a_message(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setattr(ServedNetwork, "encode", failing)
    assert_says(invoke("fill", f"{file}:4:9", "--checkpoint", tiny_checkpoint()), "illegal memory access")
    (tmp_path / "tasks.jsonl").write_text('{"id": 1, "prefix": "x = ", "suffix": ""}\n')
    result = invoke("fill", "--batch", tmp_path / "tasks.jsonl", "--checkpoint", tiny_checkpoint())
    assert "illegal memory access" in json.loads(result.stdout)["error"]


def test_a_cursor_in_a_word_gets_its_reason(file: Path) -> None:
    document = json.loads(invoke("fill", f"{file}:1:3", "--json", "--checkpoint", tiny_checkpoint()).stdout)
    assert (document["text"], document["reason"]) == (None, "in_word")
    said = invoke("fill", f"{file}:1:3", "--checkpoint", tiny_checkpoint())
    assert said.exit_code == 0 and said.stdout.startswith("nothing to suggest: ")


def test_a_suggestion_is_shown_in_its_place() -> None:
    snapshot = Snapshot("file:///a.py", None, "python", Text("1\n2\n3\n4\n5\nx = []\n7\n8\n9\n10\n11\n12\n"), 14)
    shown = fill.in_place(snapshot.text, Suggestion(snapshot, Edit(15, 16, "0]"), 0.0, 1))
    assert shown.plain == "2\n3\n4\n5\nx = [0]\n7\n8\n9\n10"
    assert [shown.plain[span.start : span.end] for span in shown.spans] == ["0]"]


def test_long_lines_are_shown_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def one(parsed: ParsedSnapshot, *_: object, **__: object) -> Iterator[Suggestion]:
        snapshot = parsed.snapshot
        yield Suggestion(snapshot, Edit(snapshot.offset, snapshot.offset, "1"), 0.0, 1)

    monkeypatch.setattr(fill, "suggest", one)
    long = "value = [" + "some_name, " * 20 + "]"
    (tmp_path / "long.py").write_text(f"{long}\nother = \n")
    shown = invoke("fill", f"{tmp_path}/long.py:2:9", "--checkpoint", tiny_checkpoint()).stdout
    assert shown.splitlines()[:2] == [long, "other = 1"]


def test_the_check_says_which_checkpoint_it_is_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_trial_fill", lambda *_: "")
    monkeypatch.setenv("COLUMNS", "300")
    found, default = invoke("check").stdout, default_checkpoint()
    assert f"{default.name}, because {default.why}: {default.path} (sha256 " in found
    assert default.advice is None or default.advice in found
    named = invoke("check", "--checkpoint", tiny_checkpoint()).stdout
    assert f"{tiny_checkpoint()}, named on the command line: " in named and "pull" not in named


def test_what_is_checked_is_shown_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "_trial_fill", lambda *_: "return 'items[red] [/x]'")
    assert "return 'items[red] [/x]'" in invoke("check", "--checkpoint", tiny_checkpoint()).stdout
