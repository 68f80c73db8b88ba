"""What `dgemma-lsp bench` measures of a checkpoint that writes causally: our network and others with the same weights.

They take turns. Prompts are from modules of the standard library. Times are medians and 95th percentiles of wall time
in milliseconds.
"""

from __future__ import annotations

import importlib.util
import itertools
import logging
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgemma_model.bench.opponents import Opponent, opponents, versions
from dgemma_model.bench.timing import Times, once, peak_memory_mb, places, side_by_side, summary
from dgemma_model.checkpoint import contract
from dgemma_model.checkpoint import load as checkpoints
from dgemma_model.checkpoint.config import Quantize
from dgemma_model.infill import Infiller, compiled_passes
from dgemma_model.network.cache import Cache
from dgemma_model.network.contract import CodeNetwork
from dgemma_model.network.qwen2_served import ServedQwen2
from dgemma_model.request import Excerpt, FillRequest

PROMPT_TOKENS = 400
"""Tokens of a prompt."""
WRITTEN = (8, 32, 128)
"""Numbers of tokens that are written after a cached prompt."""
PASSES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Numbers of tokens that one pass reads after a cached prompt."""
LINE_TOKENS = 48
"""Most tokens of a line."""
LINE_BUDGET_MS = 1000.0
"""The default time budget of a line in the server."""
THREAD_CHOICE = 8
"""Passes of one size after which `network/threads.py` has chosen the number of threads."""
NEIGHBOURS = 2
"""Lines above and below the missing line that the other file of `_with_similar` also has."""
COPIED_LINES = 12
"""Half of the number of lines that `_copied` has written once more."""


def is_causal(source: Path, device: torch.device, quantize: Quantize | None = None) -> bool:
    """Whether `compare` can measure this checkpoint: one that is served by `ServedQwen2`. It has no experts to
    `quantize`.

    Raises:
        CheckpointError: it cannot be loaded so.
    """
    return isinstance(checkpoints.load(source, device, torch.float32, quantize=quantize).network, ServedQwen2)


def compare(source: Path, device: torch.device, repeats: int) -> dict[str, Any]:
    """Times of prompts, passes, lines and longer texts, of a checkpoint for which `is_causal` holds."""
    loaded = checkpoints.load(source, device, torch.float32)
    network = loaded.network
    assert isinstance(network, ServedQwen2)
    threads = torch.get_num_threads()
    others = opponents(source, threads)
    infiller = Infiller(loaded, device, torch.int8)
    spread = places(2 * repeats, 0, 1024)
    prompts = [_prompt(loaded, excerpt) for excerpt, _ in spread]
    report: dict[str, Any] = {
        "checkpoint": infiller.name,
        "threads": threads,
        "passes": compiled_passes() or "torch",
        "others": versions(),
        "prompt_tokens": PROMPT_TOKENS,
    }
    for _ in range(THREAD_CHOICE):
        for tokens in (1, PROMPT_TOKENS):
            network.encode(prompts[0][:, :tokens], Cache())
    everyone = _Everyone(network, others, prompts)
    report["cold_prompt"] = side_by_side(everyone.cold(), repeats)
    report["pass"] = {str(tokens): {"ours": times} for tokens, times in _curve(network, prompts[0], repeats).items()}
    report["written"] = {str(tokens): side_by_side(everyone.written(tokens), repeats) for tokens in WRITTEN}
    report["line"] = _lines(infiller, loaded, others, [(excerpt, ()) for excerpt, _ in spread], repeats)
    report["line_with_project"] = _lines(infiller, loaded, others, spread, repeats)
    report["line_with_similar"] = _lines(infiller, loaded, others, [_with_similar(*place) for place in spread], repeats)
    report["copied_lines"] = _copied(infiller, loaded, others, repeats)
    report["cold_prompt_transformers"] = _beside_transformers(network, prompts, min(repeats, 5))
    report["peak_memory_mb"] = peak_memory_mb(device)
    return report


def _prompt(loaded: contract.Checkpoint, excerpt: Excerpt) -> Tensor:
    ids = loaded.format.encode(excerpt, 2 * PROMPT_TOKENS).ids
    return torch.tensor([ids[-PROMPT_TOKENS:]])


class _Everyone:
    """The same work for our network and for each opponent."""

    def __init__(self, network: CodeNetwork, others: dict[str, Opponent], prompts: list[Tensor]) -> None:
        self._network, self._others, self._prompts = network, others, prompts

    def cold(self) -> dict[str, Callable[[], object]]:
        """Reading a prompt without a cache, with the logits after it."""

        def ours(prompt: Tensor) -> object:
            return self._network.logits(self._network.encode(prompt, Cache())[:, -1:])

        work: dict[str, Callable[[], object]] = {"ours": self._in_turn(ours)}
        for name, other in self._others.items():
            work[name] = self._in_turn(partial(_first_token, other))
        return work

    def written(self, tokens: int) -> dict[str, Callable[[], object]]:
        """Writing `tokens` after a cached prompt, token by token."""
        prompt, cache = self._prompts[0], Cache()
        self._network.encode(prompt, cache)

        def ours() -> None:
            cache.crop(PROMPT_TOKENS - 1)
            new = prompt[:, -1:]
            for _ in range(tokens):
                new = self._network.logits(self._network.encode(new, cache)[:, -1:]).argmax(-1)

        work: dict[str, Callable[[], object]] = {"ours": ours}
        for name, other in self._others.items():
            work[name] = partial(other.write, prompt[0].tolist(), tokens)
        return work

    def _in_turn(self, work: Callable[[Tensor], object]) -> Callable[[], object]:
        following = itertools.cycle(self._prompts)
        return lambda: work(next(following))


def _first_token(other: Opponent, prompt: Tensor) -> int:
    return other.write(prompt[0].tolist(), 1, anew=True)


def _curve(network: CodeNetwork, prompt: Tensor, repeats: int) -> dict[int, Times]:
    """Times of one pass after the cached prompt with the logits of all its tokens, by the number of tokens."""
    cache = Cache()
    network.encode(prompt, cache)

    def run(tokens: int) -> None:
        cache.crop(PROMPT_TOKENS)
        network.logits(network.encode(prompt[:, :tokens], cache))

    times = side_by_side({str(tokens): partial(run, tokens) for tokens in PASSES}, repeats)
    return {int(tokens): taken for tokens, taken in times.items()}


def _lines(
    infiller: Infiller,
    loaded: contract.Checkpoint,
    others: dict[str, Opponent],
    spread: list[tuple[Excerpt, tuple[str, ...]]],
    repeats: int,
) -> dict[str, Any]:
    """Times of the rest of a line after a keystroke: ours as it is served, with the judge; others' plain greedy line.

    `cut_percent` is how many of our lines did not end within the time budget.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", *others)}
    cut = list[bool]()

    def filled(request: FillRequest) -> None:
        *_, draft = infiller.fill(request)
        cut.append(not draft.complete)

    for number, (excerpt, project) in enumerate(spread[: repeats + 1]):
        before, after = _typed(excerpt)
        infiller.index_ahead(project)
        request = FillRequest(before, project, one_line=True, max_tokens=LINE_TOKENS, budget_ms=LINE_BUDGET_MS)
        work: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "ours": (partial(_filled, infiller, request), partial(filled, replace(request, excerpt=after)))
        }
        for name, other in others.items():
            known, typed = (loaded.format.encode(e, infiller.prompt_tokens).ids for e in (before, after))
            work[name] = partial(other.write_line, known, 1), partial(other.write_line, typed, LINE_TOKENS)
        for name in list(work) if number % 2 else reversed(list(work)):
            prepare, run = work[name]
            prepare()
            seconds[name].append(once(run))
    times: dict[str, Any] = {name: summary(taken[1:]) for name, taken in seconds.items()}
    return times | {"cut_percent": round(100 * sum(cut[1:]) / max(1, len(cut) - 1))}


