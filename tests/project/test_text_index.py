"""The memory of text outside the prompt."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from itertools import pairwise

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from model_fixtures import tiny_infiller
from qwen2_fixtures import byte_level_tokenizer
from tokenizers import pre_tokenizers, trainers

from dgemma_model.checkpoint.selection import embedded_directory
from dgemma_model.infill import Infiller
from dgemma_model.project import text_index
from dgemma_model.project.copy_model import PromptCopies
from dgemma_model.project.similar_lines import most_similar_line
from dgemma_model.project.text_index import IndexedText, TextIndex, split
from dgemma_model.prompt.tokenizer import Tokenizer
from dgemma_model.request import Excerpt, FillRequest

TOKENIZER = Tokenizer.read(embedded_directory() / "tokenizer.json")
FILE = "".join(f"def name_{n}(value):\n    return value + {n}\n\n\n" for n in range(400))
code = st.text(st.sampled_from("ab(_ \n\n=:\t#é"), max_size=60)
ids = st.lists(st.integers(0, 3), max_size=20)


@cache
def line_end_tokenizer() -> Tokenizer:
    """One whose tokens may hold the end of a line with the line break after it."""
    made = tokenizers.Tokenizer.from_str(byte_level_tokenizer().to_str())
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(["x = f():\n    y = [\n    1]\n\n"] * 3, trainer)
    made.add_special_tokens(["<eos>"])
    return Tokenizer(made)


@pytest.mark.parametrize("of", [lambda: TOKENIZER, line_end_tokenizer], ids=["lines cut", "line ends joined"])
@given(text=st.one_of(code, st.text(st.sampled_from("ab)]: \n=é"), max_size=60)))
def test_pieces_have_the_tokens_that_the_whole_text_has(of: Callable[[], Tokenizer], text: str) -> None:
    tokenizer, pieces = of(), TextIndex(of()).read([text])
    assert [i for piece in pieces for i in piece.ids] == tokenizer.encode(text)
    for piece in pieces:
        number, of_bytes = -1, list[int]()
        for match in re.finditer(r"\n+[^\n]*|[^\n]+", text):
            number += not match[0].isspace()
            of_bytes += [number] * len(match[0].encode())
        starts = itertools.accumulate((len(tokenizer.token_bytes[token]) for token in piece.ids), initial=0)
        assert list(piece.lines) == [of_bytes[start] for start, _ in zip(starts, piece.ids, strict=False)]


def test_line_ends_are_joined_in_the_index_as_in_a_prompt() -> None:
    tokenizer = line_end_tokenizer()
    assert tokenizer.id_of(b"():\n") is not None
    (piece,) = TextIndex(tokenizer).read(["\nx = f():\n    y\n"])
    assert [tokenizer.decode([token]) for token in piece.ids].count("():\n") == 1


@given(st.lists(code, max_size=4).map("".join), st.integers(1, 20))
def test_pieces_are_the_text_and_end_with_their_lines(text: str, size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_index, "PIECE_CHARS", size)
        parts = split(text)
    assert "".join(parts) == text
    assert all(0 < len(part) <= size for part in parts)
    for part, after in pairwise(parts):
        assert after.startswith("\n") or "\n" not in part[1:]


def test_the_nearest_of_equal_matches_is_copied() -> None:
    far, near = IndexedText("", [1, 2, 7, 7]), IndexedText("", [1, 2, 8, 8, 8])
    assert PromptCopies([1, 2], [far, near]).continuation() == (2, [8, 8, 8])
    assert PromptCopies([1, 2, 9, 1, 2], [far, near]).continuation() == (2, [9, 1, 2])
    assert PromptCopies([5, 1, 2, 9, 5, 1, 2], [far]).continuation()[0] == 3


def test_a_line_elsewhere_is_found_by_its_neighbours() -> None:
    there = (
        IndexedText("", []),
        IndexedText("a = 1\n\nwith open(path) as stream:\n    data = load(stream)\n    check(data)\n", []),
    )
    assert most_similar_line("with open(path) as stream:\n    ", "\n    check(data)\n", there) == "data = load(stream)"
    assert most_similar_line("with open(path) as stream:\n    da", "\n    check(data)\n", there) == "ta = load(stream)"
    assert most_similar_line("with open(path) as stream:\n    x", "\n    check(data)\n", there) == ""
    assert most_similar_line("log(1)\nuse(x)\nlog(1)\n", "\nuse(x)\n", there) == "use(x)", "what is near counts, too"


def test_a_fill_reads_only_so_much_that_is_new_the_nearest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_index, "PIECE_CHARS", 4_000)
    memory = TextIndex(TOKENIZER)
    assert [piece.text for piece in memory.read(["far", FILE, "near"], limit=9_000)] == [*split(FILE)[-2:], "near"]
    assert [piece.text for piece in memory.read(["far", FILE], limit=4_000)] == list(split(FILE)[-3:])
    assert [piece.text for piece in memory.read(["far", FILE])] == ["far", *split(FILE)]
    assert [piece.text for piece in memory.read(["far", FILE], limit=0)] == ["far", *split(FILE)]


def test_what_was_not_asked_for_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_index, "MOST_CHARS", 10)
    memory = TextIndex(TOKENIZER)
    memory.read(["aaaa", "bbbb"])
    memory.read(["aaaa", "cccc"])
    assert [piece.text for piece in memory.read(["aaaa", "bbbb", "cccc"], limit=0)] == ["aaaa", "cccc"]


EXCERPT = Excerpt("class Shop:\n    def open(self) -> None:\n        self.door.", "\n\n    def close(self) -> None:\n")
SAID = (f"{EXCERPT.prefix}swing(3, quietly=True){EXCERPT.suffix}".replace("Shop", "Hut"),)


def test_the_embedded_checkpoint_repeats_what_is_said_elsewhere() -> None:
    infiller = Infiller.load(None, "cpu")
    *_, alone = infiller.fill(FillRequest(EXCERPT, one_line=True))
    *_, told = infiller.fill(FillRequest(EXCERPT, project_text=SAID, one_line=True))
    assert alone.text != told.text == "swing(3, quietly=True)"
    assert told.step < len(TOKENIZER.encode(told.text)), "what is copied is read in few passes"


def test_a_checkpoint_that_does_not_copy_takes_no_notice() -> None:
    infiller = tiny_infiller()
    texts = [
        [draft.text for draft in infiller.fill(FillRequest(EXCERPT, project_text=said, verify=True))]
        for said in ((), SAID)
    ]
    assert texts[0] == texts[1]


def test_of_lines_that_are_equally_alike_every_process_takes_the_same() -> None:
    names = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
    text = "".join(f"{name}\nafter_{name} = 1\n" for name in names)
    program = (
        "import sys; from dgemma_model.project.text_index import IndexedText\n"
        "print(list(IndexedText(sys.argv[1], []).lines_between(sys.argv[2], '')))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program, text, " ".join(names)],
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in range(4)
    }
    assert len(found) == 1
