"""Fills by several widths at once, with a random checkpoint in the published layout."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from gemma_fixtures import SPECIAL, gemma_infiller, gemma_tokenizer
from model_fixtures import SOURCE, worst

from dgemma_model.decoding.plan import plan_for
from dgemma_model.decoding.prompt_cache import CachedPrompt, OpenPrompt
from dgemma_model.decoding.sampler import Sampling, denoise
from dgemma_model.decoding.width_search import LEAD_TOKENS, WidthSearch
from dgemma_model.infill import Infiller
from dgemma_model.network.cache import Cache
from dgemma_model.request import Draft, Excerpt, FillRequest

TOKENIZER = gemma_tokenizer()
EXCERPT = Excerpt(SOURCE[:200], SOURCE[230:], file_name="bank.py")
TWO_HOLES = Excerpt("def f(a):\n    b = ", "\n", ("\n    # 漢 <turn|>\n    return ",))
REQUEST = FillRequest(EXCERPT, max_denoising_steps=3, max_tokens=16)


def search_of(infiller: Infiller, excerpt: Excerpt) -> WidthSearch:
    """A search for the excerpt, exactly whose prompt is cached."""
    checkpoint = infiller._checkpoint
    plan = plan_for(
        FillRequest(excerpt, max_denoising_steps=3), checkpoint.policy, checkpoint.sampler, ends_holes=False
    )
    prompt = checkpoint.format.encode(excerpt, 1024)
    cached = CachedPrompt(checkpoint.network, Cache(), [])
    cached.append(prompt.ids, last=0)
    opened = OpenPrompt(cached, prompt, checkpoint.format.vocabulary)
    sampling = Sampling(plan.sampler, infiller._noise, torch.Generator().manual_seed(0))
    return WidthSearch(checkpoint, opened, excerpt, plan, sampling)


def last(drafts: Iterator[Draft]) -> Draft:
    *_, draft = drafts
    return draft


@pytest.mark.parametrize("excerpt", [EXCERPT, TWO_HOLES, Excerpt("", ""), Excerpt("", "\n", ("x", " ", "y"))])
@pytest.mark.parametrize("one_line", [True, False])
def test_holes_are_filled(excerpt: Excerpt, one_line: bool) -> None:
    drafts = list(gemma_infiller().fill(replace(REQUEST, excerpt=excerpt, one_line=one_line)))
    assert [draft.done for draft in drafts] == [False] * (len(drafts) - 1) + [True]
    final = drafts[-1]
    assert final.complete and len(final.texts) == len(final.tokens) == excerpt.hole_count
    assert any(final.texts) and -100 < final.score < 0
    for text in final.texts:
        assert len(TOKENIZER.encode(text)) > 0 or text == ""
        assert not one_line or "\n" not in text
        assert not any(name in text for name in SPECIAL)


@pytest.mark.parametrize("max_tokens", [1, 3, 9])
def test_a_fill_is_not_longer_than_asked_for(max_tokens: int) -> None:
    final = last(gemma_infiller().fill(replace(REQUEST, max_tokens=max_tokens)))
    assert len(final.tokens[0]) <= max_tokens + 1  # the healed token comes on top


def test_the_same_seed_gives_the_same_drafts() -> None:
    one, again, other = (
        [draft.texts for draft in gemma_infiller().fill(replace(REQUEST, seed=seed))] for seed in (1, 1, 2)
    )
    assert one == again != other


def test_half_a_fill_leaves_the_next_one_as_it_would_have_been() -> None:
    infiller = gemma_infiller()
    whole = [draft.texts for draft in infiller.fill(REQUEST)]
    half = infiller.fill(REQUEST)
    next(half)
    next(half)
    half.close()
    again = [draft.texts for draft in infiller.fill(REQUEST)]
    assert again[-3:] == whole[-3:]  # with fewer empty drafts while the prompt is read


def test_no_steps_give_an_empty_fill() -> None:
    final = last(gemma_infiller().fill(replace(REQUEST, max_denoising_steps=0)))
    assert final.done and final.texts == ("",)


def test_pinned_text_is_untouched_in_every_step() -> None:
    search = search_of(gemma_infiller(), TWO_HOLES)
    layouts = search._layouts()[:2]
    assert len(layouts[0].ids) == len(layouts[1].ids) and layouts[0].hole_slices != layouts[1].hole_slices
    pinned = torch.tensor([layout.pinned for layout in layouts])
    given = torch.tensor([layout.ids for layout in layouts])
    generator = torch.Generator().manual_seed(0)
    shared = search.opened.cached.cache.repeated(2)
    network, sampling = search.checkpoint.network, search.sampling
    steps = list(denoise(network, shared, given, pinned, sampling.config, sampling.noise, generator))
    assert len(steps) == 3
    for step in steps:
        assert bool((step.best == given)[pinned].all()) and bool((step.next_canvas == given)[pinned].all())
        assert bool((step.best != given)[~pinned].any())


# ----------------------------------------------------------------- comparing


def criterion(infiller: Infiller, excerpt: Excerpt, texts: tuple[str, ...]) -> tuple[float, float]:
    """The mean log-probability of the holes' tokens, and its average with the tokens after them, from one new pass."""
    written = infiller._checkpoint.format
    prompt = written.encode(excerpt, 1024)
    ids, own = list(prompt.ids), list[int]()
    for number, text in enumerate(texts):
        ids += TOKENIZER.encode(excerpt.between[number - 1]) if number else []
        forced = "" if number else prompt.forced.decode()
        said = TOKENIZER.encode(forced + text)
        sizes = itertools.accumulate(len(TOKENIZER.decode([i])) for i in said)
        healed = sum(size <= len(forced) for size in sizes)
        own += range(len(ids) + healed, len(ids) + len(said))
        ids += said
    following = written.after(excerpt)[:LEAD_TOKENS]
    ids += following
    hidden = infiller._checkpoint.network.encode(torch.tensor([ids]), Cache())
    log_probabilities = infiller._checkpoint.network.logits(hidden[0]).log_softmax(-1)
    each = [float(log_probabilities[at - 1, ids[at]]) for at in range(1, len(ids))]
    lead = sum(each[-len(following) :]) / len(following)
    inner = sum(each[at - 1] for at in own) / len(own) if own else lead
    return inner, (inner + lead) / 2


