"""How fills are judged: exactness, baselines, paired intervals, tables; and the committed holes."""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from model_fixtures import SOURCE, tiny_checkpoint, tiny_infiller

from dgemma_model.train import evaluate
from dgemma_model.train.corpus import HELD_OUT
from dgemma_model.train.evaluate import (
    BASELINES,
    COUNTS,
    HeldOutHole,
    Result,
    Way,
    exact_share,
    fill_with_model,
    fill_with_similar_line,
    paired_interval,
    print_tables,
    read_holes,
)

HOLES_FILE = Path(__file__).parent.parent / evaluate.HOLES_FILE
MARK = "▮"


def hole(marked: str, middle: str = "", **changes: Any) -> HeldOutHole:
    """A hole at the mark."""
    prefix, suffix = marked.split(MARK)
    made = HeldOutHole(0, "line", "pkg", "MIT", "a.py", "", prefix, middle, suffix)
    return replace(made, **changes)


@pytest.mark.parametrize(
    ("text", "middle", "exact"),
    [
        ("return x", "return x", True),
        ("return x  ", "return x", True),
        ("a  \nb\n", "a\nb", True),
        ("return  x", "return x", False),
        (" return x", "return x", False),
        ("", "return x", False),
        ("", "", True),
    ],
)
def test_blanks_at_the_ends_of_lines_do_not_count(text: str, middle: str, exact: bool) -> None:
    assert Result(hole(f"{MARK}\n", middle), text).is_exact is exact


@pytest.mark.parametrize(
    ("text", "parses"), [("x + 1", True), ("(x", False), ("", True), ("x:", False), ("y = x)", False)]
)
def test_a_fill_parses_if_it_adds_no_errors(text: str, parses: bool) -> None:
    assert Result(hole(f"def f(x):\n    x = 2\n    {MARK}\n    return x\n", "x += 1"), text).parses is parses


def test_errors_that_were_there_before_do_not_count() -> None:
    broken = hole(f"x = (((\ndef f(x):\n    {MARK}\n", "return x")
    assert Result(broken, "return y").parses


def test_similarity_is_one_for_the_same_and_zero_for_nothing_in_common() -> None:
    assert Result(hole(f"{MARK}", "abc"), "abc").similarity == 1.0
    assert Result(hole(f"{MARK}", "abc"), "xyz").similarity == 0.0
    assert 0.5 < Result(hole(f"{MARK}", "abcd"), "abcx").similarity < 1.0


@pytest.mark.parametrize(
    ("marked", "expected"),
    [
        (f"if a:\n    run(a)\n    stop()\nif b:\n    {MARK}\n    stop()\n", "run(a)"),
        (f"self.a = a\nself.b = b\nself.{MARK}\n", "b = b"),
        (f"{MARK}\n", ""),
        (f"alpha()\n{MARK}", "alpha()"),
    ],
)
def test_the_baseline_copies_the_most_similar_nearby_line(marked: str, expected: str) -> None:
    assert fill_with_similar_line(hole(marked)) == expected


def test_a_baseline_never_sees_the_answer() -> None:
    seen, unseen = hole(f"a = 1\n{MARK}\nb = 2\n", "secret"), hole(f"a = 1\n{MARK}\nb = 2\n", "another")
    assert [fill(seen) for fill in BASELINES.values()] == [fill(unseen) for fill in BASELINES.values()]
    assert {"empty", "constant 'else:'", "constant 'return None'", "most similar nearby line"} <= set(BASELINES)


def results(*exact: bool) -> list[Result]:
    return [Result(hole(MARK, "a"), "a" if e else "b") for e in exact]


def test_the_interval_is_of_pairs() -> None:
    ours, theirs = results(*[True] * 60, *[False] * 40), results(*[True] * 50, *[False] * 50)
    assert exact_share(ours) == 60.0
    low, high = paired_interval(ours, theirs)
    assert 3 < low < 10 < high < 18  # ten pairs differ, all in our favour
    low, high = paired_interval(ours, theirs[::-1])
    assert low < 0 < high  # the same shares, without the pairs
    assert paired_interval(ours, ours) == (0.0, 0.0)


