"""What `dgemma-lsp bench` measures of the model, ours and others in turns in one process, over the same weights.

Prompts are places in a module of the standard library, so that it runs wherever Python does. All times are medians
and 95th percentiles of wall time in milliseconds.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import logging
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from dgemma_model import checkpoint as checkpoints
from dgemma_model.canvas import encode_prompt
from dgemma_model.config import LayerConfig, NetworkConfig, SamplerConfig
from dgemma_model.excerpt import ExcerptBudget, cut
from dgemma_model.fused import FusedNetwork
from dgemma_model.infill import Infiller
from dgemma_model.network import Cache, Network
from dgemma_model.products import fastest_products
from dgemma_model.request import Excerpt, FillRequest
from dgemma_model.sampler import Noise, denoise

Times = dict[str, float]

CANVASES = (8, 16, 32, 64)
FILLS = (8, 32, 64, 200)
"""Tokens of a fill."""
WRITTEN = 64
"""Tokens of a fill that is written by the causal head, at most."""
STEPS = 8
"""Denoising steps of a fill; early stopping is off on both sides."""
NEARBY = ("inspect", "configparser", "optparse")
"""Modules of the standard library that are taken for files near the one that is filled, the nearest last."""
PROMPT_TOKENS = 1024
"""Length of the prompt before a canvas of the published shape."""


class BenchError(Exception):
    """What was asked for cannot be measured here; the message says why."""


def summary(times: list[float]) -> Times:
    """Median and 95th percentile of seconds, in milliseconds."""
    ordered = sorted(1000 * seconds for seconds in times)
    return {"median_ms": round(statistics.median(ordered), 3), "p95_ms": round(ordered[int(0.95 * len(ordered))], 3)}


def timed(work: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each of `repeats` runs, after one that does not count."""
    work()
    return [once(work) for _ in range(repeats)]


def _finish_gpu() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def excerpts(count: int) -> list[Excerpt]:
    """Places at line starts, spread over a source file, each with a full prompt."""
    return [excerpt for excerpt, _ in places(count, 0)]


