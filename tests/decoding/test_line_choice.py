"""Texts that are read beside a line's first pass: they change how many passes it takes, and nothing of what is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_fixtures import EMBEDDED_JUDGE, tiny_checkpoint

from dgemma_model.checkpoint import load as checkpoints
from dgemma_model.decoding import line_choice, verified
from dgemma_model.decoding.causal import TextLikelihoods, fill_log_probabilities
from dgemma_model.infill import Infiller
from dgemma_model.project.judge import FIGURES, Judge
from dgemma_model.request import Draft, DraftedBy, Drafting, Excerpt, FillRequest

EXCERPTS = [
    Excerpt("", ""),
    Excerpt("def f(self):\n    return ", "\n\n"),
    Excerpt("class A:\n    x = se", "lf\n"),
    Excerpt("if a:\n    ", "\nelse:\n    pass\n"),
    Excerpt("😀 = '", "'\n"),
]


def reading_infiller(**policy: object) -> Infiller:
    """A random network that reads the project and mixes no copies in, as pretrained checkpoints do."""
    loaded = checkpoints.load(tiny_checkpoint(), torch.device("cpu"), torch.float32)
    policies = {"copy_weight": 0.0, "reads_project": True} | policy
    return Infiller(replace(loaded, policy=replace(loaded.policy, **policies)), torch.device("cpu"))


INFILLER = reading_infiller()


def filled(infiller: Infiller, request: FillRequest) -> Draft:
    *_, draft = infiller.fill(request)
    return draft


def written(excerpt: Excerpt, branches: list[str] | None) -> tuple[Draft, TextLikelihoods, list[torch.Tensor]]:
    """A line that the network writes while it reads these texts as branches; the likelihoods that are known then; and
    those that a pass of its own finds for the same texts."""
    infiller = INFILLER
    request = FillRequest(excerpt, one_line=True, max_tokens=14, drafting="copied")
    plan = infiller._plan(request)
    with infiller._opened(excerpt) as opened:
        likelihoods = TextLikelihoods(opened, one_line=True)
        texts = None if branches is None else verified.BranchTexts(likelihoods, branches)
        *_, draft = infiller._written(opened, excerpt, plan, [], 0.0, texts)
        known = list(likelihoods.known)
        return draft, likelihoods, fill_log_probabilities(opened, known, one_line=True) if known else []


@settings(max_examples=80, deadline=None)
@given(
    number=st.integers(0, len(EXCERPTS) - 1),
    cuts=st.lists(st.integers(0, 40), max_size=3),
    others=st.lists(st.text("abfx =().:'", max_size=12), max_size=3, unique=True),
)
def test_no_branch_changes_what_is_written(number: int, cuts: list[int], others: list[str]) -> None:
    alone, *_ = written(EXCERPTS[number], None)
    branches = list(dict.fromkeys([*(alone.text[:cut] for cut in cuts), *others]))
    draft, likelihoods, alone_read = written(EXCERPTS[number], branches)
    assert (draft.text, draft.complete) == (alone.text, alone.complete)
    assert draft.score == pytest.approx(alone.score, abs=1e-4)
    assert draft.step <= alone.step
    assert set(branches) <= set(likelihoods.known)
    for text, said in zip(likelihoods.known, alone_read, strict=True):
        if text != draft.text:
            assert float(likelihoods.known[text].sum()) == pytest.approx(float(said.sum()), abs=1e-3), text
    if draft.text in set(likelihoods.known) - set(branches):  # the tokens that it was written in
        assert float(likelihoods.known[draft.text].mean()) == pytest.approx(draft.score, abs=1e-4)


@pytest.mark.parametrize("excerpt", EXCERPTS[:3])
def test_a_line_that_is_a_branch_is_written_in_one_pass(excerpt: Excerpt, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, take = list[int](), verified.CausalText.take

    def watched(text: verified.CausalText, logits: torch.Tensor, drafted: list[int], by: DraftedBy, *more: Any) -> int:
        agreed = take(text, logits, drafted, by, *more)
        ids[:] = text.ids
        return agreed

    with monkeypatch.context() as patch:
        patch.setattr(verified.CausalText, "take", watched)
        alone, *_ = written(excerpt, None)
    row = list(ids)  # a random network writes tokens as which no text is encoded
    monkeypatch.setattr(TextLikelihoods, "row", lambda self, text: row if text == alone.text else [1])
    draft, *_ = written(excerpt, ["no such thing", alone.text])
    assert (draft.text, draft.step) == (alone.text, 1)
    assert not row or (draft.check is not None and draft.check.drafted_by == "similar line")


@pytest.mark.parametrize("drafting", ["none", "copied"])
def test_token_by_token_means_that_no_branch_is_a_draft(drafting: Drafting) -> None:
    request = FillRequest(EXCERPTS[1], ("def g(self):\n    return self\n\n" * 3 + "# more\n" * 900,), one_line=True)
    infiller = reading_infiller()
    plan = infiller._plan(replace(request, drafting=drafting))
    with infiller._opened(request.excerpt) as opened:
        branches = infiller._choice(opened, request, plan, [], EMBEDDED_JUDGE).branch_texts()
        assert branches is not None
        assert branches.are_drafts == (drafting != "none")
    (first, *_) = infiller.fill(replace(request, drafting="none"))
    assert first.step == 1
    assert len(first.tokens[0]) <= 1


def test_a_text_that_cannot_be_right_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge that hates all that is similar, and one that loves it."""
    project_text = ("if b:\n    self.go(b)\nelse:\n    pass\n" + "# nothing like it\n" * 400,)
    request = FillRequest(EXCERPTS[3], project_text, one_line=True, max_tokens=8)
    read = list[str]()
    learn = TextLikelihoods.learn
    monkeypatch.setattr(
        TextLikelihoods, "learn", lambda self, texts, *rest: (read.extend(texts), learn(self, texts, *rest))
    )
    for odds in (-50.0, 50.0):
        read.clear()
        weights = [0.0] * FIGURES
        weights[6] = odds  # whether it is a similar line
        assert filled(reading_infiller(judge=tuple(weights)), request).done
        assert ("self.go(b)" in read) == (odds > 0)


