"""Where a probe of the writer ends fills, with a network that writes what followed the same text before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import second_family

from dgemma_model.checkpoint import families
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.decoding.end_probe import END_FIGURES, EndFigures
from dgemma_model.infill import Infiller
from dgemma_model.prompt.format import FillVocabulary
from dgemma_model.prompt.tokenizer import Tokenizer
from dgemma_model.request import Draft, Excerpt, FillRequest

ABOVE = "total = alpha\nother = beta\nlast = gamma\nend = delta\n"
MEAN_LOST = 20
"""The figure that says how much likelier than what follows is what would be written instead."""
IS_LEVEL = 12
"""The figure that says whether all brackets are closed."""


def weights(**figures: float) -> list[float]:
    """Weights of a probe: those of `figure0` and so on, and no others, for both kinds of places."""
    half = [figures.get(f"figure{number}", 0.0) for number in range(END_FIGURES)]
    return half + half


@pytest.fixture
def fill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(families.FAMILIES, "repeater", second_family.Repeaters())
    second_family.write_checkpoint(tmp_path)
    policy = json.loads((tmp_path / "dgemma.json").read_text())

    def drafts(prefix: str, suffix: str, more: dict[str, Any], **knobs: Any) -> list[Draft]:
        (tmp_path / "dgemma.json").write_text(json.dumps(policy | more))
        return list(Infiller.load(str(tmp_path), "cpu").fill(FillRequest(Excerpt(prefix, suffix), **knobs)))

    return drafts


@pytest.mark.parametrize("drafting", ["none", "copied"])
@pytest.mark.parametrize(
    ("ends", "suffix", "expected"),
    [
        ({"figure0": 1.0}, "\nlast = gamma\n", "alpha"),
        ({"figure0": -9.0}, "\nlast = gamma\n", "alpha\nother = beta\nlast = gamma\nend = de"),
        ({"figure0": -1.0, f"figure{MEAN_LOST}": 0.02}, "\nlast = gamma\n", "alpha\nother = beta"),
        ({"figure0": -1.0, f"figure{MEAN_LOST}": 0.02}, "\nend = delta\n", "alpha\nother = beta\nlast = gamma"),
        ({"figure0": 1.0, f"figure{MEAN_LOST}": 1.0}, "\nlast = gamma\n", "alpha\nother = beta"),
        ({"figure0": 1.0, f"figure{MEAN_LOST}": 1.0}, "\nend = delta\n", "alpha\nother = beta\nlast = gamma"),
        ({"figure0": 0.9, f"figure{MEAN_LOST}": 0.02}, "\nlast = gamma\n", "alpha\nother = beta"),
        ({"figure0": 0.9, f"figure{MEAN_LOST}": 0.02}, "\nend = delta\n", "alpha\nother = beta\nlast = gamma"),
        ({"figure0": 1.0}, ")\n", "a"),
        ({"figure0": 0.1}, ")\n", "a"),
    ],
)
def test_several_lines_end_where_the_probe_says(
    fill: Any, ends: dict[str, float], suffix: str, expected: str, drafting: str
) -> None:
    *_, draft = fill(ABOVE + "total = ", suffix, {"ends": weights(**ends)}, max_tokens=40, drafting=drafting)
    assert draft.text == expected
    assert draft.complete == (len(expected) < 40), "also if the text was cut off, and the likeliest end is taken"


@pytest.mark.parametrize("drafting", ["none", "copied"])
@pytest.mark.parametrize("limit", [9, 80])
def test_a_likely_end_is_kept_if_no_likelier_one_is_near(fill: Any, drafting: str, limit: int) -> None:
    """Lines are written beyond it to find out, and not shown."""
    knobs: dict[str, Any] = {"max_tokens": limit, "drafting": drafting}
    drafts = fill(ABOVE + "total = ", "\nlast = gamma\n", {"ends": weights(figure0=0.5)}, **knobs)
    at_once = fill(ABOVE + "total = ", "\nlast = gamma\n", {"ends": weights(figure0=1.5)}, **knobs)
    assert (drafts[-1].text, drafts[-1].complete) == (at_once[-1].text, at_once[-1].complete) == ("alpha", True)
    assert drafts[-1].step >= at_once[-1].step + (limit == 80)
    assert all("alpha\n".startswith(draft.text) for draft in drafts)
    assert drafts[-1].score == pytest.approx(at_once[-1].score)


def test_copies_of_the_next_line_are_read_beside_the_line_below(fill: Any) -> None:
    prefix, suffix, knobs = 2 * ABOVE + "total = ", "\nlast = gamma\n", {"max_tokens": 80}
    alone = fill(prefix, suffix, {"ends": weights(figure0=-1.0)}, drafting="none", **knobs)
    drafts = fill(prefix, suffix, {"ends": weights(figure0=-1.0)}, drafting="copied", **knobs)
    assert drafts[-1].text == alone[-1].text and alone[-1].text.count("\n") == 4
    copied = [draft.check.drafted for draft in drafts if draft.check and draft.check.drafted_by == "copies"]
    assert len(copied) == 4  # a line in each pass
    assert all("\n" not in drafted[:-1] for drafted in copied), "nothing is read after a place where a fill may end"
    assert (alone[-1].step, drafts[-1].step) == (39, 6)


@pytest.mark.parametrize(
    ("ends", "expected"),
    [({"figure0": -1.0, f"figure{IS_LEVEL}": 3.0}, "f(\nalpha,\nbeta,\n)"), ({"figure0": 1.0}, "f(")],
)
def test_the_probe_decides_also_within_brackets(fill: Any, ends: dict[str, float], expected: str) -> None:
    """A hole may be some lines of a list, or of a call."""
    call = "total = f(\nalpha,\nbeta,\n)\nend = delta\n"
    *_, draft = fill(2 * call + "total = ", "\nlast = gamma\n", {"ends": weights(**ends)}, max_tokens=80)
    assert draft.text == expected


@pytest.mark.parametrize(
    ("suffix", "read"),
    [
        ("\nx = y\nend = delta\n", "x = y\nen"),
        ("\n\n  \n    x = y  \n\nend\n", "    x = "),
        ("", ""),
        ("\n", ""),
        ("\n\n\n", ""),
        (")\nx = y\n", ""),
    ],
)
def test_what_is_read_of_the_text_below(tmp_path: Path, suffix: str, read: str) -> None:
    second_family.write_checkpoint(tmp_path)
    tokenizer = Tokenizer.read(tmp_path / "tokenizer.json")
    figures = EndFigures("x = ", suffix, FillVocabulary(tokenizer, [tokenizer.end_id]))
    assert tokenizer.decode(figures.next_ids) == read


def test_a_line_with_nothing_behind_it_needs_no_probe(fill: Any) -> None:
    *_, draft = fill(ABOVE + "total = ", "\n", {"ends": weights(figure0=-1.0)}, one_line=True)
    assert (draft.text, draft.complete) == ("alpha", True)


def test_a_text_that_begins_with_the_next_line_is_written_again(fill: Any) -> None:
    prefix, suffix = "x = y\nreturn total\nx = y\n", "\nreturn total\n"
    *_, draft = fill(prefix, suffix, {}, max_tokens=12)
    assert draft.text.startswith("return total")
    *drafts, last = fill(prefix, suffix, {"ends_by_rules": True}, max_tokens=20, drafting="none")
    assert last.text and not last.text.startswith("r")
    assert [draft.step for draft in drafts] == list(range(1, len(drafts) + 1))
    assert len(drafts) > len("return total\n") + len(last.text)


def test_too_few_weights_are_named(fill: Any) -> None:
    with pytest.raises(CheckpointError, match=f"ends must be {2 * END_FIGURES} numbers"):
        fill("x", "", {"ends": [1.0]})


@pytest.mark.parametrize(
    ("suffix", "text", "place"),
    [
        ("\nfoo()\n", "a = 1", None),
        ("\nfoo()\n", "a = 1\n", ("line_end", 5)),
        ("\nfoo()\n", "a = 1\n\n", ("line_end", 5)),
        ("\nfoo()\n", "a = 1\n  ", None),
        ("\nfoo()\n", "\n", None),
        ("", "a = 1\n", ("line_end", 5)),
        ("\nfoo()\n", "f(\n", ("line_end", 2)),
        (")\n", "f(a", None),
        (")\n", "f(a)", ("inside", 4)),
        (")\n", "f(a),\n    b", ("inside", 11)),
    ],
)
def test_places(tmp_path: Path, suffix: str, text: str, place: tuple[str, int] | None) -> None:
    second_family.write_checkpoint(tmp_path)
    tokenizer = Tokenizer.read(tmp_path / "tokenizer.json")
    figures = EndFigures("x = ", suffix, FillVocabulary(tokenizer, [tokenizer.end_id]))
    found = figures.place(text)
    assert (found and (found.kind, found.cut)) == place
    spoken = np.full(tokenizer.vocab_size, -5.0)
    values = figures.of(text, figures.next_log_probs(spoken), np.zeros((0, 2)))
    assert len(values) == END_FIGURES and np.isfinite(values).all()


def test_the_first_word_below_counts_apart_from_its_indentation(tmp_path: Path) -> None:
    second_family.write_checkpoint(tmp_path)
    tokenizer = Tokenizer.read(tmp_path / "tokenizer.json")
    figures = EndFigures("x = ", "\n  foo()\n", FillVocabulary(tokenizer, [tokenizer.end_id]))
    lost = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    below = np.stack((-lost, np.zeros(5)), 1)
    assert figures.of("a = 1\n", [-9.0, -1.0, -9.0], below)[17:20] == [-3.0, -4.0, -8.0]
    assert figures.of("a = 1\n", [-9.0, -1.0, -9.0], below[:2])[17:20] == [-1.0, -2.0, 0.0]
    assert figures.of("a = 1\n", [-9.0, -1.0, -9.0], np.zeros((0, 2)))[17:20] == [0.0, 0.0, 0.0]
