"""Denoising: the published entropy-bound sampler as a generator that yields one canvas a step.

Reference: `transformers` generation_diffusion_gemma.py, `EntropyBoundSampler`; acceptance after Ben-Hamu et al.,
arXiv 2505.24857. Given the same logits, samples and noise, acceptance and renoising equal the reference exactly
(tests/test_sampler.py).

Shapes: B canvases, L positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dgemma_model.config import SamplerConfig
from dgemma_model.fused import FusedNetwork
from dgemma_model.network import Cache, Network


@dataclass(frozen=True, slots=True)
class CanvasStep:
    """The canvas after one step."""

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
    """What a position holds that nothing is known about: any token at all, or one mask token."""

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
class Reading:
    """What one look at the logits of N positions gives, [N] each."""

    best: Tensor
    confidence: Tensor
    entropy: Tensor
    sampled: Tensor


BLOCK = 64
"""Tokens that are summed up before any of them is looked at: finding a token among blocks, then in its block, takes a
fraction of the time that a search over the vocabulary takes."""
READ_AT_ONCE = 1 << 24
"""Scores that are read together; bounds what a large vocabulary takes beside its logits."""


def read_logits(logits: Tensor, uniform: Tensor) -> Reading:
    """The most likely token of each position, its probability, the entropy in nats, and a sample.

    `logits` [N, V] float32, with -inf where a token must not be said, *become probabilities in place*. `uniform`
    [2, N] in [0, 1) picks the sample by inverting the cumulative distribution: first among blocks of tokens, then in
    the block. Entropies are summed from the peak, so that a certain position has exactly none.
    """
    rows = max(1, READ_AT_ONCE // logits.shape[1])
    parts = list(map(_read, torch.split(logits, rows), torch.split(uniform, rows, dim=1)))
    columns = zip(*((part.best, part.confidence, part.entropy, part.sampled) for part in parts), strict=True)
    return parts[0] if len(parts) == 1 else Reading(*map(torch.cat, columns))


def _read(logits: Tensor, uniform: Tensor) -> Reading:
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
    return Reading(best[:, 0], confidence[:, 0], entropy, sampled[:, 0])


def accept_and_renoise(
    canvas: Tensor, sampled: Tensor, entropy: Tensor, noise: Tensor, entropy_bound: float
) -> tuple[Tensor, Tensor]:
    """Accept the positions of lowest entropy while the entropy summed over those before each is within
    `entropy_bound` (nats).

    All [B, L]. Returns the next canvas, samples where accepted and noise elsewhere, and the accepted mask.
    """
    ordered, order = torch.sort(entropy, dim=-1)
    within = ordered.cumsum(dim=-1) - ordered <= entropy_bound
    accepted = torch.zeros_like(within).scatter(-1, order, within)
    return torch.where(accepted, sampled, noise), accepted


def temperature(config: SamplerConfig, steps_left: int) -> float:
    """Linear from `t_max` in the first step to `t_min` + (t_max - t_min) / N in the last, where one step is left."""
    return config.t_min + (config.t_max - config.t_min) * steps_left / config.max_denoising_steps


@torch.inference_mode()
def denoise(
    network: Network | FusedNetwork,
    cache: Cache,
    canvas: Tensor,
    pinned: Tensor,
    config: SamplerConfig,
    noise: Noise,
    generator: torch.Generator,
    constrain: Callable[[Tensor], Tensor] = lambda logits: logits,
) -> Iterator[CanvasStep]:
    """Denoise `canvas` [B, L] behind the cached prompt for at most `max_denoising_steps` steps; stop reading to stop.

    Positions where `pinned` [B, L] is True keep their token: in the canvas, and as a certainty in the logits, so that
    they cost no entropy and self-conditioning sees them. `constrain` maps [B, L, V] logits to logits, with -inf for
    what must not be said; it may change them in place. There is one float32 tensor of that size, whatever the
    vocabulary. Nothing waits for a GPU but the first look at `pinned`.
    """
    fixed, any_pinned = canvas, bool(pinned.any())
    expected: Tensor | None = None
    for index in range(1, config.max_denoising_steps + 1):
        logits = constrain(network.logits(network.decode(canvas, cache, expected=expected)))
        logits = logits.div_(temperature(config, config.max_denoising_steps - index + 1))
        if any_pinned:
            certain = torch.where(pinned, 0.0, logits.gather(-1, fixed[..., None])[..., 0])
            logits = logits.masked_fill_(pinned[..., None], -torch.inf).scatter_(
                -1, fixed[..., None], certain[..., None]
            )
        uniform = torch.rand(2, canvas.numel(), generator=generator, device=canvas.device)
        reading = read_logits(logits.flatten(0, 1), uniform)
        best, confidence, entropy, sampled = (
            tensor.view(canvas.shape) for tensor in (reading.best, reading.confidence, reading.entropy, reading.sampled)
        )
        fresh = torch.where(pinned, fixed, noise.draw(tuple(canvas.shape), generator))
        canvas, accepted = accept_and_renoise(canvas, sampled, entropy, fresh, config.entropy_bound)
        yield CanvasStep(index, best, canvas, accepted, entropy, confidence)
        expected = network.mean_embedding(logits)
