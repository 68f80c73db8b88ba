"""Prompts of instruction-tuned checkpoints: an excerpt as a chat. No torch.

The user's turn names file and language, shows the text far before the hole and the text after it, and says what to
answer. The model's turn begins with a code fence and the text right before the hole; there the prompt ends. The canvas
has the hole, then pinned: the first lines of the suffix, the closing fence, the end of the turn, and end-of-text up to
the canvas' end. So nothing has to be cut out of an answer: only the hole is free. Pinned text is not part of the
published training. Whether such a model fills well between it is not known until published weights have been tried.

The chat template is foreign code. It runs once, at load, around a placeholder, in jinja2's sandbox and in a process
with limits (render_template.py). No source text goes through it. A file that spells `<turn|>` gets no special token.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dgemma_model.prompt.format import EncodedPrompt, FillVocabulary, Layout, layout_of
from dgemma_model.prompt.tokenizer import Tokenizer
from dgemma_model.request import Excerpt

TURN_END, CHANNEL, CHANNEL_END = "<turn|>", "<|channel>", "<channel|>"

NEAR_PREFIX_CHARS = 3000
"""Most code points of the prefix that the model's turn begins with: layers with a sliding window see 1,024 tokens."""
NEAR_SUFFIX_LINES, NEAR_SUFFIX_TOKENS = 2, 24
"""Most lines that are not blank, and most tokens, of the suffix that are pinned after the hole."""

_RENDERER = Path(__file__).with_name("render_template.py")
_RENDER_S = 20.0
"""Seconds of wall time for the template, on a busy machine. The process' own limit is in seconds of the processor."""

_PLACEHOLDER = "dgemma-lsp:what-the-user-says"


class ChatTemplateError(ValueError):
    """A chat template that cannot be read, fails, or loses the user's message. The message is for users."""


@dataclass(frozen=True, slots=True)
class ChatFrame:
    """The text that a checkpoint's template puts before and after one message of the user, up to the model's answer."""

    before: str
    after: str

    @classmethod
    def read(cls, directory: Path) -> ChatFrame | None:
        """The frame by the template in `chat_template.jinja` or `tokenizer_config.json`; None if there is no template.

        Raises:
            ChatTemplateError: a file cannot be read, or the template does not give the user's message back.
        """
        config = _read_json(directory / "tokenizer_config.json")
        path = directory / "chat_template.jinja"
        source = _read_text(path) if path.is_file() else _configured_template(config)
        return None if source is None else cls.of_template(source, config)

    @classmethod
    def of_template(cls, source: str, tokenizer_config: dict[str, Any]) -> ChatFrame:
        """Render `source` around a placeholder, as `transformers` renders it, with thinking off.

        Raises:
            ChatTemplateError: it fails, or the message is not in what it gives exactly once.
        """
        special = {
            key: value.get("content") if isinstance(value, dict) else value
            for key in ("bos_token", "eos_token", "pad_token", "unk_token")
            if (value := tokenizer_config.get(key)) is not None
        }
        variables = {
            "messages": [{"role": "user", "content": _PLACEHOLDER}],
            "tools": None,
            "documents": None,
            "add_generation_prompt": True,
            "enable_thinking": False,
            **special,
        }
        rendered = _render(source, variables)
        before, placeholder, after = rendered.partition(_PLACEHOLDER)
        if not placeholder or _PLACEHOLDER in after:
            raise ChatTemplateError("the chat template does not put the user's message into the prompt exactly once")
        return cls(before, after)


