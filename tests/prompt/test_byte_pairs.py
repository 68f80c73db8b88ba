"""Byte-level BPE over tables: the ids of the library, for any merges and any text."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from model_fixtures import SOURCE
from qwen2_fixtures import byte_level_tokenizer, tokenizer_state
from tokenizers import models, pre_tokenizers

from dgemma_model.prompt.byte_pairs import BytePairs, Tables, build, byte_letters, check

LETTERS = {byte: letter for letter, byte in byte_letters().items()}
TRAINED = tokenizer_state(byte_level_tokenizer())


def trained() -> Tables:
    """Tables of a tiny vocabulary that was trained on source text."""
    return build(TRAINED["vocab"], [], TRAINED["merges"])


@st.composite
def vocabularies(draw: st.DrawFn) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Tokens of a few letters, with ids in any order, and merges in any order; one token may be made in two ways."""
    known, merges = list("abc"), list[tuple[str, str]]()
    for _ in range(draw(st.integers(0, 14))):
        pair = draw(st.sampled_from(known)), draw(st.sampled_from(known))
        if pair not in merges and len("".join(pair)) <= 12:
            merges.append(pair)
            known += ["".join(pair)] if "".join(pair) not in known else []
    tokens = [*LETTERS.values(), *(token for token in known if len(token) > 1)]
    ids = draw(st.permutations(range(len(tokens))))
    return dict(zip(tokens, ids, strict=True)), draw(st.permutations(merges))


@given(vocabulary=vocabularies(), text=st.text("abc", max_size=40), whole=st.booleans())
@settings(deadline=None)
def test_ids_are_those_of_the_library(
    vocabulary: tuple[dict[str, int], list[tuple[str, str]]], text: str, whole: bool
) -> None:
    tokens, merges = vocabulary
    library = tokenizers.Tokenizer(models.BPE(tokens, merges, ignore_merges=whole))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    assert BytePairs(build(tokens, [], merges), prefers_whole=whole).encode(text.encode()) == library.encode(text).ids


@given(data=st.binary(max_size=60))
@example(data=SOURCE.encode())
@example(data=b" " * 3000)
def test_the_bytes_of_the_ids_are_those_of_the_piece(data: bytes) -> None:
    pairs = BytePairs(trained())
    assert b"".join(pairs.tokens[token] for token in pairs.encode(data)) == data


def test_every_token_is_found_by_its_bytes() -> None:
    pairs = BytePairs(trained())
    assert [pairs.find(data) for data in pairs.tokens] == list(range(len(TRAINED["vocab"])))
    assert [pairs.find(data) for data in (b"", b"no such token", b"\xff\xff")] == [None] * 3


@given(beginning=st.sampled_from([b"", b" ", b"\n", b"re", b"\xff\xff", b"self", b"  "]) | st.binary(max_size=3))
def test_ids_that_start_with_bytes(beginning: bytes) -> None:
    pairs = BytePairs(trained())
    expected = {token for token, data in enumerate(pairs.tokens) if data.startswith(beginning)}
    found = pairs.starting(beginning)
    assert set(found) == expected and len(found) == len(expected)
    assert [pairs.tokens[token] for token in found] == sorted(pairs.tokens[token] for token in found)


def test_special_tokens_have_no_bytes_and_are_never_found() -> None:
    size = len(TRAINED["vocab"])
    pairs = BytePairs(build(TRAINED["vocab"] | {"<end>": size}, [size, size + 1], TRAINED["merges"]))
    assert list(pairs.tokens[size:]) == [b"", b""]
    assert pairs.find(b"<end>") is None and pairs.find(b"") is None
    assert {size, size + 1}.isdisjoint(pairs.starting(b""))


def test_there_are_no_other_ids() -> None:
    tokens = BytePairs(trained()).tokens
    for at in (-1, len(tokens)):
        with pytest.raises(IndexError):
            tokens[at]


@pytest.mark.parametrize(
    ("changes", "merges", "words"),
    [
        ({"ab": 257}, [], "ids have no token"),
        ({"漢": 256}, [], "not spelled in bytes"),
        ({}, [("a", "b")], "merged"),
    ],
)
def test_other_vocabularies_are_refused(changes: dict[str, int], merges: list[tuple[str, str]], words: str) -> None:
    tokens = {letter: byte for byte, letter in LETTERS.items()} | changes
    with pytest.raises(ValueError, match=words):
        build(tokens, [], merges)


def test_a_byte_without_a_token_is_refused() -> None:
    tokens = {letter: byte for byte, letter in LETTERS.items() if byte < 255}
    with pytest.raises(ValueError, match="0xff"):
        build(tokens, [], [])


DAMAGES: dict[str, dict[str, object]] = {
    "a start beyond the end": {"starts": np.array([0, 10**6], np.int32)},
    "starts out of order": {"starts": trained().starts[::-1].copy()},
    "an id beyond the vocabulary": {"by_bytes": np.array([10**6], np.int32)},
    "a negative id": {"merged": np.full(len(trained().merged), -1, np.int32)},
    "merges out of order": {"pairs": trained().pairs[::-1].copy()},
    "a rank too few": {"ranks": trained().ranks[1:]},
    "another dtype": {"pairs": trained().pairs.astype(np.int32)},
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_tables_are_refused(damage: str) -> None:
    check(trained())
    with pytest.raises(ValueError):
        BytePairs(replace(trained(), **DAMAGES[damage]))  # type: ignore[arg-type]


def test_the_fixture_has_merges() -> None:
    assert len(json.loads(byte_level_tokenizer().to_str())["model"]["merges"]) > 100
