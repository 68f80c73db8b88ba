"""What surrounds a held-out hole: the rest of its file, and the other files of its package, as an editor has them."""

from __future__ import annotations

import json
import lzma
from functools import cache
from pathlib import Path

from dgemma_model.evaluation.held_out import Case

FILES = Path("eval/files.jsonl.xz")
NEARBY_CHARS = 200_000
"""Code points of other files, as many as the server reads."""


def elsewhere_of(case: Case, files: Path = FILES) -> tuple[str, ...]:
    """Texts to copy from beside what the case has, the nearest last; none where it comes from no file.

    The case's own text is not among them, so that nothing of it is given away.

    Raises:
        ValueError: the file is not among the `files`, or has another text.
    """
    if not case.path or case.middles is None:
        return ()
    texts = _texts(files)
    own = case.filled(case.middles)
    before, found, after = texts.get(case.path, "").partition(own)
    if not found or own in after:
        raise ValueError(f"{case.id}: {case.path} in {files} does not hold the text of the case, or holds it twice")
    left, near = NEARBY_CHARS, list[str]()
    for text in (texts[path] for path in _nearest(case.path, files)):
        left -= len(text)
        if left < 0:
            break
        near.append(text)
    return (*near[::-1], after, before)


@cache
def _texts(files: Path) -> dict[str, str]:
    """The held-out files by path; a path begins with the package's folder."""
    with lzma.open(files, "rt", encoding="utf-8") as lines:
        return {file["path"]: file["text"] for file in map(json.loads, lines)}


@cache
def _nearest(path: str, files: Path) -> list[str]:
    """The other files of the package, those of the same folder first."""
    folders = path.split("/")[:-1]

    def distance(other: str) -> int:
        there = other.split("/")[:-1]
        common = sum(a == b for a, b in zip(folders, there, strict=False))
        return len(folders) + len(there) - 2 * common

    others = (other for other in _texts(files) if other != path and other.split("/")[0] == folders[0])
    return sorted(others, key=lambda other: (distance(other), other))
