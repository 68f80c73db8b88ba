"""`fill --batch`: one line for each task, asked as a cursor there would be."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from model_fixtures import SOURCE, changed_json, tiny_checkpoint, write_checkpoint
from test_cli import assert_says, invoke

from dgemma_model.infill import Infiller
from dgemma_model.request import Draft, FillRequest

TASKS: list[tuple[str, Callable[[dict[str, Any]], bool]]] = [
    ('{"id": "a", "prefix": "def f(x):\\n    return ", "suffix": "\\n"}', lambda line: line["id"] == "a"),
    ("not json", lambda line: line["id"] is None and "error" in line),
    ("[1, 2]", lambda line: "not a JSON object" in line["error"]),
    ('{"id": 7, "prefix": 3, "suffix": ""}', lambda line: line["id"] == 7 and "'prefix'" in line["error"]),
    ('{"id": "no suffix", "prefix": ""}', lambda line: line["id"] == "no suffix" and "'suffix'" in line["error"]),
    ('{"id": "empty", "prefix": "", "suffix": ""}', lambda line: line["id"] == "empty"),
    (
        '{"id": "odd", "prefix": "\\ud800😀<eos>\\u0000\\r\\n", "suffix": "<|prefix|>"}',
        lambda line: line["id"] == "odd",
    ),
    ('{"id": "go", "prefix": "func f() {", "suffix": "}", "language": "go"}', lambda line: line["id"] == "go"),
    ("[" * 100_000, lambda line: "error" in line),
    ('{"id": "cut off", "prefix": "', lambda line: "error" in line),
    (json.dumps({"id": "long", "prefix": SOURCE * 200, "suffix": SOURCE * 200}), lambda line: line["id"] == "long"),
    ('{"id": "é", "prefix": "x = ", "suffix": "\\n", "more": [1]}', lambda line: line["id"] == "é"),
]


def assert_answers(lines: list[str], tasks: list[tuple[str, Callable[[dict[str, Any]], bool]]]) -> None:
    """One line for each task, in order."""
    assert len(lines) == len(tasks)
    for number, (text, (_, is_right)) in enumerate(zip(lines, tasks, strict=True), start=1):
        line = json.loads(text)
        assert is_right(line), line
        if "error" in line:
            assert line["line"] == number
        else:
            assert list(line) == ["id", "text", "steps", "ms", "score"]
            assert isinstance(line["text"], str) and line["steps"] >= 1 and line["ms"] > 0


def test_a_batch_has_one_line_for_each_task_in_order(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text("\n".join(task for task, _ in TASKS), "utf-8")
    result = invoke("fill", "--batch", tasks, "--checkpoint", tiny_checkpoint())
    assert result.exit_code == 0
    assert_answers(result.stdout.splitlines(), TASKS)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[FillRequest]:
    """What the model is asked in a test."""
    requests: list[FillRequest] = []
    fill = Infiller.fill

    def recorded(self: Infiller, request: FillRequest) -> Iterator[Draft]:
        requests.append(request)
        return fill(self, request)

    monkeypatch.setattr(Infiller, "fill", recorded)
    return requests


def batch(tmp_path: Path, tasks: list[dict[str, str]], *options: object, checkpoint: Path | None = None) -> str:
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(task) + "\n" for task in tasks))
    done = invoke("fill", "--batch", path, "--checkpoint", checkpoint or tiny_checkpoint(), *options)
    assert done.exit_code == 0, done.stderr
    assert "error" not in done.stdout
    return done.stdout


PLACES = [
    ("def f(x):\n    return ", "\n", True),
    ("class A:\n    def f(self):\n        ", "\n\n    def g(self):\n        pass\n", False),
    ("x = 1\r\ny = ", "\r\nz = 3\r\n", True),
]


@pytest.mark.parametrize(("prefix", "suffix", "ends"), PLACES)
def test_a_task_is_asked_as_a_cursor_there_would_be(
    prefix: str, suffix: str, ends: bool, tmp_path: Path, asked: list[FillRequest]
) -> None:
    (tmp_path / "case.py").write_bytes((prefix + suffix).encode())
    line, column = prefix.count("\n") + 1, len(prefix) - prefix.rfind("\n")
    assert invoke("fill", f"{tmp_path}/case.py:{line}:{column}", "--checkpoint", tiny_checkpoint()).exit_code == 0
    batch(tmp_path, [{"prefix": prefix, "suffix": suffix}])
    at_cursor, of_task = asked
    assert of_task.one_line is ends
    assert replace(of_task, max_tokens=at_cursor.max_tokens) == at_cursor


ANY_END = [
    pytest.param("total = so", "me + 1\nz = 3\n", id="inside a word"),
    pytest.param("print(", ")\n", id="before other code"),
    pytest.param("x = 1\n", "\nz = 3\n", id="on a line of its own"),
    pytest.param("x = 1\r\n  ", "\r\nz = 3\r\n", id="on a line of its own, CRLF"),
]


@pytest.mark.parametrize(("prefix", "suffix"), ANY_END)
@pytest.mark.parametrize("text", ["two\nlines", "line", " "])
@pytest.mark.parametrize("limit", [(), ("--budget-ms", "5000")])
def test_where_only_the_text_can_tell_its_end_is_found(
    prefix: str, suffix: str, text: str, limit: Sequence[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a text that ends with its line is written as the server writes lines."""
    asked: list[bool] = []

    def fill(self: Infiller, request: FillRequest) -> Iterator[Draft]:
        asked.append(request.one_line)
        yield Draft(("as a line" if request.one_line else text,), len(asked), done=True, complete=True)

    monkeypatch.setattr(Infiller, "fill", fill)
    shown = batch(tmp_path, [{"prefix": prefix, "suffix": suffix}], *limit)
    is_line = text == "line" and suffix[0] in "\r\n" and not limit
    assert asked == ([False, True] if is_line else [False])
    assert json.loads(shown)["text"] == ("as a line" if is_line else text)


