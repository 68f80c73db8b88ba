"""What surrounds a held-out hole: the rest of its file, and the other files of its package, as an editor has them."""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePath

from dgemma_model.evaluation.held_out import Case

NEARBY_CHARS = 200_000
"""Code points of other files, as many as the server reads."""


def in_its_file(case: Case) -> Case:
    """The case with all of its file around it; itself where it comes from no file.

    Raises:
        ValueError: see `project_text_of`.
    """
    if not case.path or case.middles is None:
        return case
    before, after = _rest_of_file(case)
    return replace(case, prefix=before + case.prefix, suffix=case.suffix + after, is_whole=True)


def nearby_of(case: Case) -> tuple[str, ...]:
    """`nearby` of its file; none where it comes from no file."""
    return nearby(case.path, _texts(case.files)) if case.path else ()


def nearby(path: str, texts: Mapping[str, str]) -> tuple[str, ...]:
    """Other files of its package and with its ending among `texts` by path, those of the nearest folders last, as many
    as the server reads."""
    folders = path.split("/")[:-1]

    def distance(other: str) -> int:
        there = other.split("/")[:-1]
        common = sum(a == b for a, b in zip(folders, there, strict=False))
        return len(folders) + len(there) - 2 * common

    def belongs(other: str) -> bool:
        return other.split("/")[0] == path.split("/")[0] and PurePath(other).suffix == PurePath(path).suffix

    others = (other for other in texts if other != path and belongs(other))
    left, near = NEARBY_CHARS, list[str]()
    for other in sorted(others, key=lambda other: (distance(other), other)):
        left -= len(texts[other])
        if left < 0:
            break
        near.append(texts[other])
    return tuple(near[::-1])


def project_text_of(case: Case) -> tuple[str, ...]:
    """Texts to copy from beside what the case has, the nearest last; none where it comes from no file.

    The case's own text is not among them, so that nothing of it is given away.

    Raises:
        ValueError: the file is not among `case.files`, or has another text.
    """
    if not case.path or case.middles is None:
        return ()
    before, after = _rest_of_file(case)
    return (*nearby_of(case), after, before)


def _rest_of_file(case: Case) -> tuple[str, str]:
    """The text before the case's own in its file, and the text after it."""
    if not case.path or case.middles is None:
        return "", ""
    own = case.filled(case.middles)
    before, found, after = _texts(case.files).get(case.path, "").partition(own)
    if not found or own in after:
        raise ValueError(f"{case.id}: {case.path} in {case.files} does not hold the text of the case just once")
    return before, after


@cache
def _texts(files: Path) -> dict[str, str]:
    """The held-out files by path; a path begins with the package's folder."""
    with lzma.open(files, "rt", encoding="utf-8") as lines:
        return {file["path"]: file["text"] for file in map(json.loads, lines)}
