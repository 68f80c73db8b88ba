"""What an engine is told of an excerpt: prompts for filling in the middle, and chats. All of it is text.

The prompt for filling in the middle is that of Qwen2.5-Coder, as `dgemma_model.prompt.fim` makes it of tokens: what is
typed of the cursor's line opens the middle, so that a keystroke costs its own tokens. A marker that is spelled in
someone's file is kept from being read as one. The last blank before the cursor leaves the prompt, and the answer must
begin with it: words take one blank with them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dgemma_model.request import Excerpt

PREFIX, SUFFIX, MIDDLE = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"
MARKERS = (PREFIX, SUFFIX, MIDDLE, "<|endoftext|>", "<|im_end|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>")
"""Special tokens of Qwen2.5-Coder: three that its prompt has, and all of which end what it writes."""

_SPELLED = re.compile(
    r"<(?=\|[A-Za-z_]\w{0,40}\|?>|[A-Za-z_]\w{0,40}\|>|(?:bos|eos|pad|unk|mask|(?:start|end)_of_turn)>)"
)
"""Where a text spells a marker of Qwen's or Gemma's models."""
_NEAR_CHARS = 3_000
"""At most so much of the prefix opens the model's turn of a chat."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """An excerpt with one hole, cut for an engine."""

    above: str
    """What is before the cursor's line."""
    typed: str
    """What is typed of it, without its last blank."""
    suffix: str
    healed: str
    """What the answer must begin with, and what is no part of the fill."""

    @classmethod
    def of(cls, excerpt: Excerpt) -> Prompt:
        """From an excerpt with one hole."""
        line_start = excerpt.prefix.rfind("\n") + 1
        typed = excerpt.prefix[line_start:]
        kept = typed[:-1] if typed[-1:] in (" ", "\t") else typed
        return cls(letters(excerpt.prefix[:line_start]), letters(kept), letters(excerpt.suffix), typed[len(kept) :])

    @property
    def in_the_middle(self) -> str:
        """For completions: the text of a prompt with Qwen's markers."""
        return f"{PREFIX}{self.above}{SUFFIX}{self.suffix}{MIDDLE}{self.typed}"


@dataclass(frozen=True, slots=True)
class Chat:
    """An excerpt with one hole, as a turn of a user and the beginning of the model's answer, which it is to continue.

    As `dgemma_model.prompt.chat` writes it, but nothing can be pinned after the hole: the model writes on, and rules
    end the fill.
    """

    user: str
    answer: str
    """Ends in no blank, because templates strip those."""
    healed: str
    """See `Prompt`."""

    @classmethod
    def of(cls, excerpt: Excerpt) -> Chat:
        """From an excerpt with one hole."""
        prefix, suffix = letters(excerpt.prefix), letters(excerpt.suffix)
        edge = prefix.find("\n", max(len(prefix) - _NEAR_CHARS, 0)) + 1 if len(prefix) > _NEAR_CHARS else 0
        far, near = prefix[:edge], prefix[edge:]
        fence = "`" * max(3, 1 + max(map(len, re.findall("`{3,}", prefix + suffix)), default=0))
        named = f" `{letters(excerpt.file_name)}`" if excerpt.file_name else ""
        parts = [f"Please complete the {excerpt.language} file{named}, in which some code is missing."]
        if far:
            parts.append(f"Earlier in the file:\n{fence}{excerpt.language}\n{far}\n{fence}")
        if suffix:
            parts.append(
                "Right after the missing code, the file goes on like this:\n"
                f"{fence}{excerpt.language}\n{suffix}\n{fence}"
            )
        parts.append(
            "Write the code that leads up to the gap, then the missing code, then the first lines after it again, in "
            "one code block and without explanations. The missing code must fit between what is before and after it."
        )
        opening = f"{fence}{excerpt.language}\n{near}"
        answer = opening.rstrip()
        return cls("\n\n".join(parts), answer, opening[len(answer) :])


def letters(text: str) -> str:
    """The text with a blank in what would be read as a marker."""
    return _SPELLED.sub("< ", text)