@pytest.mark.parametrize(("option", "one_line"), [("--one-line", True), ("--no-one-line", False)])
def test_whether_tasks_end_with_their_line_can_be_told(
    option: str, one_line: bool, tmp_path: Path, asked: list[FillRequest]
) -> None:
    batch(tmp_path, [{"prefix": prefix, "suffix": suffix} for prefix, suffix, _ in PLACES], option)
    assert [request.one_line for request in asked] == [one_line] * len(PLACES)


def test_only_a_batch_can_be_told() -> None:
    assert_says(invoke("fill", "a.py:1:1", "--one-line"), "--one-line and --no-one-line are about --batch")


def test_a_batch_sees_as_much_as_its_checkpoint_reads(tmp_path: Path, asked: list[FillRequest]) -> None:
    long = {"prefix": SOURCE * 8, "suffix": SOURCE * 8}
    directory = write_checkpoint(tmp_path / "reads more")
    changed_json(directory / "config.json", lambda config: config["text_config"].update(max_position_embeddings=4096))
    changed_json(directory / "dgemma.json", lambda policy: policy.update(prompt_tokens=2048))
    batch(tmp_path, [long])
    batch(tmp_path, [long], checkpoint=directory)
    few, more = ((len(request.excerpt.prefix), len(request.excerpt.suffix)) for request in asked)
    assert few[0] < 1300 < more[0] and few[1] < 330 < more[1]


def test_the_language_of_a_task_says_how_it_ends(tmp_path: Path, asked: list[FillRequest]) -> None:
    task = {"prefix": "func f() {", "suffix": "\n}\n"}
    batch(tmp_path, [task | {"language": "go"}, task | {"language": "plaintext"}])
    assert [(request.excerpt.language, request.one_line) for request in asked] == [("go", False), ("plaintext", True)]


def test_bytes_that_are_no_text_are_a_bad_line(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_bytes(b'{"prefix": "\xff"}\r\n\r\n{"id": 2, "prefix": "", "suffix": ""}\r\n')
    lines = [
        json.loads(line)
        for line in invoke("fill", "--batch", tasks, "--checkpoint", tiny_checkpoint()).stdout.splitlines()
    ]
    assert [(line["id"], line.get("line")) for line in lines] == [(None, 1), (2, None)]


def test_an_empty_batch_answers_nothing(tmp_path: Path) -> None:
    (tmp_path / "tasks.jsonl").write_text("\n\n")
    result = invoke("fill", "--batch", tmp_path / "tasks.jsonl", "--checkpoint", tiny_checkpoint())
    assert (result.exit_code, result.stdout) == (0, "")
