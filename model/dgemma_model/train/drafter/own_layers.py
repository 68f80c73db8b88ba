"""Train the writer's own layers to draft: low-rank terms beside its frozen matrices, active on a canvas only.

    python -m dgemma_model.train.corpus .train
    python -m dgemma_model.train.drafter.own_layers RUN --data .train [--folder SOURCES] --seconds 1800

A canvas of masks follows cached text and is denoised in one step, in both directions (gated low-rank terms, arXiv
2507.11851; one step and the distance from the causal head, Orthrus, arXiv 2605.12825). The text itself is read without
the terms, so the writer writes what it always did. Texts, places, targets and figures are those of `fit`: the targets
are what the writer says for as long as the text says the same. One pass over a text gives all of them.

Every few minutes `RUN` gets `state.pt`, from which the next call goes on, and a line of `log.jsonl`. Seconds are those
of the processor. This was tried (log/drafts.md) and is not served.

Shapes: A canvases of one text, L positions of each, T tokens of the text, D hidden size, N drafter's vocabulary.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
from torch import Tensor, nn

from dgemma_model.checkpoint import load as checkpoints
from dgemma_model.checkpoint import selection
from dgemma_model.network.cache import Cache
from dgemma_model.network.kernels import fastest_products
from dgemma_model.network.qwen2 import Qwen2Network, rotary_angles
from dgemma_model.network.qwen2_served import ServedQwen2
from dgemma_model.network.qwen2_weights import JOINED, NORMS, vocabulary_matrices
from dgemma_model.train.drafter.fit import (
    AVERAGED,
    BEGUN_SCALE,
    CANVAS,
    LATER,
    LENGTHS,
    Figures,
    ReadTexts,
    widened,
)
from dgemma_model.train.drafter.read import HELD_OUT_SHARE, TEXTS, Prompts, count_tokens, texts_of

RANK = 32
TEXTS_A_STEP = 1
LEARNING_RATE, WARM_UP = 1e-3, 20
SAVE_SECONDS = 120


class Gated(nn.Module):
    """A frozen matrix, and a low-rank term that is added while it is `active`."""

    def __init__(self, frozen: nn.Linear, rank: int) -> None:
        super().__init__()
        self.frozen, self.active = frozen, False
        self.narrow = nn.Parameter(torch.randn(rank, frozen.in_features) * frozen.in_features**-0.5)
        self.widen = nn.Parameter(torch.zeros(frozen.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        out = cast(Tensor, self.frozen(x))
        if self.active:
            out = out + F.linear(F.linear(x, self.narrow.to(x.dtype)), self.widen.to(x.dtype))
        return out


class OwnLayers(nn.Module):
    """A writer that also drafts. Only what drafts has gradients, in float32."""

    def __init__(self, network: Qwen2Network, pairs: tuple[Tensor, Tensor], rank: int = RANK) -> None:
        """`network` is changed: its matrices become `Gated`. `pairs` as of `ReadTexts.pairs`."""
        super().__init__()
        self.network = network.requires_grad_(False)
        for layer in network.decoder_layers():
            for block in (layer.self_attn, layer.mlp):
                for name, matrix in list(block.named_children()):
                    setattr(block, name, Gated(cast(nn.Linear, matrix), rank))
        size, (before, after) = network.config.hidden_size, pairs
        self.mask = nn.Parameter(network.embed_tokens.weight.float().mean(0))
        self.places = nn.Parameter(torch.randn(CANVAS, size) * 0.02)
        self.scale = nn.Parameter(torch.full((size,), BEGUN_SCALE))
        self.before = nn.Parameter(torch.cat((before, before.mean(0)[None])))
        """By the token before; the last row is that of tokens outside of the drafter's vocabulary."""
        self.after = nn.Parameter(after)

    def trained(self) -> dict[str, nn.Parameter]:
        """What is trained, by name."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    @contextmanager
    def _active(self) -> Iterator[None]:
        gates = [module for module in self.network.modules() if isinstance(module, Gated)]
        for gate in gates:
            gate.active = True
        try:
            yield
        finally:
            for gate in gates:
                gate.active = False

    def forward(self, cache: Cache, anchors: Tensor, length: int) -> Tensor:
        """Denoise canvases of that length after the `anchors` [A] of a cached text: what the head scores, [A, L, D].

        Each sees the text up to its anchor, and itself. Its first position says what follows the token that the writer
        chooses at the anchor.
        """
        network, canvases, dtype = self.network, len(anchors), self.network.embed_tokens.weight.dtype
        positions = anchors[:, None] + torch.arange(1, length + 1, device=anchors.device)
        x = (self.mask + self.places[:length]).repeat(canvases, 1)[None].to(dtype)
        cos, sin = (side[None, :, None].to(dtype) for side in rotary_angles(network.config, positions.flatten()))
        seen = torch.arange(cache.length, device=anchors.device) <= anchors.repeat_interleave(length)[:, None]
        own = torch.arange(canvases, device=anchors.device).repeat_interleave(length)
        allowed = torch.cat((seen, own[:, None] == own), 1)[None, None]
        with self._active():
            for index, layer in enumerate(network.decoder_layers()):
                queries, keys, values = layer.self_attn.project(layer.input_layernorm(x), cos, sin)
                sides = zip(cache.layer(index), (keys, values), strict=True)
                joined = (torch.cat(side, 2) for side in sides)
                group = queries.shape[1] // keys.shape[1]
                keys, values = (side.repeat_interleave(group, 1) for side in joined)
                attended = F.scaled_dot_product_attention(queries, keys, values, allowed, scale=1.0)
                x = layer.finish(x, attended)
        return cast(Tensor, network.norm(x)).view(canvases, length, -1) * self.scale.to(dtype)


def plain(writer: ServedQwen2, dtype: torch.dtype) -> Qwen2Network:
    """A served network as the plain one, its matrices widened to `dtype`."""
    config, weights = replace(writer.config, vocab_size=writer.vocab_size), writer.weights
    state = {name: widened(weights, name).to(dtype) for name in vocabulary_matrices(config)}
    state = {f"{name}.weight": matrix for name, matrix in state.items()}
    with torch.device("meta"):
        network = Qwen2Network(config)
    shapes = network.state_dict()
    for layer in range(config.num_hidden_layers):
        prefix = f"layers.{layer}."
        for name, parts in JOINED.items():
            names = [f"{prefix}{part}.weight" for part in parts]
            rows = [len(shapes[part]) for part in names]
            state |= zip(names, torch.split(widened(weights, prefix + name).to(dtype), rows), strict=True)
            if name == "qkv" and config.has_qkv_bias:
                biases = torch.split(weights.tensors[f"{prefix}qkv.bias"].to(dtype), rows)
                state |= zip((f"{prefix}{part}.bias" for part in parts), biases, strict=True)
        state |= {f"{prefix}{norm}.weight": weights.tensors[f"{prefix}{norm}.weight"] for norm in NORMS}
    state["norm.weight"] = weights.tensors["norm.weight"]
    network.load_state_dict(state, assign=True)
    return network


class Trainer:
    """The terms, their optimiser, and the writer."""

    def __init__(self, run: Path, network: Qwen2Network, texts: ReadTexts) -> None:
        """`run` keeps what is trained."""
        self.run, self.texts = run, texts
        head = network.embed_tokens.weight if network.lm_head is None else network.lm_head.weight
        self.head = head[texts.ids].detach()
        """The rows of the writer's head for the drafter's vocabulary, [N, D]."""
        torch.manual_seed(0)
        self.layers = OwnLayers(network, texts.pairs())
        trained = self.layers.trained()
        self.average = {name: value.detach().clone() for name, value in trained.items()}
        self.optimizer = torch.optim.AdamW(trained.values(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)
        self.step, self.seconds = 0, 0.0
        if (run / "state.pt").exists():
            state = torch.load(run / "state.pt")
            self.layers.load_state_dict(state["trained"], strict=False)
            self.average = state["average"]
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds = state["step"], state["seconds"]

    def scores(
        self, ids: Sequence[int], prompt: int, length: int, rng: random.Random
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of canvases of that length in a text: scores [M, N] of the positions with a target, these targets [M], the
        writer's own scores there [M, N], and which positions these are, [A, L]."""
        text, cache = torch.tensor(ids), Cache()
        with torch.no_grad():
            writers = F.linear(self.layers.network.encode(text[None], cache)[0], self.head)
        anchors, targets = self.texts.anchors(text, self.texts.ids[writers.argmax(-1)], len(ids), prompt, rng)
        targets = targets[:, :length]
        known = targets >= 0
        hidden = self.layers(cache, anchors, length)[known]
        following = self.texts.index[text[(anchors + 1).clamp(max=len(ids) - 1)]]
        before = torch.cat((following[:, None], targets[:, :-1]), 1)[known]
        before = torch.where(before < 0, len(self.head), before)
        told = F.linear(self.layers.before[before].to(hidden.dtype), self.layers.after.to(hidden.dtype))
        places = (anchors[:, None] + 1 + torch.arange(length))[known]
        return F.linear(hidden, self.head) + told, targets[known], writers[places], known

    def learn(self, texts: Sequence[tuple[list[int], int]], rng: random.Random) -> float:
        """One step on some texts; returns the loss: nats a target beyond the writer's own."""
        for group in self.optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (self.step + 1) / WARM_UP)
        self.optimizer.zero_grad()
        length, total = rng.choice(LENGTHS), 0.0
        for ids, prompt in texts:
            scores, _, writers, known = self.scores(ids, prompt, length, rng)
            weights = LATER ** torch.arange(length).expand_as(known)[known].float()
            said = writers.float().log_softmax(-1)
            distances = F.kl_div(scores.float().log_softmax(-1), said, reduction="none", log_target=True).sum(-1)
            loss = (distances * weights).sum() / weights.sum().clamp(min=1) / len(texts)
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        trained = self.layers.trained()
        torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
        self.optimizer.step()
        self.step += 1
        share = min(AVERAGED, self.step / (self.step + 10))
        for name, value in trained.items():
            self.average[name].lerp_(value.detach(), 1 - share)
        return total

    @torch.no_grad()
    def check(self, texts: Sequence[tuple[list[int], int]]) -> dict[str, float]:
        """The `Figures` of texts, with averaged terms."""
        rng, figures = random.Random(0), Figures()
        kept = {name: value.clone() for name, value in self.layers.trained().items()}
        self.layers.load_state_dict(self.average, strict=False)
        for ids, prompt in texts:
            scores, targets, _, known = self.scores(ids, prompt, CANVAS, rng)
            figures.add(scores, targets, known)
        self.layers.load_state_dict(kept, strict=False)
        return figures.row()

    def save(self) -> None:
        """Write what the next run goes on from, in place of what was there."""
        state = {"trained": self.layers.trained(), "average": self.average, "optimizer": self.optimizer.state_dict()}
        torch.save(state | {"step": self.step, "seconds": self.seconds}, self.run / "state.part")
        (self.run / "state.part").rename(self.run / "state.pt")


