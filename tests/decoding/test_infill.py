"""Filling holes with a tiny random checkpoint: whatever it says, it must say the right way."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_fixtures import EMBEDDED_JUDGE, SOURCE, VOCAB_SIZE, tiny_checkpoint, tiny_infiller, tiny_tokenizer
from test_tokenizer import texts
from torch import Tensor

from dgemma_model.checkpoint import load as checkpoints
from dgemma_model.decoding.sampler import CanvasStep
from dgemma_model.infill import Infiller
from dgemma_model.network.cache import Cache
from dgemma_model.prompt.format import FillVocabulary
from dgemma_model.prompt.suffix_first import SuffixFirst
from dgemma_model.request import Draft, Excerpt, FillRequest, InfillError

TOKENIZER = tiny_tokenizer()
PROMPT_TOKENS = 96  # as in the fixture's dgemma.json
INFILLER = tiny_infiller()
JUDGE = EMBEDDED_JUDGE
"""Used again and again: what is asked before must not matter."""

EXCERPTS = [
    Excerpt("", ""),
    Excerpt("", "\nreturn x\n"),
    Excerpt("def f(self):\n    return ", "\n\n"),
    Excerpt("class A:\n    x = se", "lf\n"),
    Excerpt("if a:\n    ", "\nelse:\n    pass\n"),
    Excerpt("😀 = '", "'\n"),
    Excerpt("x = '<eos><|prefix|>", "<mask>'\n"),
    Excerpt("a = '\ud800", "\udfff'"),
    Excerpt(SOURCE[:700], SOURCE[700:]),
]


def last(infiller: Infiller, excerpt: Excerpt, **knobs: Any) -> Draft:
    *_, draft = infiller.fill(FillRequest(excerpt, **knobs))
    return draft


def without_tokens(drafts: list[Draft]) -> list[tuple[Any, ...]]:
    return [(d.texts, d.step, d.done, d.complete, pytest.approx(d.score, abs=1e-3)) for d in drafts]


# ------------------------------------------------------------------- verified


def written_by_the_causal_head(
    infiller: Infiller, excerpt: Excerpt, max_tokens: int, one_line: bool
) -> tuple[str, bool, list[int]]:
    """Text, whether it ended itself, and ids: one token at a time, the whole prompt read anew for each."""
    prompt = SuffixFirst(TOKENIZER).encode(excerpt, PROMPT_TOKENS)
    written: list[int] = []
    said, ended, free = b"", False, 0
    while free < max_tokens:
        hidden = infiller._checkpoint.network.encode(torch.tensor([prompt.ids + written]), Cache())
        scores = infiller._checkpoint.network.logits(hidden[0, -1]).tolist()
        left = prompt.forced[len(said) :]
        allowed = [
            i
            for i, data in enumerate(TOKENIZER.token_bytes)
            if (not left and (data or i == TOKENIZER.end_id))
            or (left and data and (data.startswith(left) or left.startswith(data)))
        ]
        if prompt.is_indent_settled and left:
            allowed = [i for i in allowed if not TOKENIZER.token_bytes[i][len(left) :][:1].isspace()]
        if one_line and not left:  # all that ends a line is one outcome
            ends = [i for i in allowed if i == TOKENIZER.end_id or TOKENIZER.token_bytes[i].startswith(b"\n")]
            scores[TOKENIZER.end_id] = math.log(sum(math.exp(scores[i]) for i in ends))
        token = max(allowed, key=lambda i: scores[i])
        if token == TOKENIZER.end_id:
            ended = True
            break
        said += TOKENIZER.token_bytes[token]
        free += len(said) > len(prompt.forced)  # healed tokens are given, they do not count
        written.append(token)
        if one_line and b"\n" in said[len(prompt.forced) :]:
            ended = True
            break
    text, _ = FillVocabulary(TOKENIZER, [TOKENIZER.end_id]).read(written, prompt.forced)
    return text.split("\n")[0] if one_line else text, ended, written


@pytest.mark.parametrize("one_line", [False, True])
@pytest.mark.parametrize("excerpt", EXCERPTS)
def test_a_verified_fill_is_what_the_causal_head_writes(excerpt: Excerpt, one_line: bool) -> None:
    text, ended, _ = written_by_the_causal_head(INFILLER, excerpt, 14, one_line)
    for steps, drafting in ((0, None), (None, "none"), (None, "copied"), (None, "denoised"), (3, "both")):
        knobs = {"max_denoising_steps": steps, "drafting": drafting, "verify": True}
        draft = last(INFILLER, excerpt, max_tokens=14, one_line=one_line, **knobs)
        assert (draft.text, draft.complete, draft.done) == (text, ended, True)


def test_the_excerpts_above_are_of_every_sort() -> None:
    """Some fills end, some are cut, some have a line break: else the tests of this file say little."""
    written = [written_by_the_causal_head(INFILLER, excerpt, 14, False) for excerpt in EXCERPTS]
    assert {ended for _, ended, _ in written} == {True, False}
    assert any("\n" in text for text, _, _ in written)
    assert any(len(set(ids)) > 4 for _, _, ids in written)


class Guesses:
    """Drafts that the network did not make: the causal head's own text, with some tokens changed."""

    def __init__(self, written: list[int], prompt_length: int, rng: random.Random, share_wrong: float) -> None:
        self.written, self.prompt_length, self.rng, self.share_wrong = written, prompt_length, rng, share_wrong

    def __call__(self, network: Any, cache: Cache, canvas: Tensor, *_: object) -> Iterator[CanvasStep]:
        done = cache.length - self.prompt_length  # the canvas begins with the last written token, not yet cached
        assert canvas[0, 0].item() == self.written[done]
        rest = [*self.written[done + 1 :], *[TOKENIZER.end_id] * canvas.shape[1]][: canvas.shape[1] - 1]
        wrong = [TOKENIZER.end_id, *range(6, VOCAB_SIZE)]
        rest = [self.rng.choice(wrong) if self.rng.random() < self.share_wrong else token for token in rest]
        best = torch.tensor([[int(canvas[0, 0]), *rest]])
        yield CanvasStep(1, best, best, best > 0, torch.zeros(best.shape), torch.ones(best.shape))


