"""The contract of prompt formats: from an excerpt to token ids, and from written ids to text. No torch.

Each family of checkpoints has the format that it was trained with: `suffix_first` (the embedded checkpoint), `fim`
(Qwen2.5-Coder, and models without markers) or `chat` (instruction-tuned DiffusionGemma).
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
    """The ids that the network reads before it writes, and the bytes that it must begin to write with."""

    ids: list[int]
    """All ids of the prompt, markers included."""
    text: list[int]
    """The ids of the excerpt's text, in an order that ends right before the hole. Copies are taken from them."""
    forced: bytes
    """The healed piece: UTF-8 bytes of the prefix's end that left the prompt. The written text must begin with them,
    and they are not part of the fill."""
    is_indent_settled: bool = False
    """Whether `forced` is an indentation that the fill must not make deeper."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A canvas before denoising: its ids, and which positions belong to which hole. All others are pinned."""

    ids: list[int]
    """The ids of pinned positions. Those in holes have no meaning, because noise replaces them."""
    hole_slices: tuple[slice, ...]
    """The positions of each hole."""

    @property
    def pinned(self) -> list[bool]:
        """For each position, whether its token is given."""
        free = {position for hole in self.hole_slices for position in range(hole.start, hole.stop)}
        return [position not in free for position in range(len(self.ids))]


class FillVocabulary:
    """Which ids a fill may have, which ids end it, and which text they make."""

    def __init__(self, tokenizer: Tokenizer, ends: Sequence[int]) -> None:
        """`ends` are the ids that end a fill. The first of them also fills the rest of a canvas."""
        self.tokenizer = tokenizer
        self.ends = tuple(ends)
        self.end_id = self.ends[0]
        """The id that fills a canvas after the text."""
        self.line_ends = (*self.ends, *(i for i in tokenizer.ids_starting(b"\n") if i not in self.ends))
        """Ids that end a fill of one line: `ends`, and ids that begin with a line break. Others may have one further
        on."""
        self.never = sorted(tokenizer.special_ids - set(self.ends))
        """Special ids that no fill may have: markers of the prompt."""

    def ends_of(self, *, one_line: bool) -> tuple[int, ...]:
        """The ids that end a fill of one line, or of any number of lines."""
        return self.line_ends if one_line else self.ends

    def read(self, ids: Sequence[int], forced: bytes) -> tuple[str, bool]:
        """The text that `ids` put into a hole, and whether an id among them ends it.

        The `forced` bytes are removed from the front. A last character that is not complete yet is left out.
        """
        size = next((at for at, token in enumerate(ids) if token in self.ends), len(ids))
        ended = size < len(ids)
        data = b"".join(self.tokenizer.token_bytes[i] for i in ids[:size])
        if not data.startswith(forced):  # the healed piece is not complete yet
            return "", False
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(data[len(forced) :])
        only_begun, _ = decoder.getstate()
        return text, ended and not only_begun


class PromptFormat(Protocol):
    """How the prompts and canvases of one family of checkpoints are written."""

    vocabulary: FillVocabulary
    mask_id: int | None
    """The id that is noise on a canvas; None if random tokens are."""
    ends_holes: bool
    """Whether the checkpoint was trained to end a hole by itself; otherwise canvases of several widths are tried."""

    def encode(self, excerpt: Excerpt, max_tokens: int) -> EncodedPrompt:
        """The prompt of an excerpt, of at most `max_tokens` ids. Text far from the hole is left out first."""

    def lay_out(self, excerpt: Excerpt, hole_widths: Sequence[int]) -> Layout:
        """One canvas for all holes, each with its width in tokens, and with the text between them pinned."""

    def after(self, excerpt: Excerpt) -> list[int]:
        """Ids that are pinned after the last hole of a canvas; none where the prompt shows the suffix."""


def layout_of(tokenizer: Tokenizer, excerpt: Excerpt, hole_widths: Sequence[int]) -> Layout:
    """A canvas of the holes and the pinned text between them; see `PromptFormat.lay_out`."""
    end = tokenizer.end_id
    ids, holes = [end] * hole_widths[0], [slice(0, hole_widths[0])]
    for text, width in zip(excerpt.between, hole_widths[1:], strict=True):
        ids += tokenizer.encode(text)
        holes.append(slice(len(ids), len(ids) + width))
        ids += [end] * width
    return Layout(ids, tuple(holes))