def places(count: int, missing: int) -> list[tuple[Excerpt, tuple[str, ...]]]:
    """Places at line starts, spread over a source file, with about `missing` code points of lines missing at each; and
    what may be copied from: the rest of the file and some others, as many code points as the server reads."""
    source = Path(argparse.__file__)
    text = source.read_text("utf-8")
    others = [(source.parent / f"{name}.py").read_text("utf-8") for name in NEARBY]
    found = []
    for place in list(range(4000, len(text) - 4000, (len(text) - 8000) // count))[:count]:
        start = text.index("\n", place) + 1
        end = text.index("\n", start + missing) if missing else start
        excerpt = cut(text, [(start, end)], ExcerptBudget())
        rest = text[end + len(excerpt.suffix) :], text[: start - len(excerpt.prefix)]
        found.append((excerpt, (*others, *rest)))
    return found


Work = Callable[[], object]


def side_by_side(work: Mapping[str, Work], repeats: int, burst: int = 1) -> dict[str, Times]:
    """Times of each of several ways to do the same thing, taken in turns so that whatever else the machine does falls
    on all of them; the first round does not count.

    A turn is `burst` runs on end, timed together: what runs many times on end in use, as denoising steps do, finds its
    weights in the processor's cache, and would not when it came after another one's.
    """
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for index in range(repeats + 1):
        for name in list(work) if index % 2 else reversed(list(work)):
            seconds[name].append(once(partial(_burst, work[name], burst)) / burst)
    return {name: summary(taken[1:]) for name, taken in seconds.items()}


def _burst(work: Work, runs: int) -> None:
    for _ in range(runs):
        work()


class _Ours:
    """The network as it is served."""

    def __init__(self, loaded: checkpoints.Checkpoint, products: torch.dtype, prompt: Tensor) -> None:
        self._loaded, self._prompt = loaded, prompt
        self.network, self.cache = loaded.fused(products).network, Cache()
        self.network.encode(prompt, self.cache)

    def encode(self, prompt: Tensor) -> object:
        """The prompt, with the scores of the token behind it."""
        return self.network.logits(self.network.encode(prompt, Cache())[:, -1:])

    def encode_more(self, tokens: int) -> object:
        """So many tokens behind the cached prompt."""
        self.cache.crop(self._prompt.shape[1])
        found = self.network.logits(self.network.encode(self._prompt[:, :tokens], self.cache)[:, -1:])
        self.cache.crop(self._prompt.shape[1])
        return found

    def step(self, canvas: Tensor, logits: Tensor) -> object:
        """A denoising step behind the cached prompt, given the scores of the step before."""
        network = self.network
        return network.logits(network.decode(canvas, self.cache, expected=network.mean_embedding(logits.softmax(-1))))

    def fill(self, prompt: Tensor, tokens: int) -> None:
        """Encode a prompt and denoise a canvas behind it."""
        cache = Cache()
        self.network.encode(prompt, cache)
        self._denoise(cache, tokens)

    def fill_cached(self, tokens: int) -> None:
        """Denoise a canvas behind the cached prompt."""
        self._denoise(self.cache, tokens)

    def write(self, prompt: Tensor, tokens: int) -> None:
        """Encode a prompt and write behind it token by token, greedily, with the cache."""
        self._write(Cache(), prompt, tokens)

    def write_cached(self, tokens: int) -> None:
        """Write token by token behind the cached prompt, whose last token is read again."""
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
    """The same weights in `transformers`."""

    def __init__(self, loaded: checkpoints.Checkpoint, dtype: torch.dtype, prompt: Tensor) -> None:
        logging.getLogger("transformers").setLevel(logging.ERROR)
        from transformers import DiffusionGemmaForBlockDiffusion, DynamicCache
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # type: ignore[no-untyped-call]
        model: Any = DiffusionGemmaForBlockDiffusion.from_pretrained(loaded.directory, dtype=dtype)
        self._model = model.eval().to(prompt.device)
        self._cache = DynamicCache(config=self._model.config.get_text_config(decoder=True))
        self._model.model.encoder(input_ids=prompt, past_key_values=self._cache)

    def encode(self, prompt: Tensor) -> object:
        """The prompt."""
        return self._model.model.encoder(input_ids=prompt)

    def step(self, canvas: Tensor, logits: Tensor) -> object:
        """A denoising step behind the cached prompt, given the scores of the step before."""
        return self._model(decoder_input_ids=canvas, past_key_values=self._cache, self_conditioning_logits=logits)

    def fill(self, prompt: Tensor, tokens: int) -> object:
        """`generate()`: encode a prompt and denoise a canvas behind it."""
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
def compare(directory: Path | None, device: torch.device, repeats: int) -> dict[str, Any]:
    """Encoder, decoder step and fills: ours, token by token with the same weights, and `transformers` where it is
    installed, in float32 (on CPUs) and bfloat16; all in turns."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    loaded = checkpoints.load(directory or checkpoints.embedded_directory(), device, dtype)
    products = fastest_products(device)
    limit = loaded.config.policy.prompt_tokens
    prompts = [
        torch.tensor([encode_prompt(excerpt, loaded.tokenizer, limit).ids], device=device)
        for excerpt in excerpts(repeats)
    ]
    prompt, vocabulary = prompts[0], loaded.config.network.vocab_size
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
    """A fill behind another one of the prompts each time."""
    following = itertools.cycle(prompts)
    return lambda: fill(next(following), tokens)


def noise_of(loaded: checkpoints.Checkpoint, tokens: int) -> Tensor:
    """A canvas of the checkpoint's noise, [1, tokens]."""
    device = loaded.network.device
    return _noise(loaded).draw((1, tokens), torch.Generator(device).manual_seed(0))


def _noise(loaded: checkpoints.Checkpoint) -> Noise:
    mask = loaded.tokenizer.mask_id if loaded.config.policy.noise == "mask" else None
    return Noise(loaded.config.network.vocab_size, mask)


def once(work: Callable[[], object]) -> float:
    """Seconds of one run."""
    _finish_gpu()
    started = time.perf_counter()
    work()
    _finish_gpu()
    return time.perf_counter() - started


def peak_memory_mb(device: torch.device) -> int:
    """The most memory that was held so far: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit >> 20


class _Clocked:
    """A network that adds up the time spent in it."""

    def __init__(self, network: Network | FusedNetwork) -> None:
        self._network = network
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._network, name)
        if name not in ("encode", "decode", "logits", "mean_embedding", "embed"):
            return found

        def clocked(*args: Any, **kwargs: Any) -> Any:
            _finish_gpu()
            started = time.perf_counter()
            result = found(*args, **kwargs)
            _finish_gpu()
            self.seconds += time.perf_counter() - started
            return result

        return clocked


def warm_fills(directory: Path | None, device: torch.device, repeats: int) -> dict[str, Any]:
    """One-line fills after one more keystroke, as the server asks for them, and the share of their time that was not
    spent in the network."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    loaded = checkpoints.load(directory or checkpoints.embedded_directory(), device, dtype)
    served = loaded.fused(fastest_products(device))
    clock = _Clocked(served.network)
    infiller = Infiller(replace(served, network=cast(Any, clock)), device)
    times, shares, steps = [], [], []
    for excerpt, elsewhere in places(repeats, 0):
        infiller.remember(elsewhere)
        request = FillRequest(excerpt, elsewhere, one_line=True, max_tokens=48)
        for prefix in (excerpt.prefix, excerpt.prefix + "x"):
            clock.seconds, started = 0.0, time.perf_counter()
            *_, draft = infiller.fill(replace(request, excerpt=replace(excerpt, prefix=prefix)))
            seconds = time.perf_counter() - started
        times.append(seconds)
        shares.append(1 - clock.seconds / seconds)
        steps.append(draft.step)
    return summary(times) | {
        "share_outside_network": round(statistics.median(shares), 3),
        "mean_passes": round(statistics.fmean(steps), 1),
    }


WRITTEN_WAYS: dict[str, dict[str, Any]] = {
    "ours": {},
    "same_text": {"drafting": "none"},
    "token_by_token": {"drafting": "none", "copy_weight": 0.0},
}
"""Fills of several lines: as they are served, with copied drafts; the same text token by token; and what the head alone
writes token by token."""


def written_fills(directory: Path | None, device: torch.device, repeats: int) -> dict[str, Any]:
    """Fills of up to `WRITTEN` tokens behind a cached prompt, in turns: milliseconds a token, and tokens a pass."""
    infiller = Infiller.load(None if directory is None else str(directory), str(device))
    found: dict[str, dict[str, list[float]]] = {name: {"ms": [], "tokens": [], "passes": []} for name in WRITTEN_WAYS}
    for number, (excerpt, elsewhere) in enumerate(places(repeats, 4 * WRITTEN)):
        infiller.remember(elsewhere)
        request = FillRequest(excerpt, elsewhere, max_tokens=WRITTEN, verify=True)
        for _ in infiller.fill(replace(request, max_tokens=1)):
            pass  # the prompt is cached now
        for name in list(WRITTEN_WAYS) if number % 2 else reversed(list(WRITTEN_WAYS)):
            started = time.perf_counter()
            *_, draft = infiller.fill(replace(request, **WRITTEN_WAYS[name]))
            milliseconds = 1000 * (time.perf_counter() - started)
            tokens = 1 + infiller.count_tokens(draft.text)
            for key, value in (("ms", milliseconds / tokens), ("tokens", tokens), ("passes", draft.step)):
                found[name][key].append(value)
    return {
        name: {
            "median_ms": round(statistics.median(taken["ms"]), 3),
            "p95_ms": round(sorted(taken["ms"])[int(0.95 * repeats)], 3),
            "tokens": round(statistics.fmean(taken["tokens"]), 1),
            "tokens_per_pass": round(sum(taken["tokens"]) / sum(taken["passes"]), 1),
        }
        for name, taken in found.items()
    }


# ------------------------------------------------------------- the published shape


def published_config() -> NetworkConfig:
    """The shape of DiffusionGemma 26B-A4B."""
    sliding = LayerConfig("sliding_attention", 256, 8, 10_000.0, "default", 1.0)
    full = LayerConfig("full_attention", 512, 2, 1_000_000.0, "proportional", 0.25)
    return NetworkConfig(
        vocab_size=262_144,
        hidden_size=2816,
        intermediate_size=2112,
        num_attention_heads=16,
        sliding_window=1024,
        num_experts=128,
        top_k_experts=8,
        moe_intermediate_size=704,
        layers=((sliding,) * 5 + (full,)) * 5,
    )


def weight_bytes(config: NetworkConfig) -> int:
    """Bytes of the weights in bfloat16."""
    with torch.device("meta"):
        return sum(2 * parameter.numel() for parameter in Network(config).parameters())


@torch.inference_mode()
def measure_shape(config: NetworkConfig, device: torch.device, repeats: int) -> dict[str, Any]:
    """Decoder steps of a network of random weights on a GPU, beside the time that reading its weights takes.

    Raises:
        BenchError: `device` is no GPU, or has too little memory.
    """
    wanted = weight_bytes(config)
    if device.type != "cuda":
        raise BenchError(
            f"this shape has {wanted / 1e9:.1f} GB of weights and is measured on a GPU; there is none here"
        )
    free, total = torch.cuda.mem_get_info(device)
    if free < 1.1 * wanted:
        raise BenchError(
            f"this shape needs {1.1 * wanted / 1e9:.1f} GB of GPU memory; "
            f"{free / 1e9:.1f} of {total / 1e9:.1f} GB are free"
        )
    with torch.device("meta"):
        plain = Network(config)
    plain.to_empty(device=device).to(torch.bfloat16).requires_grad_(False).eval()
    for tensor in plain.state_dict().values():
        tensor.normal_(0, 0.02) if tensor.dim() > 1 else tensor.fill_(1.0)
    plain.build_rotary(device)
    network, cache = FusedNetwork(plain, torch.bfloat16), Cache()
    network.encode(torch.randint(config.vocab_size, (1, PROMPT_TOKENS), device=device), cache)
    block = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    target = torch.empty_like(block)
    bandwidth = 2 * block.numel() / statistics.median(timed(lambda: target.copy_(block), repeats))
    expert_bytes = sum(2 * layer.experts.gate_up_proj.numel() * 3 // 2 for layer in plain.decoder_layers())
    report: dict[str, Any] = {"weights_gb": wanted / 1e9, "copy_gb_per_s": bandwidth / 1e9, "decoder_step": {}}
    for canvas in (*CANVASES, 256):
        ids = torch.randint(config.vocab_size, (1, canvas), device=device)
        signal = torch.randn(1, canvas, config.hidden_size, dtype=torch.bfloat16, device=device)
        times = timed(partial(shape_step, network, ids, cache, signal), repeats)
        touched = 1 - (1 - config.top_k_experts / config.num_experts) ** canvas  # share of experts, routed at random
        floor = 1000 * (wanted - expert_bytes * (1 - touched)) / bandwidth
        report["decoder_step"][str(canvas)] = {"ours": summary(times), "floor_ms": round(floor, 3)}
    return report | {"peak_memory_mb": peak_memory_mb(device)}


def shape_step(network: FusedNetwork, canvas: Tensor, cache: Cache, expected: Tensor) -> None:
    """A decoder step with its logits."""
    network.logits(network.decode(canvas, cache, expected=expected))
