"""Train a drafter on what the writer read (train/drafter/read.py): one step of block diffusion, fed its states.

    python -m dgemma_model.train.drafter.fit STATES RUN --seconds 3600 [--learning-rate 1e-4]

`STATES` is the folder of `read`, which may still be running. Every few minutes `RUN` gets `state.pt`, from which the
next call goes on, and `drafter.safetensors`, which is served; lines of `log.jsonl` have loss and accepted tokens. It
runs on a GPU where there is one.

The target of a canvas position is the writer's choice there. It is known as long as the text is what the writer chose;
positions after the first other token have none. So a canvas learns from greedy text alone, though nothing was written.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from dgemma_model.checkpoint import load as checkpoints
from dgemma_model.checkpoint import selection
from dgemma_model.checkpoint.config import read_json
from dgemma_model.checkpoint.contract import Checkpoint
from dgemma_model.checkpoint.converted import ORIGIN
from dgemma_model.checkpoint.drafters.stored import DRAFTER, write_drafter
from dgemma_model.network.int8 import Int8Weights
from dgemma_model.network.qwen2_served import ServedQwen2
from dgemma_model.network.state_drafter import DrafterConfig, StateDrafter
from dgemma_model.train.drafter.read import HELD_OUT_SHARE, KEYS_AT, STATES_AT, layers_at

CANVAS = 7
"""Drafted tokens; with the one before them, a pass of eight."""
READS = (2,)
"""For each of the drafter's layers, the place in `KEYS_AT` of the layer of the writer whose keys it reads, and whose
attention it begins with."""
INNER = 1792
PAIR_RANK = 64
TEXTS, ANCHORS = 4, 64
"""Of a step: texts, and places in each of them."""
LENGTHS = (3, 3, 5, CANVAS)
"""Of the canvases of a step, drawn: most texts are not known further, and the first positions decide."""
SMOOTHING = 5.0
"""How often each token is taken to follow each, beyond what was counted, all together."""
LEARNING_RATE, WARM_UP, AVERAGED = 6e-4, 100, 0.998
LATER = 0.85
"""What a position of the canvas counts, compared with the one before it."""
SAVE_SECONDS = 240
CHECKED_TEXTS = 48
BEGUN_SCALE = 0.3
"""Of the last norm, compared with the writer: scores of an untrained drafter would be too sure."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Anchors in some texts; shapes as in `network.state_drafter`."""

    states: Tensor
    following: Tensor
    """[B, A] int64: the ids of the tokens after the anchors, which the writer chose."""
    anchors: Tensor
    keys: list[tuple[Tensor, Tensor]]
    targets: Tensor
    """[B, A, L] int64: indices in the drafter's vocabulary, -1 where nothing is known."""

    def cut(self, length: int) -> Batch:
        """The same with shorter canvases."""
        return replace(self, targets=self.targets[..., :length])

    def to(self, device: torch.device) -> Batch:
        """The same on another device, in its fastest dtype."""
        keys = [(some.to(device), values.to(device)) for some, values in self.keys]
        others = (value.to(device) for value in (self.states, self.following, self.anchors))
        states, following, anchors = others
        return Batch(states, following, anchors, keys, self.targets.to(device))