def drawn(prompts: Prompts, begin: int) -> Iterator[tuple[list[int], int]]:
    """Texts of training without end, the first `begin` of them left out."""
    numbers = (number for number in itertools.count() if number % HELD_OUT_SHARE)
    of_files = map(prompts.of_file, itertools.islice(numbers, begin // TEXTS, None))
    return itertools.islice(itertools.chain.from_iterable(of_files), begin % TEXTS, None)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, default=Path(".train"))
    parser.add_argument("--folder", type=Path, action="append", default=[], help="further sources")
    parser.add_argument("--leave-out", action="append", default=[], help="packages and folders that are not read")
    parser.add_argument("--checkpoint", default=None)
    parser.add_argument("--seconds", type=float, default=1800, help="of the processor, with those of earlier calls")
    parser.add_argument("--check-seconds", type=float, default=300, help="of training between two checks")
    args = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device("cpu")
    loaded = checkpoints.load(selection.find(args.checkpoint, "cpu"), device, torch.float32, lambda share: None)
    assert isinstance(loaded.network, ServedQwen2)
    sources = texts_of(args.data, args.folder, args.leave_out)
    random.Random(0).shuffle(sources)
    args.run.mkdir(parents=True, exist_ok=True)
    if not (args.run / "vocabulary.json").exists():
        count_tokens(args.run, sources, loaded.tokenizer)
    network, prompts = plain(loaded.network, fastest_products(device)), Prompts(sources, loaded)
    trainer = Trainer(args.run, network, ReadTexts(args.run, network.config.head_dim))
    texts = drawn(prompts, trainer.step * TEXTS_A_STEP)
    checked = saved = trainer.seconds
    losses = list[float]()
    while True:
        began = time.process_time()
        some = list(itertools.islice(texts, TEXTS_A_STEP))
        losses.append(trainer.learn(some, random.Random(trainer.step)))
        trainer.seconds += time.process_time() - began
        ends = trainer.seconds >= args.seconds
        if ends or trainer.seconds - saved >= SAVE_SECONDS:
            saved = trainer.seconds
            trainer.save()
        if not ends and trainer.seconds - checked < args.check_seconds:
            continue
        checked = trainer.seconds
        row = {"step": trainer.step, "seconds": round(checked), "learnt": sum(losses) / len(losses)}
        row |= trainer.check(list(prompts.of_file(0)))
        with (args.run / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")
        print(row, flush=True)
        losses.clear()
        if ends:
            return


if __name__ == "__main__":
    main()
