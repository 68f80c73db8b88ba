"""Fills that denoise a canvas and are not verified."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_infill import EXCERPTS, INFILLER, PROMPT_TOKENS, TOKENIZER, last
from test_tokenizer import texts
from torch import Tensor

from dgemma_model.decoding import denoised
from dgemma_model.decoding.sampler import CanvasStep, denoise
from dgemma_model.network.cache import Cache
from dgemma_model.prompt.format import FillVocabulary
from dgemma_model.prompt.suffix_first import SuffixFirst
from dgemma_model.request import Excerpt, FillRequest


class Recorder:
    """Stands in for `denoise`, and keeps what it was asked and what it said."""

    def __init__(self) -> None:
        self.canvas, self.pinned = torch.empty(0), torch.empty(0)
        self.steps: list[CanvasStep] = []

    def __call__(self, network: Any, cache: Cache, canvas: Tensor, pinned: Tensor, *more: Any) -> Iterator[CanvasStep]:
        self.canvas, self.pinned = canvas, pinned
        for step in denoise(network, cache, canvas, pinned, *more):
            self.steps.append(step)
            yield step


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(denoised, "denoise", recorder)
    return recorder


@pytest.mark.parametrize("between", [(), (" + y\n",), ("\n    b = ", "\n")])
def test_every_hole_gets_a_text_and_what_is_between_stays(between: tuple[str, ...], recorder: Recorder) -> None:
    excerpt = Excerpt("a = 1\nx = ", "\n", between)
    drafts = list(INFILLER.fill(FillRequest(excerpt, max_tokens=8, max_denoising_steps=5, verify=False)))
    assert {len(draft.texts) for draft in drafts} == {len(draft.tokens) for draft in drafts} == {len(between) + 1}
    assert len({draft.texts for draft in drafts}) > 1  # something was denoised
    pinned = recorder.pinned[0]
    assert TOKENIZER.decode(recorder.canvas[0][pinned].tolist()) == "".join(between)
    for step in recorder.steps:
        assert TOKENIZER.decode(step.best[0][pinned].tolist()) == "".join(between)
        assert TOKENIZER.decode(step.next_canvas[0][pinned].tolist()) == "".join(between)


def test_several_holes_are_filled_plainly_even_where_fills_are_verified(recorder: Recorder) -> None:
    draft = last(INFILLER, Excerpt("a", "b", (" c ",)), verify=True, max_denoising_steps=2)
    assert len(draft.texts) == 2
    assert bool(recorder.pinned.any())


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("excerpt", EXCERPTS)
def test_the_last_draft_and_no_other_is_done(excerpt: Excerpt, verify: bool) -> None:
    drafts = list(INFILLER.fill(FillRequest(excerpt, max_tokens=8, max_denoising_steps=4, verify=verify)))
    assert [draft.done for draft in drafts] == [False] * (len(drafts) - 1) + [True]
    assert isfinite(drafts[-1].score)


@settings(max_examples=25, deadline=None)
@given(prefix=texts, suffix=texts, seed=st.integers(0, 99), bound=st.sampled_from([0.1, 1e6]))
def test_a_plain_draft_begins_with_the_healed_text(prefix: str, suffix: str, seed: int, bound: float) -> None:
    excerpt = Excerpt(prefix, suffix)
    forced = SuffixFirst(TOKENIZER).encode(excerpt, PROMPT_TOKENS).forced
    request = FillRequest(excerpt, max_tokens=16, max_denoising_steps=2, entropy_bound=bound, verify=False, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        recorder = Recorder()
        patch.setattr(denoised, "denoise", recorder)
        drafts = list(INFILLER.fill(request))
    for draft, step in zip([draft for draft in drafts if draft.step], recorder.steps, strict=False):
        said = b"".join(TOKENIZER.token_bytes[i] for i in step.best[0].tolist())
        assert said.startswith(forced) or forced.startswith(said)
        assert (draft.text, True) == (
            FillVocabulary(TOKENIZER, [TOKENIZER.end_id]).read(step.best[0].tolist(), forced)[0],
            True,
        )


@pytest.mark.parametrize("excerpt", EXCERPTS)
@pytest.mark.parametrize("limit", [1, 3, 8])
def test_a_plain_fill_keeps_to_its_limit(excerpt: Excerpt, limit: int, recorder: Recorder) -> None:
    forced = SuffixFirst(TOKENIZER).encode(excerpt, PROMPT_TOKENS).forced
    for one_line in (False, True):
        draft = last(INFILLER, excerpt, max_tokens=limit, one_line=one_line, verify=False, max_denoising_steps=3)
        kept, ended = FillVocabulary(TOKENIZER, [TOKENIZER.end_id]).read(
            recorder.steps[-1].best[0].tolist()[:limit], forced
        )
        assert draft.text == (kept.split("\n")[0] if one_line else kept)
        assert draft.complete == (ended or (one_line and "\n" in kept))


def test_the_same_seed_gives_the_same_drafts() -> None:
    def drafts(seed: int) -> list[tuple[str, ...]]:
        request = FillRequest(EXCERPTS[2], verify=False, seed=seed, max_denoising_steps=4, entropy_bound=2.0)
        return [draft.texts for draft in INFILLER.fill(request)]

    assert drafts(1) == drafts(1) != drafts(2)


def test_no_denoising_steps_at_all_fill_nothing() -> None:
    draft = last(INFILLER, EXCERPTS[2], verify=False, max_denoising_steps=0)
    assert (draft.texts, draft.step, draft.done) == (("",), 0, True)


def test_a_request_overrides_what_the_checkpoint_says(recorder: Recorder) -> None:
    draft = last(INFILLER, EXCERPTS[2], verify=False, max_tokens=16, max_denoising_steps=3, entropy_bound=1e-9)
    assert draft.step <= 3 and len(recorder.steps) <= 3
    assert int(recorder.steps[0].accepted.sum()) <= 2  # one, beside the healed one
