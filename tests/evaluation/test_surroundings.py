"""What surrounds the held-out holes."""

from __future__ import annotations

import hashlib
import json
import lzma
from dataclasses import replace

import pytest

from dgemma_model.evaluation.held_out import (
    SEVERAL_FILE,
    Case,
    case_of,
    case_of_several,
    mid_token_cases,
    read_holes,
    read_several,
    repair_cases,
)
from dgemma_model.evaluation.surroundings import FILES, NEARBY_CHARS, elsewhere_of, in_its_file, nearby_of

HOLES = read_holes()


def test_every_case_stands_in_its_file_and_what_is_elsewhere_is_the_rest_of_it() -> None:
    with lzma.open(FILES, "rt", encoding="utf-8") as lines:
        files = [json.loads(line) for line in lines]
    texts = {file["path"]: file["text"] for file in files}
    digests = {path: hashlib.sha256(text.encode()).hexdigest() for path, text in texts.items()}
    assert all(digests[hole.path] == hole.sha256 for hole in HOLES)
    several = map(case_of_several, read_several(SEVERAL_FILE))
    for case in [*map(case_of, HOLES), *mid_token_cases(HOLES), *several, *repair_cases(HOLES)]:
        assert case.middles is not None
        *others, after, before = elsewhere_of(case)
        assert before + case.filled(case.middles) + after == texts[case.path]
        assert texts[case.path] not in others and sum(map(len, others)) <= NEARBY_CHARS
        whole = in_its_file(case)
        assert whole.is_whole and whole.filled(case.middles) == texts[case.path] and whole.id == case.id
        assert nearby_of(whole) == tuple(others)


def test_files_of_the_same_folder_are_nearest() -> None:
    case = next(case_of(hole) for hole in HOLES if hole.path.startswith("networkx/algorithms/flow/"))
    *others, _, _ = elsewhere_of(case)
    with lzma.open(FILES, "rt", encoding="utf-8") as lines:
        path_of = {file["text"]: file["path"] for file in map(json.loads, lines)}
    paths = [path_of[text] for text in others]
    assert paths[-1].startswith("networkx/algorithms/flow/") and all(path.startswith("networkx/") for path in paths)
    same = [path.startswith("networkx/algorithms/flow/") for path in paths]
    assert same == sorted(same)


def test_a_case_of_no_file_is_alone_and_one_of_another_text_is_refused() -> None:
    alone = Case("a", "line", "x = ", "\n", ("1",))
    assert elsewhere_of(alone) == nearby_of(alone) == ()
    assert in_its_file(alone) == alone
    case = case_of(HOLES[0])
    with pytest.raises(ValueError, match="does not hold the text"):
        elsewhere_of(replace(case, prefix=case.prefix + "?"))
    with pytest.raises(ValueError, match="nowhere"):
        elsewhere_of(replace(case, path="nowhere.py"))