def test_tables_have_a_row_for_each_way_and_a_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    runs = {"verified": results(True, True, False), "empty": results(True, False, False)}
    print_tables(runs)
    out = capsys.readouterr().out
    assert "| verified | 66.7 | **66.7** |" in out
    assert "| empty | 33.3 | **33.3** |" in out
    assert "Whole lines (n = 3), verified against 'empty': 66.7 % against 33.3 %" in out


@pytest.mark.parametrize(("verify", "steps"), [(True, 0), (True, None), (False, 2)])
def test_every_hole_is_filled(verify: bool, steps: int | None) -> None:
    at = SOURCE.index("self.balance += amount")
    line = hole(SOURCE[:at] + MARK + SOURCE[at + 22 :], "self.balance += amount")
    filled = fill_with_model([line, replace(line, kind="block", id=1)], tiny_infiller(), Way(verify, steps))
    assert [result.hole.id for result in filled] == [0, 1]
    assert "\n" not in filled[0].text
    assert all(result.ms > 0 and result.passes > 0 for result in filled)


def test_scores_are_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = SOURCE.index("self.balance += amount")
    one = hole(SOURCE[:at] + MARK + SOURCE[at + 22 :], "self.balance += amount")
    (tmp_path / "holes.jsonl").write_text(json.dumps(asdict(one)) + "\n")
    evaluate.score(
        argparse.Namespace(
            holes=tmp_path / "holes.jsonl",
            sample=0,
            checkpoint=str(tiny_checkpoint()),
            device="cpu",
            all_ways=True,
            dials=False,
            jobs=1,
            results=tmp_path / "results.jsonl",
        )
    )
    rows = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert {row["by"] for row in rows} == {*evaluate.WAYS, *evaluate.OTHER_WAYS, *BASELINES}
    printed = capsys.readouterr().out
    assert "| plain denoising, 8 steps |" in printed
    assert re.search(r"Losses, nats per token: causal [0-9.]+; denoising, t = 0.5 [0-9.]+;", printed)


def test_held_out_holes_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluate, "COUNTS", {"line": 5, "empty": 2, "block": 3})
    other = SOURCE.replace("self", "it").replace("account", "purse")
    manifest = {name: {"licence": "MIT"} for name in ("one", "two")}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"package": "x", "path": "x.py", "text": SOURCE}) + "\n")
    held_out = [("one", "seen.py", SOURCE), ("two", "new.py", other)]
    (tmp_path / "held_out.jsonl").write_text(
        "".join(json.dumps({"package": p, "path": f, "text": t}) + "\n" for p, f, t in held_out)
    )
    holes = evaluate.cut_holes(tmp_path, seed=3)
    assert [h.kind for h in holes] == ["line"] * 5 + ["empty"] * 2 + ["block"] * 3
    assert {h.path for h in holes} == {"new.py"}  # training has seen the other
    assert [h.id for h in holes] == list(range(10))
    for h in holes:
        assert h.sha256 == hashlib.sha256(other.encode()).hexdigest()
        assert h.prefix + h.middle + h.suffix in other
    assert holes == evaluate.cut_holes(tmp_path, seed=3) != evaluate.cut_holes(tmp_path, seed=4)


# ------------------------------------------------------------ what is committed


def test_the_committed_holes_are_as_described() -> None:
    holes = read_holes(HOLES_FILE)
    assert [h.id for h in holes] == list(range(len(holes)))
    for kind, count in COUNTS.items():
        assert sum(h.kind == kind for h in holes) == count
    assert {h.package for h in holes} == HELD_OUT
    assert all(h.licence and len(h.sha256) == 64 and h.path.endswith(".py") for h in holes)
    assert all((h.middle == "") == (h.kind == "empty") for h in holes)
    assert all("\n" not in h.middle for h in holes if h.kind in evaluate.ONE_LINE_KINDS)


def test_the_right_answer_is_exact_and_parses() -> None:
    for h in random.Random(0).sample(read_holes(HOLES_FILE), 60):
        assert Result(h, h.middle).is_exact and Result(h, h.middle).parses
