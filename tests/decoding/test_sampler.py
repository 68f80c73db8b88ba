"""The sampler against the reference's, against a naive loop, and its laws."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_fixtures import random_network, tiny_config
from torch import Tensor
from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
    EntropyBoundSampler,
    EntropyBoundSamplerConfig,
    LinearTemperatureScheduleLogitsProcessor,
)

from dgemma_model.checkpoint.config import SamplerConfig
from dgemma_model.decoding import sampler
from dgemma_model.decoding.sampler import (
    BLOCK,
    CanvasStep,
    LogitReading,
    Noise,
    accept_and_renoise,
    denoise,
    read_logits,
    temperature,
)
from dgemma_model.network.cache import Cache
from dgemma_model.network.diffusion_gemma import Network

VOCAB = 40
NETWORK = random_network(tiny_config(vocab_size=VOCAB))


def prompt_cache(length: int = 9) -> Cache:
    cache = Cache()
    with torch.inference_mode():
        NETWORK.encode(torch.randint(VOCAB, (1, length), generator=seeded(0)), cache)
    return cache


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batched(cache: Cache, batch: int) -> Cache:
    """One prompt for several canvases."""
    wide = Cache()
    wide.length = cache.length
    pairs = [cache.layer(index) for index in range(len(NETWORK.layers))]
    wide._keys = [keys.expand(batch, -1, -1, -1) for keys, _ in pairs]
    wide._values = [values.expand(batch, -1, -1, -1) for _, values in pairs]
    return wide


# ------------------------------------------------------------- the reference


@st.composite
def sampler_states(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    """Logits [B, L, V] (some of them pinned or forbidden), canvas, sampled and renoise ids, and an entropy bound."""
    batch, length = draw(st.integers(1, 3)), draw(st.integers(1, 12))
    generator = seeded(draw(st.integers(0, 2**32)))
    spread = draw(st.sampled_from([0.0, 0.3, 3.0, 30.0]))
    logits = torch.randn(batch, length, VOCAB, generator=generator) * spread
    logits[torch.rand(logits.shape, generator=generator) < draw(st.sampled_from([0.0, 0.5]))] = -torch.inf
    logits[..., 0] = 0.0  # at least one token is allowed
    pinned = torch.rand(batch, length, generator=generator) < draw(st.sampled_from([0.0, 0.4]))
    logits[pinned] = torch.where(torch.arange(VOCAB) == 7, 0.0, -torch.inf)
    canvas, sampled, noise = torch.randint(VOCAB, (3, batch, length), generator=generator)
    return logits, canvas, sampled, noise, draw(st.sampled_from([1e-6, 0.1, 1.0, 5.0, 1000.0]))


@given(state=sampler_states())
def test_acceptance_and_renoising_equal_the_reference(state: tuple[Tensor, Tensor, Tensor, Tensor, float]) -> None:
    logits, canvas, sampled, noise, bound = state
    reference = EntropyBoundSampler(EntropyBoundSamplerConfig(bound), canvas.shape[1], VOCAB, 1)
    accepted_canvas = reference.accept_canvas(canvas, sampled, logits, 1)
    with patch.object(EntropyBoundSampler, "initialize_canvas", lambda self, batch, device: noise):
        renoised = reference.renoise_canvas(accepted_canvas, 1)
    ours, accepted = accept_and_renoise(sampled, reference_entropy(logits), noise, bound)
    assert torch.equal(accepted, reference.accepted_token_mask)
    assert torch.equal(ours, renoised)


def reference_entropy(logits: Tensor) -> Tensor:
    return torch.distributions.Categorical(logits=logits, validate_args=False).entropy()


def read(logits: Tensor, first: float = 0.5, second: float = 0.5) -> LogitReading:
    """One look at [N, V] logits, which stay as they are."""
    return read_logits(logits.clone(), torch.tensor([[first], [second]]).expand(2, len(logits)))


@given(state=sampler_states())
def test_entropies_and_drafts_equal_the_reference_and_are_finite(
    state: tuple[Tensor, Tensor, Tensor, Tensor, float],
) -> None:
    logits = state[0].flatten(0, 1)
    reading, probabilities = read(logits), logits.softmax(-1)
    assert torch.allclose(reading.entropy.double(), reference_entropy(logits.double()), rtol=1e-5, atol=1e-6)
    assert torch.equal(reading.best, logits.argmax(-1))
    assert torch.allclose(reading.confidence, probabilities.max(-1).values)
    assert bool(torch.isfinite(reading.entropy).all())
    in_place = logits.clone()
    read_logits(in_place, torch.rand(2, len(logits)))
    assert torch.allclose(in_place, probabilities, atol=1e-7)


def test_the_entropy_of_what_is_known() -> None:
    certain = torch.where(torch.arange(VOCAB) == 3, 0.0, -torch.inf)
    coin = torch.where(torch.arange(VOCAB) < 2, 5.0, -torch.inf)
    entropy = read(torch.stack((certain, coin, torch.zeros(VOCAB)))).entropy.tolist()
    assert entropy[0] == 0.0
    assert entropy == pytest.approx([0.0, 0.6931472, 3.6888795])


@pytest.mark.parametrize("vocabulary", [VOCAB, 4 * BLOCK])
def test_samples_have_the_probabilities_they_should(vocabulary: int) -> None:
    logits = torch.randn(vocabulary, generator=seeded(0)) * 2
    logits[::3] = -torch.inf
    probabilities, count = logits.softmax(-1), 40_000
    uniform = torch.rand(2, count, generator=seeded(1))
    drawn = read_logits(logits.repeat(count, 1), uniform).sampled
    seen = torch.bincount(drawn, minlength=vocabulary)
    assert bool((seen[probabilities == 0] == 0).all())
    sure = 5 * (count * probabilities * (1 - probabilities)).sqrt()
    assert bool(((seen - count * probabilities).abs() <= sure + 1).all())


@given(
    first=st.floats(0, 1, exclude_max=True, width=32),
    second=st.floats(0, 1, exclude_max=True, width=32),
    allowed=st.sets(st.integers(0, 4 * BLOCK - 1), min_size=1, max_size=5),
    spread=st.sampled_from([0.0, 1.0, 60.0]),
)
def test_what_is_forbidden_is_never_drawn(first: float, second: float, allowed: set[int], spread: float) -> None:
    logits = torch.full((1, 4 * BLOCK), -torch.inf)
    logits[0, list(allowed)] = spread * torch.randn(len(allowed), generator=seeded(0))
    assert int(read(logits, first, second).sampled) in allowed


def test_a_large_vocabulary_is_read_in_parts() -> None:
    logits, uniform = torch.randn(7, 128), torch.rand(2, 7)
    whole, parts = logits.clone(), logits.clone()
    once = read_logits(whole, uniform)
    with patch.object(sampler, "READ_AT_ONCE", 2 * 128):
        again = read_logits(parts, uniform)
    assert torch.equal(whole, parts)
    for name in ("best", "confidence", "entropy", "sampled"):
        assert torch.equal(getattr(once, name), getattr(again, name))


def test_the_most_certain_positions_are_accepted_up_to_the_bound() -> None:
    entropy = torch.tensor([[0.5, 0.0, 0.2, 0.09, 2.0]])
    sampled, noise = torch.zeros(2, 1, 5, dtype=torch.int64) + torch.arange(2)[:, None, None]
    for bound, expected in ((0.05, [1, 3]), (0.1, [1, 2, 3]), (0.3, [0, 1, 2, 3]), (1.0, [0, 1, 2, 3, 4])):
        after, accepted = accept_and_renoise(sampled, entropy, noise, bound)
        assert accepted[0].nonzero().flatten().tolist() == expected
        assert after[0].tolist() == [0 if i in expected else 1 for i in range(5)]


@pytest.mark.parametrize("steps", [1, 2, 7, 48])
def test_temperatures_equal_the_reference(steps: int) -> None:
    config = SamplerConfig(max_denoising_steps=steps, t_min=0.3, t_max=0.9)
    reference = LinearTemperatureScheduleLogitsProcessor(0.3, 0.9, steps)
    scores = torch.randn(1, 4, VOCAB)
    for steps_left in range(steps, 0, -1):
        theirs = reference(torch.empty(0), scores, torch.tensor(steps_left, dtype=torch.int32))
        assert torch.allclose(scores / temperature(config, steps_left), theirs, rtol=1e-6)
    assert temperature(config, steps) == pytest.approx(0.9)
    assert temperature(config, 1) == pytest.approx(0.3 + 0.6 / steps)


# ------------------------------------------------------------------ the loop


def naive_loop(
    network: Network, cache: Cache, canvas: Tensor, pinned: Tensor, config: SamplerConfig, generator: torch.Generator
) -> list[tuple[list[list[int]], list[list[int]]]]:
    """(draft, next canvas) after each step, position by position, in the words of the published description."""
    batch, length = canvas.shape
    given_ids, states, expected = canvas.tolist(), [], None
    for steps_left in range(config.max_denoising_steps, 0, -1):
        scores = network.logits(network.decode(canvas, cache, expected=expected))
        scores = scores / (config.t_min + (config.t_max - config.t_min) * steps_left / config.max_denoising_steps)
        for row in range(batch):
            for position in range(length):
                if pinned[row, position]:
                    scores[row, position] = -torch.inf
                    scores[row, position, given_ids[row][position]] = 0.0
        probabilities = scores.softmax(-1)
        uniform = torch.rand(2, batch * length, generator=generator)[1].view(batch, length, 1)  # one block: the second
        sampled = (probabilities.cumsum(-1) <= uniform).sum(-1).clamp(max=VOCAB - 1)
        noise = torch.randint(VOCAB, (batch, length), generator=generator)
        best, following = [], []
        for row in range(batch):
            entropies = [reference_entropy(scores[row, position]).item() for position in range(length)]
            spent, accepted = 0.0, set()
            for position in sorted(range(length), key=lambda at: entropies[at]):
                if spent > config.entropy_bound:
                    break
                accepted.add(position)
                spent += entropies[position]
            best.append(scores[row].argmax(-1).tolist())
            following.append(
                [
                    given_ids[row][at] if pinned[row, at] else int((sampled if at in accepted else noise)[row, at])
                    for at in range(length)
                ]
            )
        states.append((best, following))
        canvas = torch.tensor(following)
        expected = network.expected_embeddings(scores)
    return states


@pytest.mark.parametrize(("batch", "steps", "bound"), [(1, 1, 0.1), (1, 5, 0.5), (2, 4, 3.0)])
@torch.inference_mode()
def test_denoising_equals_a_naive_loop(batch: int, steps: int, bound: float) -> None:
    config = SamplerConfig(steps, bound, t_min=0.2, t_max=0.7)
    canvas = torch.randint(VOCAB, (batch, 8), generator=seeded(1))
    pinned = torch.rand(batch, 8, generator=seeded(2)) < 0.3
    cache = batched(prompt_cache(), batch)
    expected = naive_loop(NETWORK, cache, canvas, pinned, config, seeded(3))
    ours = list(denoise(NETWORK, cache, canvas, pinned, config, Noise(VOCAB), seeded(3)))
    assert [(step.best.tolist(), step.next_canvas.tolist()) for step in ours] == expected
    assert [step.index for step in ours] == list(range(1, steps + 1))


def run(canvas: Tensor, pinned: Tensor, config: SamplerConfig, noise: Noise, seed: int) -> list[CanvasStep]:
    return list(denoise(NETWORK, prompt_cache(), canvas, pinned, config, noise, seeded(seed)))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    length=st.integers(1, 12),
    steps=st.integers(1, 4),
    share=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    bound=st.sampled_from([1e-6, 0.1, 2.0, 1000.0]),
    mask_id=st.sampled_from([None, 5]),
)
def test_pinned_positions_never_change(
    seed: int, length: int, steps: int, share: float, bound: float, mask_id: int | None
) -> None:
    canvas = torch.randint(VOCAB, (1, length), generator=seeded(seed))
    pinned = torch.rand(1, length, generator=seeded(seed)) < share
    before = canvas.clone()
    for step in run(canvas, pinned, SamplerConfig(steps, bound), Noise(VOCAB, mask_id), seed):
        for ids in (step.best, step.next_canvas):
            assert torch.equal(ids[pinned], before[pinned])
        assert bool(step.accepted[pinned].all())
        assert bool((step.entropy[pinned] == 0).all()) and bool((step.confidence[pinned] == 1).all())
        assert bool(torch.isfinite(step.entropy).all())
    assert torch.equal(canvas, before)


def test_scores_are_computed_only_where_something_is_to_be_said() -> None:
    asked: list[torch.Size] = []

    class Counting(Network):
        def logits(self, hidden: Tensor) -> Tensor:
            asked.append(hidden.shape[:2])
            return super().logits(hidden)

    network = Counting(NETWORK.config)
    network.load_state_dict(NETWORK.state_dict())
    pinned = torch.tensor([[True, False, True, False, False], [True, False, True, True, False]])
    canvas, cache = torch.randint(VOCAB, (2, 5), generator=seeded(1)), batched(prompt_cache(), 2)
    list(denoise(network, cache, canvas, pinned, SamplerConfig(3, 0.1), Noise(VOCAB), seeded(2)))
    assert asked == [(2, 3)] * 3


def test_the_same_seed_gives_the_same_canvases() -> None:
    canvas, free = torch.zeros(1, 10, dtype=torch.int64), torch.zeros(1, 10, dtype=torch.bool)
    config = SamplerConfig(4, 1.0)
    first, again, other = (
        [step.next_canvas.tolist() for step in run(canvas, free, config, Noise(VOCAB), s)] for s in (1, 1, 2)
    )
    assert first == again != other


def test_a_wide_bound_accepts_everything_and_a_narrow_one_a_single_position() -> None:
    canvas, free = torch.zeros(1, 10, dtype=torch.int64), torch.zeros(1, 10, dtype=torch.bool)
    assert [int(s.accepted.sum()) for s in run(canvas, free, SamplerConfig(3, 1e6), Noise(VOCAB), 0)] == [10] * 3
    assert [int(s.accepted.sum()) for s in run(canvas, free, SamplerConfig(3, 1e-9), Noise(VOCAB), 0)] == [1] * 3


def test_what_is_not_accepted_is_noise_again() -> None:
    canvas, free = torch.zeros(1, 10, dtype=torch.int64), torch.zeros(1, 10, dtype=torch.bool)
    for step in run(canvas, free, SamplerConfig(3, 0.5), Noise(VOCAB, mask_id=39), 0):
        assert bool((step.next_canvas[~step.accepted] == 39).all())
        assert not bool(step.accepted.all())


def test_what_a_constraint_forbids_is_never_said() -> None:
    def only_small(logits: Tensor) -> Tensor:
        logits[..., 10:] = -torch.inf
        return logits

    canvas, free = torch.full((1, 12), 30), torch.zeros(1, 12, dtype=torch.bool)
    config = SamplerConfig(3, 1e6)
    for step in denoise(NETWORK, prompt_cache(), canvas, free, config, Noise(VOCAB), seeded(0), only_small):
        assert int(step.best.max()) < 10 and int(step.next_canvas.max()) < 10


def test_a_loop_that_is_not_read_does_no_work() -> None:
    calls = 0

    def counted(logits: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return logits

    canvas, free = torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, 4, dtype=torch.bool)
    steps = denoise(NETWORK, prompt_cache(), canvas, free, SamplerConfig(9), Noise(VOCAB), seeded(0), counted)
    assert calls == 0
    next(steps), next(steps)
    steps.close()
    assert calls == 2
    assert not torch.is_inference_mode_enabled()


def test_noise_is_of_all_ids_or_of_one() -> None:
    drawn = Noise(VOCAB).draw((50, 50), seeded(0))
    assert sorted(set(drawn.flatten().tolist())) == list(range(VOCAB))
    assert torch.equal(Noise(VOCAB, 4).draw((2, 3), seeded(0)), torch.full((2, 3), 4))
