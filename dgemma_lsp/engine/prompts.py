"""Prompts for engines, as text: for filling in the middle, and as a chat.

The fill-in-the-middle prompt is that of Qwen2.5-Coder, in the order of `dgemma_model.prompt.fim`. What is already typed
on the cursor's line comes last, so that the engine reads only new tokens after a keystroke. A source text that spells a
marker is changed, so that the engine does not read a special token. If a blank is before the cursor, it leaves the
prompt and the answer must begin with it, because tokens of words begin with their blank (token healing).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from dgemma_model.request import Excerpt

PREFIX, SUFFIX, MIDDLE = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"
MARKERS = (PREFIX, SUFFIX, MIDDLE, "<|endoftext|>", "<|im_end|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>")
"""Special tokens of Qwen2.5-Coder. The first three are in its prompts; each of them ends what it writes."""

_SPELLED = re.compile(
    r"<(?=\|[A-Za-z_]\w{0,40}\|?>|[A-Za-z_]\w{0,40}\|>|(?:bos|eos|pad|unk|mask|(?:start|end)_of_turn)>)"
)
"""Matches the `<` of a text that spells a marker of a model of Qwen or Gemma."""
_NEAR_CHARS = 3_000
"""Most code points at the end of the prefix that the model's turn of a chat begins with."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """The parts of a fill-in-the-middle prompt."""

    above: str
    """The text before the cursor's line."""
    typed: str
    """The cursor's line up to the cursor, without a blank at its end."""
    suffix: str
    healed: str
    """That blank, or nothing: the answer must begin with it, and it is not part of the fill."""

    @classmethod
    def of(cls, excerpt: Excerpt) -> Prompt:
        """The parts for an excerpt with one hole."""
        line_start = excerpt.prefix.rfind("\n") + 1
        typed = excerpt.prefix[line_start:]
        kept = typed[:-1] if typed[-1:] in (" ", "\t") else typed
        return cls(
            break_markers(excerpt.prefix[:line_start]),
            break_markers(kept),
            break_markers(excerpt.suffix),
            typed[len(kept) :],
        )

    @property
    def in_the_middle(self) -> str:
        """The whole prompt with the markers of Qwen2.5-Coder."""
        return f"{PREFIX}{self.above}{SUFFIX}{self.suffix}{MIDDLE}{self.typed}"


@dataclass(frozen=True, slots=True)
class Chat:
    """A chat for an excerpt with one hole: the user's turn, and the beginning of the model's answer.

    The text is that of `dgemma_model.prompt.chat`. There the suffix is pinned on the canvas after the hole. An engine
    cannot do that, so `decoding.fill_end` decides where the fill ends.
    """

    user: str
    answer: str
    """Without blanks at its end, because chat templates strip them."""
    healed: str
    """The blanks that were stripped: the written text must begin with them, and they are not part of the fill."""

    @classmethod
    def of(cls, excerpt: Excerpt) -> Chat:
        """The chat for an excerpt with one hole."""
        prefix, suffix = break_markers(excerpt.prefix), break_markers(excerpt.suffix)
        edge = prefix.find("\n", max(len(prefix) - _NEAR_CHARS, 0)) + 1 if len(prefix) > _NEAR_CHARS else 0
        far, near = prefix[:edge], prefix[edge:]
        fence = "`" * max(3, 1 + max(map(len, re.findall("`{3,}", prefix + suffix)), default=0))
        named = f" `{break_markers(excerpt.file_name)}`" if excerpt.file_name else ""
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


def break_markers(text: str) -> str:
    """The text with a blank after the `<` of each marker that it spells, so that it stays plain text."""
    return _SPELLED.sub("< ", text)
