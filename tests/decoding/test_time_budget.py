"""A time budget: kept to within one pass, never without a draft, and what is returned early parses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_fixtures import SOURCE, tiny_checkpoint
from test_prompt_cache import encoded_tokens

from dgemma_model.checkpoint.load import load
from dgemma_model.decoding.time_budget import cut_where_it_parses, within_budget
from dgemma_model.infill import Infiller
from dgemma_model.request import Draft, Excerpt, FillRequest

EXCERPT = Excerpt("x = ", "\n")


class Clock:
    """Time that passes only when told to, in seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@given(
    reading=st.lists(st.integers(0, 500), max_size=4),
    passes=st.lists(st.integers(1, 200), min_size=1, max_size=8),
    budget=st.integers(0, 600),
)
def test_a_budget_is_kept_to_within_one_pass_and_there_is_always_a_draft(
    reading: list[int], passes: list[int], budget: int
) -> None:
    clock = Clock()

    def drafts() -> Iterator[Draft]:
        for ms in reading:
            clock.now += ms / 1000
            yield Draft(("",), 0)
        for number, ms in enumerate(passes, start=1):
            clock.now += ms / 1000
            yield Draft((str(number),), number, done=number == len(passes))

    seen = list(within_budget(drafts(), budget, EXCERPT, clock))
    spent = round(1000 * (clock.now - 100.0)) - sum(reading)  # the prompt does not count
    taken = seen[-1].step
    assert [draft.done for draft in seen] == [False] * (len(seen) - 1) + [True]
    assert spent <= budget + passes[taken - 1]
    assert seen[-1].text == str(taken)
    if sum(passes) < budget:
        assert taken == len(passes)


@pytest.mark.parametrize(
    ("prefix", "text", "suffix", "expected"),
    [
        ("x = ", "f(a)", "\n", "f(a)"),
        ("x = ", "f(a) + g(", "\n", "f(a) + g"),
        ("x = ", "f(a, [b, c", "\n", "f"),
        ("x = f(", "a, b", ")\n", "a, b"),
        ("x = f(", "a, b(c", ")\n", "a, b"),
        ("def f():\n    ", "return 1\n\ndef g(", "\n", "return 1\n\n"),
        ("", "if a:\n    b()\nelse", "\n", "if a:\n    b()\n"),
        ("x = ", "", "\n", ""),
        ("x = ", "'never closed", "\n", "'never closed"),  # as broken as any part of it
    ],
)
def test_an_early_draft_is_cut_where_it_parses(prefix: str, text: str, suffix: str, expected: str) -> None:
    draft = cut_where_it_parses(Draft((text,), 3, complete=True), Excerpt(prefix, suffix))
    assert draft.text == expected
    assert draft.complete == (text == expected)


def test_each_hole_is_cut() -> None:
    excerpt = Excerpt("x = f(", "\n", between=(")\ny = ",))
    assert cut_where_it_parses(Draft(("a, b", "g(c"), 1), excerpt).texts == ("a, b", "g")
    assert cut_where_it_parses(Draft(("a, (b", "g(c)"), 1), excerpt).texts == ("a,", "g(c)")


def test_a_language_without_a_grammar_is_left_alone() -> None:
    assert cut_where_it_parses(Draft(("f(a",), 1), Excerpt("x = ", "\n", language="elvish")).text == "f(a"


# -------------------------------------------------------------------- in fills


def ticking(ms_per_look: float) -> Infiller:
    """An infiller whose clock moves by so much whenever it is looked at."""
    clock = Clock()

    def look() -> float:
        clock.now += ms_per_look / 1000
        return clock.now

    cpu = torch.device("cpu")
    return Infiller(load(tiny_checkpoint(), cpu, torch.float32), cpu, clock=look)


WAYS: list[dict[str, Any]] = [
    {"verify": True},
    {"verify": True, "drafting": "denoised"},
    {"verify": False, "entropy_bound": 1e-9},
    {"verify": False, "entropy_bound": 1e-9, "renoise": True},
    {"verify": False, "entropy_bound": 1e-9, "candidates": 3},
    {"verify": True, "candidates": 2},
]


@pytest.mark.parametrize("way", WAYS)
def test_a_fill_takes_fewer_passes_with_less_time(way: dict[str, Any]) -> None:
    request = FillRequest(Excerpt(SOURCE[:400], "\n\n"), max_tokens=12, max_denoising_steps=6, **way)
    *_, whole = ticking(0).fill(request)
    assert whole.step > 4
    for budget in (0, 1, 2, 3):
        request = FillRequest(
            Excerpt(SOURCE[:400], "\n\n"), max_tokens=12, max_denoising_steps=6, budget_ms=budget, **way
        )
        *early, draft = ticking(1).fill(request)
        assert draft.done and not any(other.done for other in early)
        assert 1 <= draft.step <= budget + 1


def test_several_holes_keep_to_one_budget() -> None:
    excerpt = Excerpt("x = ", "\n", between=("\ny = ", "\nz = "))
    for together in (True, False):
        request = FillRequest(excerpt, max_tokens=8, budget_ms=2, entropy_bound=1e-9, together=together)
        *_, draft = ticking(1).fill(request)
        assert draft.done and len(draft.texts) == 3 and draft.step <= 3


def test_without_a_budget_the_clock_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    infiller = ticking(10**9)
    counts = encoded_tokens(monkeypatch, infiller._checkpoint.network)
    excerpt = Excerpt(SOURCE[:160], SOURCE[190:])
    *_, draft = infiller.fill(FillRequest(excerpt, max_tokens=6, verify=True, drafting="none"))
    assert draft.step == len(counts) > 2
