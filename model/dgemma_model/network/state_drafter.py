"""A small network that drafts what a causal writer says next, fed the writer's states: one step of block diffusion.

It denoises a canvas of masks that follows the writer's latest token. Each position reads the writer's states at
the token before that one, the token itself, the keys and values that the writer cached in a few of its layers, and the
rest of the canvas. The writer computes all of these anyway (DFlash, arXiv 2602.06036; the cache is read as by Orthrus,
arXiv 2605.12825). Scores are those of the writer's own head for its commonest tokens. To these is added what the
drafted token before says of the next: that keeps a draft of one step in one piece.

Shapes: B texts, A anchors (places after which is drafted), L canvas positions, T tokens of the text, S states, D hidden
size, H query heads, K key/value heads, C head size, N drafter's vocabulary, R rank of the pairs' scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
from torch import Tensor, nn

from dgemma_model.network.diffusion_gemma import RMSNorm, rotate

FIRST = 2
"""Where a canvas begins, after its anchor: the token between is known."""


@dataclass(frozen=True, slots=True)
class DrafterConfig:
    """The shape of a drafter, and of the writer that it belongs to."""

    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rope_theta: float
    rms_norm_eps: float
    canvas: int
    """L."""
    keys_of: tuple[int, ...]
    """For each of the drafter's layers, the layer of the writer whose keys and values it reads."""
    states_before: tuple[int, ...]
    """The layers of the writer before which its residual stream is read; its last hidden state is read, too."""
    vocab_size: int
    """N."""
    pair_rank: int
    """R."""

    def to_json(self) -> dict[str, Any]:
        """The content of a file."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> DrafterConfig:
        """Read such content.

        Raises:
            KeyError, TypeError, ValueError: an entry is missing, or is not a number that makes sense.
        """
        numbers = {name: content[name] for name in cls.__slots__}
        for name in ("keys_of", "states_before"):
            numbers[name] = tuple(numbers[name])
        entries = [*numbers["keys_of"], *numbers["states_before"]]
        sizes = [value for name, value in numbers.items() if name not in ("keys_of", "states_before", "rms_norm_eps")]
        if not all(isinstance(entry, int) and entry >= 0 for entry in entries) or not all(size > 0 for size in sizes):
            raise ValueError("numbers of a drafter must be positive")
        return cls(**numbers)


class DrafterLayer(nn.Module):
    """Attention to the writer's keys and to the canvas, then a gated feed-forward block."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        size, inner = config.hidden_size, config.intermediate_size
        self.input_norm = RMSNorm(size, config.rms_norm_eps)
        self.qkv = nn.Linear(size, (self.heads + 2 * self.kv_heads) * self.head_dim)
        self.out = nn.Linear(self.heads * self.head_dim, size, bias=False)
        self.mlp_norm = RMSNorm(size, config.rms_norm_eps)
        self.gate_up = nn.Linear(size, 2 * inner, bias=False)
        self.down = nn.Linear(inner, size, bias=False)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor], keys: Tensor, values: Tensor, unseen: Tensor) -> Tensor:
        """Canvases [B, A, L, D] and their angles [B, A * L, 1, C] -> [B, A, L, D].

        `keys` and `values` [B, K, T, C] are the writer's; `unseen` [B, A, T] bool is True at those of tokens after the
        anchor.
        """
        batch, anchors, length, _ = x.shape
        joined = self.qkv(self.input_norm(x)).view(batch, anchors * length, -1, self.head_dim)
        rotated = rotate(joined[:, :, : self.heads + self.kv_heads], *angles)
        grouped = (batch, anchors, length, self.kv_heads, -1, self.head_dim)
        queries = rotated[:, :, : self.heads].reshape(grouped) * self.head_dim**-0.5
        own_keys = rotated[:, :, self.heads :].reshape(grouped)[..., 0, :]
        own_values = joined[:, :, self.heads + self.kv_heads :].reshape(grouped)[..., 0, :]
        to_text = torch.einsum("balkgc,bktc->bkgalt", queries, keys)
        to_text = to_text.masked_fill(unseen[:, None, None, :, None], -torch.inf)
        to_canvas = torch.einsum("balkgc,bamkc->bkgalm", queries, own_keys)
        weights = torch.cat((to_text, to_canvas), -1).float().softmax(-1).to(values.dtype)
        text_weights, canvas_weights = weights[..., :-length], weights[..., -length:]
        found = torch.einsum("bkgalt,bktc->balkgc", text_weights, values)
        found = found + torch.einsum("bkgalm,bamkc->balkgc", canvas_weights, own_values)
        x = x + self.out(found.reshape(batch, anchors, length, -1))
        gate, up = self.gate_up(self.mlp_norm(x)).chunk(2, dim=-1)
        return cast(Tensor, x + self.down(F.silu(gate) * up))


