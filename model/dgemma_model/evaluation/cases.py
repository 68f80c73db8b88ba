"""The committed cases: tasks that unit tests judge, and cursors at which an editor must show nothing."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

TASKS_FOLDER = Path("eval/execution")
QUIET_FILE = Path("eval/quiet.md")

_HOLE = re.compile(r"  # hole(?:: (?P<lines>\d) lines)?$")
_TESTS = "# ---- tests\n"
_SNIPPET = re.compile(r"^```(?P<language>\w+)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_CURSOR = re.compile(r"⟦(?P<reason>[a-z]+)⟧")


@dataclass(frozen=True, slots=True)
class Task:
    """A hole in a program; a fill is right when the tests pass, or when it is what was there."""

    id: str
    prefix: str
    suffix: str
    test: str = ""
    """Python that fails when the program, then Python as well, is wrong: assertions, or a function
    `check(candidate)`."""
    entry_point: str = ""
    """The function or class under test."""
    kind: str = ""
    """`line`: one whole line after its indentation; `block`: 2 to 6 of them."""
    middle: str = ""
    """What was there."""
    language: str = "python"
    """Its identifier, as LSP clients send it."""


@dataclass(frozen=True, slots=True)
class QuietCase:
    """A cursor at which nothing should be shown."""

    id: str
    reason: str
    prefix: str
    suffix: str
    language: str


def read_tasks(path: Path = TASKS_FOLDER) -> list[Task]:
    """The tasks of a folder of marked programs (eval/README.md), or of a file of JSON lines with the fields of `Task`.

    Each line has `id`, `prefix`, `suffix`, perhaps `language`, and what judges a fill: `middle`, or `test` with
    `entry_point`, or both.

    Raises:
        OSError: the file cannot be read.
        ValueError: something is wrong with it; the message names the file, the line and the reason.
    """
    if path.is_dir():
        return [task for source in sorted(path.glob("*.py")) for task in _marked_tasks(source)]
    tasks: dict[str, Task] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if line.strip():
            try:
                task = _task_of(json.loads(line))
                if task.id in tasks:
                    raise ValueError(f"the id {task.id!r} was there before")
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{path}:{number} is no task: {error}") from error
            tasks[task.id] = task
    if not tasks:
        raise ValueError(f"{path} has no tasks")
    return list(tasks.values())


def _task_of(found: object) -> Task:
    """The task that a line of JSON is."""
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")
    for name in ("id", "prefix", "suffix"):
        if name not in found:
            raise ValueError(f"{name!r} is missing")
    if not isinstance(found["id"], str | int):
        raise ValueError("'id' must be a string or a number")
    known = {field.name for field in fields(Task)}
    for name, value in found.items():
        if name not in known:
            raise ValueError(f"there is no field {name!r}, only {', '.join(sorted(known))}")
        if not isinstance(value, str) and name != "id":
            raise ValueError(f"{name!r} must be a string")
    task = Task(**found | {"id": str(found["id"])})
    if not task.middle and not task.test:
        raise ValueError("nothing judges a fill: neither 'middle' nor 'test' says anything")
    if task.test and not task.entry_point:
        raise ValueError("'test' needs an 'entry_point'")
    if task.test and task.language != "python":
        raise ValueError(f"'test' can be run for python only, not for {task.language!r}: judge it by its 'middle'")
    return task


def _marked_tasks(path: Path) -> Iterator[Task]:
    program, found, test = path.read_text("utf-8").partition(_TESTS)
    marked = program.splitlines()
    plain = [_HOLE.sub("", line) for line in marked]
    tree = ast.parse("\n".join(plain))
    starts = [(row, mark) for row, line in enumerate(marked) if (mark := _HOLE.search(line))]
    if not found or not starts:
        raise ValueError(f"{path} needs a line '{_TESTS.strip()}' and a line that ends in '  # hole'")
    for number, (row, mark) in enumerate(starts, 1):
        end = row + int(mark["lines"] or 1)
        indent = plain[row][: -len(plain[row].lstrip())]
        rest = "\n".join(plain[end:]).rstrip()
        yield Task(
            id=f"{path.stem}/{number}",
            prefix="\n".join([*plain[:row], indent]),
            suffix=f"\n{rest}\n" if rest else "\n",
            test=test,
            entry_point=_definition_at(tree, row + 1, path),
            kind="block" if mark["lines"] else "line",
            middle="\n".join(plain[row:end])[len(indent) :],
        )


def _definition_at(tree: ast.Module, line: int, path: Path) -> str:
    """Name of the top-level function or class that holds a line, counted from 1."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.lineno <= line <= (node.end_lineno or line):
            return node.name
    raise ValueError(f"{path}:{line} is in no function or class")


def read_quiet(*paths: Path) -> list[QuietCase]:
    """One case for each `⟦reason⟧` in the fenced snippets of the files, `QUIET_FILE` by default; no case's text holds
    the marks of the others."""
    cases: list[QuietCase] = []
    snippets = (found for path in paths or (QUIET_FILE,) for found in _SNIPPET.finditer(path.read_text("utf-8")))
    for snippet in snippets:
        prefix, *rest = _CURSOR.split(snippet["body"])
        reasons, texts = rest[::2], rest[1::2]
        for number, reason in enumerate(reasons):
            prefix += texts[number - 1] if number else ""
            suffix = "".join(texts[number:])
            cases.append(QuietCase(f"quiet/{len(cases) + 1}", reason, prefix, suffix, snippet["language"]))
    return cases
