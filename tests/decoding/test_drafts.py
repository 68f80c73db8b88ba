"""What a drafter network proposes is checked: the text is what the writer writes token by token, whoever drafts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from qwen2_fixtures import tiny_drafter, write_gguf
from test_end_probe import MEAN_LOST

from dgemma_model.checkpoint import load
from dgemma_model.checkpoint.contract import Checkpoint
from dgemma_model.checkpoint.converted import convert
from dgemma_model.decoding.causal import next_token_logits
from dgemma_model.decoding.drafting import CopyDrafter
from dgemma_model.decoding.end_probe import END_FIGURES
from dgemma_model.decoding.prompt_cache import CachedPrompt
from dgemma_model.infill import Infiller
from dgemma_model.network.cache import Cache
from dgemma_model.network.contract import DrafterNetwork, Proposal
from dgemma_model.network.int8 import Int8Weights
from dgemma_model.network.qwen2_served import ServedQwen2
from dgemma_model.network.state_drafter_served import DrafterTensors, ServedStateDrafter, served_weights
from dgemma_model.project.copy_model import PromptCopies
from dgemma_model.request import Draft, DraftToken, Excerpt, FillRequest

PIECES = [
    "def add(a, b):\n    return ",
    "total = 0\n",
    "for name in ",
    "x",
    "(",
    ")\n",
    "\n\n",
    "self.",
    "  ",
    "é",
    "= ",
]
CPU = torch.device("cpu")


def weights_of_ends(figures: dict[int, float]) -> list[float]:
    """Weights of a probe of ends that uses these figures only, for both kinds of places."""
    return 2 * [figures.get(number, 0.0) for number in range(END_FIGURES)]


ENDS = [None, *map(weights_of_ends, ({0: -9.0}, {0: -1.0}, {0: -1.0, MEAN_LOST: 0.02}, {1: 0.1, MEAN_LOST: 0.3}))]


@cache
def writer() -> Checkpoint:
    """A tiny random one, all of whose products are in float32."""
    folder = Path(mkdtemp())
    write_gguf(folder / "model.gguf")
    convert(folder / "model.gguf", folder / "model")
    checkpoint = load.load(folder / "model", CPU, torch.float32)
    assert isinstance(checkpoint.network, ServedQwen2)
    weights = Int8Weights(checkpoint.network.weights.tensors, torch.float32)
    return replace(checkpoint, network=ServedQwen2(checkpoint.network.config, weights))


def with_drafter(
    drafter: DrafterNetwork | None, network: ServedQwen2 | None = None, ends: Sequence[float] | None = None
) -> Infiller:
    policy = replace(writer().policy, ends=None if ends is None else tuple(ends))
    checkpoint = replace(writer(), drafter=drafter, policy=policy)
    return Infiller(checkpoint if network is None else replace(checkpoint, network=network), CPU)


@cache
def random_drafter() -> ServedStateDrafter:
    """One that reads the writer's states and has learnt nothing."""
    ids, network = torch.arange(3, 403, 2), writer().network
    assert isinstance(network, ServedQwen2)
    drafter = tiny_drafter(len(ids))
    tensors = DrafterTensors(served_weights(drafter, ids), network)
    return ServedStateDrafter(drafter.config, Int8Weights(tensors, torch.float32), network)


class Hostile:
    """Proposes what the writer writes, with some tokens changed, and any number of them."""

    def __init__(self, written: Sequence[int], rng: random.Random, share_wrong: float) -> None:
        self.written, self.rng, self.share_wrong = written, rng, share_wrong
        self.calls = 0

    def draft(self, cache: Cache, token: int) -> Proposal:
        self.calls += 1
        places = [at for at, other in enumerate(self.written) if other == token] or [0]
        start = self.rng.choice(places) + 1
        count = self.rng.choice([0, 1, 3, 7, 30])
        rest = [*self.written[start : start + count], *self.rng.choices(range(404), k=count)][:count]
        said = [self.rng.randrange(404) if self.rng.random() < self.share_wrong else other for other in rest]
        others = [[(self.rng.choice(self.written), self.rng.choice([0.01, 0.5]))] * self.rng.randrange(3) for _ in said]
        return Proposal(said, [self.rng.choice([0.1, 0.9, 1.0]) for _ in said], others)


