"""Train the embedded checkpoint.

    python -m dgemma_model.train.train --data .train --run .train/run --stage causal --tokens 24e6
    python -m dgemma_model.train.train --data .train --run .train/run --stage joint --tokens 36e6

Stage `causal`: next-token loss of the encoder over suffix-first rows; cheap, and where infilling is learnt first.
Stage `joint`: the same loss, plus the denoising loss over many noised canvases after each encoded prompt, while the
learning rate falls to zero. Interrupt it at any time: it resumes from `state.pt` in the run's folder.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import random
import signal
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812
from rich.console import Console
from torch import Tensor, nn
from torch.func import functional_call

from dgemma_model.checkpoint.config import read_json
from dgemma_model.checkpoint.diffusion_gemma import load_network
from dgemma_model.decoding.sampler import Noise
from dgemma_model.network.cache import Cache
from dgemma_model.network.config import LayerConfig, NetworkConfig
from dgemma_model.network.diffusion_gemma import Network
from dgemma_model.prompt.tokenizer import MASK, SPECIAL_TOKENS
from dgemma_model.train.data import Canvases, Corpus, Rows, prefetched
from dgemma_model.train.grow import grow

CONFIG = NetworkConfig(
    vocab_size=4096,
    hidden_size=384,
    intermediate_size=1152,
    num_attention_heads=6,
    sliding_window=1024,
    num_experts=1,
    top_k_experts=1,
    moe_intermediate_size=1,
    layers=tuple(
        LayerConfig("full_attention" if i == 5 else "sliding_attention", 64, 3, 10_000.0, "default", 1.0)
        for i in range(6)
    ),
    max_position_embeddings=2048,
    canvas_length=64,
)
"""The embedded network: 11.9 M parameters, and 1.6 M of embeddings."""

ROW_LENGTH, ROWS = 512, 16
CANVAS_POSITIONS = 256
"""Canvas positions after each row in the joint stage."""
FILL_WEIGHT = 2.0
"""Weight of a fill's tokens in the causal loss; the prompt's weigh one."""
CLEAN_WEIGHT = 0.2
"""Weight of the canvas positions that kept their token in the denoising loss."""
WRONG_TOKENS = 0.25
"""Share of the canvases in which noise is wrong tokens, for half as many positions: what repair and review need."""
EXTRA_HIGH_NOISE = 1.5
"""t is uniform up to this and cut at one: a third of all canvases are noise altogether."""


def fresh_network(config: NetworkConfig, seed: int) -> Network:
    """A network with initial weights: every matrix keeps the scale of its input, and attention starts soft."""
    torch.manual_seed(seed)
    network = Network(config)
    with torch.no_grad():
        network.embed_tokens.weight.normal_(std=config.hidden_size**-0.5)
        for name, parameter in network.named_parameters():
            if parameter.dim() == 2 and "embed" not in name:
                parameter.normal_(std=parameter.shape[1] ** -0.5)
            if "q_norm" in name or "k_norm" in name:
                parameter.fill_(parameter.shape[0] ** -0.25)
            if name.endswith(("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")):
                parameter.fill_(0.5)
            if name.endswith("post_feedforward_layernorm_2.weight"):
                parameter.zero_()  # the published layout demands an expert; this one adds nothing and is never run
    network.find_dense_layers()
    return network


def optimizers(network: Network) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for embeddings and norms."""
    matrices, others, embeddings = [], [], []
    for name, parameter in network.named_parameters():
        unused = any(
            part in name
            for part in ("experts.", "router.", "pre_feedforward_layernorm_2", "post_feedforward_layernorm_2")
        )
        if unused:
            parameter.requires_grad_(False)
        elif "embed" in name:
            embeddings.append(parameter)
        elif parameter.dim() == 2:
            matrices.append(parameter)
        else:
            others.append(parameter)
    return [
        torch.optim.Muon(matrices, lr=0.015, weight_decay=0.1, momentum=0.95),
        torch.optim.AdamW(
            [{"params": embeddings, "lr": 3e-3}, {"params": others, "lr": 2e-3}],
            betas=(0.9, 0.98),
            weight_decay=0.0,
            eps=1e-10,
        ),
    ]


@dataclass(frozen=True, slots=True)
class NoisedCanvases:
    """What the denoiser is trained on in one step; shapes as in `Canvases`."""

    canvas: Tensor
    positions: Tensor
    mask: Tensor
    targets: Tensor
    weights: Tensor
    """[B, M] float32: one for noise, `CLEAN_WEIGHT` for clean tokens, zero for given text."""


