"""Training on a tiny corpus: batches, noise, losses, and an interruption that changes nothing."""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from model_fixtures import SOURCE, VOCAB_SIZE, tiny_config, tiny_tokenizer
from torch import Tensor

from dgemma_model.checkpoint import published_layout
from dgemma_model.decoding.sampler import Noise
from dgemma_model.network.cache import Cache
from dgemma_model.network.config import LayerConfig
from dgemma_model.train import data, train
from dgemma_model.train.data import Canvases, Corpus, prefetched
from dgemma_model.train.holes import HoleCutter

ROWS, ROW_LENGTH, POSITIONS = 3, 130, 64
TOKENIZER = tiny_tokenizer()
CONFIG = tiny_config(
    layers=(
        LayerConfig("sliding_attention", 8, 2, 10_000.0, "default", 1.0),
        LayerConfig("full_attention", 8, 2, 10_000.0, "default", 1.0),
    ),
    sliding_window=256,
    num_experts=1,
    moe_intermediate_size=1,
)


def corpus() -> Corpus:
    texts = [SOURCE, SOURCE.replace("balance", "sum").replace("Account", "Purse")]
    return Corpus([HoleCutter(text) for text in texts], TOKENIZER, [float(len(text)) for text in texts])


# --------------------------------------------------------------------- batches


def test_rows_are_examples_side_by_side() -> None:
    rows = corpus().rows(random.Random(0), 4, 300, 2.0)
    assert rows.ids.shape == (4, 301) and rows.weights.shape == (4, 300)
    assert max(len(spans) for spans in rows.spans) > 1
    for ids, weights, spans in zip(rows.ids.tolist(), rows.weights, rows.spans, strict=True):
        at = 0
        for span in spans:
            assert ids[at] == TOKENIZER.suffix_id
            assert ids[span.prefix_start - 1] == TOKENIZER.prefix_id
            assert at < span.prefix_start <= span.prefix_end < span.fill_start < span.end
            assert ids[span.prefix_end : span.fill_start] == [TOKENIZER.middle_id]
            assert ids[span.end - 1] == TOKENIZER.end_id
            prefix, fill = ids[span.prefix_start : span.prefix_end], ids[span.fill_start : span.end - 1]
            assert TOKENIZER.special_ids.isdisjoint(prefix + fill)
            suffix, whole = TOKENIZER.decode(ids[at + 1 : span.prefix_start - 1]), TOKENIZER.decode(prefix + fill)
            assert any(whole in cutter.text and suffix in cutter.text for cutter in corpus().cutters)
            # targets are one further on than weights: the prompt's first token is nobody's target, nor is the cue
            assert weights[at : span.prefix_end - 1].eq(1.0).all()
            assert weights[span.prefix_end - 1 : span.fill_start - 1].eq(0.0).all()
            assert weights[span.fill_start - 1 : span.end - 1].eq(2.0).all()
            if at:
                assert weights[at - 1] == 0.0
            at = span.end
        assert weights[at - 1 :].eq(0.0).all()


