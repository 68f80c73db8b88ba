"""The committed cases are what eval/README.md says, and a broken one is named."""

from __future__ import annotations

import ast
import json
from collections import Counter
from pathlib import Path

import pytest

from dgemma_model.evaluation.cases import QuietCase, Task, read_quiet, read_tasks
from dgemma_model.source import syntax

ROOT = Path(__file__).parents[2]
TASKS = read_tasks(ROOT / "eval" / "execution")
QUIET_FILES = (ROOT / "eval" / "quiet.md", ROOT / "eval" / "fresh" / "quiet.md")
QUIET = read_quiet(*QUIET_FILES)
SOURCE = '''"""Sums."""


def total(numbers):
    result = 0
    for number in numbers:  # hole: 2 lines
        result += number
    return result  # hole


# ---- tests
assert total([1, 2]) == 3
'''


def test_a_marked_program_becomes_tasks(tmp_path: Path) -> None:
    (tmp_path / "sums.py").write_text(SOURCE)
    block, line = read_tasks(tmp_path)
    assert (block.id, block.kind, block.entry_point) == ("sums/1", "block", "total")
    assert block.prefix.endswith("result = 0\n    ")
    assert block.middle == "for number in numbers:\n        result += number"
    assert block.suffix == "\n    return result\n"
    assert (line.id, line.kind, line.middle, line.suffix) == ("sums/2", "line", "return result", "\n")
    assert block.test == line.test == "assert total([1, 2]) == 3\n"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("# ---- tests", "# tests", "needs a line"),
        ("# hole", "# whole", "needs a line"),
        ('"""Sums."""', "x = 1  # hole", "in no function"),
    ],
)
def test_a_broken_program_is_named(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "sums.py"
    path.write_text(SOURCE.replace(old, new))
    with pytest.raises(ValueError, match=words) as caught:
        read_tasks(tmp_path)
    assert str(path) in str(caught.value)


def test_tasks_of_a_file_of_json_lines(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    row = {"id": 7, "prefix": "x = ", "suffix": "\n", "test": "assert x == 1", "entry_point": "x"}
    path.write_text(json.dumps(row) + "\n\n")
    (task,) = read_tasks(path)
    assert (task.id, task.prefix, task.middle) == ("7", "x = ", "")
    path.write_text(json.dumps({"id": "a", "prefix": "", "suffix": "", "middle": "x"}))
    (task,) = read_tasks(path)
    assert (task.middle, task.test, task.language) == ("x", "", "python")
    path.write_text(json.dumps({"id": "a", "prefix": "", "suffix": "", "middle": "x", "language": "go"}))
    (task,) = read_tasks(path)
    assert task.language == "go"


ROW = {"id": 7, "prefix": "x = ", "suffix": "\n", "test": "assert x == 1", "entry_point": "x"}


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ('{"id": 7}', "'prefix' is missing"),
        ("{", "Expecting property name"),
        ("[" * 100_000, "recursion"),
        ("[]", "not a JSON object"),
        ("\x80", ""),
        (json.dumps(ROW | {"colour": 1}), "no field 'colour'"),
        (json.dumps(ROW | {"id": None}), "'id' must be"),
        (json.dumps(ROW | {"suffix": 3}), "'suffix' must be a string"),
        (json.dumps(ROW | {"id": 8, "test": ""}), "nothing judges"),
        (json.dumps(ROW | {"id": 8, "entry_point": ""}), "'test' needs an 'entry_point'"),
        (json.dumps(ROW | {"id": 8, "language": "go"}), "'test' can be run for python only, not for 'go'"),
        (json.dumps(ROW | {"id": 8, "language": ["go"]}), "'language' must be a string"),
        (json.dumps(ROW), "'7' was there before"),
    ],
)
def test_a_bad_line_is_named_with_its_reason(tmp_path: Path, broken: str, reason: str) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_bytes(json.dumps(ROW).encode() + b"\n\n" + broken.encode("latin-1"))
    with pytest.raises(ValueError, match=rf"tasks\.jsonl:3 is no task: .*{reason}"):
        read_tasks(path)


def test_a_file_without_tasks_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text("\n")
    with pytest.raises(ValueError, match=r"tasks\.jsonl has no tasks"):
        read_tasks(path)


def test_the_tasks_are_many_and_of_both_kinds() -> None:
    kinds = Counter(task.kind for task in TASKS)
    assert kinds["line"] >= 70 and kinds["block"] >= 40
    assert len({task.id for task in TASKS}) == len(TASKS)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.id)
def test_a_task_is_an_ordinary_hole(task: Task) -> None:
    lines = task.middle.split("\n")
    assert len(lines) == 1 if task.kind == "line" else 2 <= len(lines) <= 6
    assert task.middle == task.middle.strip()
    assert "# hole" not in task.prefix + task.middle + task.suffix + task.test
    program = task.prefix + task.middle + task.suffix
    assert 15 <= len(program.splitlines()) <= 80
    ast.parse(program)
    assert task.entry_point in program


def test_the_quiet_cases_are_many_and_of_all_reasons() -> None:
    for path in QUIET_FILES:
        reasons = Counter(case.reason for case in read_quiet(path))
        assert sum(reasons.values()) >= 120
        assert set(reasons) == {"prose", "word", "said", "done", "blank"}
    assert len({(case.prefix, case.suffix) for case in QUIET}) == len({case.id for case in QUIET}) == len(QUIET)


def test_five_further_languages_have_quiet_cases() -> None:
    languages = Counter(case.language for case in read_quiet(QUIET_FILES[1]))
    assert set(languages) == {"javascript", "typescript", "go", "rust", "java"} and min(languages.values()) >= 20


@pytest.mark.parametrize("case", QUIET, ids=lambda case: f"{case.id}-{case.reason}")
def test_a_quiet_case_is_what_its_reason_says(case: QuietCase) -> None:
    text = case.prefix + case.suffix
    assert "⟦" not in text and 5 <= text.count("\n") <= 40
    if case.language == "python":
        ast.parse(text)  # nothing is missing
    else:
        tree = syntax.parse(case.language, text)
        assert tree is not None and syntax.error_count(tree) == 0
    before, after = case.prefix[-1:], case.suffix[:1]
    if case.reason == "word":
        assert (before.isalnum() or before in "_-.") and (after.isalnum() or after in "_.")
    elif case.reason == "done":
        assert before.strip() and after == "\n"
    elif case.reason == "blank":
        assert not case.prefix.rsplit("\n", 1)[-1].strip() and after == "\n"
    elif case.reason == "said":
        assert after.strip()


def test_marks_of_other_cases_are_taken_out(tmp_path: Path) -> None:
    path = tmp_path / "quiet.md"
    path.write_text("Words ⟦prose⟧\n```python\na⟦word⟧b = 1⟦done⟧\n```\n```toml\n⟦blank⟧\n```\n")
    assert [(case.reason, case.prefix, case.suffix, case.language) for case in read_quiet(path)] == [
        ("word", "a", "b = 1\n", "python"),
        ("done", "ab = 1", "\n", "python"),
        ("blank", "", "\n", "toml"),
    ]
