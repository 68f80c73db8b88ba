"""Training a drafter: what the writer reads is kept, greedy text found in it, and a drafter learns it and goes on."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from qwen2_fixtures import write_gguf
from safetensors.torch import load_file

from dgemma_model.checkpoint import load
from dgemma_model.checkpoint.config import read_json
from dgemma_model.checkpoint.contract import Checkpoint
from dgemma_model.checkpoint.converted import ORIGIN, convert, sha256
from dgemma_model.checkpoint.drafters.stored import DRAFTER, read_drafter
from dgemma_model.network.cache import Cache
from dgemma_model.network.qwen2_served import ServedQwen2
from dgemma_model.train.drafter import fit, read, ship

CPU = torch.device("cpu")
SOURCES = [
    "".join(f"def name_{number + place}(self, x):\n    return x + {place}\n\n" for place in range(40))
    for number in range(4)
]


@pytest.fixture(autouse=True)
def few_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "PAIR_RANK", 8)


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("writer")
    write_gguf(folder / "model.gguf")
    convert(folder / "model.gguf", folder / "model")
    return load.load(folder / "model", CPU, torch.float32)


@pytest.fixture(scope="module")
def states(writer: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the writer read of a few texts: two files."""
    folder = tmp_path_factory.mktemp("states")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read, "COUNTED_CHARS", 20_000)
        patch.setattr(read, "VOCABULARY", 200)
        patch.setattr(read, "TEXTS", 4)
        read.count_tokens(folder, SOURCES, writer.tokenizer)
        ids = json.loads((folder / "vocabulary.json").read_text())
        reader = read.WriterReader(writer, ids)
        prompts = read.Prompts(SOURCES, writer)
        read.read_all(folder, reader, prompts, seconds=0.2, first=0, step=1)
        read.read_all(folder, reader, prompts, seconds=0.2, first=1, step=1)
    return folder


def test_what_is_kept_is_what_the_writer_computes(writer: Checkpoint, states: Path) -> None:
    network = writer.network
    assert isinstance(network, ServedQwen2)
    kept = load_file(states / "0.safetensors")
    ids, length = kept["ids"][0].long(), int(kept["lengths"][0])
    assert 50 < length <= read.TOKENS and 0 < int(kept["prompts"][0]) < length
    hidden = network.encode(ids[None, :length], cache := Cache())[0]
    assert torch.equal(kept["states"][0, :length, -1], hidden.bfloat16())
    vocabulary = torch.tensor(json.loads((states / "vocabulary.json").read_text()))
    best = vocabulary[network.logits(hidden)[:, vocabulary].argmax(-1)]
    assert (kept["said"][0, :length] == best).float().mean() > 0.99  # rows that are multiplied together may differ
    keys, values = cache.layer(read.layers_at(read.KEYS_AT, 3)[-1])
    joined = torch.cat((keys[0], values[0])).transpose(0, 1).flatten(1)
    assert torch.equal(kept["keys"][0, :length, -1], joined)
    assert not kept["states"][0, length:].any()


def test_targets_are_what_the_writer_says_as_long_as_the_text_says_it(states: Path) -> None:
    texts = fit.ReadTexts(states, 16)
    kept = load_file(states / "1.safetensors")
    batch = texts.batch(states / "1.safetensors", [0, 1, 2, 3], random.Random(0))
    assert (batch.targets[..., 0] >= 0).any()
    for text in range(4):
        ids, said, length = kept["ids"][text], kept["said"][text], int(kept["lengths"][text])
        for row, anchor in enumerate(batch.anchors[text].tolist()):
            expected, at = [], anchor
            while anchor and at + 1 < length and said[at] == ids[at + 1] and len(expected) < fit.CANVAS:
                at += 1
                expected.append(int(said[at]))
            found = [int(texts.ids[index]) for index in batch.targets[text, row] if index >= 0]
            assert found == expected
            assert batch.following[text, row] == ids[anchor + 1]


def test_a_drafter_learns_and_goes_on_where_it_was_stopped(writer: Checkpoint, states: Path, tmp_path: Path) -> None:
    trainer = fit.Trainer(tmp_path, states, writer, CPU)
    path, rng = states / "1.safetensors", random.Random(0)
    batch = trainer.texts.batch(path, [0, 1, 2, 3], rng)
    losses = [trainer.learn(batch) for _ in range(60)]
    assert losses[-1] < 0.8 * losses[0]
    trainer.save()
    again = fit.Trainer(tmp_path, states, writer, CPU)
    assert again.step == 60
    assert again.learn(batch) == pytest.approx(trainer.learn(batch), rel=1e-3)


def test_what_is_trained_is_served(writer: Checkpoint, states: Path, tmp_path: Path) -> None:
    trainer = fit.Trainer(tmp_path, states, writer, CPU)
    for _ in range(3):
        trainer.learn(trainer.texts.batch(states / "1.safetensors", [0, 1], random.Random(0)))
    figures: dict[str, Any] = trainer.check()
    assert 1 <= figures["tokens_a_pass"] <= 1 + fit.CANVAS and figures["loss"] > 0
    trainer.save()
    assert isinstance(writer.network, ServedQwen2)
    its_sha256 = str(read_json(writer.directory / ORIGIN)["sha256"])
    served = read_drafter(tmp_path / DRAFTER, writer.network, its_sha256)
    served.writer.encode(torch.tensor([[1, 2, 3]]), cache := Cache())
    ids, likely, _ = served.draft(cache, 4)
    assert 1 <= len(ids) == len(likely) <= fit.CANVAS


def test_the_package_is_told_what_a_drafter_was_made_from(writer: Checkpoint, states: Path, tmp_path: Path) -> None:
    fit.Trainer(tmp_path, states, writer, CPU).save()
    row = {"step": 7, "loss": 3.14159, "tokens_a_pass": 1.5}
    (tmp_path / "log.jsonl").write_text(json.dumps(row | {"step": 3}) + "\n" + json.dumps(row) + "\n")
    entry = {"version": "1", "licence": "MIT", "sha256": "0"}
    (tmp_path / "own.json").write_text(json.dumps({"a": entry | {"held_out": False}, "b": entry | {"held_out": True}}))
    (tmp_path / "listed.json").write_text(json.dumps([entry | {"name": "c", "languages": ["go"]}]))
    read_from = ship.sources(tmp_path / "own.json", [tmp_path / "listed.json"])
    assert read_from == [{"name": "a"} | entry, {"name": "c"} | entry]  # what was held out was not learnt
    tokens = sum(int(load_file(path)["lengths"].sum()) for path in states.glob("[0-9]*.safetensors"))
    assert ship.tokens_read(states) == tokens > 0
    manifest = ship.manifest_of(tmp_path, "tiny", tokens, read_from)
    writer_sha256 = read_json(writer.directory / ORIGIN)["sha256"]
    assert manifest["writer"] == {"name": "tiny", "sha256": writer_sha256} and manifest["steps"] == 7
    assert manifest["sha256"] == sha256(tmp_path / DRAFTER) and manifest["sources"] == read_from
