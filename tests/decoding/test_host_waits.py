"""How often the host waits for the device while a canvas is denoised: once a step, for the copy by which it stops.

There need be no GPU: what the network and the generator make counts as the device's, and so does all that is computed
from it. Python sees each request for its content.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from gemma_fixtures import gemma_infiller
from model_fixtures import tiny_infiller
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from dgemma_model.decoding import sampler
from dgemma_model.infill import Infiller
from dgemma_model.request import Draft, Excerpt, FillRequest

WAITS = {
    *(Tensor.tolist, Tensor.item, Tensor.__bool__, Tensor.__int__, Tensor.__float__, Tensor.__index__, Tensor.cpu),
    *(Tensor.numpy, Tensor.nonzero, torch.nonzero, torch.unique, Tensor.unique, torch.equal, Tensor.equal),
    *(Tensor.masked_select, torch.masked_select, Tensor.repeat_interleave, torch.repeat_interleave),
}
"""What says how many, or what, a tensor holds."""
DRAWS = {torch.rand, torch.randint}


class Device(TorchFunctionMode):
    """Counts requests for content of the device."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._held: dict[int, Tensor] = {}
        self._in_network = False

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if self._in_network:
            return found
        leaves = tree_leaves((args, kwargs))
        if any(isinstance(leaf, Tensor) and self.has(leaf) for leaf in leaves):
            if func in WAITS or (func in (Tensor.__getitem__, Tensor.__setitem__) and self._reads_places(args[1])):
                self.waits.append(getattr(func, "__name__", str(func)))
                return found.clone() if func is Tensor.cpu else found
            self.hold(found)
        elif func in DRAWS:
            self.hold(found)
        return found

    def hold(self, found: object) -> None:
        """These tensors are the device's."""
        for leaf in tree_leaves(found):
            if isinstance(leaf, Tensor):
                self._held[id(leaf)] = leaf

    def has(self, tensor: Tensor) -> bool:
        return id(tensor) in self._held

    @contextmanager
    def network(self) -> Any:
        """What happens inside a network is its own matter."""
        before, self._in_network = self._in_network, True
        try:
            yield
        finally:
            self._in_network = before

    @staticmethod
    def _reads_places(index: object) -> bool:
        """Whether places are named by a list, which is copied to the device, or by a mask, which is read."""
        parts = index if isinstance(index, tuple) else (index,)
        masks = (part for part in parts if isinstance(part, Tensor) and part.dtype == torch.bool)
        return any(isinstance(part, list) for part in parts) or any(True for _ in masks)


class OnDevice:
    """A network whose results are the device's."""

    def __init__(self, network: Any, device: Device) -> None:
        self._network, self._device = network, device

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._network, name)
        if name not in ("encode", "decode", "logits", "embed", "mean_embedding"):
            return found

        def held(*args: Any, **kwargs: Any) -> Any:
            with self._device.network():
                result = found(*args, **kwargs)
            self._device.hold(result)
            return result

        return held


def waits_of_drafts(infiller: Infiller, request: FillRequest) -> list[list[str]]:
    """What the host waited for before each draft."""
    device, waits = Device(), list[list[str]]()
    checkpoint = infiller._checkpoint
    infiller._checkpoint = replace(checkpoint, network=OnDevice(checkpoint.network, device))  # type: ignore[arg-type]
    with device:
        for _ in infiller.fill(request):
            waits.append(device.waits)
            device.waits = []
    return waits


UNSURE: dict[str, Any] = {"verify": False, "max_denoising_steps": 4, "entropy_bound": 1e-9}
"""Steps that go on to the last one."""


@pytest.mark.parametrize(
    ("make", "request_"),
    [
        (gemma_infiller, FillRequest(Excerpt("total = pri", "\n"), max_tokens=16, **UNSURE)),
        (gemma_infiller, FillRequest(Excerpt("a = ", "\n", ("\nb = ",)), max_tokens=16, **UNSURE)),
        (tiny_infiller, FillRequest(Excerpt("total = pri", "\n"), max_tokens=16, **UNSURE)),
        (tiny_infiller, FillRequest(Excerpt("a = ", "\n"), candidates=3, max_tokens=16, **UNSURE)),
        (tiny_infiller, FillRequest(Excerpt("a = ", "\n", ("\nb = ",)), max_tokens=16, together=True, **UNSURE)),
    ],
)
def test_each_step_waits_once(make: Callable[[], Infiller], request_: FillRequest) -> None:
    waits = [found for found in waits_of_drafts(make(), request_) if found]
    steps = [found for found in waits if found == ["cpu"]]
    assert len(steps) >= 4
    assert len(waits) <= len(steps) + 1  # the causal head compares widths at the end


def test_what_looks_at_the_device_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the copy, each look at the canvas would wait."""
    monkeypatch.setattr(sampler, "copied_to_host", lambda *tensors: tensors)
    request = FillRequest(Excerpt("total = pri", "\n"), max_tokens=16, **UNSURE)
    waits = waits_of_drafts(tiny_infiller(), request)
    assert max(map(len, waits)) > 6


def test_a_step_comes_to_the_host_as_it_was() -> None:
    best, canvas = torch.randint(262_144, (2, 2, 9))
    accepted = torch.rand(2, 9) < 0.5
    entropy, confidence = torch.rand(2, 9) * 1e-9, torch.rand(9, 2).T
    given = (best, canvas, accepted, entropy, confidence)
    for found, expected in zip(sampler.copied_to_host(*given), given, strict=True):
        assert found.dtype == expected.dtype and torch.equal(found, expected)


def filled(infiller: Infiller, request: FillRequest) -> list[Draft]:
    return list(infiller.fill(request))


@pytest.mark.parametrize("text", ["total = pri", "def area(w, h):\n    return "])
def test_fills_are_the_same_with_steps_as_a_gpu_takes_them(text: str) -> None:
    """Two steps: after more, a random network has made a large difference of the smallest one."""
    request = FillRequest(Excerpt(text, "\n"), max_tokens=64, max_denoising_steps=2)
    plain, static = gemma_infiller(), gemma_infiller()
    network: Any = static._checkpoint.network
    network.has_static_steps = True
    try:
        ours, theirs = filled(static, request), filled(plain, request)
    finally:
        network.has_static_steps = False
    assert [draft.texts for draft in ours] == [draft.texts for draft in theirs]
    assert ours[-1].score == pytest.approx(theirs[-1].score, abs=1e-3)
    assert len(ours) > 1
