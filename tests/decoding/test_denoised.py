"""One canvas: pinned text, widths, growth, candidates, repair."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_fixtures import SOURCE, tiny_infiller, tiny_tokenizer
from test_tokenizer import texts
from torch import Tensor

from dgemma_model.decoding import denoised
from dgemma_model.decoding.denoised import PartialNoise
from dgemma_model.decoding.sampler import CanvasStep, denoise
from dgemma_model.network.cache import Cache
from dgemma_model.prompt.suffix_first import SuffixFirst
from dgemma_model.request import Draft, Excerpt, FillRequest

TOKENIZER = tiny_tokenizer()
END = TOKENIZER.end_id
INFILLER = tiny_infiller()


def drafts(excerpt: Excerpt, **knobs: Any) -> list[Draft]:
    return list(INFILLER.fill(FillRequest(excerpt, verify=False, **knobs)))


class Canvases:
    """Stands in for `denoise`: keeps every canvas as it was before the first step and after each, and may say what
    shall come out instead."""

    def __init__(self, says: list[int] | None = None) -> None:
        self.says = says
        self.first: list[Tensor] = []
        self.pinned: list[Tensor] = []
        self.steps: list[CanvasStep] = []

    def __call__(self, network: Any, cache: Cache, canvas: Tensor, pinned: Tensor, *more: Any) -> Iterator[CanvasStep]:
        self.first.append(canvas)
        self.pinned.append(pinned)
        for step in denoise(network, cache, canvas, pinned, *more):
            if self.says is not None:
                said, self.says = self.says[: canvas.shape[1]], self.says[canvas.shape[1] :]
                best = torch.tensor([said + [END] * (canvas.shape[1] - len(said))])
                step = CanvasStep(1, best, best, best >= 0, torch.zeros(best.shape), torch.ones(best.shape))
            self.steps.append(step)
            yield step


@pytest.fixture
def canvases(monkeypatch: pytest.MonkeyPatch) -> Canvases:
    recorder = Canvases()
    monkeypatch.setattr(denoised, "denoise", recorder)
    return recorder


# --------------------------------------------------------------- several holes


@settings(max_examples=25, deadline=None)
@given(
    prefix=texts,
    suffix=texts,
    between=st.lists(texts.filter(bool), min_size=1, max_size=3),
    seed=st.integers(0, 99),
    bound=st.sampled_from([1e-9, 0.5, 1e6]),
)
def test_pinned_text_is_untouched_byte_for_byte(
    prefix: str, suffix: str, between: list[str], seed: int, bound: float
) -> None:
    excerpt = Excerpt(prefix, suffix, tuple(between))
    with pytest.MonkeyPatch.context() as patch:
        recorder = Canvases()
        patch.setattr(denoised, "denoise", recorder)
        found = drafts(excerpt, max_tokens=16, max_denoising_steps=2, seed=seed, entropy_bound=bound, together=True)
    pinned_text = "".join(between).encode("utf-8", "replace")
    for pinned, canvas in zip(recorder.pinned, recorder.first, strict=True):
        assert b"".join(TOKENIZER.token_bytes[i] for i in canvas[0][pinned[0]].tolist()) == pinned_text
    for step in recorder.steps:
        pinned = next(p for p in recorder.pinned if p.shape == step.best.shape)
        for ids in (step.best, step.next_canvas):
            assert b"".join(TOKENIZER.token_bytes[i] for i in ids[0][pinned[0]].tolist()) == pinned_text
    assert all(len(draft.texts) == excerpt.hole_count for draft in found)
    assert found[-1].done


def test_each_hole_has_its_own_width_and_grows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    one, ended = TOKENIZER.encode("a"), [END] * 8
    between = TOKENIZER.encode(" + ")
    narrow = [*one, *ended[:7], *between, *one * 8]
    wide = [*one, *ended[:7], *between, *one * 11, *[END] * 5]
    recorder = Canvases(narrow + wide)
    monkeypatch.setattr(denoised, "denoise", recorder)
    monkeypatch.setattr(denoised, "REST_OF_LINE_TOKENS", 8)
    found = drafts(Excerpt("", "\n", (" + ",)), max_tokens=16, max_denoising_steps=1)
    assert [int((~pinned).sum()) for pinned in recorder.pinned] == [16, 24]
    assert recorder.first[1][0, : len(narrow)].tolist() == narrow  # what was found before is where it begins
    assert found[-1].texts == ("a", "a" * 11) and found[-1].complete


def test_one_by_one_each_hole_sees_what_was_filled_before_it() -> None:
    excerpt = Excerpt("a = 1\nx = ", "\n", ("\ny = ", "\nz = "))
    found = list(INFILLER.fill(FillRequest(excerpt, one_line=True, max_tokens=6, verify=True, together=False)))
    prefix, texts_alone = excerpt.prefix, []
    for following in ("\ny = \nz = \n", "\nz = \n", "\n"):
        *_, alone = INFILLER.fill(FillRequest(Excerpt(prefix, following), one_line=True, max_tokens=6, verify=True))
        texts_alone.append(alone.text)
        prefix += alone.text + following[: following.index("= ") + 2] if "= " in following else ""
    assert found[-1].texts == tuple(texts_alone)
    assert [draft.done for draft in found] == [False] * (len(found) - 1) + [True]
    assert [draft.step for draft in found] == sorted(draft.step for draft in found)


# ---------------------------------------------------------------------- widths


@pytest.mark.parametrize(
    ("prefix", "one_line", "tokens", "expected"),
    [("x = ", True, 96, 8), ("x = ", True, 3, 4), ("def f():\n    ", True, 96, 16), ("x = ", False, 96, 32)],
)
def test_the_canvas_is_as_wide_as_what_is_asked_for(
    prefix: str, one_line: bool, tokens: int, expected: int, canvases: Canvases, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, width in (("REST_OF_LINE_TOKENS", 8), ("LINE_TOKENS", 16), ("BLOCK_TOKENS", 32)):
        monkeypatch.setattr(denoised, name, width)
    infiller = tiny_infiller()
    object.__setattr__(infiller._policy, "canvas_lengths", (4, 8, 16, 32, 64))
    next(
        draft
        for draft in infiller.fill(
            FillRequest(Excerpt(prefix, "\n"), one_line=one_line, max_tokens=tokens, verify=False)
        )
        if draft.step
    )
    object.__setattr__(infiller._policy, "canvas_lengths", (8, 16))  # the checkpoint is shared
    assert canvases.first[0].shape == (1, expected)


def test_a_fill_goes_on_behind_a_canvas_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    text = TOKENIZER.encode("self.balance += amount\n        return self.balance\n        # and so on, and on")
    assert 16 < len(text) < 32
    recorder = Canvases([*text])
    monkeypatch.setattr(denoised, "denoise", recorder)
    found = drafts(Excerpt("", "\n"), max_tokens=40, max_denoising_steps=1)
    assert [canvas.shape[1] for canvas in recorder.first] == [16, 16]
    assert found[-1].text == TOKENIZER.decode(text) and found[-1].complete
    assert [draft.text for draft in found if draft.step == 1] == [TOKENIZER.decode(text[:16])]
    recorder.says = [*text]
    assert drafts(Excerpt("", "\n"), max_tokens=20, max_denoising_steps=1)[-1].text == TOKENIZER.decode(text[:20])


# ------------------------------------------------------------------ candidates


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("excerpt", [Excerpt("x = ", "\n"), Excerpt(SOURCE[:300], SOURCE[310:400])])
def test_candidates_are_different_and_the_likeliest_is_first(verify: bool, excerpt: Excerpt) -> None:
    request = FillRequest(
        excerpt, max_tokens=12, candidates=4, verify=verify, entropy_bound=5.0, max_denoising_steps=3, one_line=True
    )
    *early, draft = INFILLER.fill(request)
    assert all(other.candidates == () for other in early)
    found = [candidate.text for candidate in draft.candidates]
    assert 2 <= len(found) <= 4
    assert len(set(found)) == len(found)
    assert draft.text == found[0]
    likelihoods = [candidate.log_likelihood for candidate in draft.candidates]
    assert likelihoods == sorted(likelihoods, reverse=True)


def test_candidates_carry_their_exact_likelihood() -> None:
    excerpt = Excerpt(SOURCE[:300], "\n")
    *_, draft = INFILLER.fill(FillRequest(excerpt, max_tokens=12, candidates=3, verify=False, entropy_bound=5.0))
    scores = INFILLER.score(excerpt, [candidate.text for candidate in draft.candidates])
    assert [candidate.log_likelihood for candidate in draft.candidates] == pytest.approx(scores, abs=1e-3)


def test_without_candidates_a_fill_is_as_if_there_were_none() -> None:
    for verify in (True, False):
        *_, draft = INFILLER.fill(FillRequest(Excerpt("x = ", "\n"), max_tokens=8, verify=verify))
        assert draft.candidates == ()


# ---------------------------------------------------------------------- repair


def test_kept_positions_are_never_noise() -> None:
    kept = torch.tensor([[5, -1, 7, -1]])
    drawn = PartialNoise(400, None, kept).draw((2, 4), torch.Generator().manual_seed(0))
    assert drawn[:, [0, 2]].tolist() == [[5, 7]] * 2
    assert PartialNoise(400, 3, kept).draw((2, 4), torch.Generator()).tolist() == [[5, 3, 7, 3]] * 2


@pytest.mark.parametrize(("level", "noised"), [(0.0, 0), (0.3, 3), (0.5, 4), (1.0, 8)])
def test_a_share_of_the_starting_text_is_drawn_again(level: float, noised: int, canvases: Canvases) -> None:
    text = "self.a + 1"
    ids = TOKENIZER.encode(text)
    assert len(ids) == 7  # and its end
    drafts(Excerpt("", "\n"), start=(text,), noise_level=level, max_tokens=8, max_denoising_steps=1)
    canvas = canvases.first[0][0].tolist()
    assert canvas.count(TOKENIZER.mask_id) == noised
    assert all(token in (TOKENIZER.mask_id, old) for token, old in zip(canvas, [*ids, END], strict=True))


def test_what_the_network_doubts_most_is_drawn_first(canvases: Canvases) -> None:
    text = "self.a + 1"
    canvas = torch.tensor([[*TOKENIZER.encode(text), END]])
    prompt = SuffixFirst(TOKENIZER).encode(Excerpt("", "\n"), 96)
    cache, network = Cache(), INFILLER._checkpoint.network
    with torch.inference_mode():
        network.encode(torch.tensor([prompt.ids]), cache)
        scores = network.logits(network.decode(canvas, cache))
        scores[..., sorted(TOKENIZER.special_ids - {END})] = -torch.inf
        own = scores.log_softmax(-1)[0, range(8), canvas[0]]
        doubt = scores.log_softmax(-1)[0].max(-1).values - own
    drafts(Excerpt("", "\n"), start=(text,), noise_level=0.4, max_tokens=8, max_denoising_steps=1)
    noised = (canvases.first[0][0] == TOKENIZER.mask_id).nonzero()[:, 0].tolist()
    assert sorted(noised) == sorted(doubt.topk(4).indices.tolist())


def test_what_a_fill_revises_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = TOKENIZER.encode("a")[0], TOKENIZER.encode("b")[0]
    recorder = Canvases([a, b, *[END] * 6])
    monkeypatch.setattr(denoised, "denoise", recorder)
    kept = drafts(Excerpt("", "\n"), start=("ab",), noise_level=0.0, max_tokens=8, max_denoising_steps=1)
    assert (kept[-1].text, kept[-1].revised) == ("ab", 0)
    recorder.says = [a, a, *[END] * 6]
    revised = drafts(Excerpt("", "\n"), start=("ab",), noise_level=0.0, max_tokens=8, max_denoising_steps=1)
    assert (revised[-1].text, revised[-1].revised) == ("aa", 1)


def test_several_holes_are_repaired_at_once(canvases: Canvases) -> None:
    excerpt = Excerpt("x = ", "\n", ("\ny = ",))
    draft = drafts(excerpt, start=("a + 1", "b"), noise_level=0.0, max_tokens=8, max_denoising_steps=1)[-1]
    hole = ~canvases.pinned[0][0]
    assert TOKENIZER.decode(canvases.first[0][0][hole].tolist()).split() == ["a", "+", "1b"]
    assert len(draft.texts) == 2


# -------------------------------------------------------------------- renoised


def test_positions_that_the_causal_head_would_not_write_are_drawn_again(canvases: Canvases) -> None:
    excerpt = Excerpt("x = ", "\n")
    before = drafts(excerpt, max_tokens=8, max_denoising_steps=1)
    canvases.first.clear()
    drafts(excerpt, max_tokens=8, max_denoising_steps=1, renoise=True)
    assert len(canvases.first) > 1
    first_draft, again = canvases.steps[0].best[0].tolist(), canvases.first[1][0].tolist()
    assert all(token in (old, TOKENIZER.mask_id) for token, old in zip(again, first_draft, strict=True))
    assert TOKENIZER.mask_id in again
    assert before[-1].done
