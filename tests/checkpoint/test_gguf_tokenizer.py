"""Tokenizers built from what a GGUF file says: the same ids as `transformers`', and every text comes back."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import tokenizers
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from qwen2_fixtures import MARKERS, byte_level_tokenizer, vocabulary
from transformers import GPT2Tokenizer, Qwen2Tokenizer

from dgemma_model.checkpoint.gguf.tokenizer import tokenizer_json

CODE = "class A:\n    def f(self, x1: int = 12_345) -> None:\n\n\t\treturn self.f(x1)  # it's é 漢字 👍\r\n"


def entries(**changes: Any) -> dict[str, Any]:
    tokens, kinds, merges = vocabulary()
    return {"model": "gpt2", "pieces": "qwen2", "tokens": tokens, "kinds": kinds, "merges": merges} | changes


@cache
def built(pieces: str = "qwen2") -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_str(tokenizer_json(**entries(pieces=pieces)))
    tokenizer.encode_special_tokens = True
    return tokenizer


@cache
def theirs(kind: type[Any]) -> Any:
    tokens, _, merges = vocabulary()
    vocab = {token: at for at, token in enumerate(tokens) if "PAD" not in token}
    return kind(vocab=vocab, merges=[tuple(merge.split(" ")) for merge in merges])


@given(st.text(st.characters(exclude_categories=["Cs"])))
@example(CODE)
@example("  \n \n\n  x   y\t\n")
@settings(max_examples=200, deadline=None)
def test_every_text_comes_back(text: str) -> None:
    for pieces in ("qwen2", "smollm", "llama-bpe", "gpt-2"):
        tokenizer = built(pieces)
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


@given(st.text(st.characters(max_codepoint=0x24F)))
@example(CODE)
@settings(max_examples=200, deadline=None)
def test_ids_are_those_of_transformers(text: str) -> None:
    assume("<|" not in text)  # there a marker is a marker, and here it is text
    if theirs(Qwen2Tokenizer)._tokenizer.normalizer.normalize_str(text) == text:
        assert built("qwen2").encode(text).ids == theirs(Qwen2Tokenizer)(text)["input_ids"]
    assert built("gpt-2").encode(text).ids == theirs(GPT2Tokenizer)(text)["input_ids"]


def test_what_is_not_normalised_stays_as_it_is() -> None:
    text = "e\u0301"  # `transformers` would make one character of it
    assert built().decode(built().encode(text).ids) == text


def test_digits_are_cut_as_the_kind_says() -> None:
    def cut(pieces: str) -> list[str]:
        return [piece for piece, _ in built(pieces).pre_tokenizer.pre_tokenize_str("a12345")]

    assert cut("qwen2") == ["a", *"12345"]
    assert cut("smollm") == ["a", *"12345"]
    assert cut("llama-bpe") == ["a", "123", "45"]
    assert cut("gpt-2") == ["a", "12345"]


def test_markers_are_special_and_source_text_that_spells_one_is_text() -> None:
    tokenizer = built()
    for marker in MARKERS:
        at = tokenizer.token_to_id(marker)
        assert at not in tokenizer.encode(f"x{marker}y").ids
        assert tokenizer.get_added_tokens_decoder()[at].special


def test_ids_after_the_last_used_one_are_left_out() -> None:
    assert built().get_vocab_size() == byte_level_tokenizer().get_vocab_size() + len(MARKERS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "llama"}, "'llama'"),
        ({"pieces": "klingon"}, "'klingon'"),
        ({"kinds": [1, 1]}, "2 kinds"),
        ({"tokens": ["a"] * len(vocabulary()[0])}, "twice"),
        ({"merges": ["a b c"]}, "merge"),
    ],
)
def test_what_cannot_be_read_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tokenizer_json(**entries(**changes))


def test_the_result_is_json_of_a_byte_level_tokenizer() -> None:
    content = json.loads(tokenizer_json(**entries()))
    assert content["model"]["type"] == "BPE"
    assert "normalizer" not in content
