"""Which lines of the project are considered for a line, and which one is taken."""

from __future__ import annotations

import pytest
import torch
from test_infill import INFILLER, JUDGE, PROMPT_TOKENS, TOKENIZER

from dgemma_model.decoding.line_choice import ENOUGH_PROJECT_CHARS
from dgemma_model.network.cache import Cache
from dgemma_model.project.judge import FIGURES, MEAN, WRITTEN
from dgemma_model.prompt.suffix_first import SuffixFirst
from dgemma_model.request import Excerpt, FillRequest


def total(excerpt: Excerpt, line: str) -> tuple[float, int]:
    """Log-probability of `line` and its end under the causal head, token by token; and how many tokens that takes."""
    prompt = SuffixFirst(TOKENIZER).encode(excerpt, PROMPT_TOKENS)
    ids = TOKENIZER.encode(prompt.forced.decode() + line)
    hidden = INFILLER._checkpoint.network.encode(torch.tensor([prompt.ids + ids]), Cache())
    scores = INFILLER._checkpoint.network.logits(hidden[0, len(prompt.ids) - 1 :]).log_softmax(-1)
    said, at, free = 0, 0.0, 1
    for place, token in enumerate(ids):
        said += len(TOKENIZER.token_bytes[token])
        at += scores[place, token].item() if said > len(prompt.forced) else 0.0
        free += said > len(prompt.forced)
    ends = [i for i, data in enumerate(TOKENIZER.token_bytes) if data.startswith(b"\n") or i == TOKENIZER.end_id]
    return at + scores[len(ids), ends].logsumexp(0).item(), free


def test_candidates_are_in_the_project_or_were_written() -> None:
    excerpt = Excerpt("log(path, mode)\nopen(a)\nlog(", ", mode)\nclose(a)\n")
    project_text = ("load(path)\nlog(name, mode)\nclose(a)\n",)
    considered = INFILLER.considered(FillRequest(excerpt, project_text, one_line=True, copy_weight=1.0, max_tokens=8))
    assert [reading.is_written for reading in considered] == [True] + [False] * (len(considered) - 1)
    found = {reading.text: (reading.similar, reading.between) for reading in considered}
    assert (found["name"], found["path"]) == ((0, 1), (1, 0))
    for reading in considered:
        assert len(reading.figures) == FIGURES
        assert reading.figures[WRITTEN] == reading.is_written
        assert reading.figures[MEAN] == reading.log_probability / reading.tokens


def test_a_very_long_line_of_the_project_is_no_candidate() -> None:
    excerpt = Excerpt("x = a\nlog(", ")\n")
    request = FillRequest(excerpt, (f"log({'y' * 3000})\nlog(z)\n",), one_line=True, copy_weight=1.0, max_tokens=4)
    assert {len(reading.text) < 1000 for reading in INFILLER.considered(request)} == {True}


@pytest.mark.parametrize("knows_project", [True, False])
def test_of_a_line_the_likeliest_right_text_is_taken_and_without_a_project_the_likeliest(knows_project: bool) -> None:
    taken = set[str]()
    project_text = ("# nothing like it\n" * (ENOUGH_PROJECT_CHARS // 10),) if knows_project else ("# nothing\n",)
    for size in range(1, 9):
        excerpt = Excerpt(f"for a in b:\n    {'x' * size}\n\nfor a in b:\n    ", "\nreturn self\n")
        knobs = {
            "one_line": True,
            "max_tokens": 2 * size,
            "copy_weight": 1e-30,
        }  # copies change nothing of what is written
        considered = INFILLER.considered(FillRequest(excerpt, project_text, **knobs))
        for reading in considered:
            log_probability, tokens = total(excerpt, reading.text)
            assert reading.log_probability == pytest.approx(log_probability, abs=1e-2)
            assert reading.tokens == tokens
        assert sum(reading.share for reading in considered) == pytest.approx(1.0, abs=1e-3)
        best = max(
            considered, key=lambda reading: JUDGE.log_odds(reading) if knows_project else reading.log_probability
        )
        (*_, chosen) = INFILLER.fill(FillRequest(excerpt, project_text, verify=True, **knobs))
        assert chosen.done
        assert chosen.text == best.text
        assert chosen.score == pytest.approx(JUDGE.score(best), abs=1e-3)
        taken.add("written" if best.is_written else "similar" if best.similar is not None else "alone")
    assert len(taken) > 1