class ReadTexts:
    """The files of `train.drafter.read`."""

    def __init__(self, folder: Path, head_dim: int) -> None:
        """`head_dim` is the writer's."""
        self._folder, self._head_dim = folder, head_dim
        vocabulary = json.loads((folder / "vocabulary.json").read_text())
        self.ids = torch.tensor(vocabulary)
        self.index = torch.full((1 << 18,), -1)
        """From a token's id to its index in the drafter's vocabulary; -1 for others."""
        self.index[self.ids] = torch.arange(len(vocabulary))

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Two [N, R] whose product says, but for a constant of each row, the logarithm of how much more often than by
        chance a token of the vocabulary follows another."""
        read, size = load_file(self._folder / "pairs.safetensors"), len(self.ids)
        counts = torch.sparse_coo_tensor(read["rows"].T.long(), read["counts"].float(), (size, size)).coalesce()
        columns = counts.indices()[1]
        share = torch.zeros(size).index_add_(0, columns, counts.values()) / counts.values().sum()
        values = (1 + counts.values() / (SMOOTHING * share[columns])).log()
        torch.manual_seed(0)
        often = torch.sparse_coo_tensor(counts.indices(), values, (size, size))
        left, spread, right = torch.svd_lowrank(often, PAIR_RANK)
        return left * spread.sqrt(), right * spread.sqrt()

    def files(self, *, held_out: bool) -> list[Path]:
        """Those that are written whole, for training or for validation."""
        found = [path for path in self._folder.glob("*.safetensors") if path.stem.isdecimal()]
        return sorted(path for path in found if (int(path.stem) % HELD_OUT_SHARE == 0) is held_out)

    def count(self, path: Path) -> int:
        """How many texts a file has."""
        with safe_open(path, framework="pt") as file:
            return int(file.get_slice("lengths").get_shape()[0])

    def batch(self, path: Path, texts: Sequence[int], rng: random.Random) -> Batch:
        """Anchors of some texts of a file: those of the middle first."""
        with safe_open(path, framework="pt") as file:
            ids, said, lengths, prompts = (file.get_tensor(name) for name in ("ids", "said", "lengths", "prompts"))
            keys, states = file.get_slice("keys"), file.get_slice("states")
            read = [(keys[text], states[text]) for text in texts]
        anchors, targets = list[Tensor](), list[Tensor]()
        for text in texts:
            at, chain = self.anchors(ids[text], said[text], int(lengths[text]), int(prompts[text]), rng)
            anchors.append(at)
            targets.append(chain)
        at = torch.stack(anchors)
        stacked = torch.stack([some for some, _ in read])
        stacked = stacked.view(*stacked.shape[:3], 2, -1, self._head_dim)
        pairs = [(stacked[:, :, n, 0].transpose(1, 2), stacked[:, :, n, 1].transpose(1, 2)) for n in READS]
        chosen = torch.stack([some[where] for (_, some), where in zip(read, anchors, strict=True)])
        following = torch.stack([ids[text][where + 1] for text, where in zip(texts, anchors, strict=True)]).long()
        return Batch(chosen, following, at, pairs, torch.stack(targets))

    def anchors(self, ids: Tensor, said: Tensor, length: int, prompt: int, rng: random.Random) -> tuple[Tensor, Tensor]:
        """Where to draft in a text, [A], those of the middle first; and what, [A, L], indices in the vocabulary.

        `said` [T] are the ids that the writer chose after each of the `ids` [T].
        """
        agreed = torch.zeros(len(ids) + CANVAS, dtype=torch.bool)
        agreed[: length - 1] = said[: length - 1] == ids[1:length]
        places = agreed[: length - 1].nonzero()[:, 0].tolist()
        middle = [place for place in places if place >= prompt - 1]
        others = [place for place in places if place < prompt - 1]
        chosen = rng.sample(middle, min(ANCHORS * 2 // 3, len(middle)))
        chosen += rng.sample(others, min(ANCHORS - len(chosen), len(others)))
        chosen += [0] * (ANCHORS - len(chosen))  # too few: rows without targets
        at = torch.tensor(chosen)
        steps = at[:, None] + torch.arange(CANVAS)
        known = agreed[steps].cumprod(1).bool() & (steps + 1 < length)
        known[at == 0] = False
        return at, torch.where(known, self.index[said[(steps + 1).clamp(max=len(ids) - 1)].long()], -1)


class Figures:
    """Of drafts: loss, tokens written a pass as far as the writer's text is known, and the share that is right at each
    position of those that have a target."""

    def __init__(self) -> None:
        self._right, self._known = torch.zeros(CANVAS), torch.zeros(CANVAS)
        self._losses, self._runs, self._count = 0.0, 0, 0

    def add(self, scores: Tensor, targets: Tensor, known: Tensor) -> None:
        """Count canvases: scores [M, N] and targets [M] of the positions that are True in `known` [..., L]."""
        self._losses += float(F.cross_entropy(scores.float(), targets, reduction="sum"))
        agreed = torch.zeros_like(known)
        agreed[known] = scores.argmax(-1) == targets
        agreed, known = agreed.cpu().flatten(0, -2), known.cpu().flatten(0, -2)
        self._right += agreed.sum(0)
        self._known += known.sum(0)
        self._runs += int(agreed.cumprod(-1).sum())
        self._count += int(known[:, 0].sum())

    def row(self) -> dict[str, float]:
        """The figures by name."""
        shares = (self._right / self._known.clamp(min=1)).tolist()
        return {
            "loss": self._losses / max(1.0, float(self._known.sum())),
            "tokens_a_pass": 1 + self._runs / max(1, self._count),
            **{f"right_{place + 1}": round(share, 3) for place, share in enumerate(shares)},
        }


class Trainer:
    """A drafter, its optimiser, and the writer's frozen parts."""

    def __init__(self, run: Path, states: Path, checkpoint: Checkpoint, device: torch.device) -> None:
        """`states` is the folder of what was read, and `run` keeps what is trained."""
        writer = checkpoint.network
        assert isinstance(writer, ServedQwen2), "drafters are made for networks that keep their states"
        self.run, self.texts, self.device = run, ReadTexts(states, writer.config.head_dim), device
        self._writer_sha256 = str(read_json(checkpoint.directory / ORIGIN, required=True)["sha256"])
        self._embed = writer.embed
        ids = self.texts.ids
        weight, scale = writer.head_rows(ids)
        self._head = (weight * scale[:, None]).to(device, torch.bfloat16)
        network = writer.config
        self.config = DrafterConfig(
            hidden_size=network.hidden_size,
            intermediate_size=INNER,
            num_attention_heads=network.num_attention_heads,
            num_key_value_heads=network.num_key_value_heads,
            head_dim=network.head_dim,
            rope_theta=network.rope_theta,
            rms_norm_eps=network.rms_norm_eps,
            canvas=CANVAS,
            keys_of=layers_at([KEYS_AT[place] for place in READS], network.num_hidden_layers),
            states_before=layers_at(STATES_AT, network.num_hidden_layers),
            vocab_size=len(ids),
            pair_rank=PAIR_RANK,
        )
        torch.manual_seed(0)
        self.drafter = begun(self.config, writer, self.texts.pairs()).to(device)
        self.average = copy.deepcopy(self.drafter).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.drafter.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.learning_rate = LEARNING_RATE
        self.step = 0
        self.seconds = 0.0
        if (run / "state.pt").exists():
            state = torch.load(run / "state.pt", map_location=device)
            self.drafter.load_state_dict(state["drafter"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds = state["step"], state["seconds"]

    def scores(self, drafter: StateDrafter, batch: Batch) -> tuple[Tensor, Tensor]:
        """The scores of all canvas positions that have a target, [M, N], and these targets, [M]."""
        embedded = self._embed(batch.following.cpu()).to(self.device)
        length = batch.targets.shape[-1]
        hidden = drafter(batch.states.float(), embedded, batch.anchors, batch.keys, length)
        known = batch.targets >= 0
        following = self.texts.index[batch.following.cpu()].to(self.device)
        before = torch.cat((following[..., None], batch.targets[..., :-1]), -1)[known]
        before = torch.where(before < 0, self.config.vocab_size, before)
        return F.linear(hidden[known], self._head) + drafter.pair_scores(before), batch.targets[known]

    def learn(self, batch: Batch) -> float:
        """One step; returns the loss, in nats a target."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * min(1.0, (self.step + 1) / WARM_UP)
        batch = batch.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            scores, targets = self.scores(self.drafter, batch)
        length = batch.targets.shape[-1]
        places = torch.arange(length, device=self.device).expand_as(batch.targets)[batch.targets >= 0]
        weights = LATER ** places.float()
        losses = F.cross_entropy(scores.float(), targets, reduction="none")
        loss = (losses * weights).sum() / weights.sum()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.drafter.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        share = min(AVERAGED, self.step / (self.step + 10))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.drafter.parameters(), strict=True):
                mean.lerp_(value, 1 - share)
        return float(loss.detach())

    @torch.inference_mode()
    def check(self) -> dict[str, float]:
        """The `Figures` of validation texts."""
        rng, files, figures = random.Random(0), self.texts.files(held_out=True), Figures()
        places = [(path, text) for path in files for text in range(self.texts.count(path))][:CHECKED_TEXTS]
        for path, text in places:
            batch = self.texts.batch(path, [text], rng).to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16):
                figures.add(*self.scores(self.average, batch), batch.targets >= 0)
        return figures.row()

    def save(self) -> None:
        """Write what the next run goes on from, in place of what was there."""
        state: dict[str, Any] = {"drafter": self.drafter.state_dict(), "average": self.average.state_dict()}
        state |= {"optimizer": self.optimizer.state_dict(), "step": self.step, "seconds": self.seconds}
        torch.save(state, self.run / "state.part")
        (self.run / "state.part").rename(self.run / "state.pt")
        write_drafter(self.run / "drafter.part", self.average, self.texts.ids, self._writer_sha256)
        (self.run / "drafter.part").rename(self.run / DRAFTER)


def begun(config: DrafterConfig, writer: ServedQwen2, pairs: tuple[Tensor, Tensor]) -> StateDrafter:
    """A drafter before training: its attention is the writer's, its pairs' scores are those of counted `pairs`, all
    else adds nothing."""
    drafter = StateDrafter(config)
    weights = writer.weights
    with torch.no_grad():
        for layer, of in zip(drafter.drafter_layers(), config.keys_of, strict=True):
            prefix = f"layers.{of}."
            layer.qkv.weight.copy_(widened(weights, f"{prefix}qkv"))
            layer.qkv.bias.copy_(weights.tensors[f"{prefix}qkv.bias"])
            layer.out.weight.copy_(widened(weights, f"{prefix}out"))
            layer.input_norm.load_state_dict({"weight": weights.tensors[f"{prefix}input_layernorm.weight"]})
            layer.mlp_norm.load_state_dict({"weight": weights.tensors[f"{prefix}post_attention_layernorm.weight"]})
            layer.down.weight.zero_()
        drafter.norm.load_state_dict({"weight": weights.tensors["norm.weight"] * BEGUN_SCALE})
        drafter.fuse.weight.zero_()
        drafter.places.normal_(std=0.02)
        before, after = pairs
        drafter.before.weight[:-1] = before
        drafter.before.weight[-1] = before.mean(0)
        drafter.after.copy_(after)
    return drafter


def widened(weights: Int8Weights, name: str) -> Tensor:
    """A matrix in float32."""
    return weights.tensors[f"{name}.weight"] * weights.tensors[f"{name}.scale"][:, None]


def drawn(texts: ReadTexts, rng: random.Random) -> Iterator[Batch]:
    """Batches without end, each of one file, in passes over all files that there are by then."""
    while True:
        files = texts.files(held_out=False)
        rng.shuffle(files)
        for path in files:
            count = texts.count(path)
            order = rng.sample(range(count), count)
            for start in range(0, count, TEXTS):
                yield texts.batch(path, order[start : start + TEXTS], rng).cut(rng.choice(LENGTHS))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("states", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE, help="lower it for the last minutes")
    args = parser.parse_args()
    args.run.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = selection.find(args.checkpoint, "cpu")
    writer = checkpoints.load(found, torch.device("cpu"), torch.float32, lambda share: None)
    trainer = Trainer(args.run, args.states, writer, device)
    trainer.learning_rate = args.learning_rate
    began = saved = time.monotonic()
    losses = list[float]()
    for batch in drawn(trainer.texts, random.Random(trainer.step)):
        losses.append(trainer.learn(batch))
        now = time.monotonic()
        if now - saved < SAVE_SECONDS and now - began < args.seconds:
            continue
        trainer.seconds += now - saved
        row: dict[str, float] = {
            "step": trainer.step,
            "seconds": round(trainer.seconds),
            "learnt": sum(losses) / len(losses),
        }
        row |= trainer.check()
        with (args.run / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")
        print(row, flush=True)
        trainer.save()
        saved, losses = time.monotonic(), []
        if now - began >= args.seconds:
            return


if __name__ == "__main__":
    main()
