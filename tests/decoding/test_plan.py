"""How many denoising steps a canvas is given."""

from __future__ import annotations

from dataclasses import replace

import pytest
from gemma_fixtures import gemma_infiller
from model_fixtures import tiny_infiller

from dgemma_model.checkpoint.config import Policy, SamplerConfig
from dgemma_model.decoding.plan import FillPlan, plan_for
from dgemma_model.request import Excerpt, FillRequest


def plan(policy: Policy | None = None, **asked: int) -> FillPlan:
    return plan_for(FillRequest(Excerpt("", ""), **asked), policy or Policy(), SamplerConfig(), ends_holes=True)


@pytest.mark.parametrize(
    ("positions", "steps"), [(1, 8), (16, 8), (32, 8), (33, 9), (64, 16), (128, 32), (192, 48), (256, 48)]
)
def test_small_canvases_are_given_fewer_steps(positions: int, steps: int) -> None:
    sampler = plan().sampler_for(positions)
    assert sampler == replace(SamplerConfig(), max_denoising_steps=steps)


@pytest.mark.parametrize("asked", [0, 1, 24, 100])
def test_what_is_asked_for_is_given(asked: int) -> None:
    assert plan(max_denoising_steps=asked).sampler_for(16).max_denoising_steps == asked


def test_canvases_of_masks_keep_their_sampler() -> None:
    assert plan(Policy(noise="mask")).sampler_for(16) == SamplerConfig()


def test_fills_take_that_many_steps() -> None:
    """A canvas of 64 positions and one of 8; nothing is ever sure."""
    chat = gemma_infiller()
    written = list(chat.fill(FillRequest(Excerpt("total = ", "\n"), max_tokens=8, entropy_bound=1e-9)))
    assert written[-1].step == 8
    tiny = tiny_infiller()
    drafts = list(tiny.fill(FillRequest(Excerpt("total = ", "\n"), max_tokens=8, verify=False, entropy_bound=1e-9)))
    assert max(draft.step for draft in drafts) <= tiny._checkpoint.sampler.max_denoising_steps
