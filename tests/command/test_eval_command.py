"""`dgemma-lsp eval`: what it fills and how, what it writes, what it refuses, and how it ends."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from model_fixtures import SOURCE, tiny_checkpoint, tiny_infiller
from typer.testing import CliRunner

from dgemma_lsp.command import eval_run
from dgemma_lsp.command.cli import app
from dgemma_lsp.command.eval_fill import OneWayInfiller, fill_case, parsed_of
from dgemma_lsp.command.eval_run import DIALS, OTHER_WAYS, WAYS, drawn
from dgemma_model.evaluation import confinement
from dgemma_model.evaluation.baselines import BASELINES
from dgemma_model.evaluation.cases import Task
from dgemma_model.evaluation.held_out import Case, case_of_outside_task
from dgemma_model.request import FillRequest
from dgemma_model.source.excerpt import Excerpt

ROOT = Path(__file__).parents[2]
MIDDLE = "self.balance += amount"
PREFIX, SUFFIX = SOURCE.split(MIDDLE)
LINE = Case("hole/0", "line", PREFIX, SUFFIX, (MIDDLE,), one_line=True)
TASK = {"id": "double", "prefix": "def double(x):\n    return ", "suffix": "\n", "middle": "2 * x"}
TESTED = TASK | {"id": "tested", "test": "assert double(2) == 4", "entry_point": "double", "kind": "line"}


def invoke(*arguments: object) -> Result:
    """The command in this process, with a tiny checkpoint."""
    options = ["--checkpoint", tiny_checkpoint(), "--device", "cpu"]
    return CliRunner().invoke(app, [str(argument) for argument in ("eval", *options, *arguments)])


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(task) + "\n" for task in (TASK, TESTED)))
    return path


# -------------------------------------------------------------------- filling


@pytest.mark.parametrize("way", [*WAYS, *OTHER_WAYS, *BASELINES])
def test_a_case_is_filled_in_every_way(way: str) -> None:
    fill = fill_case(LINE, way, (WAYS | OTHER_WAYS).get(way), tiny_infiller())
    assert fill.failure == "" and "\n" not in fill.texts[0]
    if way in BASELINES:
        assert (fill.passes, fill.is_offered) == (0, None)
    else:
        assert fill.passes > 0 and fill.ms > 0 and fill.score is not None and fill.is_offered is not None


@pytest.mark.parametrize("way", [*WAYS, "nothing"])
def test_several_holes_and_repairs_are_filled_but_not_offered(way: str) -> None:
    overrides = WAYS.get(way)
    several = Case("s", "several", PREFIX, SUFFIX, ("a", "b"), ("\n        ",), one_line=True)
    repair = replace(LINE, kind="repair", start=("self.balance = amount",))
    for case in (several, repair):
        fill = fill_case(case, way, overrides, tiny_infiller())
        assert fill.failure == "" and len(fill.texts) == case.holes and fill.is_offered is None


def test_the_present_text_is_repaired_unless_it_is_read_token_by_token() -> None:
    repair = replace(LINE, kind="repair", start=("self.balance = amount",))
    anew = replace(LINE, kind="repair")
    by_token = WAYS["token-by-token"]
    assert (
        fill_case(repair, "a", by_token, tiny_infiller()).texts == fill_case(anew, "a", by_token, tiny_infiller()).texts
    )
    plain = WAYS["plain"]
    assert fill_case(repair, "a", plain, tiny_infiller()).texts != fill_case(anew, "a", plain, tiny_infiller()).texts


def test_a_document_has_its_holes_open() -> None:
    (snapshot, _), holes = parsed_of(Case("s", "several", "a = ", "\nz = 3\n", ("1", "2"), ("\nb = ",)))
    assert (snapshot.text, snapshot.offset) == ("a = \nb = \nz = 3\n", 4)
    assert [snapshot.text[:at].count("\n") for at, _ in holes] == [0, 1]


def test_an_answer_that_is_known_is_not_asked_for_again() -> None:
    asked = OneWayInfiller(tiny_infiller(), {"verify": False, "max_denoising_steps": 2})
    request = FillRequest(Excerpt("x = ", "\n"), one_line=True)
    first, again = list(asked.fill(request)), list(asked.fill(request))
    assert again == first[-1:] and first[-1].step <= 3
    assert len(list(asked.fill(replace(request, one_line=False)))) > 1


def test_what_the_model_cannot_do_is_a_failure_and_no_fill() -> None:
    wide = replace(LINE, start=("word " * 200,), kind="repair")
    fill = fill_case(wide, "default", {}, tiny_infiller())
    assert "widest canvas" in fill.failure and fill.is_exact is False


def test_the_servers_own_threshold_says_what_is_offered() -> None:
    infiller = tiny_infiller()
    infiller.threshold = float("-inf")
    bold = fill_case(LINE, "default", {}, infiller)
    infiller.threshold = 1.0
    shy = fill_case(LINE, "default", {}, infiller)
    assert shy.is_offered is False
    assert bold.proposed == shy.proposed and bold.is_offered == (bold.proposed is not None)


def test_at_a_quiet_cursor_only_the_server_is_asked() -> None:
    comment = Case("quiet/1", "quiet", "# some wor", "ds\n", is_whole=True)
    fill = fill_case(comment, "default", {}, tiny_infiller())
    assert (fill.is_offered, fill.passes, fill.texts) == (False, 0, ("",))


@pytest.mark.parametrize(("middle", "passed"), [("2 * x", True), ("x", False), ("", False)])
def test_tests_judge_a_task(middle: str, passed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BASELINES, "else:", lambda before, after, project_text: middle)
    case = case_of_outside_task(Task(**{**TESTED, "id": "t"}), one_line=True, max_tokens=8)
    assert fill_case(case, "else:", None, tiny_infiller()).passed is passed


@pytest.mark.parametrize(
    ("prefix", "suffix", "language", "ends"),
    [
        ("def double(x):\n    return ", "\n", "python", True),
        ("def double(x):\n    y = x ", " + 1\n", "python", None),
        ("y = 1\n", "\nz = 1\n", "python", None),
        ("def double(x):\n    ", "\n\ny = 1\n", "python", False),
        ("func double(x int) int {\n\t", "\n}\n", "go", False),
        ("func double(x int) int {\n\t", "\n}\n", "plaintext", None),
    ],
)
def test_an_outside_task_ends_with_its_line_where_the_syntax_says_so(
    prefix: str, suffix: str, language: str, ends: bool | None, tmp_path: Path
) -> None:
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps({"id": 1, "prefix": prefix, "suffix": suffix, "language": language, "middle": "m"}))
    (case,) = eval_run.read_cases(path)
    assert (case.one_line, case.language) == (ends, language)
    for one_line in (True, False):
        assert eval_run.read_cases(path, one_line=one_line)[0].one_line is one_line


# -------------------------------------------------------------------- samples


def test_a_sample_has_some_of_every_kind_and_is_always_the_same() -> None:
    cases = eval_run.read_cases(None)
    few = drawn(cases, 300)
    assert few == drawn(cases, 300) and {case.kind for case in few} == {case.kind for case in cases}
    for kind in {case.kind for case in cases}:
        assert sum(case.kind == kind for case in few) >= eval_run.FEWEST
    assert 300 <= len(few) <= 400
    assert drawn(cases, None) == drawn(cases, 10**6) == cases


def test_all_kinds_are_there() -> None:
    assert {case.kind for case in eval_run.read_cases(None)} == {
        *("line", "rest_of_line", "expression", "statement", "block", "span", "empty"),
        *("mid_token", "several", "repair", "tests_line", "tests_block", "quiet"),
    }


def test_the_fresh_set_has_the_same_kinds_and_those_of_further_languages() -> None:
    kinds = {case.kind for case in eval_run.read_cases(None, "fresh")}
    assert {kind for kind in kinds if "." not in kind} == {case.kind for case in eval_run.read_cases(None)}
    assert {kind.split(".")[0] for kind in kinds if "." in kind} == {"line", "rest_of_line"}


def test_an_unknown_set_is_named() -> None:
    with pytest.raises(eval_run.UserError, match="no set 'stale' of held-out holes; there are: classic, fresh"):
        eval_run.read_cases(None, "stale")


# -------------------------------------------------------------------- command


def test_outside_tasks_are_scored_the_same_way(tasks: Path, tmp_path: Path) -> None:
    output = tmp_path / "table.csv"
    done = invoke("--tasks", tasks, "--output", output)
    assert done.exit_code == 0, done.output
    table = list(csv.DictReader(output.open()))
    assert {row["way"] for row in table} == {*WAYS, *BASELINES}
    assert {row["kind"]: row["passed"] for row in table if row["way"] == "nothing"} == {"task": "", "line": "0.0"}
    assert all(re.fullmatch("tiny [0-9a-f]{8}", row["checkpoint"]) for row in table)
    assert "pass@1" in done.stdout and "token-by-token" in done.stdout


def test_dials_are_ways_of_their_own(tasks: Path, tmp_path: Path) -> None:
    done = invoke("--tasks", tasks, "--dials", "--output", tmp_path / "dials.csv")
    assert done.exit_code == 0, done.output
    assert {row["way"] for row in csv.DictReader((tmp_path / "dials.csv").open())} == {*DIALS}
    assert {"plain, 1 steps", "plain, 48 steps", "default, 400 ms"} <= {*DIALS}


def test_quiet_cursors_alone_are_a_table_of_their_own() -> None:
    done = invoke("--kinds", "quiet", "--sample", "10", "--ways", "default,nothing")
    assert done.exit_code == 0, done.output
    assert "Offered unasked" in done.stdout and "Exactly" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--ways", "default,wild"], "no way 'wild' to fill; there are: default, plain, token-by-token"),
        (["--kinds", "limericks"], "no kind 'limericks' among the cases; there are: line, rest_of_line"),
        (["--ways", "plain", "--dials"], "--dials has ways of its own"),
        (["--ways", "plain", "--calibration", "c.svg"], "leave it among the --ways"),
        (["--output", "/nowhere/at/all.csv"], "no folder /nowhere/at"),
        (["--tasks", "/nowhere/tasks.jsonl"], "/nowhere/tasks.jsonl: No such file"),
        (["--tasks", "."], "is a folder"),
        (["--no-one-line"], "--one-line and --no-one-line are about outside --tasks"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], words: str) -> None:
    done = invoke(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "is no task: Expecting"),
        ('"text"', "not a JSON object"),
        (json.dumps({"id": 1, "prefix": ""}), "'suffix' is missing"),
        (json.dumps(TASK | {"id": 1, "middle": ""}), "nothing judges"),
        (json.dumps(TASK | {"id": 1, "prefix": 5}), "'prefix' must be a string"),
        (json.dumps(TASK), "'double' was there before"),
    ],
)
def test_a_bad_line_is_refused_with_its_number_and_reason(tasks: Path, line: str, reason: str) -> None:
    with tasks.open("a") as file:
        file.write(line + "\n" + json.dumps(TASK | {"id": "after"}) + "\n")
    done = invoke("--tasks", tasks)
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"{tasks}:3 is no task" in done.stderr.replace("\n", " ") and reason in done.stderr


def test_without_the_committed_cases_it_says_where_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke()
    assert done.exit_code == 2 and "run it from a clone of the repository" in done.stderr


# ------------------------------------------------------------------ processes


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-P", "-m", "dgemma_lsp", "eval", *map(str, arguments)]


def test_a_small_sample_with_the_embedded_weights(tmp_path: Path) -> None:
    output, plot = tmp_path / "results.csv", tmp_path / "plot.svg"
    options = ("--kinds", "line,tests_line,quiet", "--sample", "30", "--ways", "default,nothing")
    done = subprocess.run(
        command(*options, "--device", "cpu", "--output", output, "--calibration", plot),
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    table = {(row["way"], row["kind"]): row for row in csv.DictReader(output.open())}
    assert {kind for _, kind in table} == {"line", "tests_line", "quiet", "editor"}
    default = table["default", "line"]
    assert int(default["n"]) >= 10 and float(default["p50_ms"]) > 0 and float(default["offered"]) >= 0
    assert table["default", "tests_line"]["passed"] and table["nothing", "line"]["offered"] == ""
    assert "default against nothing" in done.stdout
    assert plot.read_text().startswith("<svg")
    assert "filling" not in done.stdout  # progress is on stderr


@pytest.mark.parametrize(("number", "codes"), [(signal.SIGINT, {130}), (signal.SIGTERM, {130, -signal.SIGTERM})])
def test_an_interrupted_run_ends_at_once_and_writes_nothing(
    tmp_path: Path, number: signal.Signals, codes: set[int]
) -> None:
    output = tmp_path / "results.csv"
    output.write_text("before\n")
    process = subprocess.Popen(
        command("--device", "cpu", "--output", output),
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # whoever runs in the background ignores SIGINT
    )  # fmt: skip
    try:
        assert process.stderr is not None
        os.set_blocking(process.stderr.fileno(), False)
        said = b""
        while not said and process.poll() is None:  # it says what it is about to do
            said = process.stderr.read() or b""
            time.sleep(0.05)
        time.sleep(1.0)
        process.send_signal(number)
        process.wait(timeout=60)
        assert process.returncode in codes
        assert output.read_text() == "before\n" and list(tmp_path.iterdir()) == [output]
        deadline = time.monotonic() + 20
        while _is_alive(process.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not _is_alive(process.pid)  # none of its processes is left
    finally:
        if _is_alive(process.pid):
            os.killpg(process.pid, signal.SIGKILL)


def _is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


# --------------------------------------------------------- programs that a model wrote


def test_where_nothing_confines_programs_they_are_left_out(tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confinement, "find", lambda: None)
    result = invoke("--tasks", tasks, "--ways", "nothing")
    assert result.exit_code == 0, result.output
    assert "left out: 1 cases run programs" in result.stderr
    assert "pass@1" not in result.stdout
    tasks.write_text(json.dumps(TESTED))
    assert invoke("--tasks", tasks, "--ways", "nothing").exit_code == 2
    asked = invoke("--tasks", tasks, "--ways", "nothing", "--run-model-programs-unconfined")
    assert asked.exit_code == 0 and "pass@1" in asked.stdout
