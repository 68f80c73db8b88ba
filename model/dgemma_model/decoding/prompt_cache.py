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


class TokenTree:
    """Rows of tokens after a common root: a beginning that rows share is read once, and each token sees its own branch
    only (Miao et al., arXiv 2305.09781)."""

    def __init__(self, root: int, rows: Sequence[Sequence[int]]) -> None:
        self.tokens = [root]
        """Of each node; the root is the first, and the tokens of the first row come next, in their order."""
        self.depths = [0]
        """Of each node, its distance from the root."""
        self.paths = list[list[int]]()
        """Of each row, the nodes of the root and of its tokens."""
        self._parents = [-1]
        children: dict[tuple[int, int], int] = {}
        for row in rows:
            path = [0]
            for token in row:
                node = children.setdefault((path[-1], token), len(self.tokens))
                if node == len(self.tokens):
                    self.tokens.append(token)
                    self.depths.append(self.depths[path[-1]] + 1)
                    self._parents.append(path[-1])
                path.append(node)
            self.paths.append(path)

    def seen(self) -> Tensor:
        """Which nodes each node sees, itself included: [N, N], bool."""
        seen = torch.eye(len(self.tokens), dtype=torch.bool)
        for node, parent in enumerate(self._parents[1:], start=1):
            seen[node] |= seen[parent]
        return seen


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
        self._check(ids)
        if len(ids) > self.room(self.ids):
            raise InfillError(f"the text is longer than the model's context of {self.network.context_length} tokens")
        hidden = self.network.encode(torch.tensor([ids], device=self.device), self.cache)
        self.ids += ids
        return self.network.logits(hidden[0, len(ids) - (len(ids) if last is None else last) :])

    @torch.inference_mode()
    def append_tree(self, ids: Sequence[int], rows: Sequence[Sequence[int]]) -> tuple[Tensor, TokenTree]:
        """Encode `ids` after the cached ones, and `rows` as branches after the last of them. Returns the next-token
        logits [N, V] of the nodes of that tree. `ids` and the first row are cached then.

        Raises:
            InfillError: an id is outside the network's vocabulary, or there is no position left for a row.
        """
        tree = TokenTree(ids[-1], rows)
        logits = self.tree_logits(ids[:-1], tree, seen=len(self.ids))
        self.ids += [*ids, *rows[0]]
        self.cache.crop(len(self.ids))
        return logits, tree

    @torch.inference_mode()
    def tree_logits(self, ids: Sequence[int], tree: TokenTree, *, seen: int) -> Tensor:
        """Encode `ids`, then `tree` after them, which both see the first `seen` cached tokens. Returns the next-token
        logits [N, V] of its nodes. All of it is in the cache then.

        Raises:
            InfillError: an id is outside the network's vocabulary, or there is no position left for a row.
        """
        self._check([*ids, *tree.tokens])
        before, nodes, kept = seen + len(ids), len(tree.tokens), self.cache.length
        longest, room = max(tree.depths), self.network.context_length - before - 1
        if longest > room:
            raise InfillError(f"a text has {longest} tokens, the model's context has room for {room}")
        visible = torch.zeros(len(ids) + nodes, kept + len(ids) + nodes, dtype=torch.bool)
        visible[:, :seen] = True
        visible[:, kept : kept + len(ids)] = True
        visible[: len(ids), kept : kept + len(ids)].tril_()
        visible[len(ids) :, kept + len(ids) :] = tree.seen()
        positions = [*range(seen, before), *(before + depth for depth in tree.depths)]
        hidden = self.network.encode(
            torch.tensor([[*ids, *tree.tokens]], device=self.device),
            self.cache,
            positions=torch.tensor([positions], device=self.device),
            seen=visible.to(self.device),
        )
        return self.network.logits(hidden[0, len(ids) :])

    def _check(self, ids: Sequence[int]) -> None:
        """Refuse ids that the network does not have: compiled passes would read beyond its embeddings."""
        most = self.network.vocab_size
        if not 0 <= min(ids) <= max(ids) < most:
            raise InfillError(f"token ids must be 0 to {most - 1}; a tokenizer that does not belong here?")

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
            if (shared := common_length(prompt.ids, ids)) > common:
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


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """With how many equal tokens both begin."""
    return next(compress(count(), map(ne, a, b)), min(len(a), len(b)))
