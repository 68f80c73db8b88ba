"""Prompts of checkpoints that were trained to fill in the middle (FIM), prefix first: Qwen2.5-Coder. No torch.

Prompt: `<|fim_prefix|>` prefix `<|fim_suffix|>` suffix `<|fim_middle|>` typed. The order is that of the Qwen2.5-Coder
technical report (arXiv 2409.12186). The prefix ends where the cursor's line begins (the anchor), and what is already
typed on that line opens the middle. So the middle begins at a border between tokens, and after a keystroke only its own
tokens are new.

Token healing: the last piece of the typed text leaves the prompt, and the fill is constrained to begin with it.

Checkpoints without such markers get the text before the hole only (`LeftOnly`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from dgemma_model.prompt.format import EncodedPrompt, FillVocabulary, Layout, layout_of
from dgemma_model.prompt.suffix_first import is_indent_settled
from dgemma_model.prompt.tokenizer import BOS, Tokenizer, TokenizerError
from dgemma_model.request import Excerpt

PREFIX, SUFFIX, MIDDLE = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"
ENDS = ("<|im_end|>", PREFIX, MIDDLE, SUFFIX, "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>")
"""Tokens that end a fill like end-of-text: such checkpoints write them at an end, or to begin another file."""
CUT_GRID = 64
"""A prefix that is too long is cut by a multiple of so many tokens. So its beginning, which is cached, stays the same
during many keystrokes."""
SUFFIX_SHARE = 4
"""The suffix takes at most a quarter of the prompt: its beginning."""
TYPED_CHARS = 1_000
"""Most code points of the cursor's line that open the middle. What is before them goes to the prefix."""


def has_markers(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer has the markers of this format."""
    return all(tokenizer.special_id(name) is not None for name in (PREFIX, SUFFIX, MIDDLE))


class Fim:
    """See `PromptFormat`. Holes end by the engine's rules (`decoding.fill_end`): such checkpoints often go on."""

    ends_holes = True
    mask_id: int | None = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Raises:
        TokenizerError: the tokenizer lacks one of the markers.
        """
        marks = [tokenizer.special_id(name) for name in (PREFIX, SUFFIX, MIDDLE)]
        if None in marks:
            raise TokenizerError(f"the tokenizer lacks one of the markers {PREFIX}, {SUFFIX} and {MIDDLE}")
        self._prefix_id, self._suffix_id, self._middle_id = (mark for mark in marks if mark is not None)
        others = (tokenizer.special_id(name) for name in ENDS)
        self.vocabulary = FillVocabulary(tokenizer, [tokenizer.end_id, *(i for i in others if i is not None)])
        self._tokenizer = tokenizer
        self._encode = lru_cache(maxsize=32)(lambda text: tuple(tokenizer.encode(text)))
        """While a line is typed, the text around it is the same."""

    def encode(self, excerpt: Excerpt, max_tokens: int) -> EncodedPrompt:
        """See `PromptFormat`. Of a long suffix the beginning is shown, of a long prefix the end."""
        anchor = max(excerpt.prefix.rfind("\n") + 1, len(excerpt.prefix) - TYPED_CHARS)
        kept, healed = _all_but_last_blank(*self._tokenizer.split_last_piece(excerpt.prefix[anchor:]))
        typed = self._tokenizer.encode(kept)
        suffix = list(self._encode(excerpt.suffix)[: max_tokens // SUFFIX_SHARE])
        prefix = self._encode(excerpt.prefix[:anchor])
        markers = 3
        room = max(0, max_tokens - markers - len(suffix) - len(typed))
        excess = max(0, len(prefix) - room)
        grid = min(CUT_GRID, max(1, max_tokens // 8))
        above = list(prefix[-(-excess // grid) * grid :])
        ids = [self._prefix_id, *above, self._suffix_id, *suffix, self._middle_id, *typed]
        settled = is_indent_settled(*_before_indent(excerpt.prefix))
        return EncodedPrompt(ids, [*suffix, *above, *typed], healed.encode("utf-8", "replace"), settled)

    def lay_out(self, excerpt: Excerpt, hole_widths: Sequence[int]) -> Layout:
        """See `PromptFormat`."""
        return layout_of(self._tokenizer, excerpt, hole_widths)

    def after(self, excerpt: Excerpt) -> list[int]:
        """Nothing: the prompt shows the suffix."""
        return []


def _before_indent(prefix: str) -> tuple[str, str]:
    """`prefix` without the spaces and tabs at its end, and these."""
    kept = prefix.rstrip(" \t")
    return kept, prefix[len(kept) :]


def _all_but_last_blank(kept: str, healed: str) -> tuple[str, str]:
    """The same split, but before the last blank if `healed` is several blanks.

    When a word follows, the tokenizer cuts there too, because tokens of words begin with one blank. Such a checkpoint
    has not learnt to choose the tokens of an indentation, so it must not heal all of it.
    """
    if len(healed) > 1 and healed.isspace() and "\n" not in healed:
        return kept + healed[:-1], healed[-1:]
    return kept, healed


class LeftOnly:
    """Prompts of checkpoints without markers for filling in the middle (SmolLM2, Gemma 3): only the text before the
    hole. See `PromptFormat`."""

    ends_holes = True
    mask_id: int | None = None

    def __init__(self, tokenizer: Tokenizer) -> None:
        others = (tokenizer.special_id(name) for name in ("<|im_end|>", "<|im_start|>", "<|file_sep|>"))
        ends = [tokenizer.end_id, *(i for i in others if i not in (None, tokenizer.end_id))]
        self.vocabulary = FillVocabulary(tokenizer, [i for i in ends if i is not None])
        self._tokenizer = tokenizer
        begin = tokenizer.special_id(BOS)
        self._begin_id = tokenizer.end_id if begin is None else begin

    def encode(self, excerpt: Excerpt, max_tokens: int) -> EncodedPrompt:
        """See `PromptFormat`."""
        kept, healed = self._tokenizer.split_last_piece(excerpt.prefix)
        ids = self._tokenizer.encode(kept)
        grid = min(CUT_GRID, max(1, max_tokens // 8))
        excess = max(0, len(ids) - max_tokens + 1)
        text = ids[-(-excess // grid) * grid :]
        forced = healed.encode("utf-8", "replace")
        return EncodedPrompt([self._begin_id, *text], text, forced, is_indent_settled(kept, healed))

    def lay_out(self, excerpt: Excerpt, hole_widths: Sequence[int]) -> Layout:
        """See `PromptFormat`."""
        return layout_of(self._tokenizer, excerpt, hole_widths)

    def after(self, excerpt: Excerpt) -> list[int]:
        """Nothing: this format shows no suffix."""
        return []
