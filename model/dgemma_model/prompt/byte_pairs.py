"""Byte-level byte-pair encoding (BPE) over tables, which several processes can map from one file. No torch.

For 150,000 tokens and as many merges the tables take 5 MB. They are used as they are: no dictionary is built from them
at start. Ids are those of the `tokenizers` library. In a piece of text the pair with the lowest rank is merged first,
and of several with that rank the leftmost (Sennrich et al. 2016).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Any, overload

import numpy as np
import numpy.typing as npt

SHIFT = 32
"""The key of a pair is `first << SHIFT | second`."""


@dataclass(frozen=True, slots=True)
class Tables:
    """A vocabulary of V ids and M merges. S of the ids are text; the others are special tokens."""

    text: npt.NDArray[np.uint8]
    """[bytes]: the UTF-8 bytes of all tokens, concatenated in the order of their ids."""
    starts: npt.NDArray[np.int32]
    """[V + 1]: where the bytes of each id begin in `text`, and the length of `text`. Special tokens have no bytes."""
    by_bytes: npt.NDArray[np.int32]
    """[S]: the ids that have bytes, sorted by these."""
    pairs: npt.NDArray[np.int64]
    """[M], ascending: the keys of the pairs that are merged; see `SHIFT`."""
    ranks: npt.NDArray[np.int32]
    """[M]: the rank of each pair; lower ones are merged first."""
    merged: npt.NDArray[np.int32]
    """[M]: the id that each pair becomes."""

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """All tables by name."""
        return {name: getattr(self, name) for name in self.__slots__}


DTYPES: Mapping[str, npt.DTypeLike] = {
    "text": np.uint8,
    "starts": np.int32,
    "by_bytes": np.int32,
    "pairs": np.int64,
    "ranks": np.int32,
    "merged": np.int32,
}
"""The dtypes of the tables, by name."""


def build(tokens: Mapping[str, int], special: Iterable[int], merges: Iterable[Sequence[str]]) -> Tables:
    """The tables of a vocabulary.

    `tokens` maps tokens, spelled in `byte_letters`, to ids. `special` are the ids of special tokens. `merges` are pairs
    of tokens in the order of their ranks.

    Raises:
        ValueError: an id or a byte has no token, a token is not spelled in bytes, or a merge is not of known tokens.
    """
    markers = frozenset(special)
    letters = byte_letters()
    size = 1 + max([*tokens.values(), *markers], default=-1)
    data = [b""] * size
    for token, at in tokens.items():
        if at not in markers:
            try:
                data[at] = bytes(letters[letter] for letter in token)
            except KeyError:
                raise ValueError(f"the token {token!r} is not spelled in bytes") from None
    if not all(token or at in markers for at, token in enumerate(data)):
        raise ValueError("some ids have no token")
    if missing := set(range(256)) - {token[0] for token in data if len(token) == 1}:
        raise ValueError(f"the byte {min(missing):#04x} has no token")
    found: dict[int, tuple[int, int]] = {}
    for rank, (first, second) in enumerate(merges):
        ids = tokens.get(first), tokens.get(second), tokens.get(first + second)
        if None in ids or not markers.isdisjoint(ids):
            raise ValueError(f"{first!r} and {second!r} are merged, but not all of it are tokens")
        left, right, whole = (at for at in ids if at is not None)
        found[left << SHIFT | right] = rank, whole
    keys = sorted(found)
    return Tables(
        text=np.frombuffer(bytearray().join(data), np.uint8),
        starts=np.cumsum([0, *map(len, data)], dtype=np.int32),
        by_bytes=np.array(sorted((at for at in range(size) if data[at]), key=data.__getitem__), np.int32),
        pairs=np.array(keys, np.int64),
        ranks=np.array([found[key][0] for key in keys], np.int32),
        merged=np.array([found[key][1] for key in keys], np.int32),
    )


def check(tables: Tables) -> None:
    """Refuse tables that do not fit each other. With those that pass, no lookup reads outside of a table.

    Raises:
        ValueError: the tables are damaged.
    """
    for name, array in tables.arrays().items():
        if array.dtype != DTYPES[name] or array.ndim != 1:
            raise ValueError(f"the table {name!r} has another form")
    size, count = len(tables.starts) - 1, len(tables.pairs)
    if size < 1 or tables.starts[0] != 0 or tables.starts[-1] != len(tables.text) or (np.diff(tables.starts) < 0).any():
        raise ValueError("the bytes of tokens do not follow each other")
    if len(tables.ranks) != count or len(tables.merged) != count or (np.diff(tables.pairs) <= 0).any():
        raise ValueError("the merges are not in order")
    for ids in (tables.by_bytes, tables.merged):
        if len(ids) and not 0 <= ids.min() <= ids.max() < size:
            raise ValueError("a table names an id that there is not")


class BytePairs:
    """Looks tokens up and encodes text by merging. Only the 256 ids of single bytes are copied from the tables."""

    def __init__(self, tables: Tables, *, prefers_whole: bool = False) -> None:
        """With `prefers_whole`, a piece of text that is a token becomes that one, whatever merging would make of it.

        Raises:
            ValueError: the tables are damaged.
        """
        check(tables)
        self.tokens = TokenBytes(tables)
        self._by_bytes = tables.by_bytes.data  # single elements of memoryviews are read faster than those of arrays
        self._pairs, self._ranks, self._merged = tables.pairs.data, tables.ranks.data, tables.merged.data
        self._prefers_whole = prefers_whole
        self._of_byte = [token for byte in range(256) if (token := self.find(bytes([byte]))) is not None]
        if len(self._of_byte) < 256:
            raise ValueError("a byte has no token")

    def find(self, data: bytes) -> int | None:
        """The id of the token with exactly these bytes; None if there is none."""
        at = bisect_left(self._by_bytes, data, key=self.tokens.__getitem__)
        if at < len(self._by_bytes) and self.tokens[self._by_bytes[at]] == data:
            return int(self._by_bytes[at])
        return None

    def starting(self, beginning: bytes) -> list[int]:
        """The ids whose bytes start with `beginning`, sorted by their bytes."""
        first = bisect_left(self._by_bytes, beginning, key=self.tokens.__getitem__)
        size = len(beginning)
        end = bisect_right(self._by_bytes, beginning, lo=first, key=lambda token: self.tokens[token][:size])
        return self._by_bytes[first:end].tolist()

    def encode(self, piece: bytes) -> list[int]:
        """The ids of one piece of text (see `tokenizer.PIECES`), in O(n log n) of its n bytes."""
        if self._prefers_whole and (whole := self.find(piece)) is not None:
            return [whole]
        ids = [self._of_byte[byte] for byte in piece]  # -1 where a token was merged into the one before
        after, before = [*range(1, len(ids)), -1], [*range(-1, len(ids) - 1)]
        waiting = [merge for at in range(len(ids) - 1) if (merge := self._merge(at, ids[at], ids[at + 1]))]
        heapify(waiting)
        while waiting:
            _, at, left, right, whole = heappop(waiting)
            gone = after[at]
            if ids[at] != left or gone < 0 or ids[gone] != right:  # one of them has been merged with another
                continue
            following, preceding = after[gone], before[at]
            ids[at], ids[gone], after[at] = whole, -1, following
            if following >= 0:
                before[following] = at
                if merge := self._merge(at, whole, ids[following]):
                    heappush(waiting, merge)
            if preceding >= 0 and (merge := self._merge(preceding, ids[preceding], whole)):
                heappush(waiting, merge)
        return [token for token in ids if token >= 0]

    def _merge(self, at: int, left: int, right: int) -> tuple[int, int, int, int, int] | None:
        """The merge of the ids `left`, at index `at`, and `right`: rank, `at`, both ids and the merged id. None if
        these two are not merged."""
        key = left << SHIFT | right
        found = bisect_left(self._pairs, key)
        if found == len(self._pairs) or self._pairs[found] != key:
            return None
        return self._ranks[found], at, left, right, self._merged[found]


class TokenBytes(Sequence[bytes]):
    """The bytes of each id, as a sequence over the tables; special tokens have no bytes."""

    def __init__(self, tables: Tables) -> None:
        self._text, self._starts = tables.text.data, tables.starts.data

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> list[bytes]: ...
    def __getitem__(self, at: int | slice) -> bytes | list[bytes]:
        if isinstance(at, slice):
            return [self[index] for index in range(*at.indices(len(self)))]
        if not 0 <= at < len(self._starts) - 1:
            raise IndexError(f"there is no id {at}")
        return bytes(self._text[self._starts[at] : self._starts[at + 1]])

    def __len__(self) -> int:
        return len(self._starts) - 1


def byte_letters() -> dict[str, int]:
    """The printable letters by which byte-level BPE spells bytes (Radford et al. 2019): letter -> byte."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = {chr(byte): byte for byte in plain}
    for shift, byte in enumerate(byte for byte in range(256) if byte not in set(plain)):
        letters[chr(256 + shift)] = byte
    return letters
