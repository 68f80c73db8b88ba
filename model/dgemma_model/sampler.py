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


def token_entropy(logits: Tensor) -> Tensor:
    """Entropy in nats of softmax(logits) over the last dimension; finite where logits are -inf."""
    log_probabilities = logits - logits.logsumexp(dim=-1, keepdim=True)
    finite = log_probabilities.clamp(min=torch.finfo(logits.dtype).min)
    return -(finite * log_probabilities.softmax(dim=-1)).sum(-1)


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
    network: Network,
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
    what must not be said.
    """
    fixed = canvas.clone()
    certain = torch.full((1, 1, network.config.vocab_size), -torch.inf, device=canvas.device)
    expected: Tensor | None = None
    for index in range(1, config.max_denoising_steps + 1):
        logits = constrain(network.logits(network.decode(canvas, cache, expected=expected)))
        logits = logits / temperature(config, config.max_denoising_steps - index + 1)
        one_hot = certain.expand_as(logits).scatter(-1, fixed[..., None], 0.0)
        logits = torch.where(pinned[..., None], one_hot, logits)
        probabilities = logits.softmax(dim=-1)
        sampled = torch.multinomial(probabilities.flatten(0, 1), 1, generator=generator).view(canvas.shape)
        confidence, best = probabilities.max(dim=-1)
        entropy = token_entropy(logits)
        fresh = torch.where(pinned, fixed, noise.draw(tuple(canvas.shape), generator))
        canvas, accepted = accept_and_renoise(canvas, sampled, entropy, fresh, config.entropy_bound)
        yield CanvasStep(index, best, canvas, accepted, entropy, confidence)
        expected = network.expected_embeddings(logits)