def test_a_canvas_is_what_the_row_says_from_its_start_on() -> None:
    rows = corpus().rows(random.Random(1), 4, 300, 2.0)
    canvases = corpus().canvases(random.Random(1), rows, POSITIONS)
    length = int((canvases.number == 0).sum())
    assert length in data.CANVAS_LENGTHS
    at_holes = several_holes = 0
    for row, spans in enumerate(rows.spans):
        for slot in range(POSITIONS // length):
            own = slice(slot * length, (slot + 1) * length)
            positions, targets = canvases.positions[row, own].tolist(), canvases.targets[row, own].tolist()
            start = positions[0]
            assert positions == list(range(start, start + length))
            span = next(span for span in spans if span.prefix_start <= start < span.end)
            text = [*range(span.prefix_start, span.prefix_end), *range(span.fill_start, span.end)]
            expected = rows.ids[row, text[text.index(start) :]].tolist()[:length]
            if canvases.pinned[row, own].any():
                assert start == span.fill_start
                several_holes += 1
                targets = [i for i in targets if i != TOKENIZER.end_id] + [TOKENIZER.end_id]
                assert targets == expected
            else:
                assert targets == expected + [TOKENIZER.end_id] * (length - len(expected))
            at_holes += start == span.fill_start
            mask = canvases.mask[row, own]
            assert mask[:, :300].sum(1).eq(start).all() and mask[:, :start].all()
            assert mask[:, 300:].nonzero()[:, 1].unique().tolist() == list(range(own.start, own.stop))
    assert at_holes >= 4 * (POSITIONS // length) // 2
    assert several_holes


@given(
    fill=st.lists(st.integers(7, 99), min_size=1, max_size=40),
    length=st.sampled_from([8, 16, 32, 64]),
    seed=st.integers(),
)
def test_a_fill_is_split_into_holes_with_given_text_between(fill: list[int], length: int, seed: int) -> None:
    split = data.split_fill(fill, length, random.Random(seed))
    if split is None:
        return
    ids, pins = split
    assert len(ids) == len(pins) == length
    assert [i for i in ids if i is not None] == fill
    runs = [(is_given, len(list(run))) for is_given, run in itertools.groupby(pins)]
    assert not runs[0][0] and not runs[-1][0]
    assert len(runs) in (3, 5)
    ends = [at for at, is_given in enumerate(pins) if not is_given and (at + 1 == length or pins[at + 1])]
    assert all(ids[at] is None for at in ends)


def test_an_example_fits_and_is_the_same_for_the_same_seed() -> None:
    for seed in range(30):
        example, again = (corpus().example(random.Random(seed), 100) for _ in range(2))
        assert example == again
        assert len(example.prompt.ids) + len(example.fill) <= 100
        assert example.fill[-1] == TOKENIZER.end_id


def test_batches_are_made_ahead_in_order() -> None:
    ahead = prefetched(lambda step: step * step, 5)
    assert [next(ahead) for _ in range(10)] == [step * step for step in range(5, 15)]


# ----------------------------------------------------------------------- noise


def some_canvases(batch: int, length: int, count: int) -> Canvases:
    number = torch.arange(count * length) // length
    targets = torch.randint(6, VOCAB_SIZE, (batch, count * length), generator=torch.Generator().manual_seed(0))
    return Canvases(targets, torch.empty(0), torch.empty(0), number, torch.zeros_like(targets, dtype=torch.bool))


def shares_of_noise(canvases: Canvases, noised: Tensor) -> Tensor:
    """[B, N]: how much of each canvas, but for its first token, is noise."""
    length = int((canvases.number == 0).sum())
    return (noised != canvases.targets).view(noised.shape[0], -1, length)[:, :, 1:].float().mean(-1)


@pytest.fixture
def masks_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """All noise is what the checkpoint's policy says, none is wrong tokens."""
    monkeypatch.setattr(train, "WRONG_TOKENS", 0.0)


@pytest.mark.usefixtures("masks_only")
def test_noise_is_spread_evenly_and_a_third_of_canvases_is_noise_altogether() -> None:
    canvases = some_canvases(batch=200, length=64, count=12)
    noised = train.add_noise(canvases, Noise(VOCAB_SIZE, mask_id=5), torch.Generator().manual_seed(0))
    shares = shares_of_noise(canvases, noised.canvas)
    assert shares.eq(1.0).float().mean().item() == pytest.approx(1 / 3, abs=0.03)
    for low in (0.0, 0.25, 0.5, 0.75):
        between = ((shares >= low) & (shares < low + 0.25) & (shares < 1.0)).float().mean().item()
        assert between == pytest.approx(1 / 6, abs=0.03)
    assert shares.mean(1).std() < 0.05  # low discrepancy: no row is much noisier than another


@pytest.mark.usefixtures("masks_only")
def test_the_first_token_of_half_the_canvases_stays() -> None:
    canvases = some_canvases(batch=400, length=8, count=4)
    noised = train.add_noise(canvases, Noise(VOCAB_SIZE, mask_id=5), torch.Generator().manual_seed(1)).canvas
    all_noise = shares_of_noise(canvases, noised) == 1.0
    kept = (noised == canvases.targets).view(400, 4, 8)
    assert kept[:, :, 0][all_noise].float().mean().item() == pytest.approx(0.5, abs=0.05)


@pytest.mark.usefixtures("masks_only")
@pytest.mark.parametrize("mask_id", [5, None])
def test_noise_weighs_one_and_what_is_clean_less(mask_id: int | None) -> None:
    canvases = some_canvases(batch=20, length=16, count=4)
    noised = train.add_noise(canvases, Noise(VOCAB_SIZE, mask_id), torch.Generator().manual_seed(2))
    changed = noised.canvas != noised.targets
    assert torch.equal(noised.targets, canvases.targets)
    assert noised.weights.unique().tolist() == pytest.approx([train.CLEAN_WEIGHT, 1.0])
    assert noised.weights[changed].eq(1.0).all()
    if mask_id is not None:
        assert noised.canvas[changed].eq(mask_id).all()
        assert noised.weights[~changed].lt(1.0).all()
    else:  # a random id may be the right one
        assert noised.canvas[changed].unique().numel() > 100


def test_a_share_of_the_canvases_has_wrong_tokens_for_noise_and_less_of_it() -> None:
    canvases = some_canvases(batch=200, length=16, count=8)
    noised = train.add_noise(canvases, Noise(VOCAB_SIZE, mask_id=5), torch.Generator().manual_seed(4)).canvas
    changed = (noised != canvases.targets).view(200, 8, 16)
    masked = (noised == 5).view(200, 8, 16)
    wrong = (changed & ~masked).any(-1)
    assert not (wrong & masked.any(-1)).any()
    assert wrong.float().mean().item() == pytest.approx(train.WRONG_TOKENS, abs=0.04)
    assert 0.2 < changed[wrong].float().mean().item() < 0.4
    assert masked[masked.any(-1)].float().mean().item() > 0.6


def test_given_text_is_never_noised_and_weighs_nothing() -> None:
    canvases = some_canvases(batch=20, length=16, count=4)
    pinned = torch.rand(canvases.targets.shape, generator=torch.Generator().manual_seed(6)) < 0.3
    canvases = replace(canvases, pinned=pinned)
    noised = train.add_noise(canvases, Noise(VOCAB_SIZE, mask_id=5), torch.Generator().manual_seed(5))
    assert torch.equal(noised.canvas[pinned], canvases.targets[pinned])
    assert noised.weights[pinned].eq(0.0).all() and noised.weights[~pinned].gt(0.0).all()


def test_the_same_generator_gives_the_same_noise() -> None:
    canvases = some_canvases(4, 8, 4)
    one, two, other = (
        train.add_noise(canvases, Noise(VOCAB_SIZE), torch.Generator().manual_seed(seed)).canvas for seed in (3, 3, 4)
    )
    assert torch.equal(one, two) and not torch.equal(one, other)


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 0.0), (0.05, 0.5), (0.1, 1.0), (0.5, 1.0), (1.0, 0.0)])
def test_the_rate_warms_up_holds_and_falls(progress: float, expected: float) -> None:
    assert train.learning_rate_factor(progress, 0.1, 0.4) == pytest.approx(expected, abs=0.02)


