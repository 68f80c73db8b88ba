"""Text to ids and back: source is always text, and borders do not depend on what follows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from gemma_fixtures import SPECIAL, gemma_json, gemma_of_transformers, gemma_tokenizer
from hypothesis import example, given, settings
from hypothesis import strategies as st
from model_fixtures import SOURCE, VOCAB_SIZE, tiny_tokenizer
from tokenizers import models, pre_tokenizers, trainers

from dgemma_model.prompt.tokenizer import SPECIAL_TOKENS, Tokenizer, TokenizerError

TOKENIZER = tiny_tokenizer()


def crossing_tokenizer() -> Tokenizer:
    """A byte-level one that cuts nothing before it merges."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([SOURCE], trainer)
    return Tokenizer(tokenizer)


CROSSING = crossing_tokenizer()

any_text = st.text(st.characters(codec="utf-8"), max_size=60)
PARTS = ["  ", "\n    ", "\r\n", "def ", "self", "return", "é", "e\u0301", "😀", "👩\u200d💻", "漢字", "ﬁ"]
ODD_PARTS = ["\u2028", "\u00a0", "\ufeff", "\ufffd", "\0", "<eos>", "<|suffix|>", "<mask>", "<pad>"]
source_like = st.lists(st.sampled_from([*"ab_1 9.(:#\"'\t\n\r\f\v", *PARTS, *ODD_PARTS]), max_size=25).map("".join)
texts = any_text | source_like


@given(text=texts)
def test_decoding_undoes_encoding(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(text=texts)
def test_ids_are_those_of_the_bytes(text: str) -> None:
    assert b"".join(TOKENIZER.token_bytes[i] for i in TOKENIZER.encode(text)) == text.encode()


@given(pieces=st.lists(texts, max_size=4))
def test_a_batch_is_the_same_as_one_by_one(pieces: list[str]) -> None:
    assert TOKENIZER.encode_batch(pieces) == [TOKENIZER.encode(piece) for piece in pieces]


@given(text=texts)
def test_lines_encoded_one_by_one_are_the_text(text: str) -> None:
    assert TOKENIZER.encode_by_line(text) == TOKENIZER.encode(text)
    assert GEMMA.encode_by_line(text) == GEMMA.encode(text)


@given(text=source_like)
@example(text=SOURCE)
def test_so_they_are_where_tokens_cross_line_breaks(text: str) -> None:
    assert CROSSING.encode_by_line(text) == CROSSING.encode(text)


def test_some_tokens_cross_line_breaks_elsewhere() -> None:
    assert any(b"\n" in data.lstrip(b"\n") for data in CROSSING.token_bytes)
    assert not any(b"\n" in data.lstrip(b"\n") for data in TOKENIZER.token_bytes)


@pytest.mark.parametrize("name", SPECIAL_TOKENS)
def test_what_spells_a_special_token_is_text(name: str) -> None:
    ids = TOKENIZER.encode(f"x = '{name}'")
    assert TOKENIZER.special_ids.isdisjoint(ids)
    assert TOKENIZER.decode(ids) == f"x = '{name}'"
    assert TOKENIZER.special_ids.isdisjoint(TOKENIZER.encode_batch([name, f"a{name}b"])[0])


def test_special_tokens_come_first_and_stand_for_no_text() -> None:
    assert TOKENIZER.special_ids == frozenset(range(len(SPECIAL_TOKENS)))
    assert (TOKENIZER.end_id, TOKENIZER.suffix_id, TOKENIZER.prefix_id, TOKENIZER.mask_id) == (1, 3, 4, 5)
    assert TOKENIZER.middle_id == 6
    assert TOKENIZER.decode(sorted(TOKENIZER.special_ids)) == ""
    assert all(TOKENIZER.token_bytes[len(SPECIAL_TOKENS) :])


def test_every_byte_has_a_token() -> None:
    assert {token for token in TOKENIZER.token_bytes if len(token) == 1} == {bytes([i]) for i in range(256)}


def test_a_line_break_and_its_indentation_are_one_token() -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(":\n        return")[1:2]) == "\n        "


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "😀\ud83d", "\ud83d" * 300])
def test_lone_surrogates_become_question_marks(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text.encode("utf-8", "replace").decode()
    assert "".join(TOKENIZER.split_last_piece(text)) == text


# --------------------------------------------------------------------- healing


@example(prefix="a = '😀", more="'")
@example(prefix="\n", more="    x")
@example(prefix="x ", more="y")
@given(prefix=texts, more=texts)
def test_what_is_before_the_last_piece_is_tokenised_the_same_whatever_follows(prefix: str, more: str) -> None:
    kept, healed = TOKENIZER.split_last_piece(prefix)
    assert kept + healed == prefix
    assert TOKENIZER.encode(kept) + TOKENIZER.encode(healed + more) == TOKENIZER.encode(prefix + more)


@given(count=st.integers(200, 600), text=source_like)
def test_so_it_is_far_into_a_text(count: int, text: str) -> None:
    prefix = ("x = 1\n" * 100)[:count] + text
    kept, healed = TOKENIZER.split_last_piece(prefix)
    assert TOKENIZER.encode(kept) + TOKENIZER.encode(healed) == TOKENIZER.encode(prefix)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("", "")),
        ("return ", ("return", " ")),
        ("return self", ("return", " self")),
        ("def f():\n    ", ("def f():", "\n    ")),
        ("f(x", ("f(", "x")),
        ("f(", ("f", "(")),
    ],
)
def test_the_last_piece_is_split_off(text: str, expected: tuple[str, str]) -> None:
    assert TOKENIZER.split_last_piece(text) == expected


