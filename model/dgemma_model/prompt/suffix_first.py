"""Prompts of the embedded checkpoint: suffix, prefix, marker of the hole. No torch.

Prompt: `<|suffix|>` suffix `<|prefix|>` prefix `<|middle|>`. Canvas: the hole's text, then end-of-text up to the
canvas' end. The prefix follows the suffix, so that typing only appends to the text. `<|middle|>` marks where the hole
begins; without this marker the causal head does not end its fills (log/archive.md).

Token healing: the last piece of the prefix (see `Tokenizer.split_last_piece`) leaves the prompt, and the fill is
*constrained* to begin with it. So wherever the cursor is, the model sees the tokens that the whole file would have.
"""

from __future__ import annotations

from collections.abc import Sequence

from dgemma_model.prompt.format import EncodedPrompt, FillVocabulary, Layout, layout_of
from dgemma_model.prompt.tokenizer import Tokenizer
from dgemma_model.request import Excerpt

CUT_GRID = 32
"""A prefix that is too long is cut by a multiple of so many tokens."""


class SuffixFirst:
    """The format of the recipe in train/, in training, evaluation and serving alike; see `PromptFormat`."""

    ends_holes = True

    def __init__(self, tokenizer: Tokenizer, noise: str = "mask") -> None:
        """`noise` is `Policy.noise`.

        Raises:
            TokenizerError: the tokenizer lacks one of the recipe's special tokens.
        """
        self.tokenizer = tokenizer
        self.vocabulary = FillVocabulary(tokenizer, [tokenizer.end_id])
        self.mask_id = tokenizer.mask_id if noise == "mask" else None
        self._suffix_id, self._prefix_id, self._middle_id = (
            tokenizer.suffix_id,
            tokenizer.prefix_id,
            tokenizer.middle_id,
        )

    def encode(self, excerpt: Excerpt, max_tokens: int) -> EncodedPrompt:
        """See `PromptFormat`. A long suffix is cut to half of the prompt, and a long prefix to the rest. The prefix is
        cut on a grid, so that its beginning, which is cached, stays the same during many keystrokes."""
        tokenizer = self.tokenizer
        kept, healed = tokenizer.split_last_piece(excerpt.prefix)
        suffix, prefix = tokenizer.encode_by_line(excerpt.suffix)[: max_tokens // 2], tokenizer.encode_by_line(kept)
        markers = 3
        excess = max(0, len(prefix) - (max_tokens - markers - len(suffix)))
        grid = min(CUT_GRID, max_tokens // 8)
        prefix = prefix[-(-excess // grid) * grid :]
        text = [self._suffix_id, *suffix, self._prefix_id, *prefix]
        forced = healed.encode("utf-8", "replace")
        return EncodedPrompt([*text, self._middle_id], text, forced, is_indent_settled(kept, healed))

    def encode_fill(self, excerpt: Excerpt, middle: str) -> list[int]:
        """The ids that a fill of the (single) hole with `middle` has: healed piece and middle, then one end-of-text."""
        _, healed = self.tokenizer.split_last_piece(excerpt.prefix)
        return [*self.tokenizer.encode(healed + middle), self.tokenizer.end_id]

    def lay_out(self, excerpt: Excerpt, hole_widths: Sequence[int]) -> Layout:
        """See `PromptFormat`."""
        return layout_of(self.tokenizer, excerpt, hole_widths)

    def after(self, excerpt: Excerpt) -> list[int]:
        """Nothing: the prompt shows the suffix."""
        return []


def is_indent_settled(kept: str, healed: str) -> bool:
    """Whether the cursor is at an indentation that the user has chosen: the line before it opens no block, or is
    indented less already.

    `healed` is the end of the prefix that leaves the prompt, `kept` the rest of it.
    """
    if healed.strip() or not healed.endswith((" ", "\t")) or not ("\n" in healed or kept.endswith("\n")):
        return False
    above = kept.rstrip()
    line = above.rpartition("\n")[2]
    indent = len(healed.rpartition("\n")[2])
    opens = above.endswith((":", "(", "[", "{", "\\"))
    return bool(above) and (not opens or len(line) - len(line.lstrip()) < indent)