@pytest.mark.parametrize(
    ("excerpt", "candidates"),
    [
        (EXCERPT, [("",), ("self.x",), (" = total(result, self)\n        return amount",), ("self.x",)]),
        (TWO_HOLES, [("", ""), ("a", "b"), ("a + 1", ""), ("", "balance.owner"), ("owner", "\n\n")]),
        (Excerpt("", ""), [("",), ("x",), ("amount: int",)]),
    ],
)
def test_the_best_is_the_likeliest_for_its_length(excerpt: Excerpt, candidates: list[tuple[str, ...]]) -> None:
    infiller = gemma_infiller()
    expected = {texts: criterion(infiller, excerpt, texts) for texts in candidates}
    winner = max(expected, key=lambda texts: expected[texts][1])
    search = search_of(infiller, excerpt)
    for order in (candidates, candidates[::-1]):
        best = search._best([Draft(texts, 1) for texts in order])
        assert best.texts == winner
        assert best.score == pytest.approx(expected[winner][0], abs=1e-3)
    for texts in candidates:  # alone, each has its own score
        alone = search._best([Draft(texts, 1)])
        assert alone.score == pytest.approx(expected[texts][0], abs=1e-3)


@torch.no_grad()
def test_a_repeated_cache_is_the_same_prompt_in_every_row_and_leaves_the_first_alone() -> None:
    network = gemma_infiller()._checkpoint.network
    prompt, more = torch.randint(300, (1, 70)), torch.randint(300, (3, 9))
    cache = Cache()
    network.encode(prompt, cache)
    decoded = network.decode(more, cache.repeated(3))
    shared = cache.repeated(3)
    together = network.encode(more, shared)
    assert (cache.length, shared.length) == (70, 79)
    for row in range(3):
        own = Cache()
        network.encode(prompt, own)
        assert worst(decoded[row], network.decode(more[row : row + 1], own)[0]) < 1e-4
        assert worst(together[row], network.encode(more[row : row + 1], own)[0]) < 1e-4
    assert worst(cache.layer(0)[0], own.layer(0)[0][:, :, :70]) == 0