def add_noise(canvases: Canvases, noise: Noise, generator: torch.Generator) -> NoisedCanvases:
    """Replace each token by noise with the probability t of its canvas, but never the text given between holes.

    In a share of the canvases the noise is wrong tokens instead: half of them uniform ids, half tokens of other places
    in the same row. t is spread evenly over a row's canvases (low-discrepancy), with extra mass at one, where every
    fill begins. The first token of half the canvases stays, as it does when a draft is verified.
    """
    batch, positions = canvases.targets.shape
    count = int(canvases.number[-1]) + 1
    shuffled = torch.rand(batch, count, generator=generator).argsort(dim=1)
    t = ((shuffled + torch.rand(batch, 1, generator=generator)) / count * EXTRA_HIGH_NOISE).clamp(max=1.0)
    wrong = torch.rand(batch, count, generator=generator) < WRONG_TOKENS
    t = torch.where(wrong, t / 2, t)
    noised = torch.rand(batch, positions, generator=generator) < t[:, canvases.number]
    is_first = torch.ones(positions, dtype=torch.bool)
    is_first[1:] = canvases.number[1:] != canvases.number[:-1]
    keep_first = (torch.rand(batch, count, generator=generator) < 0.5)[:, canvases.number]
    noised &= ~(is_first & keep_first) & ~canvases.pinned
    other_positions = torch.randint(positions, (batch, positions), generator=generator)
    uniform = torch.randint(len(SPECIAL_TOKENS), noise.vocab_size, (batch, positions), generator=generator)
    from_row = torch.rand(batch, positions, generator=generator) < 0.5
    wrong_ids = torch.where(from_row, canvases.targets.gather(1, other_positions), uniform)
    drawn = torch.where(wrong[:, canvases.number], wrong_ids, noise.draw((batch, positions), generator))
    canvas = torch.where(noised, drawn, canvases.targets)
    weights = torch.where(noised, 1.0, CLEAN_WEIGHT).masked_fill(canvases.pinned, 0.0)
    return NoisedCanvases(canvas, canvases.positions, canvases.mask, canvases.targets, weights)


class Losses(nn.Module):
    """The losses of a network, as one module so that a functional call may run it with bfloat16 copies of the
    weights."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, ids: Tensor, weights: Tensor, noised: NoisedCanvases | None = None, self_condition: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Weighted mean cross-entropies in nats, float32 scalars: of the next token, and of the canvases (zero
        without any).

        With `self_condition`, a first pass without gradient tells the second what it expects at each position.
        """
        network, cache = self.network, Cache()
        causal = _weighted_mean(network.logits(network.encode(ids[:, :-1], cache)), ids[:, 1:], weights)
        if noised is None:
            return causal, torch.zeros_like(causal)
        expected = None
        if self_condition:
            with torch.no_grad():
                first = network.decode(noised.canvas, cache, positions=noised.positions, mask=noised.mask)
                expected = network.expected_embeddings(network.logits(first)).to(first.dtype)
        hidden = network.decode(noised.canvas, cache, expected=expected, positions=noised.positions, mask=noised.mask)
        return causal, _weighted_mean(network.logits(hidden), noised.targets, noised.weights)