def _typed(excerpt: Excerpt) -> tuple[Excerpt, Excerpt]:
    """The excerpt with the first half of the line after the hole typed: without its last character, and with it."""
    line, _, rest = excerpt.suffix.partition("\n")
    kept = len(line) - len(line.lstrip()) + max(2, len(line.strip()) // 2)
    return tuple(  # type: ignore[return-value]
        replace(excerpt, prefix=excerpt.prefix + line[:upto], suffix="\n" + rest) for upto in (kept - 1, kept)
    )


def _with_similar(excerpt: Excerpt, project: tuple[str, ...]) -> tuple[Excerpt, tuple[str, ...]]:
    """The same hole, and project text in which another file has the missing line between the same neighbours."""
    above, below = excerpt.prefix.splitlines(keepends=True), excerpt.suffix.splitlines(keepends=True)
    there = "".join([*above[-NEIGHBOURS:], *below[: NEIGHBOURS + 1]])
    return excerpt, (*project, "# another file\n" + there)


def _filled(infiller: Infiller, request: FillRequest) -> str:
    *_, draft = infiller.fill(request)
    return draft.texts[0]


def _copied(
    infiller: Infiller, loaded: contract.Checkpoint, others: dict[str, Opponent], repeats: int
) -> dict[str, Any]:
    """Times a token of lines that the prompt has already: ours with copies, others the same number token by token."""
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", *others)}
    counts: list[int] = []
    for excerpt, _ in places(repeats + 1, 0, 1024):
        lines = excerpt.prefix.splitlines(keepends=True)[-2 * COPIED_LINES :]
        twice = replace(excerpt, prefix="".join(lines) + "\n\n" + lines[0] + lines[1], suffix="\n")
        request = FillRequest(twice, max_tokens=WRITTEN[-1])
        _filled(infiller, replace(request, max_tokens=1))
        seconds["ours"].append(once(partial(_filled, infiller, request)))
        counts.append(max(1, infiller.count_tokens(_filled(infiller, request))))
        prompt = loaded.format.encode(twice, infiller.prompt_tokens).ids
        for name, other in others.items():
            other.write(prompt, 1)
            seconds[name].append(once(partial(other.write, prompt, counts[-1])))
    each = {name: [taken / count for taken, count in zip(s, counts, strict=True)][1:] for name, s in seconds.items()}
    return {name: summary(taken) for name, taken in each.items()} | {"tokens": round(statistics.fmean(counts), 1)}


def _beside_transformers(network: ServedQwen2, prompts: list[Tensor], repeats: int) -> dict[str, Times] | None:
    """Times of reading a prompt, with `transformers` at the same shape; its weights are random, which changes no
    time."""
    if importlib.util.find_spec("transformers") is None:
        return None
    logging.getLogger("transformers").setLevel(logging.ERROR)
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(**network.config.to_json())
    work: dict[str, Callable[[], object]] = {}
    following = itertools.cycle(prompts)

    def theirs(model: Any) -> object:
        with torch.inference_mode():
            return model(next(following), logits_to_keep=1)

    for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        model: Any = Qwen2ForCausalLM(config)
        work[name] = partial(theirs, model.to(dtype).eval())
    work["ours"] = lambda: network.logits(network.encode(next(following), Cache())[:, -1:])
    return side_by_side(work, repeats)
