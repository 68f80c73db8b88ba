"""The compiled passes of `passes.c`: a whole pass over a Qwen2 or Llama network in one call.

The library is compiled when the package is built, where there is a compiler, and loaded where the processor has its
instructions. Everything else runs without it, by other products (`torch_passes`).
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from ctypes import Structure, c_int64, c_void_p
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from dgemma_model.network.cache import Cache
from dgemma_model.network.int8 import SERVED_DIGITS
from dgemma_model.network.passes.blocks import BLOCK, GROUP, Blocks, blocks
from dgemma_model.network.passes.structures import Layer, Matrix, Network, Pass
from dgemma_model.network.qwen2_config import Qwen2Config

LANES, WIDEST_HEAD = 16, 128
"""The size of a head is a multiple of the one and at most the other."""
LARGEST_WEIGHT, LARGEST_BYTE, LARGEST_SHORT = 127, 127, 2047
"""Of weights, and of the integers that activations are rounded to, by instruction set."""
TOKEN_COSTS = {"amx_int8": 0.015, "avx512_vnni": 0.06, "avx_vnni": 0.13, "avx2": 0.2}
"""See `Passes.token_cost`: the faster the products, the more of a short pass is reading the weights."""
INSTRUCTIONS = tuple(TOKEN_COSTS)
"""The sets of instructions for which there may be a library, the fastest first."""
CHOICE = "DGEMMA_PASSES"
"""An environment variable: the only set of instructions that is wanted, for comparisons; any other word: none."""
MOST_TOKENS = 256
"""Tokens of one call; a longer pass is several, which bounds the memory between products."""
DIGIT_ROWS = 16
"""Rows of digits that are read together, also beyond the last one."""
KEPT_SCORES = 16
"""Rows of scores whose memory is kept: as many as a line has drafted tokens, and some."""
UNSHARED = 2
"""What `sys.getrefcount` says of an object that one attribute holds."""


@dataclass(frozen=True, slots=True)
class Library:
    """`passes.c`, compiled for this processor."""

    instructions: str
    functions: ctypes.CDLL
    parallel: c_void_p
    """`GOMP_parallel` of the OpenMP that torch uses; null where there is another."""
    takes_bytes: bool
    """Whether activations are rounded to bytes, or else to 16-bit integers."""

    @property
    def token_cost(self) -> float:
        """See `Passes`."""
        return TOKEN_COSTS[self.instructions]

    @property
    def digit(self) -> torch.dtype:
        """Of such integers."""
        return torch.uint8 if self.takes_bytes else torch.int16

    def call(self, name: str, described: Structure) -> None:
        """Call a function on as many threads as torch takes."""
        function: Callable[..., object] = getattr(self.functions, name)
        function(ctypes.byref(described), self.parallel, c_int64(torch.get_num_threads()))

    def largest(self, columns: int) -> int:
        """The largest integer that activations are rounded to, so that no sum over `columns` overflows 32 bits."""
        if self.takes_bytes:
            return LARGEST_BYTE
        return min(LARGEST_SHORT, (2**31 - 1) // (LARGEST_WEIGHT * columns))


@lru_cache(maxsize=1)
def library() -> Library | None:
    """The library for this processor, or None where there is none."""
    wanted = os.environ.get(CHOICE)
    return next(filter(None, (opened(name) for name in runnable() if wanted in (None, "", name))), None)


def runnable() -> list[str]:
    """Those of `INSTRUCTIONS` that this processor has, the fastest first.

    Users can lower them by torch's own variable: `ATEN_CPU_CAPABILITY=avx2` leaves plain AVX2.
    """
    has = {name for name, value in torch.cpu.get_capabilities().items() if value is True}
    width = torch.backends.cpu.get_cpu_capability()
    is_lowered, widths = "ATEN_CPU_CAPABILITY" in os.environ, ("AVX2", "AVX512")
    wide = width == "AVX512" and has >= {f"avx512_{part}" for part in ("f", "bw", "dq", "vl", "vnni")}
    can_run = {
        "amx_int8": wide and has >= {"amx_tile", "amx_int8"},
        "avx512_vnni": wide,
        "avx_vnni": has >= {"avx2", "fma3", "avx_vnni"} and width in widths[is_lowered:],
        "avx2": has >= {"avx2", "fma3"} and width in widths,
    }
    return [name for name in INSTRUCTIONS if can_run[name]]


def opened(instructions: str) -> Library | None:
    """The library for a set of instructions, or None where it was not compiled, not from the `passes.c` here, or where
    the system does not let this process use them."""
    source = Path(__file__).with_name("passes.c")
    path = source.with_name(f"passes.{sys.platform}-{platform.machine().lower()}-{instructions}.so")
    try:
        functions = ctypes.CDLL(str(path))
        compiled = ctypes.c_char_p(ctypes.addressof(ctypes.c_char.in_dll(functions, "dgemma_source"))).value or b""
        if compiled.decode("ascii", "replace") != hashlib.sha256(source.read_bytes()).hexdigest():
            return None
        if not functions.dgemma_ready():
            return None
        digit_bytes = c_int64.in_dll(functions, "dgemma_digit_bytes").value
    except (OSError, ValueError):
        return None
    return Library(instructions, functions, _parallel(), digit_bytes == 1)


def _parallel() -> c_void_p:
    try:
        openmp = ctypes.CDLL(str(next((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))))
        return ctypes.cast(openmp.GOMP_parallel, c_void_p)
    except (StopIteration, OSError, AttributeError):
        return c_void_p()


def can_run(config: Qwen2Config) -> bool:
    """Whether the library is here and takes a network of these sizes."""
    widths = config.hidden_size, config.intermediate_size, config.num_attention_heads * config.head_dim
    return (
        library() is not None
        and config.head_dim % LANES == 0
        and config.head_dim <= WIDEST_HEAD
        and all(width % GROUP == 0 for width in widths)
        and config.intermediate_size % (BLOCK // 2) == 0  # half of a block are gates, half what they let through
    )


class NativePasses:
    """The layers and the head of a network; see `contract.Passes`."""

    def __init__(self, config: Qwen2Config, tensors: Mapping[str, Tensor], matrices: Mapping[str, Blocks]) -> None:
        """`tensors` are those of `qwen2_weights`, but for the matrices that are in `matrices` by name."""
        found = library()
        assert found is not None, "see `can_run`"
        self._library, self._config = found, config
        self.token_cost = found.token_cost
        """See `Passes`."""
        self._held: list[object] = []
        layers = [self._layer(tensors, matrices, f"layers.{index}.") for index in range(config.num_hidden_layers)]
        head = self._matrix(tensors, matrices, "embed_tokens" if config.tie_word_embeddings else "lm_head")
        self._network = Network(
            *(config.num_hidden_layers, config.hidden_size, config.intermediate_size),
            *(config.num_attention_heads, config.num_key_value_heads, config.head_dim, config.rms_norm_eps),
            *(self._pointer(tensors["norm.weight"]), (Layer * len(layers))(*layers), head),
        )
        self._attended = max(config.hidden_size, config.num_attention_heads * config.head_dim)
        self._widest = max(layers[0].qkv.rows, config.intermediate_size)
        self._longest = max(self._attended, config.intermediate_size)
        self._scores = bytearray()
        self._scratch = (torch.empty(0), torch.empty(0), torch.empty(0), torch.empty(0))

    def run(
        self,
        x: Tensor,
        cache: Cache,
        angles: tuple[Tensor, Tensor],
        allowed: Tensor | None,
        kept: Sequence[int] = (),
    ) -> tuple[Tensor, list[Tensor]]:
        """See `Passes`."""
        config, (batch, tokens, _) = self._config, x.shape
        heads, size = config.num_key_value_heads, config.head_dim
        buffers = cache.room(config.num_hidden_layers, (batch, heads, tokens, size), torch.bfloat16)
        if allowed is not None or batch * tokens <= MOST_TOKENS:
            return self._run(x, buffers, cache.length, angles, allowed, kept)
        parts = []
        for start in range(0, tokens, MOST_TOKENS // batch or 1):
            some = slice(start, start + (MOST_TOKENS // batch or 1))
            turned = angles[0][:, some], angles[1][:, some]
            parts.append(self._run(x[:, some], buffers, cache.length + start, turned, None, kept))
        states = [torch.cat([of_part[at] for _, of_part in parts], dim=1) for at in range(len(kept))]
        return torch.cat([hidden for hidden, _ in parts], dim=1), states

    def _run(
        self,
        x: Tensor,
        buffers: list[tuple[Tensor, Tensor]],
        before: int,
        angles: tuple[Tensor, Tensor],
        allowed: Tensor | None,
        kept: Sequence[int],
    ) -> tuple[Tensor, list[Tensor]]:
        x = x.clone(memory_format=torch.contiguous_format)
        layers, states = (c_int64 * len(kept))(*kept), x.new_empty(len(kept), *x.shape)
        described, _held = self._described(x, buffers, before, angles, allowed)
        described.kept, described.kept_count, described.states = ctypes.addressof(layers), len(kept), states.data_ptr()
        self._library.call("dgemma_run", described)
        return x, list(states)

    def _described(
        self,
        x: Tensor,
        buffers: Sequence[tuple[Tensor, Tensor]],
        before: int,
        angles: tuple[Tensor, Tensor],
        allowed: Tensor | None,
    ) -> tuple[Pass, object]:
        """A pass for C, and what must be held until it is over."""
        batch, tokens, _ = x.shape
        cos, sin = (part.expand(batch, -1, -1).contiguous() for part in angles)
        keys, values = ((c_void_p * len(buffers))(*(pair[side].data_ptr() for pair in buffers)) for side in (0, 1))
        seen = None if allowed is None else allowed.contiguous()
        stride = 0 if seen is None or len(seen) == 1 else seen[0].numel()
        wide, attended, digits, peaks = self._scratch_for(batch * tokens)
        described = Pass(
            *(ctypes.pointer(self._network), x.data_ptr(), cos.data_ptr(), sin.data_ptr()),
            *(ctypes.addressof(keys), ctypes.addressof(values), None if seen is None else seen.data_ptr(), stride),
            *(batch, tokens, before, buffers[0][0].shape[2]),
            *(wide.data_ptr(), attended.data_ptr(), digits.data_ptr(), peaks.data_ptr()),
        )
        return described, (cos, sin, keys, values, seen)

    def scores(self, hidden: Tensor) -> Tensor:
        """See `Passes`."""
        rows = len(hidden)
        if not rows:
            return torch.empty(0, self._network.head.rows)
        hidden, scores = hidden.contiguous(), self._scores_for(rows)
        _, _, digits, peaks = self._scratch_for(rows)
        described = Pass(network=ctypes.pointer(self._network), x=hidden.data_ptr(), batch=1, tokens=rows)
        described.wide, described.digits, described.peaks = scores.data_ptr(), digits.data_ptr(), peaks.data_ptr()
        self._library.call("dgemma_score", described)
        return scores

    def _scores_for(self, rows: int) -> Tensor:
        """[rows, V] for scores. The memory of the last few is taken again once nobody holds them: fresh memory comes
        from the system page by page, which can take longer than the product."""
        size = rows * self._network.head.rows * torch.float32.itemsize
        if rows > KEPT_SCORES:
            return torch.empty(rows, self._network.head.rows)
        if len(self._scores) < size or sys.getrefcount(self._scores) > UNSHARED:
            self._scores = bytearray(size)
        return torch.frombuffer(self._scores, dtype=torch.float32, count=size // 4).view(rows, -1)

    def _scratch_for(self, rows: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The `wide`, `attended`, `digits` and `peaks` of a pass, which are kept for the next one."""
        if rows > len(self._scratch[0]):
            self._scratch = (
                torch.empty(rows, self._widest),
                torch.empty(rows, self._attended),
                torch.empty(SERVED_DIGITS * rows + DIGIT_ROWS, self._longest, dtype=self._library.digit),
                torch.empty(rows),
            )
        return self._scratch

    def _layer(self, tensors: Mapping[str, Tensor], matrices: Mapping[str, Blocks], prefix: str) -> Layer:
        norms = (tensors[f"{prefix}{name}.weight"] for name in ("input_layernorm", "post_attention_layernorm"))
        return Layer(
            *map(self._pointer, norms),
            *(self._matrix(tensors, matrices, prefix + name) for name in ("qkv", "out", "gate_up", "down")),
        )

    def _matrix(self, tensors: Mapping[str, Tensor], matrices: Mapping[str, Blocks], name: str) -> Matrix:
        scale, bias = tensors[f"{name}.scale"], tensors.get(f"{name}.bias")
        found = matrices[name] if name in matrices else blocks(tensors[f"{name}.weight"])
        columns = found.weights.shape[1] * GROUP
        return Matrix(
            *(self._pointer(found.weights), self._pointer(found.sums), self._pointer(scale)),
            None if bias is None else self._pointer(bias),
            *(len(scale), columns, SERVED_DIGITS if self._library.takes_bytes else 1, self._library.largest(columns)),
        )

    def _pointer(self, tensor: Tensor) -> int:
        tensor = tensor.contiguous()
        self._held.append(tensor)
        return tensor.data_ptr()
