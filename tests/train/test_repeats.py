"""Runs of tokens that training text has, too."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from model_fixtures import SOURCE, tiny_checkpoint, tiny_tokenizer

from dgemma_model.train import repeats
from dgemma_model.train.repeats import Repeat, TrainingText, summary


def repeat(text: str, prompt: str = "", corpus: tuple[str, ...] = (SOURCE,)) -> Repeat:
    return TrainingText(corpus, tiny_tokenizer()).repeat(text, prompt)


def test_what_was_trained_on_is_one_run() -> None:
    found = repeat("self.balance += amount")
    assert found.run == "self.balance += amount"
    assert found.run_tokens == found.tokens == found.unprompted_tokens > 3


def test_what_was_not_is_none() -> None:
    found = repeat("ÄÖÜ")
    assert (found.run_tokens, found.run) == (0, "") and found.tokens > 0
    assert repeat("").tokens == 0


def test_of_a_text_in_part_the_longest_part_counts() -> None:
    found = repeat("self.owner = Ä balance += amount")
    assert found.run.strip() in SOURCE and 0 < found.run_tokens < found.tokens


def test_what_the_prompt_holds_is_no_memory() -> None:
    found = repeat("self.balance += amount", prompt="x = self.balance += amount\n")
    assert found.unprompted_tokens < found.run_tokens == found.tokens
    assert found.unprompted in SOURCE and found.unprompted != found.run


def test_a_run_does_not_go_on_from_file_to_file() -> None:
    parts = repeat("abab", corpus=("ab", "ab"))
    assert 0 < parts.run_tokens < parts.tokens
    assert repeat("abab", corpus=("abab",)).run_tokens == parts.tokens


@given(st.text("ab \n", max_size=12), st.text("ab \n", max_size=30))
def test_the_longest_run_is_what_comparing_all_runs_finds(text: str, corpus: str) -> None:
    tokenizer = tiny_tokenizer()
    ids, seen = tokenizer.encode(text), tokenizer.encode(corpus)
    runs = [ids[a:b] for a in range(len(ids)) for b in range(a + 1, len(ids) + 1)]
    known = [run for run in runs if any(seen[at : at + len(run)] == run for at in range(len(seen)))]
    assert repeat(text, corpus=(corpus,)).run_tokens == max(map(len, known), default=0)


def test_figures_are_summed_up() -> None:
    found = [
        Repeat(4, "a", 2, "", 0),
        Repeat(12, "b", 12, "b", 12),
        Repeat(20, "c", 10, "d", 3),
        Repeat(1, "", 0, "", 0),
    ]
    said = summary(found)
    assert "4 texts; longest run in training text: median 6 tokens" in said
    assert "longest 12; at least 10 tokens in 50.0 %, not counting what the prompt holds in 25.0 %" in said
    assert "of 2 texts of 10 tokens and more, 1 are in it as a whole" in said


def test_the_command_fills_and_looks_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"text": SOURCE}) + "\n")
    options = ["--data", str(tmp_path), "--checkpoint", str(tiny_checkpoint()), "--device", "cpu", "--sample", "3"]
    monkeypatch.setattr(sys, "argv", ["repeats", *options])
    repeats.main()
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("Fills: 3 texts;") and said[1].startswith("What was there: 3 texts;") and len(said) == 5