class StateDrafter(nn.Module):
    """The whole network, for training and as the reference. Embeddings and the head are the writer's, and frozen."""

    def __init__(self, config: DrafterConfig) -> None:
        super().__init__()
        self.config = config
        size, states = config.hidden_size, len(config.states_before) + 1
        self.state_norms = nn.ModuleList(RMSNorm(size, config.rms_norm_eps) for _ in range(states))
        self.fuse = nn.Linear((states + 1) * size, size, bias=False)
        self.places = nn.Parameter(torch.zeros(config.canvas, size))
        """What tells the positions of the canvas apart, [L, D]."""
        self.layers = nn.ModuleList(DrafterLayer(config) for _ in config.keys_of)
        self.norm = RMSNorm(size, config.rms_norm_eps)
        self.before = nn.Embedding(config.vocab_size + 1, config.pair_rank)
        """By the token before; the last row is that of tokens outside of the drafter's vocabulary."""
        self.after = nn.Parameter(torch.zeros(config.vocab_size, config.pair_rank))

    def forward(
        self,
        states: Tensor,
        embedded: Tensor,
        anchors: Tensor,
        keys: Sequence[tuple[Tensor, Tensor]],
        length: int,
    ) -> Tensor:
        """Denoise canvases of that length, at most L: [B, A, length, D], what the head scores.

        `states` [B, A, S, D] are the writer's at the anchors, `embedded` [B, A, D] are the embeddings of the tokens
        after them, and `anchors` [B, A] int64 are their positions. `keys` holds the writer's keys and values for each
        of the drafter's layers, [B, K, T, C] each.
        """
        normed = [norm(states[:, :, at]) for at, norm in enumerate(self.state_norms)]
        base = states[:, :, -2] + self.fuse(torch.cat((*normed, embedded), -1))
        x = base[:, :, None] + self.places[:length]
        cos, sin = canvas_angles(self.config, anchors, length)
        angles = cos.flatten(1, 2)[:, :, None], sin.flatten(1, 2)[:, :, None]
        tokens = keys[0][0].shape[2]
        unseen = torch.arange(tokens, device=anchors.device) > anchors[:, :, None]
        for layer, (some, values) in zip(self.layers, keys, strict=True):
            x = layer(x, angles, some, values, unseen)
        return cast(Tensor, self.norm(x))

    def drafter_layers(self) -> list[DrafterLayer]:
        """The layers, first to last."""
        return cast(list[DrafterLayer], list(self.layers))

    def pair_scores(self, before: Tensor) -> Tensor:
        """What tokens [...] of the drafter's vocabulary say of the next one, [..., N]; N itself means all others."""
        return F.linear(self.before(before), self.after)


def canvas_angles(config: DrafterConfig, anchors: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Float32 cosines and sines of canvases' rotations, by the positions of their anchors: [...] -> [..., length, C]
    each."""
    positions = anchors[..., None] + torch.arange(FIRST, length + FIRST, device=anchors.device)
    steps = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=anchors.device) / config.head_dim
    angles = positions[..., None].float() * (1.0 / config.rope_theta**steps)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()