def test_an_endless_piece_is_split_nevertheless() -> None:
    kept, healed = TOKENIZER.split_last_piece("x" * 5000)
    assert kept + healed == "x" * 5000
    assert len(healed) <= 256


@given(forced=st.binary(min_size=1, max_size=8) | source_like.map(str.encode).filter(bool))
def test_ids_that_may_start_a_forced_text(forced: bytes) -> None:
    expected = [
        i
        for i, data in enumerate(TOKENIZER.token_bytes)
        if data and (data.startswith(forced) or forced.startswith(data))
    ]
    found = TOKENIZER.ids_starting(forced)
    assert sorted(found) == expected
    assert len(set(found)) == len(found) > 0


@given(forced=st.sampled_from([b" ", b"\n    ", b"    ", b"\t", b"self"]) | st.binary(min_size=1, max_size=4))
def test_ids_that_add_no_blanks_to_a_forced_text(forced: bytes) -> None:
    ids = TOKENIZER.ids_starting(forced)
    expected = [i for i in ids if not TOKENIZER.token_bytes[i][len(forced) :][:1].isspace()]
    assert list(TOKENIZER.ids_without_blanks(forced)) == (expected or list(ids))


# --------------------------------------------------------------- byte fallback

GEMMA = gemma_tokenizer()
gemma_texts = st.lists(
    st.sampled_from(
        [*"ab_1 9.(:#\n\t", *PARTS, *ODD_PARTS, "▁", "▁▁", "<0x0A>", "<turn|>", "<|channel>", "<h1>", "\n\n"]
    )
    | st.text(st.characters(codec="utf-8"), max_size=3),
    max_size=25,
).map("".join)


@example(text="bars = '▁▂▃ ▁'")
@given(text=gemma_texts)
def test_byte_fallback_is_exact(text: str) -> None:
    ids = GEMMA.encode(text)
    assert GEMMA.decode(ids) == text
    assert b"".join(GEMMA.token_bytes[i] for i in ids) == text.encode()
    assert GEMMA.special_ids.isdisjoint(ids)
    assert GEMMA.encode_batch([text, "a"]) == [ids, GEMMA.encode("a")]


@settings(deadline=None)  # the first one imports transformers
@given(text=gemma_texts.filter(lambda text: "▁" not in text and not any(name in text for name in SPECIAL)))
def test_byte_fallback_gives_the_ids_of_transformers(text: str) -> None:
    assert GEMMA.encode(text) == gemma_of_transformers().encode(text, add_special_tokens=False)


