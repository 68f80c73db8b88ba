"""Keys and values of prompts, kept from fill to fill.

A prompt is found again by its tokens. The cached one with the longest common beginning is reused, so that a keystroke
costs only the tokens that it changed. Layers with a sliding window get exact results, too, because caches keep all
tokens (network/cache.py). One `PromptCaches` belongs to one network.
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
"""A long prompt is encoded so many tokens at a time; between two chunks a fill may be stopped."""


class TokenTree:
    """Rows of tokens after a common root, as a tree of N nodes: tree attention (Miao et al., arXiv 2305.09781).

    A beginning that rows share is read once. Each token sees only those before it in its own rows.
    """

    def __init__(self, root: int, rows: Sequence[Sequence[int]]) -> None:
        self.tokens = [root]
        """The token of each node. The root is node 0; nodes 1 and up are the first row, in its order."""
        self.depths = [0]
        """The distance of each node from the root."""
        self.paths = list[list[int]]()
        """For each row, the nodes of the root and of the row's tokens: [len(row) + 1]."""
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

    def visibility(self) -> Tensor:
        """[N, N] bool: row n is True at the nodes that node n sees, itself included."""
        seen = torch.eye(len(self.tokens), dtype=torch.bool)
        for node, parent in enumerate(self._parents[1:], start=1):
            seen[node] |= seen[parent]
        return seen