def last(infiller: Infiller, excerpt: Excerpt, **knobs: Any) -> Draft:
    *_, draft = infiller.fill(FillRequest(excerpt, **knobs))
    return draft


def same(draft: Draft, alone: Draft) -> bool:
    close = draft.score == pytest.approx(alone.score, abs=1e-4)
    return close and (draft.text, draft.complete, draft.done) == (alone.text, alone.complete, alone.done)


excerpts = st.builds(
    Excerpt,
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=12).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=3).map("".join),
)


@settings(max_examples=60, deadline=None)
@given(
    excerpt=excerpts,
    seed=st.integers(0, 999),
    share_wrong=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    limit=st.integers(1, 24),
    one_line=st.booleans(),
    drafting=st.sampled_from(["denoised", "both"]),
    ends=st.sampled_from(ENDS),
)
def test_no_drafter_however_good_or_hostile_changes_a_fill(
    excerpt: Excerpt, seed: int, share_wrong: float, limit: int, one_line: bool, drafting: str, ends: list[float] | None
) -> None:
    knobs: dict[str, Any] = {"max_tokens": limit, "one_line": one_line}
    alone = last(with_drafter(None, ends=ends), excerpt, drafting="none", **knobs)
    ids = writer().tokenizer.encode(excerpt.prefix + alone.text)
    hostile = Hostile(ids, random.Random(seed), share_wrong)
    drafted = last(with_drafter(hostile, ends=ends), excerpt, drafting=drafting, **knobs)
    assert same(drafted, alone)
    assert drafted.step <= alone.step


@settings(max_examples=30, deadline=None)
@given(excerpt=excerpts, limit=st.integers(1, 24), one_line=st.booleans())
def test_a_drafter_fed_with_states_changes_no_fill(excerpt: Excerpt, limit: int, one_line: bool) -> None:
    knobs: dict[str, Any] = {"max_tokens": limit, "one_line": one_line}
    alone = last(with_drafter(None), excerpt, drafting="none", **knobs)
    fed = with_drafter(random_drafter(), random_drafter().writer)
    for _ in range(2):  # the second fill finds its prompt cached
        assert same(last(fed, excerpt, drafting="both", **knobs), alone)


@cache
def rounded_writer() -> Checkpoint:
    """The same as it is served, with products in 8 bits."""
    return replace(writer(), network=load.load(writer().directory, CPU, torch.float32).network)


@settings(max_examples=40, deadline=None)
@given(excerpt=excerpts, seed=st.integers(0, 999), share_wrong=st.sampled_from([0.0, 0.1, 0.5]))
def test_in_8_bits_a_drafter_changes_a_fill_at_near_ties_only(excerpt: Excerpt, seed: int, share_wrong: float) -> None:
    alone = last(Infiller(rounded_writer(), CPU), excerpt, drafting="none", max_tokens=24)
    tokenizer = writer().tokenizer
    hostile = Hostile(tokenizer.encode(excerpt.prefix + alone.text), random.Random(seed), share_wrong)
    infiller = Infiller(replace(rounded_writer(), drafter=hostile), CPU)
    drafted = last(infiller, excerpt, drafting="both", max_tokens=24)
    if drafted.text != alone.text:
        with infiller._prompted(excerpt) as opened:
            healed = opened.prompt.forced.decode()
            ids = [[*tokenizer.encode(healed + draft.text), tokenizer.end_id] for draft in (alone, drafted)]
            common = next(at for at, (a, b) in enumerate(zip(*ids, strict=False)) if a != b)
            logits, paths = next_token_logits(opened.cached, opened.prompt.ids, [ids[0][:common]])
        scores = logits[paths[0][-1]]
        assert abs(scores[ids[0][common]] - scores[ids[1][common]]) < 0.08 * scores.std()


class Listens:
    """Proposes nothing, and hears each token that is written, but for the last."""

    def __init__(self) -> None:
        self.heard: list[int] = []

    def draft(self, cache: Cache, token: int) -> Proposal:
        self.heard.append(token)
        return Proposal()


class Knows:
    """Proposes the next seven tokens."""

    def __init__(self, written: Sequence[int]) -> None:
        self.written, self.prompt = written, 0

    def draft(self, cache: Cache, token: int) -> Proposal:
        self.prompt = self.prompt or cache.length
        at = cache.length - self.prompt
        assert self.written[at] == token
        following = list(self.written[at + 1 : at + 8])
        return Proposal(following, [1.0] * len(following))