# ------------------------------------------------------------------ a whole run


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[argparse.Namespace]:
    """The recipe with a tiny network and corpus; what it does to signals is undone."""
    monkeypatch.setattr(train, "CONFIG", CONFIG)
    monkeypatch.setattr(train, "ROWS", ROWS)
    monkeypatch.setattr(train, "ROW_LENGTH", ROW_LENGTH)
    monkeypatch.setattr(train, "CANVAS_POSITIONS", POSITIONS)
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [json.dumps({"package": "p", "path": "a.py", "text": cutter.text}) for cutter in corpus().cutters]
    (folder / "corpus.jsonl").write_text("\n".join(rows) + "\n")
    TOKENIZER._tokenizer.save(str(folder / "tokenizer.json"))
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield argparse.Namespace(
        data=folder, run=tmp_path / "run", stage="causal", noise="mask", init=None, tokens=0.0, warmup=0.02, decay=0.3,
        seed=0, device="cpu", save_every=1e9, compile=False,
    )  # fmt: skip
    for number, handler in before.items():
        signal.signal(number, handler)


def run(arguments: argparse.Namespace, folder: Path, steps: int, **changes: Any) -> dict[str, Any]:
    """Train for so many steps in all; the state that is left."""
    given = vars(arguments) | {"run": folder, "tokens": steps * ROWS * ROW_LENGTH} | changes
    train.train(argparse.Namespace(**given))
    state: dict[str, Any] = torch.load(folder / "state.pt", weights_only=True)
    return state


