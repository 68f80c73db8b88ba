"""Keys and values of prompts, kept from fill to fill.

A prompt is found again by its tokens, never by a name. The one with the longest common beginning is reused, so that a
keystroke costs the tokens that it changed. This is exact beyond a sliding window, too, because caches keep all tokens
(network/cache.py). One `PromptCaches` belongs to one network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import compress, count
from operator import ne

import torch
from torch import Tensor

from dgemma_model.network.cache import Cache
from dgemma_model.network.contract import CodeNetwork
from dgemma_model.prompt.format import EncodedPrompt, FillVocabulary
from dgemma_model.request import InfillError

PREFILL_CHUNK = 256
"""Tokens of a long prompt that are encoded at a time; between two chunks a fill may be stopped."""


class CachedPrompt:
    """Tokens with their keys and values; fills are written after them."""

    def __init__(self, network: CodeNetwork, cache: Cache, ids: list[int]) -> None:
        self.network = network
        self.cache = cache
        self.ids = ids
        """What the cache holds, exactly."""
        self.draft_gain = 1.0
        """Tokens that a draft has saved lately, on average (`decoding.drafting`)."""

    @property
    def device(self) -> torch.device:
        """Where keys and values are."""
        return self.network.device

    @torch.inference_mode()
    def append(self, ids: Sequence[int], last: int | None = None) -> Tensor:
        """Encode `ids` after the cached ones. Returns next-token logits [n, V] of the `last` ones, of all by default.

        Raises:
            InfillError: an id is outside the network's vocabulary, or there is no position left for it.
        """
        most = self.network.vocab_size
        if not 0 <= min(ids) <= max(ids) < most:
            raise InfillError(f"token ids must be 0 to {most - 1}; a tokenizer that does not belong here?")
        if len(ids) > self.room(self.ids):
            raise InfillError(f"the text is longer than the model's context of {self.network.context_length} tokens")
        hidden = self.network.encode(torch.tensor([ids], device=self.device), self.cache)
        self.ids += ids
        return self.network.logits(hidden[0, len(ids) - (len(ids) if last is None else last) :])

    def room(self, ids: Sequence[int]) -> int:
        """How many tokens the model's context holds after `ids`."""
        return self.network.context_length - len(ids)

    def crop(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        self.cache.crop(length)
        del self.ids[length:]

    def read_most_of(self, ids: Sequence[int]) -> Iterator[None]:
        """Encode what is missing of `ids`, a chunk at a time, except the last chunk, which the fill's first pass
        reads."""
        while len(ids) - len(self.ids) > PREFILL_CHUNK:
            self.append(ids[len(self.ids) :][:PREFILL_CHUNK], last=0)
            yield

    def read_all_of(self, ids: Sequence[int]) -> Iterator[None]:
        """Encode what is missing of `ids`, a chunk at a time."""
        yield from self.read_most_of(ids)
        self.append(ids[len(self.ids) :], last=0)
        yield


@dataclass(frozen=True, slots=True)
class OpenPrompt:
    """A prompt in use: its ids, its cache, and how its fills are read."""

    cached: CachedPrompt
    prompt: EncodedPrompt
    vocabulary: FillVocabulary

    def rewind(self) -> None:
        """Forget what was written after the prompt; all of the prompt stays cached."""
        self.cached.crop(len(self.prompt.ids))

    def rewind_before_last(self) -> None:
        """Forget what was written, and the prompt's last token, so that its logits can be asked for again."""
        self.cached.crop(len(self.prompt.ids) - 1)

    def read(self, ids: Sequence[int]) -> tuple[str, bool]:
        """The text that `ids` fill the (first) hole with, and whether they end it."""
        return self.vocabulary.read(ids, self.prompt.forced)


class PromptCaches:
    """The prompts of the latest fills, least recently used out, within a budget of bytes."""

    def __init__(self, network: CodeNetwork, budget_bytes: int) -> None:
        self._network = network
        self._budget_bytes = budget_bytes
        self._kept: list[CachedPrompt] = []  # the latest last
        self.nbytes = 0
        """Bytes of all that is kept."""

    @contextmanager
    def borrowed(self, ids: Sequence[int]) -> Iterator[CachedPrompt]:
        """The longest cached beginning of `ids`, without the last token, whose logits are wanted.

        No other caller gets it meanwhile. Afterwards it is kept with whatever was appended. After an error nothing is
        kept, because a failing device may have written anything.
        """
        prompt = self._take(ids)
        try:
            yield prompt
        except Exception:
            self.clear()
            raise
        except GeneratorExit:  # stopped between two passes: whole
            self._keep(prompt)
            raise
        else:
            self._keep(prompt)

    def clear(self) -> None:
        """Forget all prompts."""
        self._kept.clear()
        self.nbytes = 0

    def _take(self, ids: Sequence[int]) -> CachedPrompt:
        best, common = None, 0
        for prompt in reversed(self._kept):
            if prompt.ids[common : common + 1] != list(ids[common : common + 1]):
                continue  # cannot have more in common than the best so far
            if (shared := _common_length(prompt.ids, ids)) > common:
                best, common = prompt, shared
        common = min(common, len(ids) - 1)
        if best is None or common <= 0:
            return CachedPrompt(self._network, Cache(), [])
        if 2 * common < len(best.ids):  # another text that happens to begin alike: it keeps its own
            copied = CachedPrompt(self._network, best.cache.copy(common), best.ids[:common])
            if 2 * common >= len(ids):  # the same document
                copied.draft_gain = best.draft_gain
            return copied
        self._kept.remove(best)
        self.nbytes -= best.cache.nbytes
        best.crop(common)
        return best

    def _keep(self, prompt: CachedPrompt) -> None:
        self._kept.append(prompt)
        self.nbytes += prompt.cache.nbytes
        while self._kept and self.nbytes > self._budget_bytes:
            self.nbytes -= self._kept.pop(0).cache.nbytes


def _common_length(a: Sequence[int], b: Sequence[int]) -> int:
    return next(compress(count(), map(ne, a, b)), min(len(a), len(b)))
