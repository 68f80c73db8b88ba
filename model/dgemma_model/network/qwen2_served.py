"""A Qwen2 or Llama network as it is served: what `qwen2.Qwen2Network` does, faster.

Its layers and its head are `passes`: compiled ones where they can run, or else operations of torch. For CPUs. Shapes
as in `qwen2`; the weights are those of `qwen2_weights.joined_weights`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
from torch import Tensor

from dgemma_model.network.cache import Cache
from dgemma_model.network.diffusion_gemma import joined_padding, padding_mask
from dgemma_model.network.int8 import Int8Weights
from dgemma_model.network.passes import native
from dgemma_model.network.passes.contract import Passes
from dgemma_model.network.passes.torch_passes import TorchPasses
from dgemma_model.network.qwen2 import causal_mask, rotary_angles
from dgemma_model.network.qwen2_config import Qwen2Config
from dgemma_model.network.threads import THREADS

EMBEDDING_BLOCK = 8192
"""Rows of the embedding that `mean_embedding` widens at a time."""


class ServedQwen2:
    """What `Qwen2Network` does, faster; its head knows the ids of the tokenizer only."""

    def __init__(self, config: Qwen2Config, weights: Int8Weights) -> None:
        """`weights` as `joined_weights` gives them.

        Matrices that are not laid out for products yet are copied, the head's too. The embedding is kept as it is, and
        may be mapped from a file.
        """
        self.config = config
        self.weights = weights
        """As they were given."""
        self._embedding = weights.tensors["embed_tokens.weight"]
        self._embedding_scale = weights.tensors["embed_tokens.scale"]
        self.vocab_size = len(self._embedding)
        """Ids that there are: the V of `logits`."""
        is_native = weights.products == torch.int8 and native.can_run(config)
        self._passes: Passes = (
            native.NativePasses(config, weights.tensors, weights.blocks) if is_native else TorchPasses(config, weights)
        )
        self._tables: tuple[Tensor, Tensor] | None = None
        self._kept_states: tuple[int, ...] = ()
        self._block: int | None = None

    def reading_blocks(self, size: int) -> ServedQwen2:
        """The same network, which reads prompts in blocks of `size` tokens, counted from the first: each token sees its
        whole block, as far as it is read in the same pass, and all before it (arXiv 2503.09573)."""
        network = copy.copy(self)
        network._block = size
        return network

    def keeping_states(self, layers: Sequence[int]) -> ServedQwen2:
        """The same network, whose passes over a single row leave their states in the cache: see `latest_states`.

        `layers` are indices of layers; the last hidden states are kept with them.
        """
        network = copy.copy(self)
        network._kept_states = tuple(layers)
        return network

    def latest_states(self, cache: Cache, token: int) -> Tensor | None:
        """Of the cached token at a place: the residual stream before each layer that was asked for, then the last
        hidden state, [states, D]. None unless the latest pass read it."""
        if cache.states is None or not cache.states_from <= token < cache.length:
            return None
        return cache.states[token - cache.states_from]

    def head_rows(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of `ids` [N] in the head as they are stored: int8 [N, D], and scales [N]."""
        tensors = self.weights.tensors
        return tensors[f"{self.head_name}.weight"][ids], tensors[f"{self.head_name}.scale"][ids]

    @property
    def head_name(self) -> str:
        """What the matrix of the head is called in `weights`."""
        return "embed_tokens" if self.config.tie_word_embeddings else "lm_head"

    @property
    def token_cost(self) -> float:
        """See `Passes`."""
        return self._passes.token_cost

    @property
    def context_length(self) -> int:
        """See `CodeNetwork`."""
        return self.config.max_position_embeddings

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self._embedding.device

    @torch.inference_mode()
    def encode(
        self,
        ids: Tensor,
        cache: Cache,
        *,
        positions: Tensor | None = None,
        padding: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> Tensor:
        """See `Qwen2Network.encode`."""
        start, tokens = cache.length, ids.shape[1]
        valid = joined_padding(cache.padding, padding, ids, start)
        allowed = None
        if seen is not None:
            allowed = seen[None]
        elif self._block is not None and valid is None:
            places = torch.arange(start + tokens)
            allowed = (places // self._block <= places[start:, None] // self._block)[None]
        elif valid is not None:
            allowed = causal_mask(start, tokens, valid, ids.device)[:, 0]
        hidden = self._run(ids, cache, positions, allowed)
        cache.length += tokens
        cache.padding = valid
        return hidden

    @torch.inference_mode()
    def decode(
        self, canvas: Tensor, cache: Cache, *, expected: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """See `Qwen2Network.decode`."""
        tokens = canvas.shape[1]
        mask = padding_mask(cache.padding, 0, tokens)
        if mask is None:
            mask = torch.ones(1, 1, 1, cache.length + tokens, dtype=torch.bool)
        return self._run(canvas, cache, positions, mask[:, 0].expand(-1, tokens, -1))

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """[..., D] -> float32 scores of the ids that the tokenizer has, [..., V]."""
        rows = hidden.reshape(-1, hidden.shape[-1])
        with THREADS.chosen(len(rows)):
            return self._passes.scores(rows).view(*hidden.shape[:-1], self.vocab_size)

    def mean_embedding(self, probabilities: Tensor) -> Tensor:
        """See `Qwen2Network.mean_embedding`."""
        weighted = probabilities.float() * self._embedding_scale
        parts = zip(
            torch.split(weighted, EMBEDDING_BLOCK, -1), torch.split(self._embedding, EMBEDDING_BLOCK), strict=True
        )
        mean = torch.zeros(*probabilities.shape[:-1], self.config.hidden_size)
        for part, block in parts:
            mean += part @ block.float()
        return mean

    def embed(self, ids: Tensor) -> Tensor:
        """See `Qwen2Network.embed`."""
        return F.embedding(ids, self._embedding) * F.embedding(ids, self._embedding_scale[:, None])

    def _run(self, ids: Tensor, cache: Cache, positions: Tensor | None, allowed: Tensor | None) -> Tensor:
        """The layers over new tokens; keys and values go after the cached ones."""
        with THREADS.measured(ids.numel()):
            angles = self.angles(cache.length, ids.shape[1], positions)
            hidden, states = self._passes.run(self.embed(ids), cache, angles, allowed, self._kept_states)
        if states and len(ids) == 1:
            self._keep([*states, hidden], cache)
        return hidden

    def _keep(self, states: Sequence[Tensor], cache: Cache) -> None:
        """Leave the states [1, T, D] of a pass in the cache, in the dtype of the keys."""
        cache.states = torch.stack([state[0] for state in states], dim=1).to(cache.layer(0)[0].dtype)
        cache.states_from = cache.length

    def angles(self, start: int, tokens: int, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Cosines and sines as `Passes` take them, [1 or B, T, C], from tables that grow by doubling."""
        if positions is not None:
            return self._rotary(positions)
        end = start + tokens
        if self._tables is None or self._tables[0].shape[1] < end:
            self._tables = self._rotary(torch.arange(max(1024, 1 << (end - 1).bit_length()))[None])
        cos, sin = self._tables
        return cos[:, start:end], sin[:, start:end]

    def _rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines, and sines that are negative for the first half of a head, for what is rotated half a head on."""
        cos, sin = rotary_angles(self.config, positions)
        half = sin.shape[-1] // 2
        return cos, torch.cat((-sin[..., :half], sin[..., half:]), dim=-1)
