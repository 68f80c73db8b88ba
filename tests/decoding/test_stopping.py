"""When a canvas is done: the published rule, on the positions of holes alone."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.diffusion_gemma.generation_diffusion_gemma import StableAndConfidentStoppingCriteria

from dgemma_model.decoding.sampler import CanvasStep
from dgemma_model.decoding.stopping import AnyOf, NothingLeft, StableAndConfident, is_looping

VOCAB = 5


def step_of(logits: Tensor, accepted: Tensor | None = None, index: int = 1) -> CanvasStep:
    """The step that ends with these logits."""
    confidence, best = logits.softmax(-1).max(-1)
    accepted = torch.zeros_like(best, dtype=torch.bool) if accepted is None else accepted
    return CanvasStep(
        index,
        best,
        best,
        accepted,
        torch.distributions.Categorical(logits=logits, validate_args=False).entropy(),
        confidence,
    )


def logits_saying(ids: list[int], sharpness: float) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor([ids]), VOCAB).float() * sharpness


ALL = torch.ones(1, 3, dtype=torch.bool)


@given(
    canvases=st.lists(st.lists(st.integers(0, 1), min_size=3, max_size=3), min_size=1, max_size=8),
    sharpness=st.lists(st.sampled_from([4.0, 8.0, 20.0]), min_size=8, max_size=8),
    stability=st.integers(0, 3),
    confidence=st.sampled_from([0.005, 0.05, 0.5]),
)
def test_the_rule_equals_the_reference_where_all_is_hole(
    canvases: list[list[int]], sharpness: list[float], stability: int, confidence: float
) -> None:
    reference = StableAndConfidentStoppingCriteria(stability, confidence)
    rule, steps = StableAndConfident(stability, confidence), []
    for canvas, sharp in zip(canvases, sharpness, strict=False):
        logits = logits_saying(canvas, sharp)
        steps.append(step_of(logits))
        assert rule.should_stop(steps, ALL) == bool(reference(steps[-1].best, logits).all())


def test_a_batch_is_done_when_every_canvas_of_it_is() -> None:
    sure, unsure = logits_saying([1, 2, 3], 30.0), logits_saying([1, 2, 3], 1.0)
    rule, holes = StableAndConfident(1, 0.005), ALL.expand(2, 3)
    assert rule.should_stop([step_of(torch.cat((sure, sure)))] * 2, holes)
    assert not rule.should_stop([step_of(torch.cat((sure, unsure)))] * 2, holes)


def test_changes_outside_of_holes_do_not_matter() -> None:
    steps = [step_of(logits_saying(ids, 30.0)) for ids in ([1, 2, 3], [4, 2, 3])]
    rule = StableAndConfident(1, 0.005)
    assert not rule.should_stop(steps, ALL)
    assert rule.should_stop(steps, torch.tensor([[False, True, True]]))


def test_pinned_certainty_does_not_make_a_hole_look_finished() -> None:
    logits = torch.cat((logits_saying([1] * 99, 50.0), logits_saying([2], 1.0)), dim=1)
    holes = torch.arange(100)[None] == 99
    rule = StableAndConfident(1, 0.05)
    assert rule.should_stop([step_of(logits)] * 2, torch.ones(1, 100, dtype=torch.bool))
    assert not rule.should_stop([step_of(logits)] * 2, holes)


def test_doubt_outside_of_holes_does_not_matter() -> None:
    logits = torch.cat((logits_saying([1, 2], 50.0), torch.zeros(1, 3, VOCAB)), dim=1)
    rule = StableAndConfident(1, 0.005)
    assert rule.should_stop([step_of(logits)] * 2, torch.arange(5)[None] < 2)
    assert not rule.should_stop([step_of(logits)] * 2, torch.ones(1, 5, dtype=torch.bool))


def test_nothing_is_left_when_every_hole_position_is_accepted() -> None:
    accepted = torch.tensor([[True, False, True]])
    step = step_of(logits_saying([1, 2, 3], 1.0), accepted)
    assert not NothingLeft().should_stop([step], ALL)
    assert NothingLeft().should_stop([step], accepted)


def test_only_the_latest_step_counts_for_what_is_left() -> None:
    done, open_again = (step_of(logits_saying([1, 2, 3], 1.0), torch.full((1, 3), value)) for value in (True, False))
    assert not NothingLeft().should_stop([done, open_again], ALL)


def test_any_of_several_rules_is_enough() -> None:
    step = step_of(logits_saying([1, 2, 3], 1.0), ALL)
    never = StableAndConfident(5, 0.005)
    assert AnyOf((never, NothingLeft())).should_stop([step], ALL)
    assert not AnyOf((never, never)).should_stop([step], ALL)


@pytest.mark.parametrize(
    ("ids", "loops"),
    [
        ([7] * 24, True),
        ([7] * 23, False),
        ([1, 2, 3] * 8, True),
        ([9, 9, 9] + [1, 2, 3] * 8, True),
        ([1, 2, 3] * 8 + [4], False),
        (list(range(8)) * 4, True),
        (list(range(8)) * 3, False),
        (list(range(9)) * 9, False),
        ([], False),
    ],
)
def test_a_loop_is_a_short_period_many_times_over(ids: list[int], loops: bool) -> None:
    assert is_looping(ids) is loops
