"""The writer's own layers as drafter: the text is the writer's bit for bit, a canvas sees what it may, terms learn."""

from __future__ import annotations

import copy
import random
from pathlib import Path

import pytest
import torch
from qwen2_fixtures import plain_network, write_gguf

from dgemma_model.checkpoint import load
from dgemma_model.checkpoint.contract import Checkpoint
from dgemma_model.checkpoint.converted import convert
from dgemma_model.network.cache import Cache
from dgemma_model.network.qwen2_served import ServedQwen2
from dgemma_model.train.drafter import fit, own_layers, read

CPU = torch.device("cpu")
SOURCES = [
    "".join(f"def name_{number + place}(self, x):\n    return x + {place}\n\n" for place in range(40))
    for number in range(4)
]


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("writer")
    write_gguf(folder / "model.gguf")
    convert(folder / "model.gguf", folder / "model")
    return load.load(folder / "model", CPU, torch.float32)


@pytest.fixture
def run(writer: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the counted vocabulary and pairs."""
    monkeypatch.setattr(fit, "PAIR_RANK", 8)
    monkeypatch.setattr(read, "COUNTED_CHARS", 20_000)
    monkeypatch.setattr(read, "VOCABULARY", 200)
    read.count_tokens(tmp_path, SOURCES, writer.tokenizer)
    return tmp_path


def trainer_of(run: Path, writer: Checkpoint) -> own_layers.Trainer:
    assert isinstance(writer.network, ServedQwen2)
    network = own_layers.plain(writer.network, torch.float32)
    return own_layers.Trainer(run, network, fit.ReadTexts(run, network.config.head_dim))


def test_the_plain_network_is_the_served_one(writer: Checkpoint) -> None:
    served = writer.network
    assert isinstance(served, ServedQwen2)
    ids = torch.randint(400, (1, 30), generator=torch.Generator().manual_seed(0))
    ours = own_layers.plain(served, torch.float32).encode(ids, Cache())
    assert (ours - served.encode(ids, Cache())).norm() < 0.05 * ours.norm()  # 8 bits of activations


def test_terms_learn_and_the_text_stays_the_writers(run: Path, writer: Checkpoint) -> None:
    trainer, texts = trainer_of(run, writer), list(read.Prompts(SOURCES, writer).of_file(1))[:2]
    ids = torch.tensor([texts[0][0]])
    before = trainer.layers.network.encode(ids, cache := Cache())
    losses = [trainer.learn(texts, random.Random(0)) for _ in range(60)]
    assert losses[-1] < 0.8 * losses[0]
    with torch.no_grad():
        canvas = trainer.layers(cache, torch.tensor([20, 30]), 3)
    assert torch.equal(trainer.layers.network.encode(ids, again := Cache()), before)
    assert all(torch.equal(*sides) for n in range(3) for sides in zip(cache.layer(n), again.layer(n), strict=True))
    for value in (value for name, value in trainer.layers.trained().items() if "widen" in name):
        torch.nn.init.zeros_(value)
    assert not torch.equal(trainer.layers(cache, torch.tensor([20, 30]), 3), canvas)  # there they were at work


def test_a_canvas_sees_its_text_and_itself_only(run: Path, writer: Checkpoint) -> None:
    layers, ids = trainer_of(run, writer).layers, torch.arange(40)[None]
    layers.network.encode(ids, cache := Cache())
    both = layers(cache, torch.tensor([9, 25]), 4)
    ids[:, 10:] += 100
    layers.network.encode(ids, changed := Cache())
    torch.testing.assert_close(layers(changed, torch.tensor([9, 30]), 4)[0], both[0])
    assert not torch.allclose(layers(changed, torch.tensor([25]), 4)[0], both[1])
    shorter = layers(cache, torch.tensor([9]), 3)[0]
    assert not torch.allclose(shorter[0], both[0, 0])  # the first position reads the last one


def test_without_terms_a_canvas_is_what_the_network_decodes() -> None:
    plain = plain_network("qwen2")
    ids = torch.arange(12)[None]
    plain.encode(ids, cache := Cache())
    expected = plain.decode(torch.full((1, 3), 7), cache)[0]
    layers = own_layers.OwnLayers(copy.deepcopy(plain), (torch.zeros(5, 2), torch.zeros(5, 2)))
    layers.mask.data, layers.scale.data = plain.embed(torch.tensor(7)), torch.ones(64)
    layers.places.data.zero_()
    torch.testing.assert_close(layers(cache, torch.tensor([11]), 3)[0], expected)


def test_training_goes_on_where_it_was_stopped(run: Path, writer: Checkpoint) -> None:
    prompts = read.Prompts(SOURCES, writer)
    texts = list(prompts.of_file(1))
    trainer = trainer_of(run, writer)
    for _ in range(3):
        trainer.learn(texts[:2], random.Random(0))
    trainer.save()
    again = trainer_of(run, writer)
    assert again.step == 3
    assert again.learn(texts[:2], random.Random(1)) == pytest.approx(trainer.learn(texts[:2], random.Random(1)))
    figures = again.check(texts[:2])
    assert figures == trainer.check(texts[:2])
    assert 1 <= figures["tokens_a_pass"] <= 1 + fit.CANVAS
    following = [*texts, *prompts.of_file(2)]
    assert next(own_layers.drawn(prompts, 5)) == following[5]
    assert next(own_layers.drawn(prompts, read.TEXTS + 1)) == following[read.TEXTS + 1]
