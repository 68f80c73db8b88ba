"""Block-diffusion conversions of Qwen2 in their published layout, with random weights: what they compute, and fill."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
import torch
from qwen2_fixtures import their_model
from test_published_causal import publish

from dgemma_model.checkpoint import load
from dgemma_model.checkpoint.block_diffusion import BLOCK, MASK
from dgemma_model.checkpoint.contract import Checkpoint
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.decoding.prompt_cache import CachedPrompt
from dgemma_model.infill import Infiller
from dgemma_model.network.cache import Cache
from dgemma_model.request import Excerpt, FillRequest

CPU = torch.device("cpu")


def published(directory: Path, *, marker: str = MASK) -> Path:
    """A random network in bd3lm's layout."""
    publish(directory)
    config = json.loads((directory / "config.json").read_text())
    config |= {"model_type": "a2d-qwen2", "architectures": ["A2DQwen2LMHeadModel"]}
    (directory / "config.json").write_text(json.dumps(config))
    path = str(directory / "tokenizer.json")
    tokenizer = tokenizers.Tokenizer.from_file(path)
    tokenizer.add_special_tokens([marker])
    tokenizer.save(path)
    return directory


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DGEMMA_CHECKPOINTS", str(tmp_path / "store"))
    return published(tmp_path / "model")


def loaded(directory: Path) -> Checkpoint:
    return load.load(directory, CPU, torch.float32)


@pytest.mark.parametrize("prompt", [BLOCK, 3 * BLOCK, 2 * BLOCK + 7])
def test_a_canvas_after_a_prompt_scores_as_the_reference_does(directory: Path, prompt: int) -> None:
    """Blocks see each other's past and all of themselves; the canvas is one more block."""
    ours, theirs = loaded(directory), their_model("qwen2")
    torch.manual_seed(0)
    ids, canvas = torch.randint(3, 390, (1, prompt)), torch.full((1, BLOCK), ours.format.mask_id or 0)
    canvas[0, 5] = 17
    blocks = torch.cat((torch.arange(prompt) // BLOCK, torch.full((BLOCK,), prompt)))
    mask = torch.where(blocks[None] <= blocks[:, None], 0.0, torch.finfo(torch.float32).min)[None, None]
    positions = torch.arange(prompt + BLOCK)[None]
    with torch.inference_mode():
        expected = theirs(torch.cat((ids, canvas), 1), attention_mask=mask, position_ids=positions).logits[0, prompt:]
    ours.network.encode(ids, cache := Cache())
    scores = ours.network.logits(ours.network.decode(canvas, cache))[0]
    error = (scores - expected[:, : scores.shape[1]]).norm() / expected.norm()
    causal = Cache()
    ours.network.encode(ids, causal, seen=torch.ones(prompt, prompt).tril().bool())
    other = ours.network.logits(ours.network.decode(canvas, causal))[0]
    assert error < 0.1 < (other - expected[:, : scores.shape[1]]).norm() / expected.norm()


def test_a_prompt_is_read_alike_in_chunks(directory: Path) -> None:
    network, ids = loaded(directory).network, torch.randint(3, 390, (1, 3 * BLOCK)).tolist()[0]
    whole, chunks = (CachedPrompt(network, Cache(), []) for _ in "12")
    expected = whole.append(ids, last=1)
    chunks.append(ids[:BLOCK], last=0)
    torch.testing.assert_close(chunks.append(ids[BLOCK:], last=1), expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("between", [(), (" + ",), ("\nb = ", "\nc = ")])
def test_it_denoises_all_holes_in_one_canvas_of_masks(directory: Path, between: tuple[str, ...]) -> None:
    checkpoint = loaded(directory)
    infiller = Infiller(checkpoint, CPU)
    request = FillRequest(Excerpt("a = ", "\n", between), max_denoising_steps=3, max_tokens=24, one_line=True)
    drafts = list(infiller.fill(request))
    assert drafts[-1].done and len(drafts[-1].texts) == len(between) + 1
    first = next(draft for draft in drafts if draft.step)
    assert all(first.tokens) and first.check is None
    assert infiller._noise.mask_id == checkpoint.tokenizer.special_id(MASK)
    assert MASK not in "".join(drafts[-1].texts)


def test_one_without_its_marker_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DGEMMA_CHECKPOINTS", str(tmp_path / "store"))
    with pytest.raises(CheckpointError, match=r"lacks the marker <\|mask\|>"):
        loaded(published(tmp_path / "model", marker="<|other|>"))
