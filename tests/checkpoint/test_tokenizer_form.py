"""The tokenizer of a converted checkpoint as mapped tables: the same ids and texts, made anew when it has to be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from model_fixtures import SOURCE
from qwen2_fixtures import vocabulary, write_gguf

from dgemma_model.checkpoint.converted import ORIGIN, TOKENIZER, convert
from dgemma_model.checkpoint.gguf.tokenizer import PIECES, tokenizer_json
from dgemma_model.checkpoint.mapped import tokenizer_form
from dgemma_model.checkpoint.mapped.tokenizer_form import TABLES, tokenizer_of
from dgemma_model.infill import Infiller
from dgemma_model.prompt.tokenizer import TabledTokenizer, Tokenizer, TokenizerError
from dgemma_model.request import Excerpt, FillRequest

PARTS = ["  ", "\n    ", "\r\n", "def ", "self", "return", "é", "e\u0301", "😀", "漢字", "123", "it's", "<|endoftext|>"]
texts = st.text(max_size=60) | st.lists(st.sampled_from([*"ab_1 9.(:#\"'\t\n\r", *PARTS]), max_size=30).map("".join)


def write_json(path: Path, pieces: str = "qwen2") -> Path:
    tokens, kinds, merges = vocabulary()
    content = tokenizer_json(model="gpt2", pieces=pieces, tokens=tokens, kinds=kinds, merges=merges)
    path.write_text(content, "utf-8")
    return path


@pytest.fixture(scope="module", params=[*PIECES, "smollm"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Tokenizer]:
    """The tabled tokenizer, and the same one in the library."""
    path = write_json(tmp_path_factory.mktemp("tokenizer") / TOKENIZER, request.param)
    return tokenizer_of(path, "a"), Tokenizer.read(path)


@given(text=texts)
@example(text=SOURCE)
@example(text=" " * 500 + "x" * 500)
@example(text="\ud800 lone")
@settings(deadline=None)
def test_ids_and_borders_are_those_of_the_library(both: tuple[Tokenizer, Tokenizer], text: str) -> None:
    tabled, library = both
    assert tabled.encode(text) == library.encode(text)
    assert tabled.encode_by_line(text) == library.encode_by_line(text)
    assert tabled.encode_batch([text, "a"]) == library.encode_batch([text, "a"])
    assert tabled.split_last_piece(text) == library.split_last_piece(text)
    assert tabled.decode(tabled.encode(text)) == library.decode(library.encode(text))
    assert tabled.split_special(text) == library.split_special(text)


def test_so_is_all_that_is_said_of_its_vocabulary(both: tuple[Tokenizer, Tokenizer]) -> None:
    tabled, library = both
    assert isinstance(tabled, TabledTokenizer) and not isinstance(library, TabledTokenizer)
    assert list(tabled.token_bytes) == list(library.token_bytes)
    assert (tabled.vocab_size, tabled.special_ids, tabled.end_id) == (
        *(library.vocab_size, library.special_ids, library.end_id),
    )
    assert tabled.special_id("<|fim_prefix|>") == library.special_id("<|fim_prefix|>") is not None
    for data in (b"\n", b" ", b"    ", b"re", b"\xff", b"self.x", b"a b c"):
        assert tabled.ids_starting(data) == library.ids_starting(data)
        assert tabled.id_of(data) == library.id_of(data)


def test_tables_are_made_once_and_mapped(tmp_path: Path) -> None:
    path = write_json(tmp_path / TOKENIZER)
    tokenizer_of(path, "a")
    before = (tmp_path / TABLES).stat()
    path.write_text("not read any more")
    tokenizer = tokenizer_of(path, "a")
    after = (tmp_path / TABLES).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert tokenizer.encode("return")
    mapped = Path("/proc/self/maps")
    if mapped.exists():
        assert str(tmp_path / TABLES) in mapped.read_text()
    assert sorted(file.name for file in tmp_path.iterdir()) == [TOKENIZER, TABLES]


@pytest.mark.parametrize("damage", ["cut short", "foreign", "of another checkpoint", "ids that there are not"])
def test_damaged_tables_are_made_anew(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_json(tmp_path / TOKENIZER)
    expected = tokenizer_of(path, "a").encode(SOURCE)
    tables = tmp_path / TABLES
    content = tables.read_bytes()
    if damage == "cut short":
        tables.write_bytes(content[:-64])
    elif damage == "foreign":
        tables.write_bytes(b"not a table in it")
    elif damage == "of another checkpoint":
        write_json(tmp_path / "other.json", "llama-bpe")
        tokenizer_of(tmp_path / "other.json", "b")
    else:
        tables.write_bytes(content[:4096] + b"\x7f" * (len(content) - 4096))
    assert tokenizer_of(path, "a").encode(SOURCE) == expected
    assert tables.read_bytes() == content


def test_where_they_cannot_be_kept_the_library_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_json(tmp_path / TOKENIZER)
    expected = Tokenizer.read(path).encode(SOURCE)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tokenizer_form, "write_tensors", full)
    assert tokenizer_of(path, "a").encode(SOURCE) == expected
    assert [file.name for file in tmp_path.iterdir()] == [TOKENIZER]


def with_a_normalizer(content: dict[str, Any]) -> None:
    content["normalizer"] = {"type": "NFC"}


def with_a_space_before(content: dict[str, Any]) -> None:
    content["pre_tokenizer"]["pretokenizers"][-1]["add_prefix_space"] = True


def with_a_token_that_is_cut_out(content: dict[str, Any]) -> None:
    content["added_tokens"][-1]["special"] = False


def with_ends_of_words(content: dict[str, Any]) -> None:
    content["model"]["end_of_word_suffix"] = "</w>"


@pytest.mark.parametrize(
    "change", [with_a_normalizer, with_a_space_before, with_a_token_that_is_cut_out, with_ends_of_words]
)
def test_other_kinds_are_left_to_the_library(change: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    path = write_json(tmp_path / TOKENIZER)
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content), "utf-8")
    assert not isinstance(tokenizer_of(path, "a"), TabledTokenizer)
    assert [file.name for file in tmp_path.iterdir()] == [TOKENIZER]


@pytest.mark.parametrize("content", ["", "{}", '{"model": [], "pre_tokenizer": {"type": 3}}', None])
def test_an_unusable_file_is_named(content: str | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / TOKENIZER).write_text(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        tokenizer_of(tmp_path / TOKENIZER, "a")


def test_so_is_one_that_the_library_refuses(tmp_path: Path) -> None:
    path = write_json(tmp_path / TOKENIZER)
    content = json.loads(path.read_text("utf-8"))
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "("
    path.write_text(json.dumps(content), "utf-8")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        tokenizer_of(path, "a")


def test_a_checkpoint_fills_the_same_with_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_gguf(tmp_path / "model.gguf")
    convert(tmp_path / "model.gguf", tmp_path / "model")
    shutil.copytree(tmp_path / "model", tmp_path / "plain")
    request = FillRequest(Excerpt("def f(self):\n    return ", "\n"), max_tokens=8)
    *_, tabled = Infiller.load(str(tmp_path / "model"), "cpu").fill(request)
    assert (tmp_path / "model" / TABLES).is_file()
    assert json.loads((tmp_path / "model" / ORIGIN).read_text())["version"] == 1
    monkeypatch.setattr(tokenizer_form, "_mapped", lambda path, source: Tokenizer.read(path.with_name(TOKENIZER)))
    *_, plain = Infiller.load(str(tmp_path / "plain"), "cpu").fill(request)
    assert tabled == plain
