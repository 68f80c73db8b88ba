"""Text to ids and back. Source text that spells a special token stays text: it never becomes that token."""

from __future__ import annotations

import itertools
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TypeVar

import tokenizers
from tokenizers import Regex, pre_tokenizers

from dgemma_model.prompt.byte_pairs import BytePairs, byte_letters

END, SUFFIX, PREFIX, MASK, MIDDLE = "<eos>", "<|suffix|>", "<|prefix|>", "<mask>", "<|middle|>"
PAD, BOS = "<pad>", "<bos>"
SPECIAL_TOKENS = (PAD, END, BOS, SUFFIX, PREFIX, MASK, MIDDLE)
"""Special tokens of the embedded checkpoint in the order of their ids, from 0. Those of pad, eos and bos are
Gemma's."""
END_NAMES = (END, "<|endoftext|>", "</s>")
"""The names of the end-of-text token in the families of checkpoints."""


PIECES = (
    r"\n+[ \t]*"  # a line break with the indentation after it: one piece, so one token where it is frequent
    r"|\r"
    r"| ?[\p{L}\p{M}_]+"
    r"| ?\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}_]+"
    r"|[^\S\n\r]+"
)
"""The pieces into which the embedded checkpoint's tokenizer cuts text; no merge crosses their borders. A border does
not depend on text after the piece: token healing relies on that. A line break always begins a piece:
`Tokenizer.encode_by_line` relies on that."""
_LINE = re.compile(r"\n+[^\n]*|[^\n]+")
LINES_KEPT = 1 << 16
"""Most lines whose ids are cached."""
PIECES_KEPT = 1 << 13
"""Most pieces whose ids a `TabledTokenizer` caches."""

SPACE = "▁"
"""SentencePiece's sign for a space."""
BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


Made = TypeVar("Made")


class TokenizerError(ValueError):
    """A tokenizer file that is missing, unreadable, or lacks a special token; the message is for users."""


def recipe_pieces() -> pre_tokenizers.PreTokenizer:
    """The pre-tokenizer that cuts text into `PIECES` and spells them in `byte_letters`."""
    pieces, letters = Regex(PIECES), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(pieces, "isolated"), letters])


