"""The real command, as shipped: a process of its own, with the embedded checkpoint."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

from model_fixtures import tiny_checkpoint
from test_batch import TASKS, assert_answers
from test_cli import command, invoke
from typer.testing import CliRunner

from dgemma_lsp.command.cli import app
from dgemma_model.checkpoint.selection import default_checkpoint, embedded_directory


def test_the_embedded_checkpoint_fills_in_place(file: Path) -> None:
    done = command("fill", f"{file.name}:4:9", cwd=file.parent)
    assert done.returncode == 0, done.stderr
    before, _, after = done.stdout.partition("self.x = x\n        ")
    assert before.startswith("class Point:") and not after.startswith("\n")
    assert "\n\n    def norm(self):\n" in after
    assert "passes" in done.stdout and "embedded on " in done.stdout


def test_the_embedded_checkpoint_fills_a_batch(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text("\n".join(task for task, _ in TASKS[:3]), "utf-8")
    done = command("fill", "--batch", tasks, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert_answers(done.stdout.splitlines(), TASKS[:3])
    assert "filling" in done.stderr


def test_check_says_what_works(tmp_path: Path) -> None:
    done = command("check", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("Python", "torch", "memory", "GPU", "python", "sha256", "return ", str(embedded_directory())):
        assert word in done.stdout


def test_an_error_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    done = command("fill", "nowhere.py:1:1", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "dgemma-lsp: nowhere.py: No such file or directory\n"


def test_modules_of_the_working_directory_are_not_run(tmp_path: Path) -> None:
    for name in ("json", "torch", "model", "dgemma_model", "tokenize"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('hijacked')\n")
    done = command("fill", "nowhere.py:1:1", cwd=tmp_path)
    assert "hijacked" not in done.stderr
    assert done.returncode == 2


def test_what_a_batch_writes_is_json(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    said = ["NaN", "1e999", "[-Infinity]", '{"a": NaN}']
    tasks.write_text("".join(f'{{"id": {one}, "prefix": "x = ", "suffix": ""}}\n' for one in said))
    result = invoke("fill", "--batch", tasks, "--checkpoint", tiny_checkpoint())

    def refuse(name: str) -> None:
        raise AssertionError(name)

    answers = [json.loads(line, parse_constant=refuse) for line in result.stdout.splitlines()]
    assert [answer["id"] for answer in answers] == [None] * 4
    assert [answer["line"] for answer in answers] == [1, 2, 3, 4] and all(answer["error"] for answer in answers)


def test_a_fill_by_the_embedded_checkpoint_says_what_would_be_better(tmp_path: Path) -> None:
    (tmp_path / "area.py").write_text("def area(width, height):\n    return \n")
    shown = invoke("fill", f"{tmp_path / 'area.py'}:2:12").output
    advice = default_checkpoint().advice
    assert advice is None or "".join(advice.split()) in "".join(shown.split())
    assert advice is not None or default_checkpoint().better is None


def test_the_version_is_that_of_the_package() -> None:
    done = CliRunner().invoke(app, ["--version"])
    assert done.exit_code == 0 and done.stdout.strip() == version("dgemma-lsp")