def _weighted_mean(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return (losses * weights.flatten()).sum() / weights.sum()


def bfloat16_weights(module: nn.Module) -> dict[str, Tensor]:
    """The weights in bfloat16, gradients flowing to the float32 ones; embeddings stay wide, their gradients are sums
    of thousands."""
    return {name: p if "embed_tokens" in name else p.bfloat16() for name, p in module.named_parameters()}


def learning_rate_factor(progress: float, warmup: float, decay: float) -> float:
    """Warm-up, stable phase, linear decay to zero; all as shares of the run."""
    return min(1.0, progress / warmup if warmup else 1.0, max(0.0, (1.0 - progress) / decay) if decay else 1.0)


class Run:
    """A training run with everything that resuming needs, kept in one folder."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.device = torch.device(args.device)
        self.network = fresh_network(CONFIG, args.seed).to(self.device)
        self.losses = Losses(self.network)
        self.optimizers = optimizers(self.network)
        self.base_lrs = [[group["lr"] for group in o.param_groups] for o in self.optimizers]
        self.step, self.tokens = 0, 0
        self.history: list[dict[str, Any]] = []
        self.state_file = args.run / "state.pt"

    def resume(self) -> None:
        """Go on from the run's folder, or from other weights (`--init`) with fresh optimizers, or start anew.

        Raises:
            ValueError: the checkpoint to start from was made for another tokenizer than that of the data.
        """
        if self.state_file.exists():
            state = torch.load(self.state_file, map_location=self.device, weights_only=True)
            self.network.load_state_dict(state["network"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.step, self.tokens, self.history = state["step"], state["tokens"], state["history"]
        elif self.args.init and self.args.init.is_dir():
            theirs, ours = (folder / "tokenizer.json" for folder in (self.args.init, self.args.data))
            if theirs.exists() and theirs.read_bytes() != ours.read_bytes():
                raise ValueError(f"{self.args.init} speaks in other tokens: copy {theirs} to {ours}")
            config = NetworkConfig.from_json(read_json(self.args.init / "config.json", required=True))
            grow(self.network, load_network(self.args.init, config, self.device, torch.float32)[0])
        elif self.args.init:
            state = torch.load(self.args.init, map_location=self.device, weights_only=True)
            self.network.load_state_dict(state["network"])

    def save(self) -> None:
        """Write the state, in one move, so that an interruption leaves the old or the new one."""
        self.args.run.mkdir(parents=True, exist_ok=True)
        state = {
            "network": self.network.state_dict(),
            "optimizers": [o.state_dict() for o in self.optimizers],
            "step": self.step,
            "tokens": self.tokens,
            "history": self.history,
        }
        torch.save(state, self.state_file.with_suffix(".tmp"))
        self.state_file.with_suffix(".tmp").replace(self.state_file)
        (self.args.run / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in self.history))

    def set_learning_rate(self) -> float:
        """Set every group's rate for the current progress; return the factor."""
        progress = min(1.0, (self.tokens + 1) / self.args.tokens)
        factor = learning_rate_factor(progress, self.args.warmup, self.args.decay)
        for optimizer, rates in zip(self.optimizers, self.base_lrs, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        return factor


def train(args: argparse.Namespace) -> None:
    """Run one stage until its tokens are seen, saving every few minutes and on interruption."""
    console = Console(stderr=True)
    run = Run(args)
    run.resume()
    corpus = Corpus.read(args.data)

    joint = args.stage == "joint"
    noise = Noise(CONFIG.vocab_size, SPECIAL_TOKENS.index(MASK) if args.noise == "mask" else None)

    def batch(step: int) -> tuple[Rows, NoisedCanvases | None, bool]:
        rng = random.Random(f"{args.seed}-{step}")
        rows = corpus.rows(rng, ROWS, ROW_LENGTH, FILL_WEIGHT)
        if not joint:
            return rows, None, False
        canvases = corpus.canvases(rng, rows, CANVAS_POSITIONS)
        generator = torch.Generator().manual_seed(rng.getrandbits(60))
        return rows, add_noise(canvases, noise, generator), rng.random() < 0.5

    def losses(*inputs: Any) -> tuple[Tensor, Tensor]:
        return cast(tuple[Tensor, Tensor], functional_call(run.losses, bfloat16_weights(run.losses), inputs))

    losses_of = torch.compile(losses) if args.compile else losses
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    saved_at = shown_at = time.monotonic()
    shown_tokens, recent = run.tokens, []
    for rows, noised, self_condition in prefetched(batch, run.step):
        if stopped or run.tokens >= args.tokens:
            break
        factor = run.set_learning_rate()
        inputs = (rows.ids.to(run.device), rows.weights.to(run.device))
        if noised is not None:
            on_device = NoisedCanvases(*(getattr(noised, f.name).to(run.device) for f in fields(noised)))
            causal, denoising = losses_of(*inputs, on_device, self_condition)
        else:
            causal, denoising = losses_of(*inputs)
        torch.autograd.backward(causal + denoising)
        nn.utils.clip_grad_norm_(run.network.parameters(), 1.0)
        for optimizer in run.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        run.step += 1
        run.tokens += rows.weights.numel()
        recent.append((causal.item(), denoising.item()))
        now = time.monotonic()
        if run.step % 20 == 0:
            line = {
                "step": run.step,
                "tokens": run.tokens,
                "causal": round(sum(pair[0] for pair in recent) / len(recent), 4),
                "denoising": round(sum(pair[1] for pair in recent) / len(recent), 4),
                "tokens_per_second": round((run.tokens - shown_tokens) / (now - shown_at)),
                "lr": round(factor, 3),
            }
            run.history.append(line)
            console.print(" ".join(f"{key} {value}" for key, value in line.items()), highlight=False, soft_wrap=True)
            shown_at, shown_tokens, recent = now, run.tokens, []
        if now - saved_at > args.save_every:
            run.save()
            saved_at = now
    run.save()


def keep_freed_memory() -> None:
    """Have glibc keep the memory of freed tensors. By default it gives large ones back to the system at once, and the
    next ones are cleared page by page, which can cost more time than the products that fill them (log/archive.md)."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        never_mapped, never_trimmed, one_arena = (-4, 0), (-1, -1), (-8, 1)
        for option, value in (never_mapped, never_trimmed, one_arena):
            libc.mallopt(option, value)


def main() -> None:
    """Command line of the recipe."""
    keep_freed_memory()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(".train"))
    parser.add_argument("--run", type=Path, default=Path(".train/run"))
    parser.add_argument("--stage", choices=("causal", "joint"), required=True)
    parser.add_argument(
        "--noise", choices=("uniform", "mask"), default="uniform", help="what the joint stage puts in place of tokens"
    )
    parser.add_argument("--init", type=Path, help="a state.pt, or a checkpoint, whose network may be narrower")
    parser.add_argument("--tokens", type=float, required=True, help="train until so many tokens were seen in all")
    parser.add_argument("--warmup", type=float, default=0.02, help="share of the tokens")
    parser.add_argument(
        "--decay", type=float, default=0.0, help="share of the tokens over which the rate falls to zero"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--save-every", type=float, default=180.0, help="seconds")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
