"""Other documents without the text in them that looks secret, as the model may see them.

A document is masked piece by piece, and an unchanged piece is searched only once. This is for the model's thread,
because the first search of a long document takes time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from dgemma_lsp.documents import secrets
from dgemma_lsp.documents.edits import Snapshot, Surroundings
from dgemma_lsp.documents.secrets import Span
from dgemma_lsp.documents.text import Text

_QUOTES = "\"'`"
_MOST_CHARS = 1_000_000
"""A longer document is not shown beside another one at all."""
_BEFORE_CHARS = 240
"""How much of the text before a piece is looked at with it: a name may be in the one, its value in the other."""


def without_secrets(surroundings: Surroundings) -> Surroundings:
    """The surroundings with the other documents masked; files nearby were masked when they were read."""
    others = tuple(_masked(other) for other in surroundings.others if len(other.source) <= _MOST_CHARS)
    return replace(surroundings, others=others)


def masked(text: str) -> str:
    """A text without the parts of it that look secret; the same text is searched only once."""
    return str(_masked_text(tuple(Text(text).pieces()))[0])


def with_secrets_hidden(source: Text, holes: Sequence[Span]) -> Text:
    """A document of the same length in which text that looks secret is replaced, line by line, before it is sent to an
    engine. A literal that is being typed before a hole counts as if it were closed there."""
    _, found = _masked_text(tuple(source.pieces()))
    parts = [*found]
    for start, _ in holes:
        first = max(start - _BEFORE_CHARS, 0)
        before = source[first:start]
        for quote in _QUOTES:
            begun = secrets.spans(f"{before}{quote}\n")
            parts += [(first + begin, min(first + end, start)) for begin, end in begun if first + begin < start]
    for start, end in parts:
        source = source.replaced(start, end, re.sub(r"[^\r\n]", "x", source[start:end]))
    return source


def adds_secret(text: str, own: Text) -> bool:
    """Whether a text to insert has something that looks secret and that the document itself does not have."""
    found = [text[start:end] for start, end in secrets.spans(text)]
    return bool(found) and any(secret not in str(own) for secret in found)


def _masked(other: Snapshot) -> Snapshot:
    text, removed = _masked_text(tuple(other.source.pieces()))
    if not removed:
        return other
    offset = other.offset - sum(min(end, other.offset) - start for start, end in removed if start < other.offset)
    return replace(other, source=text, offset=offset)


@lru_cache(maxsize=64)
def _masked_text(pieces: tuple[str, ...]) -> tuple[Text, tuple[Span, ...]]:
    """The text of these pieces without its secrets, and where they were."""
    removed: list[Span] = []
    at, before, in_block = 0, "", False
    for piece in pieces:
        found, in_block = _secrets_of(before, piece, in_block)
        removed += ((at + start, at + end) for start, end in found)
        at += len(piece)
        before = piece[-_BEFORE_CHARS:]
    text = "".join(pieces)
    return Text(secrets.without(text, removed) if removed else text), tuple(removed)


@lru_cache(maxsize=4096)
def _secrets_of(before: str, piece: str, in_block: bool) -> tuple[tuple[Span, ...], bool]:
    """What looks secret in a piece after `before`, and whether a block of a private key goes on after it."""
    shift = len(before)
    text = before + piece
    start = 0
    if in_block:
        end = secrets.block_end(piece)
        if end is None:
            return ((0, len(piece)),), True
        start = shift + end
        text = " " * start + text[start:]
    found = [(max(begin, shift) - shift, end - shift) for begin, end in secrets.spans(text) if end > shift]
    if start:
        found.insert(0, (0, start - shift))
    return tuple(found), secrets.is_in_block(text)