class Tokenizer:
    """A tokenizer of the `tokenizers` library with two additions for infilling: the exact bytes of each token, and the
    borders between tokens.

    There are two kinds: byte-level BPE, and SentencePiece-style BPE with byte fallback such as Gemma's (`▁` means a
    space, `<0x0A>` a byte).
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        tokenizer.encode_special_tokens = True  # `<eos>` in a source file is five characters, not an end of text
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._encode_line = lru_cache(maxsize=LINES_KEPT)(self.encode)
        self._encode_lines = lru_cache(maxsize=16)(self._join_lines)
        self.ids_starting: Callable[[bytes], tuple[int, ...]] = lru_cache(maxsize=64)(self._ids_starting)
        """The ids that may come next while the text must go on with some bytes: ids whose bytes start with all of them,
        and ids whose bytes are a beginning of them."""
        self.ids_without_blanks: Callable[[bytes], tuple[int, ...]] = lru_cache(maxsize=64)(self._ids_without_blanks)
        """Those of `ids_starting` that have no blank right after these bytes; all of them if each has one."""
        self.has_byte_fallback = bool(getattr(tokenizer.model, "byte_fallback", False))
        """Whether it is of the SentencePiece kind; otherwise it is byte-level."""
        self._special_ids = {t.content: i for i, t in tokenizer.get_added_tokens_decoder().items() if t.special}
        self.special_ids = frozenset(self._special_ids.values())
        self.end_id = self._special(next((name for name in END_NAMES if name in self._special_ids), END))
        """The id of end-of-text."""
        if self.has_byte_fallback:
            self._check_byte_fallback()
        elif tokenizer.pre_tokenizer is None or not self._is_byte_level():
            raise TokenizerError("the tokenizer is not a byte-level one; its tokens cannot be read as bytes")

    @property
    def suffix_id(self) -> int:
        """The id of the marker before the suffix. This and the next three are in the embedded checkpoint's tokenizer
        only.

        Raises:
            TokenizerError: there is none. The next three properties raise it, too.
        """
        return self._special(SUFFIX)

    @property
    def prefix_id(self) -> int:
        """The id of the marker before the prefix."""
        return self._special(PREFIX)

    @property
    def mask_id(self) -> int:
        """The id that is noise for checkpoints whose `Policy.noise` is "mask"."""
        return self._special(MASK)

    @property
    def middle_id(self) -> int:
        """The id of the marker where the hole begins."""
        return self._special(MIDDLE)

    @classmethod
    def read(cls, path: Path) -> Tokenizer:
        """Read a `tokenizer.json`.

        Raises:
            TokenizerError: the file is missing or unusable.
        """
        if not path.is_file():
            raise TokenizerError(f"{path.name} is missing in {path.parent}")
        return _made(lambda: cls(tokenizers.Tokenizer.from_file(str(path))), f"{path.name} in {path.parent}")

    def id_of(self, data: bytes) -> int | None:
        """The id of the token with exactly these bytes; None if there is none. Special tokens have no bytes."""
        return self._ids_by_bytes.get(data)

    @cached_property
    def _ids_by_bytes(self) -> dict[bytes, int]:
        return {data: token for token, data in enumerate(self.token_bytes) if token not in self.special_ids}

    @property
    def vocab_size(self) -> int:
        """Number of ids, special ones included."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """Ids of `text`. Lone surrogates, which no UTF-8 file can hold, become question marks."""
        clean = _sanitised(text)
        if self.has_byte_fallback and SPACE in clean:
            return self._encode_around_space_signs(clean)
        return list(self._tokenizer.encode(clean, add_special_tokens=False).ids)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """`encode` for many texts, in parallel."""
        if self.has_byte_fallback:
            return [self.encode(text) for text in texts]
        batch = self._tokenizer.encode_batch_fast([_sanitised(text) for text in texts], add_special_tokens=False)
        return [list(encoding.ids) for encoding in batch]

    def encode_by_line(self, text: str) -> list[int]:
        """The same as `encode`, from a cache of lines if no token crosses the beginning of a line. All lines before the
        last one are cached together as well, for a line that is being typed."""
        if not self.cuts_at_lines:
            return self.encode(text)
        before = text[: max(0, text.rfind("\n"))].rstrip("\n")
        return [*self._encode_lines(before), *self._join_lines(text[len(before) :])]

    def _join_lines(self, text: str) -> list[int]:
        return [i for line in _LINE.findall(text) for i in self._encode_line(line)]

    @cached_property
    def cuts_at_lines(self) -> bool:
        """Whether it cuts text into `PIECES`, and changes nothing before that; then no token crosses the beginning of a
        line, which is the line break before it."""
        tokenizer = self._tokenizer
        state = None if tokenizer.pre_tokenizer is None else tokenizer.pre_tokenizer.__getstate__()
        all_special = all(token.special for token in tokenizer.get_added_tokens_decoder().values())
        return tokenizer.normalizer is None and all_special and state == recipe_pieces().__getstate__()

    def special_id(self, name: str) -> int | None:
        """The id of the special token of that name; None if there is none."""
        return self._special_ids.get(name)

    def split_special(self, text: str) -> list[str | int]:
        """`text`, cut at the special tokens that it spells: their ids, and the text between them. For texts of a
        checkpoint's author, such as chat templates; never for source text."""
        return [self._special_ids.get(part, part) for part in self._special_names.split(text) if part]

    @cached_property
    def _special_names(self) -> re.Pattern[str]:
        longest_first = sorted(self._special_ids, key=len, reverse=True)
        return re.compile(f"({'|'.join(map(re.escape, longest_first))})")

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`. Special tokens add nothing, and bytes that are not UTF-8 become replacement characters."""
        return b"".join(self.token_bytes[i] for i in ids).decode("utf-8", "replace")

    @cached_property
    def token_bytes(self) -> Sequence[bytes]:
        """The UTF-8 bytes of each id. A token may hold a part of a character. Special tokens are empty."""
        tokens = (self._tokenizer.id_to_token(i) for i in range(self.vocab_size))
        plain = ("" if token is None or i in self.special_ids else token for i, token in enumerate(tokens))
        if self.has_byte_fallback:
            return [_fallback_bytes(token) for token in plain]
        letters = byte_letters()
        return [bytes(letters[letter] for letter in token) for token in plain]

    def _ids_starting(self, forced: bytes) -> tuple[int, ...]:
        ordered, ids = self._by_bytes
        first = bisect_left(ordered, forced)
        longer = itertools.takewhile(lambda at: ordered[at].startswith(forced), range(first, len(ordered)))
        shorter = ((bisect_left(ordered, part), bisect_right(ordered, part)) for part in _beginnings(forced))
        known = itertools.chain.from_iterable(range(*span) for span in shorter)
        return tuple(ids[at] for at in (*longer, *known))

    def _ids_without_blanks(self, forced: bytes) -> tuple[int, ...]:
        token_bytes, size = self.token_bytes, len(forced)
        ids = self.ids_starting(forced)
        return tuple(token for token in ids if not token_bytes[token][size : size + 1].isspace()) or ids

    @cached_property
    def _by_bytes(self) -> tuple[list[bytes], list[int]]:
        pairs = sorted((token, i) for i, token in enumerate(self.token_bytes) if token)
        return [token for token, _ in pairs], [i for _, i in pairs]

    def split_last_piece(self, text: str) -> tuple[str, str]:
        """Split `text` before its last piece, whose tokens may change when more text follows.

        The tokens before the split are the same whatever follows `text`, so token healing starts there.
        """
        tail = text[-256:]
        if self.cuts_at_lines and tail:
            tail = _LINE.findall(tail)[-1]
        if self.has_byte_fallback:
            border = self._last_border(_sanitised(tail))
        else:
            pieces = self._tokenizer.pre_tokenizer.pre_tokenize_str(_sanitised(tail))
            border = pieces[-1][1][0] if pieces else 0
        split = len(text) - len(tail) + border
        return text[:split], text[split:]

    # Byte fallback. There are no pieces: merges may cross any place of a text. So a border is only between two
    # characters that are not side by side in any token.

    def _last_border(self, text: str) -> int:
        for border in range(len(text) - 1, 0, -1):
            if SPACE in text[border - 1 : border + 1]:  # this character itself is spelled in bytes
                return border
            if text[border - 1 : border + 1].replace(" ", SPACE) not in self._neighbours:
                return border
        return 0

    @cached_property
    def _neighbours(self) -> frozenset[str]:
        """All pairs of characters that are side by side in some token."""
        tokens = (token for token, i in self._tokenizer.get_vocab().items() if i not in self.special_ids)
        plain = (token.replace(" ", SPACE) for token in tokens if not BYTE_TOKEN.fullmatch(token))
        return frozenset(token[at : at + 2] for token in plain for at in range(len(token) - 1))

    def _encode_around_space_signs(self, text: str) -> list[int]:
        """Encode a text with the character `▁`. The library would take it for a space, so it is spelled in bytes."""
        sign = [self._special(f"<0x{byte:02X}>") for byte in SPACE.encode()]
        ids: list[int] = []
        for number, part in enumerate(text.split(SPACE)):
            ids += sign if number else []
            ids += self._tokenizer.encode(part, add_special_tokens=False).ids if part else []
        return ids

    def _check_byte_fallback(self) -> None:
        for byte in range(256):
            if self._tokenizer.token_to_id(f"<0x{byte:02X}>") is None:
                raise TokenizerError(f"the tokenizer has no token for the byte {byte:#04x}; it cannot write every text")
        probe = " a  b\n\tc\r\n= é e\u0301 ﬁ 漢 😀 ▁ "
        if self.decode(self.encode(probe)) != probe:
            raise TokenizerError("the tokenizer changes text (spaces, accents or signs); it cannot fill source code")
        _ = self._neighbours, self._by_bytes  # takes seconds with a large vocabulary, so not in the first fill

    def _is_byte_level(self) -> bool:
        try:
            return len(self.token_bytes) > 0
        except KeyError:
            return False

    def _special(self, name: str) -> int:
        token_id = self._tokenizer.token_to_id(name)
        if token_id is None:
            raise TokenizerError(f"the tokenizer has no token {name!r}; it does not belong to this checkpoint")
        return int(token_id)


class TabledTokenizer(Tokenizer):
    """A byte-level tokenizer whose tokens and merges are tables (`byte_pairs`), which may be mapped from a file.

    The library only cuts texts into pieces; `BytePairs` merges their bytes. The ids are the same as with the library
    alone, which would take 60 MB and most of a second to load 150,000 tokens.
    """

    def __init__(self, description: str, pairs: BytePairs) -> None:
        """`description` is the text of a `tokenizer.json` with special tokens only. Its pre-tokenizer lacks the last
        step, which spells pieces in bytes.

        Raises:
            TokenizerError: it cannot be read, or has no end-of-text token.
        """
        self._pairs = pairs
        self._encode_piece = lru_cache(maxsize=PIECES_KEPT)(self._merge)
        super().__init__(_made(lambda: tokenizers.Tokenizer.from_str(description), "its description"))

    @property
    def vocab_size(self) -> int:
        """See `Tokenizer`."""
        return len(self._pairs.tokens)

    def id_of(self, data: bytes) -> int | None:
        """See `Tokenizer`."""
        return self._pairs.find(data)

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer`."""
        pieces = self._tokenizer.pre_tokenizer.pre_tokenize_str(_sanitised(text))
        return [token for piece, _ in pieces for token in self._encode_piece(piece)]

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """`encode` for many texts."""
        return [self.encode(text) for text in texts]

    @cached_property
    def token_bytes(self) -> Sequence[bytes]:
        """See `Tokenizer`."""
        return self._pairs.tokens

    def _merge(self, piece: str) -> tuple[int, ...]:
        return tuple(self._pairs.encode(piece.encode()))

    def _ids_starting(self, forced: bytes) -> tuple[int, ...]:
        known = map(self._pairs.find, _beginnings(forced))
        return (*self._pairs.starting(forced), *(token for token in known if token is not None))


def _made(make: Callable[[], Made], of_what: str) -> Made:
    """The tokenizer that `make` returns.

    Raises:
        TokenizerError: `make` fails; the message names `of_what`.
    """
    try:
        return make()
    except TokenizerError:
        raise
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare Exception; its panics are not even that
        raise TokenizerError(f"{of_what} cannot be read: {error}") from error


def _beginnings(data: bytes) -> list[bytes]:
    """All non-empty beginnings of `data` that are shorter than it."""
    return [data[:size] for size in range(1, len(data))]


def _sanitised(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8") if not text.isascii() else text


def _fallback_bytes(token: str) -> bytes:
    if BYTE_TOKEN.fullmatch(token):
        return bytes([int(token[3:5], 16)])
    return token.replace(SPACE, " ").encode()
