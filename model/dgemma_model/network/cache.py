"""Keys and values of a prompt, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Cache:
    """Keys and values of a prompt, one pair a layer, in buffers that grow (`capacity`).

    Sliding layers keep everything too: the window is applied when attending, so that `crop` is exact beyond it.
    """

    def __init__(self) -> None:
        self.length = 0
        self.padding: Tensor | None = None
        """[B, length] bool, True at real tokens; None when there is no padding."""
        self.origin: Cache | None = None
        """The cache that all rows of this one see, as long as this one holds nothing else (see `repeated`)."""
        self.states: Tensor | None = None
        """What a network that keeps states computed of the tokens of the latest pass, [tokens, states, D]."""
        self.states_from = 0
        """The place of the first of these tokens in the cache."""
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def layer(self, index: int, tokens: int | None = None) -> tuple[Tensor, Tensor]:
        """The keys and values of a layer, [B, K, length, C] each; or the first `tokens` of its buffers, which may be
        more than are cached."""
        tokens = self.length if tokens is None else tokens
        return self._keys[index][:, :, :tokens], self._values[index][:, :, :tokens]

    def write(self, index: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append [B, K, T, C] keys and values to the cached ones; return all, [B, K, length + T, C].

        `length` moves only when `CodeNetwork.encode` has written every layer.
        """
        if keys.requires_grad:  # training encodes once, and gradients flow through the cache
            self._keys[index:], self._values[index:] = [keys], [values]
            return keys, values
        self.origin = None
        at, end = slice(index, index + 1), self.length + keys.shape[2]
        self._keys[at] = [_room(self._keys[at], keys, self.length, end)]
        self._values[at] = [_room(self._values[at], keys, self.length, end)]
        self._keys[index][:, :, self.length : end] = keys
        self._values[index][:, :, self.length : end] = values
        return self._keys[index][:, :, :end], self._values[index][:, :, :end]

    def reserve(self, tokens: int) -> list[tuple[Tensor, Tensor]]:
        """The whole buffers of every layer, [B, K, capacity, C] each, with room for `tokens` more."""
        end = self.length + tokens
        self._keys = [_room([buffer], buffer, self.length, end) for buffer in self._keys]
        self._values = [_room([buffer], buffer, self.length, end) for buffer in self._values]
        return list(zip(self._keys, self._values, strict=True))

    def room(self, layers: int, new: tuple[int, int, int, int], dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
        """`reserve` for keys and values of shape `new` [B, K, T, C] in each of the first `layers`, also where none are
        cached."""
        end, added = self.length + new[2], torch.empty((*new[:2], 0, new[3]), dtype=dtype)
        for buffers in (self._keys, self._values):
            buffers[:layers] = [_room(buffers[layer : layer + 1], added, self.length, end) for layer in range(layers)]
        return list(zip(self._keys[:layers], self._values[:layers], strict=True))

    def crop(self, length: int) -> None:
        """Forget all tokens from `length` on.

        Raises:
            ValueError: `length` is negative or more than is cached.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot crop a cache of {self.length} tokens to {length}")
        self.length, self.origin = length, None
        if self.padding is not None:
            self.padding = self.padding[:, :length]

    def keep(self, start: int, places: Sequence[int]) -> None:
        """Of the tokens from `start` on, keep those at some places only, in that order; places count from `start`."""
        end = start + len(places)
        if list(places) != list(range(len(places))):
            kept = torch.tensor([start + place for place in places])
            self.origin = None
            for buffer in (*self._keys, *self._values):
                buffer[:, :, start:end] = buffer[:, :, kept.to(buffer.device)]
            if self.padding is not None:
                self.padding = torch.cat((self.padding[:, :start], self.padding[:, kept]), dim=1)
            if self.states is not None:
                before, kept = max(0, start - self.states_from), kept - self.states_from
                self.states = torch.cat((self.states[:before], self.states[kept]))
        self.crop(end)

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers, room for more tokens included."""
        return sum(buffer.nbytes for buffer in (*self._keys, *self._values))

    def copy(self, length: int) -> Cache:
        """A cache of the first `length` tokens that shares nothing with this one."""
        copied = Cache()
        copied.length = length
        copied.padding = None if self.padding is None else self.padding[:, :length].clone()
        for buffers, copies in ((self._keys, copied._keys), (self._values, copied._values)):
            for buffer in buffers:
                copies.append(_room([], buffer, 0, length))
                copies[-1][:, :, :length] = buffer[:, :, :length]
        return copied

    def repeated(self, rows: int, length: int | None = None) -> Cache:
        """The first `length` tokens (all by default) of a batch of one, seen by `rows` rows; copied on writing."""
        wide = Cache()
        wide.length = length = self.length if length is None else length
        wide.padding = None if self.padding is None else self.padding[:, :length].expand(rows, -1)
        wide.origin = self if length == self.length else None
        wide._keys = [keys[:, :, :length].expand(rows, -1, -1, -1) for keys in self._keys]
        wide._values = [values[:, :, :length].expand(rows, -1, -1, -1) for values in self._values]
        return wide


ROOM = 256
"""The least number of tokens that a cache makes room for, and by which a large one grows."""
LARGE = 1024
"""Tokens up to which the room is doubled: beyond, half of it could be empty gigabytes."""


def capacity(needed: int) -> int:
    """The room, in tokens, that is made where `needed` are to be held."""
    return max(ROOM, 1 << (needed - 1).bit_length()) if needed <= LARGE else -(-needed // ROOM) * ROOM


def _room(buffers: list[Tensor], new: Tensor, kept: int, needed: int) -> Tensor:
    """The first of `buffers` [B, K, capacity, C], or a larger one in its place that has room for `needed` tokens and
    holds the first `kept`; like `new` [B, K, T, C] in all else."""
    batch, heads, _, size = new.shape
    if buffers and buffers[0].shape[2] >= needed and (kept or buffers[0].shape[:2] == new.shape[:2]):
        return buffers[0]
    room = new.new_zeros(batch, heads, capacity(needed), size)
    if kept:
        room[:, :, :kept] = buffers[0][:, :, :kept]
    return room