class CachedPrompt:
    """Tokens of one prompt with their keys and values. Fills are written after them."""

    def __init__(self, network: CodeNetwork, cache: Cache, ids: list[int]) -> None:
        self.network = network
        self.cache = cache
        self.ids = ids
        """The tokens that the cache holds."""
        self.draft_gain = 1.0
        """Moving average of the tokens that a trained drafter's draft saved (`drafting.TrainedDrafter`)."""

    @property
    def device(self) -> torch.device:
        """The device of the network and of the cache."""
        return self.network.device

    @torch.inference_mode()
    def append(self, ids: Sequence[int], last: int | None = None) -> Tensor:
        """Encode `ids` (at least one) after the cached tokens, causally. They are cached then.

        Returns the next-token logits [n, V] of the `last` of them; of all by default.

        Raises:
            InfillError: an id is outside the network's vocabulary, or the text is longer than its context.
        """
        self._check(ids)
        if len(ids) > self.room(self.ids):
            raise InfillError(f"the text is longer than the model's context of {self.network.context_length} tokens")
        hidden = self.network.encode(torch.tensor([ids], device=self.device), self.cache)
        self.ids += ids
        return self.network.logits(hidden[0, len(ids) - (len(ids) if last is None else last) :])

    @torch.inference_mode()
    def append_tree(self, ids: Sequence[int], rows: Sequence[Sequence[int]]) -> tuple[Tensor, TokenTree]:
        """Encode `ids` (at least one) after the cached tokens, and `rows` as branches after the last of them.

        Returns the next-token logits [N, V] of the nodes of that tree, and the tree. `ids` are cached then. `keep_row`
        must tell which of the rows is to be cached, too, before anything else is appended.

        Raises:
            InfillError: an id is outside the network's vocabulary, or a row is longer than its context.
        """
        tree = TokenTree(ids[-1], rows)
        logits = self.tree_logits(ids[:-1], tree, seen=len(self.ids))
        self.ids += ids
        return logits, tree

    @torch.inference_mode()
    def keep_row(self, tree: TokenTree, row: int) -> None:
        """Cache the tokens of one row of the tree that was just appended, and no others."""
        path = tree.paths[row]
        self.cache.keep(len(self.ids) - 1, path)
        self.ids += [tree.tokens[node] for node in path[1:]]

    @torch.inference_mode()
    def tree_logits(self, ids: Sequence[int], tree: TokenTree, *, seen: int) -> Tensor:
        """Encode `ids` causally after the first `seen` cached tokens, and `tree` after them.

        Returns the next-token logits [N, V] of the tree's nodes. The cache then has one entry more for each id and each
        node; the caller crops it.

        Raises:
            InfillError: an id is outside the network's vocabulary, or a row is longer than its context.
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
        visible[len(ids) :, kept + len(ids) :] = tree.visibility()
        positions = [*range(seen, before), *(before + depth for depth in tree.depths)]
        hidden = self.network.encode(
            torch.tensor([[*ids, *tree.tokens]], device=self.device),
            self.cache,
            positions=torch.tensor([positions], device=self.device),
            seen=visible.to(self.device),
        )
        return self.network.logits(hidden[0, len(ids) :])

    def _check(self, ids: Sequence[int]) -> None:
        """Refuse ids that the network does not have, because compiled passes would read beyond its embeddings."""
        most = self.network.vocab_size
        if not 0 <= min(ids) <= max(ids) < most:
            raise InfillError(f"token ids must be 0 to {most - 1}; a tokenizer that does not belong here?")

    def room(self, ids: Sequence[int]) -> int:
        """How many more tokens fit into the model's context after `ids`."""
        return self.network.context_length - len(ids)

    def crop(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
        self.cache.crop(length)
        del self.ids[length:]

    def read_most_of(self, ids: Sequence[int]) -> Iterator[None]:
        """Encode what is not cached of `ids`, and yield after each chunk. The last chunk is left to the fill's first
        pass."""
        while len(ids) - len(self.ids) > PREFILL_CHUNK:
            self.append(ids[len(self.ids) :][:PREFILL_CHUNK], last=0)
            yield

    def read_all_of(self, ids: Sequence[int]) -> Iterator[None]:
        """Encode what is not cached of `ids`, at least one token, and yield after each chunk."""
        yield from self.read_most_of(ids)
        self.append(ids[len(self.ids) :], last=0)
        yield


@dataclass(frozen=True, slots=True)
class OpenPrompt:
    """A prompt while a fill is written after it, with its cache and the vocabulary of its fills."""

    cached: CachedPrompt
    prompt: EncodedPrompt
    vocabulary: FillVocabulary

    def rewind(self) -> None:
        """Crop the cache to the prompt."""
        self.cached.crop(len(self.prompt.ids))

    def rewind_before_last(self) -> None:
        """Crop the cache to the prompt without its last token, so that a pass gives the logits after that."""
        self.cached.crop(len(self.prompt.ids) - 1)

    def read(self, ids: Sequence[int]) -> tuple[str, bool]:
        """The text that `ids` put into the (first) hole, and whether they end it."""
        return self.vocabulary.read(ids, self.prompt.forced)


class PromptCaches:
    """The prompts of the latest fills. Those used longest ago are dropped over a budget of bytes."""

    def __init__(self, network: CodeNetwork, budget_bytes: int) -> None:
        self._network = network
        self._budget_bytes = budget_bytes
        self._kept: list[CachedPrompt] = []  # the latest last
        self.nbytes = 0
        """Bytes of all prompts that are kept, without those that are borrowed."""

    @contextmanager
    def borrowed(self, ids: Sequence[int]) -> Iterator[CachedPrompt]:
        """The cached prompt with the longest common beginning, cropped to it. The last of `ids` is never cached, since
        the fill's first pass must read it for its logits.

        No other caller gets the same prompt meanwhile. Afterwards it is kept with whatever was appended. After an error
        no prompt is kept, because a failing device may have written anything.
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
        if 2 * common < len(best.ids):  # another text that happens to begin alike keeps its tokens
            copied = CachedPrompt(self._network, best.cache.copy(common), best.ids[:common])
            if 2 * common >= len(ids):  # the same document
                copied.draft_gain = best.draft_gain
            return copied
        self._kept.remove(best)
        self.nbytes -= best.cache.nbytes
        best.crop(common)
        return best

    def _keep(self, prompt: CachedPrompt) -> None:
        prompt.cache.states = None  # the next fill's first pass has its own
        self._kept.append(prompt)
        self.nbytes += prompt.cache.nbytes
        while self._kept and self.nbytes > self._budget_bytes:
            self.nbytes -= self._kept.pop(0).cache.nbytes


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """The length of the common beginning."""
    return next(compress(count(), map(ne, a, b)), min(len(a), len(b)))
