"""Denoising: the published entropy-bound sampler as a generator that yields one canvas a step.

Reference: `transformers` generation_diffusion_gemma.py, `EntropyBoundSampler`; acceptance after Ben-Hamu et al.,
arXiv 2505.24857. Given the same logits, samples and noise, acceptance and renoising equal the reference exactly
(tests/decoding/test_sampler.py).

Shapes: B canvases, L positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dgemma_model.checkpoint.config import SamplerConfig
from dgemma_model.network.cache import Cache
from dgemma_model.network.contract import CodeNetwork
from dgemma_model.network.threads import THREADS
from dgemma_model.network.vocabulary import READ_AT_ONCE


@dataclass(frozen=True, slots=True)
class CanvasStep:
    """The canvas after one step, on the host: all of it comes from the device in one copy."""

    index: int
    """Steps done, counting from 1."""
    best: Tensor
    """[B, L] int64: the most likely token at each position; this is the draft."""
    next_canvas: Tensor
    """[B, L] int64: accepted tokens and fresh noise; the network's next input."""
    accepted: Tensor
    """[B, L] bool."""
    entropy: Tensor
    """[B, L] float32, nats, of the temperature-scaled distribution."""
    confidence: Tensor
    """[B, L] float32: probability of `best` under that distribution."""


@dataclass(frozen=True, slots=True)
class Noise:
    """What a position without a known token holds: a random token, or the mask token."""

    vocab_size: int
    mask_id: int | None = None

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Fresh noise ids, int64, on the generator's device."""
        if self.mask_id is not None:
            return torch.full(shape, self.mask_id, device=generator.device)
        return torch.randint(self.vocab_size, shape, generator=generator, device=generator.device)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one fill denoises."""

    config: SamplerConfig
    noise: Noise
    generator: torch.Generator


@dataclass(frozen=True, slots=True)
class LogitReading:
    """The figures of N positions, from their logits; each [N]. `best` and `sampled` are ids, int64; `confidence` is a
    probability and `entropy` is in nats, both float32."""

    best: Tensor
    confidence: Tensor
    entropy: Tensor
    sampled: Tensor


BLOCK = 64
"""Tokens that are summed up before any of them is looked at: finding a token among blocks, then in its block, takes a
fraction of the time that a search over the vocabulary takes."""


def read_logits(logits: Tensor, uniform: Tensor) -> LogitReading:
    """The most likely token of each position, its probability, the entropy in nats, and a sample.

    `logits` [N, V] float32, with -inf where a token must not be said, *become probabilities in place*. `uniform`
    [2, N] in [0, 1) picks the sample by inverting the cumulative distribution: first among blocks of tokens, then in
    the block. Entropies are summed from the peak, so that a certain position has exactly none.
    """
    rows = max(1, READ_AT_ONCE // logits.shape[1])
    parts = list(map(_read, torch.split(logits, rows), torch.split(uniform, rows, dim=1)))
    columns = zip(*((part.best, part.confidence, part.entropy, part.sampled) for part in parts), strict=True)
    return parts[0] if len(parts) == 1 else LogitReading(*map(torch.cat, columns))


def _read(logits: Tensor, uniform: Tensor) -> LogitReading:
    positions, vocabulary = logits.shape
    size = BLOCK if vocabulary % BLOCK == 0 else vocabulary

    def block(of: Tensor, number: Tensor) -> Tensor:  # [N, V] and [N, 1] -> [N, size]
        return of.view(positions, -1, size).gather(1, number[..., None].expand(-1, 1, size))[:, 0]

    peaks = logits.view(positions, -1, size).amax(-1)
    peak, number = peaks.max(-1, keepdim=True)
    best = number * size + block(logits, number).argmax(-1, keepdim=True)
    shifted = logits.sub_(peak).clamp_(min=torch.finfo(logits.dtype).min)  # -inf times a probability of 0 is no number
    probabilities = shifted.softmax(-1)
    confidence = probabilities.gather(-1, best)
    entropy = -confidence.log()[:, 0] - torch.linalg.vecdot(probabilities, shifted)
    first, second = (uniform * (1 - 2**-23))[..., None]  # a product with a sum then stays below the sum
    sums = probabilities.view(positions, -1, size).sum(-1).cumsum(-1)
    number = torch.searchsorted(sums, first * sums[:, -1:], right=True)
    within = block(probabilities, number).cumsum(-1)
    sampled = number * size + torch.searchsorted(within, second * within[:, -1:], right=True)
    logits.copy_(probabilities)
    return LogitReading(best[:, 0], confidence[:, 0], entropy, sampled[:, 0])


def accept_and_renoise(sampled: Tensor, entropy: Tensor, noise: Tensor, entropy_bound: float) -> tuple[Tensor, Tensor]:
    """Accept the positions of lowest entropy while the entropy summed over those before each is within
    `entropy_bound` (nats).

    All [B, L]. Returns the next canvas (samples at accepted positions, noise at all others) and the accepted mask.
    """
    ordered, order = torch.sort(entropy, dim=-1)
    within = ordered.cumsum(dim=-1) - ordered <= entropy_bound
    accepted = torch.zeros_like(within).scatter(-1, order, within)
    return torch.where(accepted, sampled, noise), accepted


def copied_to_host(
    best: Tensor, canvas: Tensor, accepted: Tensor, entropy: Tensor, confidence: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The same, of one shape each, on the host: in one copy, for which the host waits."""
    figures = (entropy, confidence)
    packed = torch.stack(
        (best.int(), canvas.int(), accepted.int(), *(values.contiguous().view(torch.int32) for values in figures))
    ).cpu()
    return (
        packed[0].long(),
        packed[1].long(),
        packed[2].bool(),
        packed[3].view(torch.float32),
        packed[4].view(torch.float32),
    )