def test_a_drafter_that_knows_saves_passes() -> None:
    excerpt = Excerpt("def add(a, b):\n    return ", "\n")
    alone = last(with_drafter(listener := Listens()), excerpt, drafting="denoised", max_tokens=40)
    drafted = last(with_drafter(Knows(listener.heard)), excerpt, drafting="denoised", max_tokens=40)
    assert alone.step > 8 and same(drafted, alone)
    assert drafted.step <= 2 + -(-alone.step // 8)


class Beyond:
    """Proposes tokens of several lines."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = list(ids)

    def draft(self, cache: Cache, token: int) -> Proposal:
        return Proposal(self.ids, [1.0] * len(self.ids))


@pytest.mark.parametrize(("one_line", "checked"), [(True, 6), (False, 13)])
def test_of_a_line_nothing_after_its_end_is_checked(
    one_line: bool, checked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, read = writer().tokenizer.encode("a.b(c)\nd.e(f)"), list[int]()
    assert len(ids) == 13
    append = CachedPrompt.append

    def heard(self: CachedPrompt, ids: Sequence[int], last: int | None = None) -> torch.Tensor:
        read.append(len(ids))
        return append(self, ids, last)

    monkeypatch.setattr(CachedPrompt, "append", heard)
    drafter = with_drafter(Beyond(ids))
    last(drafter, Excerpt("total = ", "\n"), drafting="denoised", one_line=one_line, max_tokens=30)
    assert len(read) > 2 and max(read[1:]) == 1 + checked


class Wrong:
    """Proposes what the writer does not write."""

    def __init__(self) -> None:
        self.calls = 0

    def draft(self, cache: Cache, token: int) -> Proposal:
        self.calls += 1
        return Proposal([self.calls % 7 + 3], [1.0])


def test_a_drafter_that_saves_nothing_is_asked_now_and_then_only() -> None:
    infiller, excerpt, calls, passes = with_drafter(wrong := Wrong()), Excerpt("total = ", "\n"), 0, 0
    for _ in range(12):
        calls = wrong.calls
        passes = last(infiller, excerpt, drafting="denoised", max_tokens=40).step
    assert passes > 8 and wrong.calls > 10
    assert wrong.calls - calls <= 0.25 * passes


@pytest.mark.parametrize("drafting", ["none", "copied"])
def test_a_drafter_is_not_asked_where_nothing_is_to_be_denoised(drafting: Any) -> None:
    hostile = Hostile([1, 2, 3], random.Random(0), 1.0)
    last(with_drafter(hostile), Excerpt("total = ", "\n"), drafting=drafting, max_tokens=12)
    assert hostile.calls == 0


@settings(max_examples=60, deadline=None)
@given(excerpt=excerpts, seed=st.integers(0, 2**16), share_wrong=st.floats(0.0, 1.0), limit=st.integers(1, 24))
def test_each_pass_says_what_was_drafted_and_what_became_of_it(
    excerpt: Excerpt, seed: int, share_wrong: float, limit: int
) -> None:
    alone = last(with_drafter(None), excerpt, drafting="none", max_tokens=limit)
    hostile = Hostile(writer().tokenizer.encode(excerpt.prefix + alone.text), random.Random(seed), share_wrong)
    request = FillRequest(excerpt, drafting="both", max_tokens=limit)
    shown: tuple[DraftToken, ...] = ()
    for draft in with_drafter(hostile).fill(request):
        check, tokens = draft.check, draft.tokens[0]
        if draft.step and not draft.done:
            assert check is not None
            shown = shown if len(tokens) > check.written else ()  # a text that repeats the suffix is written anew
            assert tokens[: len(shown)] == shown
            new = tokens[len(shown) :]
            assert len(new) == check.written <= len(check.drafted) + 1
            assert (check.drafted_by is None) == (check.drafted == ())
            assert 0 <= check.accepted <= len(check.drafted)
            by = [token.drafted_by for token in new]
            accepted = sum(one is not None for one in by)
            assert by == [check.drafted_by] * accepted + [None] * (len(new) - accepted)
            assert accepted <= check.accepted and len(new) - accepted <= 1
            shown = tokens


def test_who_drafted_is_told() -> None:
    excerpt = Excerpt("def add(a, b):\n    return ", "\n")
    last(with_drafter(listener := Listens()), excerpt, drafting="denoised", max_tokens=40)
    request = FillRequest(excerpt, drafting="denoised", max_tokens=40)
    checks = [draft.check for draft in with_drafter(Knows(listener.heard)).fill(request) if draft.check is not None]
    assert max(check.accepted for check in checks) == 7
    assert {check.drafted_by for check in checks} == {None, "drafter"}


# ------------------------------------------- a writer that never learnt to denoise


@pytest.mark.parametrize("one_line", [False, True])
def test_a_writer_denoises_where_it_is_asked_to(one_line: bool) -> None:
    request = FillRequest(Excerpt("total = ", "\n"), denoise=True, max_denoising_steps=3, one_line=one_line)
    drafts = list(with_drafter(None).fill(request))
    assert drafts[-1].done and all(draft.check is None for draft in drafts)
    assert any(not token.settled for draft in drafts for token in draft.tokens[0])
    assert not (one_line and "\n" in drafts[-1].text)


def test_several_holes_of_a_writer_in_one_canvas() -> None:
    excerpt = Excerpt("a = ", "\n", ("\nb = ", "\nc = "))
    knobs: dict[str, Any] = {"max_denoising_steps": 2, "one_line": True, "max_tokens": 16, "together": True}
    drafts = list(with_drafter(None).fill(FillRequest(excerpt, denoise=True, **knobs)))
    assert drafts[-1].done and len(drafts[-1].texts) == 3
    first = next(draft for draft in drafts if draft.step == 1)
    assert all(first.tokens), "the first pass is over all the holes"
    alone = list(with_drafter(None).fill(FillRequest(excerpt, **knobs)))  # whoever does not ask for it
    first = next(draft for draft in alone if draft.step == 1)
    assert first.tokens[1:] == ((), ()), "one after the other"


def test_a_text_is_repaired_by_a_writer_that_denoises() -> None:
    excerpt, start = Excerpt("total = ", "\n"), "x + y"
    kept = last(with_drafter(None), excerpt, denoise=True, start=(start,), noise_level=0.0, max_denoising_steps=1)
    fresh = last(with_drafter(None), excerpt, denoise=True, start=(start,), noise_level=1.0, max_denoising_steps=1)
    assert kept.text != fresh.text


class Second:
    """Proposes what is written, and says that it is hardly likely; copies say something else."""

    def __init__(self, written: Sequence[int]) -> None:
        self.written, self.prompt = written, 0

    def draft(self, cache: Cache, token: int) -> Proposal:
        self.prompt = self.prompt or cache.length
        at = cache.length - self.prompt
        assert self.written[at] == token, "the cache holds what was written of the accepted branch"
        following = list(self.written[at + 1 : at + 4])
        return Proposal(following, [0.3] * len(following))


def test_a_branch_that_is_accepted_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    excerpt = Excerpt("def add(a, b):\n    return ", "\n")
    alone = last(with_drafter(listener := Listens()), excerpt, drafting="denoised", max_tokens=40)
    monkeypatch.setattr(PromptCopies, "continuation", lambda self: (2, [9, 9, 9]))
    second, rows = Second(listener.heard), list[int]()
    append = CachedPrompt.append_tree

    def heard(self: CachedPrompt, ids: Sequence[int], texts: Sequence[Sequence[int]]) -> Any:
        rows.append(len(texts))
        return append(self, ids, texts)

    told = list[int | None]()
    monkeypatch.setattr(CopyDrafter, "checked", lambda self, written, agreed: told.append(agreed))
    monkeypatch.setattr(CachedPrompt, "append_tree", heard)
    drafts = list(with_drafter(second).fill(FillRequest(excerpt, drafting="both", max_tokens=40)))
    assert same(drafts[-1], alone) and drafts[-1].step < alone.step / 2
    assert rows == [2] * len(rows) and len(rows) > 2
    assert told.count(0) >= len(rows) and not any(told), "copies are told that they were wrong"
    assert "drafter" in {token.drafted_by for token in drafts[-1].tokens[0]}
