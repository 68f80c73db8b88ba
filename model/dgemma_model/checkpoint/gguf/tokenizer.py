"""Makes a `tokenizer.json` from the tokenizer in a `.gguf` file: byte-level BPE of the Qwen2 and Llama families. No
torch.

Before bytes are merged, a regular expression cuts text into pieces. GGUF stores only a name for the expression. Those
here are from the models' own `tokenizer.json`; their Unicode normalisation is left out, so that text is not changed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PIECES = {
    "qwen2": _WORDS + r"\p{N}" + _REST,
    "llama-bpe": _WORDS + r"\p{N}{1,3}" + _REST,
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
}
"""The expression that cuts text, by its name in the file."""
DIGITS_APART = {"smollm": "gpt-2"}
"""Names that cut every digit apart first, and then cut by the other name's expression."""

CONTROL, USER_DEFINED, UNUSED = 3, 4, 5
"""Values of `token_type` for tokens that are not spelled in bytes."""


def tokenizer_json(
    *, model: str, pieces: str, tokens: Sequence[str], kinds: Sequence[int], merges: Sequence[str]
) -> str:
    """The content of a `tokenizer.json`; arguments are the file's entries below `tokenizer.ggml.`.

    Markers are special tokens in it, whatever the file calls them, so that source text that spells one stays text.
    Ids after the last token that is in use are left out.

    Raises:
        ValueError: the tokenizer is of another kind, or its lists do not fit each other.
    """
    if model != "gpt2":
        raise ValueError(f"the tokenizer is of kind {model!r}; only byte-level ones ('gpt2') can be read from GGUF")
    cut = DIGITS_APART.get(pieces, pieces)
    if cut not in PIECES:
        known = ", ".join(sorted({*PIECES, *DIGITS_APART}))
        raise ValueError(f"the tokenizer cuts text as {pieces!r} does, which is unknown here; known are {known}")
    if len(tokens) != len(kinds) or len(set(tokens)) != len(tokens):
        raise ValueError(f"the tokenizer has {len(tokens)} tokens of {len(kinds)} kinds, or one of them twice")
    used = max((at for at, kind in enumerate(kinds) if kind != UNUSED), default=-1) + 1
    pairs = [tuple(merge.split(" ")) for merge in merges]
    if any(len(pair) != 2 for pair in pairs):
        raise ValueError("the tokenizer has a merge that is not of two tokens")
    markers = [at for at in range(used) if kinds[at] in (CONTROL, USER_DEFINED, UNUSED)]
    steps: list[dict[str, Any]] = [{"type": "Digits", "individual_digits": True}] if pieces in DIGITS_APART else []
    steps.append({"type": "Split", "pattern": {"Regex": PIECES[cut]}, "behavior": "Isolated", "invert": False})
    steps.append({"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False})
    return json.dumps(
        {
            "version": "1.0",
            "added_tokens": [_marker(at, tokens[at]) for at in markers],
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
            "model": {
                "type": "BPE",
                "vocab": {token: at for at, token in enumerate(tokens[:used])},
                "merges": pairs,
                "ignore_merges": pieces == "llama-bpe",
            },
        },
        ensure_ascii=False,
    )


def _marker(at: int, content: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": at, "content": content, **flags, "special": True}
