"""What surrounds the held-out holes."""

from __future__ import annotations

import hashlib
import json
import lzma
from dataclasses import replace

import pytest

from dgemma_model.evaluation.held_out import (
    FILES,
    SETS,
    Case,
    HeldOutSet,
    case_of,
    read_holes,
    read_set,
)
from dgemma_model.evaluation.surroundings import NEARBY_CHARS, in_its_file, nearby, nearby_of, project_text_of

HOLES = read_holes()


@pytest.mark.parametrize("held_out", SETS.values(), ids=SETS)
def test_every_case_is_in_its_file_and_the_project_text_is_the_rest(held_out: HeldOutSet) -> None:
    with lzma.open(held_out.files, "rt", encoding="utf-8") as lines:
        files = [json.loads(line) for line in lines]
    texts = {file["path"]: file["text"] for file in files}
    digests = {path: hashlib.sha256(text.encode()).hexdigest() for path, text in texts.items()}
    assert all(digests[hole.path] == hole.sha256 for hole in read_holes(held_out.holes))
    for case in read_set(held_out):
        assert case.middles is not None
        *others, after, before = project_text_of(case)
        assert before + case.filled(case.middles) + after == texts[case.path]
        assert texts[case.path] not in others and sum(map(len, others)) <= NEARBY_CHARS
        whole = in_its_file(case)
        assert whole.is_whole and whole.filled(case.middles) == texts[case.path] and whole.id == case.id
        assert nearby_of(whole) == tuple(others)


def test_files_of_the_same_folder_are_nearest() -> None:
    case = next(case_of(hole) for hole in HOLES if hole.path.startswith("networkx/algorithms/flow/"))
    *others, _, _ = project_text_of(case)
    with lzma.open(FILES, "rt", encoding="utf-8") as lines:
        path_of = {file["text"]: file["path"] for file in map(json.loads, lines)}
    paths = [path_of[text] for text in others]
    assert paths[-1].startswith("networkx/algorithms/flow/") and all(path.startswith("networkx/") for path in paths)
    same = [path.startswith("networkx/algorithms/flow/") for path in paths]
    assert same == sorted(same)


def test_files_of_other_packages_and_with_other_endings_are_not_near() -> None:
    texts = {path: path for path in ("a/x.go", "a/y.go", "a/deep/z.go", "a/run.sh", "b/x.go")}
    assert nearby("a/x.go", texts) == ("a/deep/z.go", "a/y.go")


def test_a_case_of_no_file_is_alone_and_one_of_another_text_is_refused() -> None:
    alone = Case("a", "line", "x = ", "\n", ("1",))
    assert project_text_of(alone) == nearby_of(alone) == ()
    assert in_its_file(alone) == alone
    case = case_of(HOLES[0])
    with pytest.raises(ValueError, match="does not hold the text"):
        project_text_of(replace(case, prefix=case.prefix + "?"))
    with pytest.raises(ValueError, match="nowhere"):
        project_text_of(replace(case, path="nowhere.py"))
