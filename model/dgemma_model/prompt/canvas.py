"""Request -> prompt and canvas ids, and back: the one formatter of training, evaluation and serving. No torch.

Prompt: `<|suffix|>` suffix `<|prefix|>` prefix `<|middle|>`. Canvas: the hole's text, then end-of-text to the canvas'
end. The prefix follows the suffix, so that typing only appends to the text; the one token that moves with the cursor
marks where the hole begins. Without it the causal head does not know when to look for the suffix, and its fills do not
end (LOG.md).

Token healing: the last piece of the prefix (see `Tokenizer.split_last_piece`) leaves the prompt and opens the canvas
instead, where the fill is *constrained* to start with it. Whatever the cursor cuts through, the model only ever sees
text tokenised as whole files are.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

from dgemma_model.prompt.tokenizer import Tokenizer
from dgemma_model.request import Excerpt

CUT_GRID = 32
"""A prefix that is too long is cut by a multiple of so many tokens."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the encoder sees, and what the first hole's canvas must start with."""

    text: list[int]
    """Suffix and prefix, each behind its marker."""
    cue: list[int]
    """What follows the text: the marker of the hole."""
    forced: bytes
    """UTF-8 text that the healed canvas has to begin with; not part of the fill."""
    is_indent_settled: bool = False
    """`forced` is an indentation that the fill does not make deeper."""

    @property
    def ids(self) -> list[int]:
        """All that the encoder sees."""
        return self.text + self.cue


def encode_prompt(excerpt: Excerpt, tokenizer: Tokenizer, max_tokens: int) -> Prompt:
    """The prompt of an excerpt, at most `max_tokens` ids; over that, the far end of the prefix goes, then that of the
    suffix. The prefix is cut on a grid, so that its beginning stays where it was for a while of typing."""
    kept, healed = tokenizer.split_last_piece(excerpt.prefix)
    suffix, prefix = tokenizer.encode_by_line(excerpt.suffix)[: max_tokens // 2], tokenizer.encode_by_line(kept)
    excess = max(0, len(prefix) - (max_tokens - 3 - len(suffix)))
    grid = min(CUT_GRID, max_tokens // 8)
    prefix = prefix[-(-excess // grid) * grid :]
    text = [tokenizer.suffix_id, *suffix, tokenizer.prefix_id, *prefix]
    return Prompt(text, [tokenizer.middle_id], healed.encode("utf-8", "replace"), _is_indent_settled(kept, healed))


def _is_indent_settled(kept: str, healed: str) -> bool:
    """Whether the cursor stands at an indentation that the code may well have: the line before it opens nothing, or is
    indented less already. Whoever put the cursor there meant that indentation."""
    if healed.strip() or not healed.endswith((" ", "\t")) or not ("\n" in healed or kept.endswith("\n")):
        return False
    above = kept.rstrip()
    line = above.rpartition("\n")[2]
    indent = len(healed.rpartition("\n")[2])
    opens = above.endswith((":", "(", "[", "{", "\\"))
    return bool(above) and (not opens or len(line) - len(line.lstrip()) < indent)


def encode_fill(excerpt: Excerpt, middle: str, tokenizer: Tokenizer) -> list[int]:
    """The ids that fill the (single) hole of `excerpt` with `middle`: healed piece and middle, then one end-of-text."""
    _, healed = tokenizer.split_last_piece(excerpt.prefix)
    return [*tokenizer.encode(healed + middle), tokenizer.end_id]


@dataclass(frozen=True, slots=True)
class Layout:
    """A canvas before denoising: ids and, for every position, whether it is pinned and which hole it belongs to."""

    ids: list[int]
    """Pinned tokens where pinned; what stands in the holes does not matter, noise goes there."""
    hole_slices: tuple[slice, ...]
    """The positions of each hole."""

    @property
    def pinned(self) -> list[bool]:
        """True where the token is given."""
        free = {position for hole in self.hole_slices for position in range(hole.start, hole.stop)}
        return [position not in free for position in range(len(self.ids))]


def lay_out(excerpt: Excerpt, hole_widths: Sequence[int], tokenizer: Tokenizer) -> Layout:
    """One canvas for all holes: each as wide as asked for, with the pinned text between them."""
    ids, holes = [tokenizer.end_id] * hole_widths[0], [slice(0, hole_widths[0])]
    for text, width in zip(excerpt.between, hole_widths[1:], strict=True):
        ids += tokenizer.encode(text)
        holes.append(slice(len(ids), len(ids) + width))
        ids += [tokenizer.end_id] * width
    return Layout(ids, tuple(holes))


def read_fill(ids: list[int], forced: bytes, tokenizer: Tokenizer) -> tuple[str, bool]:
    """The text that `ids` fill a hole with, and whether they end it themselves.

    Healed bytes are taken off the front; a character that the last token only began is left out.
    """
    ended = tokenizer.end_id in ids
    if ended:
        ids = ids[: ids.index(tokenizer.end_id)]
    data = b"".join(tokenizer.token_bytes[i] for i in ids)
    if not data.startswith(forced):  # not even the healed piece is there yet
        return "", False
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(data[len(forced) :])
    only_begun, _ = decoder.getstate()
    return text, ended and not only_begun