@settings(max_examples=60, deadline=None)
@given(
    number=st.integers(0, len(EXCERPTS) - 1),
    seed=st.integers(0, 999),
    share_wrong=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    limit=st.integers(1, 20),
    one_line=st.booleans(),
)
def test_no_draft_however_good_or_bad_changes_a_verified_fill(
    number: int, seed: int, share_wrong: float, limit: int, one_line: bool
) -> None:
    excerpt = EXCERPTS[number]
    text, ended, written = written_by_the_causal_head(INFILLER, excerpt, limit, one_line)
    guesses = Guesses(
        written, len(SuffixFirst(TOKENIZER).encode(excerpt, PROMPT_TOKENS).ids), random.Random(seed), share_wrong
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dgemma_model.decoding.drafting.denoise", guesses)
        draft = last(INFILLER, excerpt, max_tokens=limit, one_line=one_line, verify=True, drafting="denoised")
    assert (draft.text, draft.complete) == (text, ended)
    if share_wrong == 0.0:
        assert draft.step <= 2 * -(-len(written) // 7) + 1  # the fixture's canvases hold 8 or 16 tokens


@pytest.mark.parametrize("excerpt", [*EXCERPTS, Excerpt("self.a = a\nself.b = b\nself.c = c\nself.a", "\n")])
def test_copies_are_the_same_however_they_are_drafted(excerpt: Excerpt) -> None:
    drafts = [
        last(INFILLER, excerpt, max_tokens=14, max_denoising_steps=steps, drafting="both", verify=True, copy_weight=1.0)
        for steps in (0, 1, 3)
    ]
    assert len({draft.text for draft in drafts}) == 1
    assert [draft.score for draft in drafts] == pytest.approx([drafts[0].score] * 3, abs=1e-4)


def test_verified_drafts_only_grow() -> None:
    for excerpt in EXCERPTS:
        drafts = list(INFILLER.fill(FillRequest(excerpt, max_tokens=14, verify=True)))
        for earlier, later in pairwise(drafts):
            assert later.text.startswith(earlier.text)
            assert later.step >= earlier.step


def test_the_score_is_the_mean_log_probability_of_what_was_free() -> None:
    excerpt = EXCERPTS[0]  # nothing healed
    _, ended, written = written_by_the_causal_head(INFILLER, excerpt, 14, False)
    ids = [*written, *[TOKENIZER.end_id] * ended]
    prompt = SuffixFirst(TOKENIZER).encode(excerpt, PROMPT_TOKENS).ids
    hidden = INFILLER._checkpoint.network.encode(torch.tensor([prompt + ids]), Cache())[0, len(prompt) - 1 : -1]
    chosen = INFILLER._checkpoint.network.logits(hidden).log_softmax(-1)[range(len(ids)), ids]
    assert last(INFILLER, excerpt, max_tokens=14, verify=True).score == pytest.approx(chosen.mean().item(), abs=1e-4)


# ------------------------------------------------------------------ both ways


@pytest.mark.parametrize("verify", [True, False])
@settings(max_examples=12, deadline=None)
@given(prefix=texts, suffix=texts, steps=st.integers(0, 2), seed=st.integers(0, 9))
def test_one_line_is_one_line(verify: bool, prefix: str, suffix: str, steps: int, seed: int) -> None:
    request = FillRequest(
        Excerpt(prefix, suffix), one_line=True, max_tokens=9, max_denoising_steps=steps, verify=verify, seed=seed
    )
    assert not any("\n" in draft.text for draft in INFILLER.fill(request))


@pytest.mark.parametrize("limit", [1, 2, 7])
@pytest.mark.parametrize("excerpt", EXCERPTS)
def test_a_verified_fill_keeps_to_its_limit(excerpt: Excerpt, limit: int) -> None:
    for draft in INFILLER.fill(FillRequest(excerpt, max_tokens=limit, verify=True)):
        assert len([token for token in draft.tokens[0] if token.settled]) <= limit


@pytest.mark.parametrize("verify", [True, False])
def test_a_prompt_far_too_long_is_cut(verify: bool) -> None:
    long = Excerpt(SOURCE * 20, SOURCE * 20)
    near = Excerpt(SOURCE * 2, SOURCE * 2)
    assert PROMPT_TOKENS - 12 < len(SuffixFirst(TOKENIZER).encode(long, PROMPT_TOKENS).ids) <= PROMPT_TOKENS
    assert (
        last(INFILLER, long, verify=verify, max_tokens=8).text == last(INFILLER, near, verify=verify, max_tokens=8).text
    )


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("read", [1, 2, 3])
@pytest.mark.parametrize("close", [True, False])
def test_a_fill_that_is_not_read_to_its_end_leaves_nothing_behind(verify: bool, read: int, close: bool) -> None:
    infiller = tiny_infiller()
    for first, second in ((EXCERPTS[2], EXCERPTS[2]), (EXCERPTS[8], EXCERPTS[4]), (EXCERPTS[3], EXCERPTS[0])):
        begun = infiller.fill(FillRequest(first, max_tokens=14, verify=verify))
        for _, _ in zip(range(read), begun, strict=False):
            pass
        if close:
            begun.close()  # type: ignore[attr-defined]
        request = FillRequest(second, max_tokens=14, verify=verify, max_denoising_steps=3)
        fresh = list(tiny_infiller().fill(request))
        assert without_tokens(list(infiller.fill(request))) == without_tokens(fresh)


@pytest.mark.parametrize("verify", [True, False])
def test_keystrokes_on_one_infiller_are_as_good_as_on_fresh_ones(verify: bool) -> None:
    infiller, before, after = tiny_infiller(), SOURCE[:300], SOURCE[340:500]
    typed = "    def audit(self) -> bool:\n        return True"
    for size in [*range(0, len(typed), 3), 10, 4, len(typed)]:
        request = FillRequest(Excerpt(before + typed[:size], after), max_tokens=6, verify=verify, max_denoising_steps=2)
        assert without_tokens(list(infiller.fill(request))) == without_tokens(list(tiny_infiller().fill(request)))


def test_a_keystroke_costs_what_was_typed_not_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    infiller, encoded = tiny_infiller(), list[int]()
    encode = infiller._checkpoint.network.encode

    def counted(ids: Tensor, cache: Cache, **more: Any) -> Tensor:
        encoded.append(ids.shape[1])
        return encode(ids, cache, **more)

    monkeypatch.setattr(infiller._checkpoint.network, "encode", counted)
    for prefix in ("x = 1\n" * 8 + "ret", "x = 1\n" * 8 + "retu", "x = 1\n" * 8 + "return x"):
        next(infiller.fill(FillRequest(Excerpt(prefix, "\ny = 2\n"), verify=False, max_denoising_steps=1)))
    assert encoded[0] > 30
    assert encoded[1:] == [1, 2]  # the marker; one more token, and the marker


# -------------------------------------------------------------- passes and drafts


@pytest.mark.parametrize("excerpt", EXCERPTS)
@pytest.mark.parametrize("drafting", ["copied", "denoised", "both"])
def test_drafts_never_cost_more_than_a_pass_or_two(excerpt: Excerpt, drafting: Any) -> None:
    knobs = {"max_tokens": 14, "verify": True}
    alone = last(INFILLER, excerpt, drafting="none", **knobs)
    drafted = last(INFILLER, excerpt, drafting=drafting, **knobs)
    assert drafted.text == alone.text
    assert drafted.step <= alone.step + (0 if drafting == "copied" else 1 + alone.step // 2)


def test_text_of_the_prompt_is_copied_for_nothing() -> None:
    """A loop that the head writes by itself is in the prompt from the second round on."""
    longest = max(
        (last(INFILLER, excerpt, max_tokens=30, verify=True, drafting="none") for excerpt in EXCERPTS),
        key=lambda draft: draft.step,
    )
    assert longest.step > 20
    excerpt = next(e for e in EXCERPTS if last(INFILLER, e, max_tokens=30, verify=True, drafting="none") == longest)
    copied = last(INFILLER, excerpt, max_tokens=30, verify=True, drafting="copied")
    assert copied.text == longest.text
    assert copied.step < longest.step * 0.8


# ------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"max_tokens": 0}, "room for one token"),
        ({"candidates": 0}, "not 1 or more"),
        ({"max_denoising_steps": -1}, "not 0 or more"),
        ({"noise_level": 1.5}, "not 0 to 1"),
        ({"noise_level": float("nan")}, "not 0 to 1"),
        ({"budget_ms": -1.0}, "not 0 or more"),
        ({"start": ("a", "b")}, "2 starting texts for 1 holes"),
        ({"excerpt": Excerpt("a", "b", ("x", ""))}, "touch"),
        ({"excerpt": Excerpt("a", "b", ("x",)), "candidates": 2}, "only one hole"),
        ({"excerpt": Excerpt("a", "b", ("x = 1\n" * 150,)), "together": True}, "the model's context has 512"),
        ({"start": ("x = 1\n" * 40,), "noise_level": 0.5}, "the widest canvas 16"),
    ],
)
@pytest.mark.parametrize("verify", [True, False])
def test_what_cannot_be_filled_is_refused_and_the_next_fill_is_fine(
    knobs: dict[str, Any], words: str, verify: bool
) -> None:
    infiller = tiny_infiller()
    with pytest.raises(InfillError, match=words):
        list(infiller.fill(FillRequest(**{"excerpt": EXCERPTS[2], "verify": verify} | knobs)))
    request = FillRequest(EXCERPTS[2], max_tokens=8, verify=verify)
    assert without_tokens(list(infiller.fill(request))) == without_tokens(list(tiny_infiller().fill(request)))


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("fails_in", ["encode", "decode", "logits"])
@pytest.mark.parametrize("after", [0, 1])
def test_a_device_that_fails_costs_one_fill(verify: bool, fails_in: str, after: int) -> None:
    infiller = tiny_infiller()
    network = infiller._checkpoint.network
    request = FillRequest(EXCERPTS[8], max_tokens=14, verify=verify, drafting="denoised", entropy_bound=1e-9)
    list(infiller.fill(request))
    calls = 0
    works = getattr(network, fails_in)

    def failing(*arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > after:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore of it")
        return works(*arguments, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, fails_in, failing)
        if verify and fails_in == "decode" and after:
            list(infiller.fill(request))  # no second draft was asked for
        else:
            with pytest.raises(
                InfillError, match=r"failed on cpu: CUDA error: an illegal memory access was enc[a-z]*; "
            ):
                list(infiller.fill(request))
            assert infiller._caches.nbytes == 0
    assert without_tokens(list(infiller.fill(request))) == without_tokens(list(tiny_infiller().fill(request)))


def test_ids_that_only_the_network_knows_are_never_said() -> None:
    """Its vocabulary may be rounded up."""
    directory = tiny_checkpoint(vocab_size=VOCAB_SIZE + 40)
    loaded = checkpoints.load(directory, torch.device("cpu"), torch.float32)
    loaded.network.embed_tokens.weight[VOCAB_SIZE:] *= 3.0
    infiller = Infiller(loaded, torch.device("cpu"))
    for verify in (True, False):
        for excerpt in EXCERPTS[:5]:
            assert last(infiller, excerpt, verify=verify, max_tokens=12).done


def test_an_infiller_says_what_it_is() -> None:
    assert (INFILLER.name, INFILLER.device, INFILLER.languages) == ("tiny", "cpu", None)
    assert Infiller.load(str(tiny_checkpoint()), "cpu").name == "tiny"