def test_the_ranks_of_what_is_read_do_not_depend_on_what_is_left_out() -> None:
    project_text = ("if b:\n    self.go(b)\nelse:\n    pass\nif c:\n    self.stay(c)\nelse:\n    go()\n" * 100,)
    request = FillRequest(EXCERPTS[3], project_text, one_line=True, max_tokens=8)
    considered = {each.text: each for each in INFILLER.considered(request)}
    first, second = (next(each for each in considered.values() if each.similar == place) for place in (0, 1))
    weights = [0.0] * FIGURES
    weights[2], weights[6] = -50.0, 5.0  # the most similar line is out
    infiller = reading_infiller(judge=tuple(weights))
    chosen = filled(infiller, request)
    assert chosen.text not in (first.text, "")
    judge = Judge(tuple(weights))
    least = min(judge.log_odds(each) for each in considered.values())
    assert least == judge.log_odds(first) < line_choice.LEAST_ODDS
    assert chosen.score >= judge.score(second) - 1e-6


def test_what_copies_change_is_chosen_as_before() -> None:
    """With copies mixed in, what is written says nothing of the network alone: it is read once more."""
    request = FillRequest(EXCERPTS[3], ("x = 1\n" * 1000,), one_line=True, max_tokens=8, copy_weight=0.5)
    infiller = reading_infiller(judge=EMBEDDED_JUDGE.weights)
    plan = infiller._plan(request)
    with infiller._opened(request.excerpt) as opened:
        assert infiller._choice(opened, request, plan, [], EMBEDDED_JUDGE).branch_texts() is None
    assert filled(infiller, request).done