def temperature(config: SamplerConfig, steps_left: int) -> float:
    """Linear from `t_max` in the first step to `t_min` + (t_max - t_min) / N in the last, where one step is left."""
    return config.t_min + (config.t_max - config.t_min) * steps_left / config.max_denoising_steps


@torch.inference_mode()
def denoise(
    network: CodeNetwork,
    cache: Cache,
    canvas: Tensor,
    pinned: Tensor,
    config: SamplerConfig,
    noise: Noise,
    generator: torch.Generator,
    constrain: Callable[[Tensor], Tensor] = lambda logits: logits,
) -> Iterator[CanvasStep]:
    """Denoise `canvas` [B, L] after the cached prompt for at most `max_denoising_steps` steps; stop reading to stop.

    Positions where `pinned` [B, L] is True keep their token: they are certain, cost no entropy, and self-conditioning
    sees them as they are. Scores are computed only where some row is to be denoised: `constrain` maps the logits of
    these positions, [B, F, V], to logits, with -inf for what must not be said; it may change them in place. There is
    one float32 tensor of that size, whatever the vocabulary.

    In a step the host waits for the device once: for the copy of what the step has made, by which callers stop.
    """
    fixed, on_host = canvas, pinned.cpu()
    places = (~on_host.all(dim=0)).nonzero()[:, 0]
    if not len(places):
        places = places.new_zeros(1)  # a canvas of given text is read like any other
    any_held = bool(on_host[:, places].any())
    free, pinned = places.to(canvas.device), pinned.to(canvas.device)
    held, held_ids = pinned[:, free], canvas[:, free]
    expected: Tensor | None = None
    for index in range(1, config.max_denoising_steps + 1):
        hidden = network.decode(canvas, cache, expected=expected)
        logits = constrain(network.logits(hidden if len(free) == canvas.shape[1] else hidden[:, free]))
        logits = logits.div_(temperature(config, config.max_denoising_steps - index + 1))
        if any_held:
            certain = torch.where(held, 0.0, logits.gather(-1, held_ids[..., None])[..., 0])
            logits = logits.masked_fill_(held[..., None], -torch.inf).scatter_(
                -1, held_ids[..., None], certain[..., None]
            )
        uniform = torch.rand(2, *canvas.shape, generator=generator, device=canvas.device)[..., free]
        with THREADS.chosen(held.numel()):
            reading = read_logits(logits.flatten(0, 1), uniform.flatten(1))
        best, sampled = (fixed.index_copy(1, free, ids.view(held.shape)) for ids in (reading.best, reading.sampled))
        entropy = torch.zeros(canvas.shape, device=canvas.device)
        entropy = entropy.index_copy_(1, free, reading.entropy.view(held.shape))
        confidence = torch.ones_like(entropy).index_copy_(1, free, reading.confidence.view(held.shape))
        fresh = torch.where(pinned, fixed, noise.draw(tuple(canvas.shape), generator))
        canvas, accepted = accept_and_renoise(sampled, entropy, fresh, config.entropy_bound)
        yield CanvasStep(index, *copied_to_host(best, canvas, accepted, entropy, confidence))
        mean = network.mean_embedding(logits)
        expected = mean if len(free) == canvas.shape[1] else network.embed(fixed).index_copy_(1, free, mean)