@example(prefix="x = '😀", more="'")
@example(prefix="\n", more="\n    x")
@example(prefix="<h", more="1>")
@example(prefix="a▁ ", more=" ")
@given(prefix=gemma_texts, more=gemma_texts)
def test_so_it_is_with_byte_fallback_what_is_before_the_last_piece(prefix: str, more: str) -> None:
    kept, healed = GEMMA.split_last_piece(prefix)
    assert kept + healed == prefix
    if kept or not prefix:
        assert GEMMA.encode(kept) + GEMMA.encode(healed + more) == GEMMA.encode(prefix + more)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("", "")),
        ("return self", ("return", " self")),
        ("def f():\n    ", ("def f():\n", "    ")),
        ("def f():\n", ("def f():", "\n")),
    ],
)
def test_the_last_piece_with_byte_fallback_begins_where_no_token_spans(text: str, expected: tuple[str, str]) -> None:
    assert GEMMA.split_last_piece(text) == expected


@given(forced=st.binary(min_size=1, max_size=8) | gemma_texts.map(str.encode).filter(bool))
def test_ids_that_may_start_a_forced_text_with_byte_fallback(forced: bytes) -> None:
    data = enumerate(GEMMA.token_bytes)
    expected = [i for i, token in data if token and (token.startswith(forced) or forced.startswith(token))]
    assert sorted(GEMMA.ids_starting(forced)) == expected != []


@pytest.mark.parametrize(("name", "token_id"), SPECIAL.items())
def test_published_special_tokens_are_known_by_name_and_are_text_in_a_file(name: str, token_id: int) -> None:
    assert GEMMA.special_id(name) == token_id
    assert GEMMA.token_bytes[token_id] == b""
    assert GEMMA.split_special(f"a{name}b") == ["a", token_id, "b"]
    assert GEMMA.decode(GEMMA.encode(f"a{name}b")) == f"a{name}b"


def without_a_byte(content: dict[str, Any]) -> None:
    vocab = content["model"]["vocab"]
    vocab["<spare>"] = vocab.pop("<0x07>")


def with_a_leading_space(content: dict[str, Any]) -> None:
    steps = [{"type": "Prepend", "prepend": "▁"}, content["normalizer"]]
    content["normalizer"] = {"type": "Sequence", "normalizers": steps}


def with_compatibility_forms(content: dict[str, Any]) -> None:
    content["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, content["normalizer"]]}


def without_an_end(content: dict[str, Any]) -> None:
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "<eos>"]
    vocab = content["model"]["vocab"]
    vocab["<spare>"] = vocab.pop("<eos>")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_a_byte, "no token for the byte 0x07"),
        (with_a_leading_space, "changes text"),
        (with_compatibility_forms, "changes text"),
        (without_an_end, "no token '<eos>'"),
    ],
)
def test_byte_fallback_that_is_not_exact_is_refused(change: Callable[[dict[str, Any]], None], words: str) -> None:
    content = json.loads(gemma_json())
    change(content)
    with pytest.raises(TokenizerError, match=words):
        Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(content)))


# ----------------------------------------------------------------- bad files


def test_a_tokenizer_is_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    TOKENIZER._tokenizer.save(str(path))
    read = Tokenizer.read(path)
    assert read.vocab_size == VOCAB_SIZE
    assert read.encode(SOURCE) == TOKENIZER.encode(SOURCE)


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"version": "1.0", "model": {"type": "BPE"}}', "\0"])
def test_an_unreadable_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json.*cannot be read"):
        Tokenizer.read(path)


def test_a_file_that_the_library_panics_at_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    TOKENIZER._tokenizer.save(str(path))
    content = json.loads(path.read_text("utf-8"))
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json.*cannot be read"):
        Tokenizer.read(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is missing"):
        Tokenizer.read(tmp_path / "tokenizer.json")


def word_level(words: list[str], pre_tokenizer: pre_tokenizers.PreTokenizer | None) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    return tokenizer


def test_a_tokenizer_without_our_special_tokens_is_refused() -> None:
    with pytest.raises(TokenizerError, match="no token '<eos>'"):
        Tokenizer(word_level(["<pad>", "a"], pre_tokenizers.ByteLevel()))


@pytest.mark.parametrize(("words", "splits"), [(["a", "▁b"], True), (["a", "b"], False)])
def test_a_tokenizer_that_is_not_byte_level_is_refused(words: list[str], splits: bool) -> None:
    with pytest.raises(TokenizerError, match="byte-level"):
        Tokenizer(word_level([*SPECIAL_TOKENS, *words], pre_tokenizers.Whitespace() if splits else None))
