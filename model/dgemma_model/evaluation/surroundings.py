"""What surrounds a held-out hole: the rest of its file, and the other files of its package, as an editor has them."""

from __future__ import annotations

import json
import lzma
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from dgemma_model.evaluation.held_out import Case

FILES = Path("eval/files.jsonl.xz")
NEARBY_CHARS = 200_000
"""Code points of other files, as many as the server reads."""


def in_its_file(case: Case, files: Path = FILES) -> Case:
    """The case with all of its file around it; itself where it comes from no file.

    Raises:
        ValueError: see `elsewhere_of`.
    """
    if not case.path or case.middles is None:
        return case
    before, after = _rest_of_file(case, files)
    return replace(case, prefix=before + case.prefix, suffix=case.suffix + after, is_whole=True)


def nearby_of(case: Case, files: Path = FILES) -> tuple[str, ...]:
    """`nearby` of its file; none where it comes from no file."""
    return nearby(case.path, _texts(files)) if case.path else ()


def nearby(path: str, texts: Mapping[str, str]) -> tuple[str, ...]:
    """Other files of its package among `texts` by path, those of the nearest folders last, as many as the server
    reads."""
    folders = path.split("/")[:-1]

    def distance(other: str) -> int:
        there = other.split("/")[:-1]
        common = sum(a == b for a, b in zip(folders, there, strict=False))
        return len(folders) + len(there) - 2 * common

    others = (other for other in texts if other != path and other.split("/")[0] == path.split("/")[0])
    left, near = NEARBY_CHARS, list[str]()
    for other in sorted(others, key=lambda other: (distance(other), other)):
        left -= len(texts[other])
        if left < 0:
            break
        near.append(texts[other])
    return tuple(near[::-1])


def elsewhere_of(case: Case, files: Path = FILES) -> tuple[str, ...]:
    """Texts to copy from beside what the case has, the nearest last; none where it comes from no file.

    The case's own text is not among them, so that nothing of it is given away.

    Raises:
        ValueError: the file is not among the `files`, or has another text.
    """
    if not case.path or case.middles is None:
        return ()
    before, after = _rest_of_file(case, files)
    return (*nearby_of(case, files), after, before)


def _rest_of_file(case: Case, files: Path) -> tuple[str, str]:
    """What stands before the case's text in its file, and behind it."""
    if not case.path or case.middles is None:
        return "", ""
    own = case.filled(case.middles)
    before, found, after = _texts(files).get(case.path, "").partition(own)
    if not found or own in after:
        raise ValueError(f"{case.id}: {case.path} in {files} does not hold the text of the case, or holds it twice")
    return before, after


@cache
def _texts(files: Path) -> dict[str, str]:
    """The held-out files by path; a path begins with the package's folder."""
    with lzma.open(files, "rt", encoding="utf-8") as lines:
        return {file["path"]: file["text"] for file in map(json.loads, lines)}
