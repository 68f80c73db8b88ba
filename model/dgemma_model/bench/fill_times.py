"""Times of whole fills: of one line after a keystroke, and of several lines."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from dgemma_model.bench.timing import finish_gpu, places, summary
from dgemma_model.checkpoint import load as checkpoints
from dgemma_model.checkpoint.config import Quantize
from dgemma_model.checkpoint.selection import embedded_directory
from dgemma_model.infill import Infiller
from dgemma_model.network.contract import CodeNetwork
from dgemma_model.network.kernels import fastest_products
from dgemma_model.request import FillRequest

WRITTEN = 64
"""Most tokens of a fill of several lines."""


class _Clocked:
    """Wraps a network and adds up the seconds spent in it."""

    def __init__(self, network: CodeNetwork) -> None:
        self._network = network
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._network, name)
        if name not in ("encode", "decode", "logits", "mean_embedding", "embed"):
            return found

        def clocked(*args: Any, **kwargs: Any) -> Any:
            finish_gpu()
            started = time.perf_counter()
            result = found(*args, **kwargs)
            finish_gpu()
            self.seconds += time.perf_counter() - started
            return result

        return clocked


def warm_fills(
    directory: Path | None, device: torch.device, repeats: int, quantize: Quantize | None = None
) -> dict[str, Any]:
    """Times of one-line fills after a keystroke, with the prompt before it cached, as the server asks for them.

    Also the share of that time outside of the network, and the mean number of passes.
    """
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    loaded = checkpoints.load(directory or embedded_directory(), device, dtype, quantize=quantize)
    served = loaded.served(fastest_products(device))
    clock = _Clocked(served.network)
    infiller = Infiller(replace(served, network=cast(Any, clock)), device)
    times, shares, steps = [], [], []
    for excerpt, project_text in places(repeats, 0):
        infiller.index_ahead(project_text)
        request = FillRequest(excerpt, project_text, one_line=True, max_tokens=48)
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


def written_fills(
    directory: Path | None, device: torch.device, repeats: int, quantize: Quantize | None = None
) -> dict[str, Any]:
    """Fills of up to `WRITTEN` tokens after a cached prompt, by each of `WRITTEN_WAYS` in turns: milliseconds a token,
    and tokens a pass."""
    infiller = Infiller.load(None if directory is None else str(directory), str(device), quantize=quantize)
    found: dict[str, dict[str, list[float]]] = {name: {"ms": [], "tokens": [], "passes": []} for name in WRITTEN_WAYS}
    for number, (excerpt, project_text) in enumerate(places(repeats, 4 * WRITTEN)):
        infiller.index_ahead(project_text)
        request = FillRequest(excerpt, project_text, max_tokens=WRITTEN, verify=True)
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


WRITTEN_WAYS: dict[str, dict[str, Any]] = {
    "ours": {},
    "same_text": {"drafting": "none"},
    "token_by_token": {"drafting": "none", "copy_weight": 0.0},
}
"""Ways to write a fill of several lines, as fields of the request: as it is served, with copied drafts; the same text
token by token; and the text of the causal head alone, without copies, token by token."""
