"""A tiny second family of checkpoints: a network, a prompt order and special tokens of its own.

Its network has learnt nothing: it writes what followed the longest earlier match of the last tokens, so that a test
can foretell its fills. Run as a process with a checkpoint directory, it serves an editor with that family known.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer as Library
from tokenizers import models
from torch import Tensor

from dgemma_lsp.server import server
from dgemma_model.checkpoint import families
from dgemma_model.checkpoint.config import Policy, Quantize
from dgemma_model.checkpoint.contract import Checkpoint, Progress
from dgemma_model.network.cache import Cache
from dgemma_model.network.contract import CodeNetwork
from dgemma_model.prompt.format import EncodedPrompt, FillVocabulary, Layout, layout_of
from dgemma_model.prompt.suffix_first import is_indent_settled
from dgemma_model.prompt.tokenizer import Tokenizer, recipe_pieces
from dgemma_model.request import Excerpt

BEFORE, AFTER, HERE, STOP = "<<before>>", "<<after>>", "<<here>>", "<|endoftext|>"


class Repeater:
    """Its keys are the ids themselves, one hot; the next token is what followed the longest earlier match."""

    device = torch.device("cpu")
    context_length = 2048

    def __init__(self, vocab_size: int, stop: int) -> None:
        self.vocab_size, self._stop = vocab_size, stop

    def encode(
        self,
        ids: Tensor,
        cache: Cache,
        *,
        positions: Tensor | None = None,
        padding: Tensor | None = None,
        seen: Tensor | None = None,
    ) -> Tensor:
        start = cache.length
        keys, _ = cache.write(0, ids.float()[:, None, :, None], ids.float()[:, None, :, None])
        cache.length += ids.shape[1]
        known = keys[0, 0, :, 0].long().tolist()
        hidden = torch.zeros(*ids.shape, self.vocab_size)
        for at in range(ids.shape[1]):
            visible = [i for i in range(start + at + 1) if seen is None or seen[at, i]]
            text = [known[i] for i in visible]
            length, place = max((_match(text, i), i) for i in range(len(text)))
            hidden[:, at, text[place + 1] if length else self._stop] = 1.0
        return hidden

    def decode(
        self, canvas: Tensor, cache: Cache, *, expected: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        return torch.nn.functional.one_hot(canvas, self.vocab_size).float()

    def logits(self, hidden: Tensor) -> Tensor:
        return 20 * hidden

    def embed(self, ids: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(ids, self.vocab_size).float()

    def mean_embedding(self, probabilities: Tensor) -> Tensor:
        return probabilities


def _match(text: list[int], place: int) -> int:
    """How many of the last tokens are those up to `place`; 0 at the end itself."""
    length = 0
    while place < len(text) - 1 and length <= place and text[place - length] == text[len(text) - 1 - length]:
        length += 1
    return length


class PrefixFirst:
    """`<<before>>` prefix `<<after>>` suffix `<<here>>` and the prefix's last line again, as far as it is typed."""

    mask_id = None
    ends_holes = True

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.vocabulary = FillVocabulary(tokenizer, [tokenizer.end_id])
        self._tokenizer = tokenizer
        self._marks = [tokenizer._special(name) for name in (BEFORE, AFTER, HERE)]

    def encode(self, excerpt: Excerpt, max_tokens: int) -> EncodedPrompt:
        before, after, here = self._marks
        kept, healed = self._tokenizer.split_last_piece(excerpt.prefix)
        line = kept.rfind("\n") + 1
        above, typed = self._tokenizer.encode(kept[:line])[-max_tokens:], self._tokenizer.encode(kept[line:])
        suffix = self._tokenizer.encode(excerpt.suffix)[:max_tokens]
        return EncodedPrompt(
            [before, *above, after, *suffix, here, *typed],
            [*suffix, *above, *typed],
            healed.encode(),
            is_indent_settled(kept, healed),
        )

    def lay_out(self, excerpt: Excerpt, hole_widths: Sequence[int]) -> Layout:
        return layout_of(self._tokenizer, excerpt, hole_widths)

    def after(self, excerpt: Excerpt) -> list[int]:
        return []


class Repeaters:
    model_type = "repeater"

    def load(
        self,
        directory: Path,
        config: Mapping[str, Any],
        device: torch.device,
        dtype: torch.dtype,
        progress: Progress,
        quantize: Quantize | None = None,
    ) -> Checkpoint:
        tokenizer = Tokenizer.read(directory / "tokenizer.json")
        network = Repeater(tokenizer.vocab_size, tokenizer.end_id)
        return Checkpoint(directory, network, PrefixFirst(tokenizer), Policy.read(directory), self)

    def served(self, network: CodeNetwork, products: torch.dtype) -> CodeNetwork:
        return network


def write_checkpoint(directory: Path) -> None:
    """A checkpoint of the family, whose tokens are single bytes."""
    letters = [chr(i) for i in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]
    library = Library(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    library.pre_tokenizer = recipe_pieces()
    library.add_special_tokens([BEFORE, AFTER, HERE, STOP])
    library.save(str(directory / "tokenizer.json"))
    (directory / "config.json").write_text(json.dumps({"model_type": "repeater"}))
    (directory / "dgemma.json").write_text(json.dumps({"name": "repeater", "verify": True, "prompt_tokens": 512}))


if __name__ == "__main__":
    families.register(Repeaters())
    sys.exit(server.serve_stdio(checkpoint=sys.argv[1], device="cpu"))