class ChatFormat:
    """Writes excerpts as chats for one checkpoint; see `PromptFormat`.

    Raises:
        ChatTemplateError: the tokenizer lacks the token that ends a turn.
    """

    mask_id: int | None = None
    ends_holes = False

    def __init__(self, frame: ChatFrame, tokenizer: Tokenizer) -> None:
        self.vocabulary = FillVocabulary(tokenizer, [tokenizer.end_id])
        turn_end = tokenizer.special_id(TURN_END)
        if turn_end is None:
            raise ChatTemplateError(f"the tokenizer has no token {TURN_END!r}; this chat format is not known here")
        self._turn_end = turn_end
        self._tokenizer = tokenizer
        self._before, self._after = frame.before, frame.after
        if CHANNEL_END not in self._after and tokenizer.special_id(CHANNEL) is not None:
            self._after += f"{CHANNEL}thought\n{CHANNEL_END}"  # an empty thought, or the model may begin with one

    def encode(self, excerpt: Excerpt, max_tokens: int) -> EncodedPrompt:
        """The prompt of an excerpt, of at most `max_tokens` ids if the words around the text leave room for that. The
        far prefix is shortened first, then the end of the suffix and the beginning of the near prefix in turns.

        The last token of the prefix leaves the prompt (token healing). Typing only appends to `EncodedPrompt.text`.
        """
        far, near = _split_prefix(excerpt.prefix)
        suffix = excerpt.suffix
        prompt = self._prompt(excerpt, far, near, suffix)
        while (excess := len(prompt.ids) - max_tokens) > 0 and (far or near or suffix):
            if far:
                far = self._without_first(far, excess)
            elif len(suffix) > len(near) // 2:  # in turns, so that something of both is left
                suffix = self._without_last(suffix, min(excess, 8 + len(suffix) // 8))
            else:
                near = self._without_first(near, min(excess, 8 + len(near) // 8))
            prompt = self._prompt(excerpt, far, near, suffix)
        return prompt

    def lay_out(self, excerpt: Excerpt, hole_widths: Sequence[int]) -> Layout:
        """See `PromptFormat`: the holes, what is pinned after the last one, and the end of the turn."""
        layout = layout_of(self._tokenizer, excerpt, hole_widths)
        return Layout([*layout.ids, *self.after(excerpt), self._turn_end], layout.hole_slices)

    def after(self, excerpt: Excerpt) -> list[int]:
        """The pinned ids after the last hole: the first lines of the suffix, and the closing fence."""
        near = _first_lines(excerpt.suffix)
        ids = self._tokenizer.encode(near)
        if len(ids) > NEAR_SUFFIX_TOKENS:
            near = self._tokenizer.decode(ids[:NEAR_SUFFIX_TOKENS]).rstrip("\ufffd")
        return self._tokenizer.encode(near + ("" if near.endswith("\n") else "\n") + _fence(excerpt))

    def _prompt(self, excerpt: Excerpt, far: str, near: str, suffix: str) -> EncodedPrompt:
        kept, healed = self._tokenizer.split_last_piece(near)
        opening = f"{_fence(excerpt)}{excerpt.language}\n"
        text = self._encode_turns(_message(excerpt, far, suffix), opening + kept)
        piece = self._tokenizer.encode(healed)
        cut = max(0, len(piece) - 1)
        while cut > 0 and self._tokenizer.token_bytes[piece[cut]][0] & 0xC0 == 0x80:
            cut -= 1  # not within a character that is spelled in bytes
        forced = b"".join(self._tokenizer.token_bytes[i] for i in piece[cut:])
        return EncodedPrompt([*text, *piece[:cut]], text, forced)

    def _encode_turns(self, message: str, answer: str) -> list[int]:
        """Ids of the chat up to the answer's beginning; only the template's own special tokens are read as such.

        Text on either side of a special token is encoded as one, whoever wrote it, as `transformers` does.
        """
        tokenizer = self._tokenizer
        before, after = tokenizer.split_special(self._before), tokenizer.split_special(self._after)
        parts: list[str | int] = []
        for part in (*before, message, *after, answer):
            if isinstance(part, str) and parts and isinstance(parts[-1], str):
                parts[-1] += part
            else:
                parts.append(part)
        return [i for part in parts for i in (tokenizer.encode(part) if isinstance(part, str) else [part])]

    def _without_first(self, text: str, count: int) -> str:
        return self._tokenizer.decode(self._tokenizer.encode(text)[count:]).lstrip("\ufffd")

    def _without_last(self, text: str, count: int) -> str:
        return self._tokenizer.decode(self._tokenizer.encode(text)[:-count]).rstrip("\ufffd")


def _message(excerpt: Excerpt, far: str, suffix: str) -> str:
    """The user's message. It has full sentences, because terse instructions give empty answers."""
    language = excerpt.language
    named = f" `{excerpt.file_name}`" if excerpt.file_name else ""
    parts = [f"Please complete the {language} file{named}, in which some code is missing."]
    if far:
        parts.append("Earlier in the file:\n" + _block(excerpt, far))
    if suffix:
        parts.append("Right after the missing code, the file goes on like this:\n" + _block(excerpt, suffix))
    parts.append(
        "Write the code that leads up to the gap, then the missing code, then the first lines after it again, "
        "in one code block and without explanations. The missing code must fit between what is before and after it."
    )
    return "\n\n".join(parts)


def _split_prefix(prefix: str) -> tuple[str, str]:
    """The far and the near prefix. The border is on a grid, so that it stays the same during many keystrokes."""
    if len(prefix) <= NEAR_PREFIX_CHARS:
        return "", prefix
    grid = NEAR_PREFIX_CHARS // 2
    edge = -(-(len(prefix) - NEAR_PREFIX_CHARS) // grid) * grid
    newline = prefix.find("\n", edge, edge + grid // 2)
    edge = newline + 1 if newline >= 0 else edge
    return prefix[:edge], prefix[edge:]


def _first_lines(suffix: str) -> str:
    """The beginning of `suffix`, through its second line that is not blank."""
    lines = suffix.splitlines(keepends=True)
    full = [number for number, line in enumerate(lines) if line.strip()][:NEAR_SUFFIX_LINES]
    return "".join(lines[: full[-1] + 1]) if full else ""


def _block(excerpt: Excerpt, text: str) -> str:
    fence, newline = _fence(excerpt), "" if text.endswith("\n") else "\n"
    return f"{fence}{excerpt.language}\n{text}{newline}{fence}"


def _fence(excerpt: Excerpt) -> str:
    """A fence longer than any in the text."""
    texts = (excerpt.prefix, excerpt.suffix, *excerpt.between)
    return "`" * max(3, 1 + max((len(run) for text in texts for run in re.findall("`{3,}", text)), default=0))


def _render(source: str, variables: dict[str, Any]) -> str:
    """The text that a template renders, in a process with limited time and memory.

    Raises:
        ChatTemplateError: it fails, or needs more than that.
    """
    command = [sys.executable, "-P", str(_RENDERER)]
    job = json.dumps({"source": source, "variables": variables})
    try:
        done = subprocess.run(command, input=job, capture_output=True, text=True, timeout=_RENDER_S, check=False)
        answer = json.loads(done.stdout)
    except OSError as error:
        raise ChatTemplateError(f"the chat template cannot be rendered: {error}") from error
    except (ValueError, subprocess.TimeoutExpired) as error:  # it was ended at a limit
        raise ChatTemplateError("the chat template takes more time or memory than any chat needs") from error
    if "error" in answer:
        raise ChatTemplateError(f"the chat template fails: {answer['error']}")
    return str(answer["text"])


def _configured_template(config: dict[str, Any]) -> str | None:
    """The template in a `tokenizer_config.json`: the only one, or that named `default`; None if there is none."""
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {str(entry.get("name")): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise ChatTemplateError(f"{path.name} in {path.parent} cannot be read: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise ChatTemplateError(f"{path.name} in {path.parent} cannot be read: {error}") from error
    return content if isinstance(content, dict) else {}
