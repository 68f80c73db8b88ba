"""Text to ids and back. Source text is always text: what spells a special token in someone's file stays letters."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from functools import cached_property
from pathlib import Path

import tokenizers

END, SUFFIX, PREFIX, MASK, MIDDLE = "<eos>", "<|suffix|>", "<|prefix|>", "<mask>", "<|middle|>"
PAD, BOS = "<pad>", "<bos>"
SPECIAL_TOKENS = (PAD, END, BOS, SUFFIX, PREFIX, MASK, MIDDLE)
"""Special tokens of the embedded checkpoint in the order of their ids, from 0; pad, eos and bos are where Gemma has
them."""


class TokenizerError(ValueError):
    """A tokenizer file that is missing, unreadable, or lacks a special token; the message is for users."""


class Tokenizer:
    """A `tokenizers` tokenizer with what infilling needs beside it: exact token bytes and token borders."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        tokenizer.encode_special_tokens = True  # `<eos>` in a source file is five characters, not an end of text
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.end_id, self.suffix_id, self.prefix_id = (self._special(name) for name in (END, SUFFIX, PREFIX))
        self.mask_id, self.middle_id = self._special(MASK), self._special(MIDDLE)
        self.special_ids = frozenset(self._special(name) for name in SPECIAL_TOKENS)
        if tokenizer.pre_tokenizer is None or not self._is_byte_level():
            raise TokenizerError("the tokenizer is not a byte-level one; its tokens cannot be read as bytes")

    @classmethod
    def read(cls, path: Path) -> Tokenizer:
        """Read a `tokenizer.json`.

        Raises:
            TokenizerError: the file is missing or unusable.
        """
        if not path.is_file():
            raise TokenizerError(f"{path.name} is missing in {path.parent}")
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)))
        except TokenizerError:
            raise
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the library raises bare Exception; its panics are not even that
            raise TokenizerError(f"{path.name} in {path.parent} cannot be read: {error}") from error

    @property
    def vocab_size(self) -> int:
        """Number of ids, special ones included."""
        return int(self._tokenizer.get_vocab_size())

    def encode(self, text: str) -> list[int]:
        """Ids of `text`. Lone surrogates, which no UTF-8 file can hold, become question marks."""
        return list(self._tokenizer.encode(_sanitised(text), add_special_tokens=False).ids)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """`encode` for many texts, in parallel."""
        batch = self._tokenizer.encode_batch_fast([_sanitised(text) for text in texts], add_special_tokens=False)
        return [list(encoding.ids) for encoding in batch]

    def decode(self, ids: list[int]) -> str:
        """Text of `ids`; special tokens give nothing, bytes that are no UTF-8 give replacement characters."""
        return b"".join(self.token_bytes[i] for i in ids).decode("utf-8", "replace")

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """What each id stands for, in UTF-8 bytes (a token may hold part of a character); special tokens are empty."""
        letters = _byte_letters()
        texts: list[bytes] = []
        for i in range(self.vocab_size):
            token = self._tokenizer.id_to_token(i)
            plain = token if token is not None and i not in self.special_ids else ""
            texts.append(bytes(letters[letter] for letter in plain))
        return texts

    def ids_starting(self, forced: bytes) -> list[int]:
        """Ids whose bytes start with `forced`, or that `forced` starts with: what may come next while `forced` is
        still to be said."""
        ordered, ids = self._by_bytes
        first = bisect_left(ordered, forced)
        longer = itertools.takewhile(lambda at: ordered[at].startswith(forced), range(first, len(ordered)))
        shorter = (bisect_left(ordered, forced[:size]) for size in range(1, len(forced)))
        known = (at for size, at in enumerate(shorter, 1) if at < len(ordered) and ordered[at] == forced[:size])
        return [ids[at] for at in (*longer, *known)]

    @cached_property
    def _by_bytes(self) -> tuple[list[bytes], list[int]]:
        pairs = sorted((token, i) for i, token in enumerate(self.token_bytes) if token)
        return [token for token, _ in pairs], [i for _, i in pairs]

    def split_last_piece(self, text: str) -> tuple[str, str]:
        """Split before the last piece of `text` that more text could still change the tokens of.

        Everything before the split is tokenised the same whatever follows `text` (token healing starts there).
        """
        tail = text[-256:]
        pieces = self._tokenizer.pre_tokenizer.pre_tokenize_str(_sanitised(tail))
        border = pieces[-1][1][0] if pieces else 0
        split = len(text) - len(tail) + border
        return text[:split], text[split:]

    def _is_byte_level(self) -> bool:
        try:
            return len(self.token_bytes) > 0
        except KeyError:
            return False

    def _special(self, name: str) -> int:
        token_id = self._tokenizer.token_to_id(name)
        if token_id is None:
            raise TokenizerError(f"the tokenizer has no token {name!r}; only checkpoints of this recipe can fill")
        return int(token_id)


def _sanitised(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8") if not text.isascii() else text


def _byte_letters() -> dict[str, int]:
    """The printable stand-ins for bytes that byte-level BPE uses (Radford et al. 2019), as letter -> byte."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    letters = {chr(byte): byte for byte in plain}
    for shift, byte in enumerate(byte for byte in range(256) if byte not in set(plain)):
        letters[chr(256 + shift)] = byte
    return letters
