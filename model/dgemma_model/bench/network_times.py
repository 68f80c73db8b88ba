"""What `dgemma-lsp bench` measures of a checkpoint that denoises: our network and others with the same weights, in
turns in one process.

Prompts are from a module of the standard library, so that this runs wherever Python does. All times are medians and
95th percentiles of wall time in milliseconds.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgemma_model.bench.timing import Work, excerpts, peak_memory_mb, side_by_side
from dgemma_model.checkpoint import contract
from dgemma_model.checkpoint import load as checkpoints
from dgemma_model.checkpoint.config import Quantize, SamplerConfig
from dgemma_model.checkpoint.selection import embedded_directory
from dgemma_model.decoding.sampler import Noise, denoise
from dgemma_model.network.cache import Cache
from dgemma_model.network.kernels import fastest_products
from dgemma_model.prompt.suffix_first import SuffixFirst

CANVASES = (8, 16, 32, 64)
"""Numbers of positions of a canvas."""
FILLS = (8, 32, 64, 200)
"""Numbers of tokens of a fill."""
STEPS = 8
"""Denoising steps of a fill. No fill stops earlier, neither ours nor those of others."""


class _Ours:
    """Our network as it is served."""

    def __init__(self, loaded: contract.Checkpoint, products: torch.dtype, prompt: Tensor) -> None:
        self._loaded, self._prompt = loaded, prompt
        self.network, self.cache = loaded.served(products).network, Cache()
        self.network.encode(prompt, self.cache)

    def encode(self, prompt: Tensor) -> object:
        """Encode a prompt [1, T] without a cache, and compute the logits after it."""
        return self.network.logits(self.network.encode(prompt, Cache())[:, -1:])

    def encode_more(self, tokens: int) -> object:
        """Encode `tokens` more tokens after the cached prompt, and compute the logits after them."""
        self.cache.crop(self._prompt.shape[1])
        found = self.network.logits(self.network.encode(self._prompt[:, :tokens], self.cache)[:, -1:])
        self.cache.crop(self._prompt.shape[1])
        return found

    def step(self, canvas: Tensor, logits: Tensor) -> object:
        """One denoising step of `canvas` [1, L] after the cached prompt, with self-conditioning on the `logits` [1, L,
        V] of the step before."""
        network = self.network
        return network.logits(network.decode(canvas, self.cache, expected=network.mean_embedding(logits.softmax(-1))))

    def fill(self, prompt: Tensor, tokens: int) -> None:
        """Encode a prompt and denoise a canvas after it."""
        cache = Cache()
        self.network.encode(prompt, cache)
        self._denoise(cache, tokens)

    def fill_cached(self, tokens: int) -> None:
        """Denoise a canvas after the cached prompt."""
        self._denoise(self.cache, tokens)

    def write(self, prompt: Tensor, tokens: int) -> None:
        """Encode a prompt and write greedily after it, token by token."""
        self._write(Cache(), prompt, tokens)

    def write_cached(self, tokens: int) -> None:
        """Write greedily after the cached prompt, token by token. Its last token is read again, for its logits."""
        self.cache.crop(self._prompt.shape[1] - 1)
        self._write(self.cache, self._prompt[:, -1:], tokens)
        self.cache.crop(self._prompt.shape[1])

    def _write(self, cache: Cache, new: Tensor, tokens: int) -> None:
        for _ in range(tokens):
            new = self.network.logits(self.network.encode(new, cache)[:, -1:]).argmax(-1)
            new.item()

    def _denoise(self, cache: Cache, tokens: int) -> None:
        canvas = noise_of(self._loaded, tokens)
        generator = torch.Generator(canvas.device).manual_seed(0)
        config = SamplerConfig(max_denoising_steps=STEPS)
        pinned = torch.zeros_like(canvas, dtype=torch.bool)
        for step in denoise(self.network, cache, canvas, pinned, config, _noise(self._loaded), generator):
            step.best.tolist()


class _Transformers:
    """The same weights in `transformers`; see `_Ours`."""

    def __init__(self, loaded: contract.Checkpoint, dtype: torch.dtype, prompt: Tensor) -> None:
        logging.getLogger("transformers").setLevel(logging.ERROR)
        from transformers import DiffusionGemmaForBlockDiffusion, DynamicCache
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # type: ignore[no-untyped-call]
        model: Any = DiffusionGemmaForBlockDiffusion.from_pretrained(loaded.directory, dtype=dtype)
        self._model = model.eval().to(prompt.device)
        self._cache = DynamicCache(config=self._model.config.get_text_config(decoder=True))
        self._model.model.encoder(input_ids=prompt, past_key_values=self._cache)

    def encode(self, prompt: Tensor) -> object:
        """Encode a prompt."""
        return self._model.model.encoder(input_ids=prompt)

    def step(self, canvas: Tensor, logits: Tensor) -> object:
        """One denoising step after the cached prompt."""
        return self._model(decoder_input_ids=canvas, past_key_values=self._cache, self_conditioning_logits=logits)

    def fill(self, prompt: Tensor, tokens: int) -> object:
        """`generate()`: encode a prompt and denoise a canvas after it."""
        self._model.config.canvas_length = tokens
        return self._model.generate(
            prompt,
            max_new_tokens=tokens,
            max_denoising_steps=STEPS,
            stability_threshold=None,
            confidence_threshold=None,
            disable_compile=True,
        )


@torch.inference_mode()
def compare(
    directory: Path | None, device: torch.device, repeats: int, quantize: Quantize | None = None
) -> dict[str, Any]:
    """Times of the encoder, of a decoder step and of fills. Fills are also written token by token with the same
    weights.

    If `transformers` is installed, it takes turns with ours: in bfloat16, and on CPUs also in float32.
    """
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    loaded = checkpoints.load(directory or embedded_directory(), device, dtype, quantize=quantize)
    products = fastest_products(device)
    limit = loaded.policy.prompt_tokens
    prompts = [
        torch.tensor([SuffixFirst(loaded.tokenizer).encode(excerpt, limit).ids], device=device)
        for excerpt in excerpts(repeats)
    ]
    prompt, vocabulary = prompts[0], loaded.network.vocab_size
    ours = _Ours(loaded, products, prompt)
    theirs: dict[str, _Transformers] = {}
    if importlib.util.find_spec("transformers"):
        dtypes = (torch.bfloat16,) if device.type == "cuda" else (torch.float32, torch.bfloat16)
        theirs = {str(kind).removeprefix("torch."): _Transformers(loaded, kind, prompt) for kind in dtypes}
    report: dict[str, Any] = {
        "device": str(device),
        "threads": torch.get_num_threads(),
        "products": str(products).removeprefix("torch."),
        "prompt_tokens": prompt.shape[1],
    }

    everyone: dict[str, _Ours | _Transformers] = {"ours": ours, **theirs}
    report["encoder_cold"] = side_by_side({k: partial(v.encode, prompt) for k, v in everyone.items()}, repeats)
    for times in report["encoder_cold"].values():
        times["us_per_token"] = round(1000 * times["median_ms"] / prompt.shape[1], 1)
    reuse = {str(tokens): partial(ours.encode_more, tokens) for tokens in (1, 8)}
    report["encoder_reuse"] = {tokens: {"ours": times} for tokens, times in side_by_side(reuse, repeats, STEPS).items()}
    report["decoder_step"] = {}
    for tokens in CANVASES:
        state = noise_of(loaded, tokens), torch.randn(1, tokens, vocabulary, device=device)
        work: dict[str, Work] = {k: partial(v.step, *state) for k, v in everyone.items()}
        report["decoder_step"][str(tokens)] = side_by_side(work, repeats, STEPS)
    report["fills"], report["fills_cached"] = {}, {}
    for tokens in FILLS:
        work = {k: _in_turn(v.fill, prompts, tokens) for k, v in everyone.items()}
        work["token_by_token"] = _in_turn(ours.write, prompts, tokens)
        facts = {"steps": STEPS, "tokens_per_step": tokens / STEPS}
        report["fills"][str(tokens)] = facts | side_by_side(work, repeats)
        work = {"ours": partial(ours.fill_cached, tokens), "token_by_token": partial(ours.write_cached, tokens)}
        report["fills_cached"][str(tokens)] = facts | side_by_side(work, repeats)
    report["peak_memory_mb"] = peak_memory_mb(device)
    return report


def _in_turn(fill: Callable[[Tensor, int], object], prompts: list[Tensor], tokens: int) -> Work:
    """Work that calls `fill` with the next prompt each time."""
    following = itertools.cycle(prompts)
    return lambda: fill(next(following), tokens)


def noise_of(loaded: contract.Checkpoint, tokens: int) -> Tensor:
    """A canvas of the checkpoint's noise, [1, tokens]."""
    device = loaded.network.device
    return _noise(loaded).draw((1, tokens), torch.Generator(device).manual_seed(0))


def _noise(loaded: contract.Checkpoint) -> Noise:
    mask = loaded.tokenizer.mask_id if loaded.policy.noise == "mask" else None
    return Noise(loaded.network.vocab_size, mask)