@pytest.mark.parametrize("stage", ["causal", "joint"])
def test_an_interrupted_run_ends_as_if_it_had_not_been(
    stage: str, arguments: argparse.Namespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(arguments, tmp_path / "whole", 6, stage=stage)
    with monkeypatch.context() as patch:
        original = train.Run.set_learning_rate

        def and_interrupt(self: train.Run) -> float:
            if self.step == 2:
                signal.raise_signal(signal.SIGTERM)
            return original(self)

        patch.setattr(train.Run, "set_learning_rate", and_interrupt)
        assert run(arguments, tmp_path / "parts", 6, stage=stage)["step"] == 3
    resumed = run(arguments, tmp_path / "parts", 6, stage=stage)
    assert (resumed["step"], resumed["tokens"]) == (whole["step"], whole["tokens"]) == (6, 6 * ROWS * ROW_LENGTH)
    for name, tensor in whole["network"].items():
        assert torch.equal(tensor, resumed["network"][name]), name
    fresh = train.fresh_network(CONFIG, 0).state_dict()
    assert not torch.equal(fresh["embed_tokens.weight"], whole["network"]["embed_tokens.weight"])


def test_a_finished_run_is_left_as_it_is(arguments: argparse.Namespace, tmp_path: Path) -> None:
    first, second = (run(arguments, tmp_path / "run", 2) for _ in range(2))
    assert all(torch.equal(first["network"][name], second["network"][name]) for name in first["network"])


@pytest.mark.parametrize("stage", ["causal", "joint"])
def test_training_reduces_its_losses(stage: str, arguments: argparse.Namespace, tmp_path: Path) -> None:
    run(arguments, tmp_path / "run", 60, stage=stage, decay=0.0)
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in history] == [20, 40, 60]
    assert history[-1]["causal"] < 0.8 * history[0]["causal"]
    assert (history[-1]["denoising"] < 0.95 * history[0]["denoising"]) or stage == "causal"
    assert all((line["denoising"] > 0) == (stage == "joint") for line in history)


def test_a_second_stage_starts_from_the_weights_of_the_first(arguments: argparse.Namespace, tmp_path: Path) -> None:
    first = run(arguments, tmp_path / "first", 2)
    second = run(arguments, tmp_path / "second", 0, stage="joint", init=tmp_path / "first" / "state.pt")
    assert (second["step"], second["tokens"]) == (0, 0)
    assert all(torch.equal(first["network"][name], second["network"][name]) for name in first["network"])


def test_a_run_starts_from_a_published_checkpoint(arguments: argparse.Namespace, tmp_path: Path) -> None:
    first = run(arguments, tmp_path / "first", 2)
    network = train.fresh_network(CONFIG, 0)
    network.load_state_dict(first["network"])
    published_layout.save(network, tmp_path / "published")
    second = run(arguments, tmp_path / "second", 0, init=tmp_path / "published")
    for name, tensor in first["network"].items():
        if ".experts." not in name:
            assert torch.equal(tensor.bfloat16(), second["network"][name].bfloat16()), name


def test_a_checkpoint_for_other_tokens_is_refused(arguments: argparse.Namespace, tmp_path: Path) -> None:
    published_layout.save(train.fresh_network(CONFIG, 0), tmp_path / "published")
    own = (arguments.data / "tokenizer.json").read_text()
    (tmp_path / "published" / "tokenizer.json").write_text(own)
    run(arguments, tmp_path / "first", 0, init=tmp_path / "published")
    (tmp_path / "published" / "tokenizer.json").write_text(own + "\n")
    with pytest.raises(ValueError, match=r"copy .*published/tokenizer\.json to"):
        run(arguments, tmp_path / "second", 0, init=tmp_path / "published")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries have no such setting")
@pytest.mark.parametrize("kept", [True, False])
def test_freed_memory_is_kept(kept: bool) -> None:
    """Tensors of 64 MB, one after the other, get pages that are there already, once the heap has room for them."""
    program = (
        "import resource, torch\n"
        "from dgemma_model.train import train\n"
        f"{'train.keep_freed_memory()' if kept else ''}\n"
        "for _ in range(30):\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    for _ in range(10):\n"
        "        torch.ones(1 << 24)\n"
        "    new_pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before\n"
        "print(new_pages)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (int(done.stdout) < 16_384) is kept  # one tensor has so many


def test_a_fresh_network_has_a_moderate_loss_and_runs_no_experts() -> None:
    network = train.fresh_network(replace(CONFIG, hidden_size=64), 0)
    assert all(layer.is_dense for layer in network.layers)
    rows = corpus().rows(random.Random(0), 2, ROW_LENGTH, 2.0)
    causal, denoising = train.Losses(network)(rows.ids, rows.weights)
    assert causal.item() < 1.5 * torch.log(torch.tensor(VOCAB_SIZE)).item()
    assert denoising.item() == 0.0


def test_the_causal_loss_is_the_weighted_mean_over_targets() -> None:
    network = train.fresh_network(CONFIG, 0)
    rows = corpus().rows(random.Random(0), 2, ROW_LENGTH, 2.0)
    causal, _ = train.Losses(network)(rows.ids, rows.weights)
    scores = network.logits(network.encode(rows.ids[:, :-1], Cache())).log_softmax(-1)
    total, weight = 0.0, 0.0
    for row in range(2):
        for at in range(ROW_LENGTH):
            w = rows.weights[row, at].item()
            total -= w * scores[row, at, rows.ids[row, at + 1]].item()
            weight += w
    assert causal.item() == pytest.approx(total / weight, rel=1e-5)
