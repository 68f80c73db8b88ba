"""The contract of every prompt format: excerpts become token ids, and written ids become text. No torch.

A family of checkpoints is asked in the way it was trained: `suffix_first` (the embedded checkpoint), `fim`
(Qwen2.5-Coder) and `chat` (instruction-tuned DiffusionGemma).
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dgemma_model.prompt.tokenizer import Tokenizer
from dgemma_model.request import Excerpt


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """What the network reads before it writes, and the text that its fill must begin with."""

    ids: list[int]
    """All that is encoded."""
    text: list[int]
    """The ids of the excerpt alone, in an order that ends right before the hole. Copies are taken from them."""
    forced: bytes
    """UTF-8 bytes that the written text must begin with: the healed end of the prefix. They are not part of the
    fill."""
    is_indent_settled: bool = False
    """`forced` is an indentation, and the fill must not make it deeper."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A canvas before denoising: ids, and which positions belong to which hole; all others are pinned."""

    ids: list[int]
    """The pinned tokens; in holes any ids, which noise replaces."""
    hole_slices: tuple[slice, ...]
    """The positions of each hole."""

    @property
    def pinned(self) -> list[bool]:
        """True where the token is given."""
        free = {position for hole in self.hole_slices for position in range(hole.start, hole.stop)}
        return [position not in free for position in range(len(self.ids))]


class FillVocabulary:
    """Which ids a fill may hold, which end it, and which text they make."""

    def __init__(self, tokenizer: Tokenizer, ends: Sequence[int]) -> None:
        """`ends` are the ids that end a fill, the one that fills up canvases first."""
        self.tokenizer = tokenizer
        self.ends = tuple(ends)
        self.end_id = self.ends[0]
        """The id that fills a canvas after the text."""
        self.line_ends = (*self.ends, *(i for i in tokenizer.ids_starting(b"\n") if i not in self.ends))
        """Ids that end a line with their first byte. Other ids may hold a line break further on."""
        self.never = sorted(tokenizer.special_ids - set(self.ends))
        """Ids that no fill holds: markers of the prompt."""

    def ends_of(self, *, one_line: bool) -> tuple[int, ...]:
        """The ids that end a fill of one line, or of any number of lines."""
        return self.line_ends if one_line else self.ends

    def read(self, ids: Sequence[int], forced: bytes) -> tuple[str, bool]:
        """The text that `ids` fill a hole with, and whether they end it themselves.

        Healed bytes are removed from the front. A character of which the last token has only some bytes is left out.
        """
        size = next((at for at, token in enumerate(ids) if token in self.ends), len(ids))
        ended = size < len(ids)
        data = b"".join(self.tokenizer.token_bytes[i] for i in ids[:size])
        if not data.startswith(forced):  # not even the healed piece is there yet
            return "", False
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(data[len(forced) :])
        only_begun, _ = decoder.getstate()
        return text, ended and not only_begun


class PromptFormat(Protocol):
    """How one family of checkpoints is asked to fill a hole."""

    vocabulary: FillVocabulary
    mask_id: int | None
    """The id that means noise on a canvas; None if noise is any token."""
    ends_holes: bool
    """Whether the checkpoint was trained to end a hole on a canvas; otherwise several widths are tried."""

    def encode(self, excerpt: Excerpt, max_tokens: int) -> EncodedPrompt:
        """The prompt of an excerpt, of at most `max_tokens` ids; far text is left out first."""

    def lay_out(self, excerpt: Excerpt, hole_widths: Sequence[int]) -> Layout:
        """One canvas for all holes, each as wide as asked for, with the text between them pinned."""

    def after(self, excerpt: Excerpt) -> list[int]:
        """Ids that are pinned after the last hole of a canvas; none where the prompt shows the suffix."""


def layout_of(tokenizer: Tokenizer, excerpt: Excerpt, hole_widths: Sequence[int]) -> Layout:
    """A canvas of holes with the text between them pinned, and nothing else on it."""
    end = tokenizer.end_id
    ids, holes = [end] * hole_widths[0], [slice(0, hole_widths[0])]
    for text, width in zip(excerpt.between, hole_widths[1:], strict=True):
        ids += tokenizer.encode(text)
        holes.append(slice(len(ids), len(ids) + width))
        ids += [end] * width
    return Layout(ids, tuple(holes))
