"""The committed holes of packages that training never saw, and two further kinds that are cut from them.

There are two sets. The packages of `classic` are unknown to the embedded checkpoint, but pretrained models have read
them. Those of `fresh` were first published in 2025 or later (`eval/fresh/packages.json`).
"""

from __future__ import annotations

import json
import lzma
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dgemma_model.evaluation.cases import QUIET_FILE, QuietCase, Task


@dataclass(frozen=True, slots=True)
class HeldOutSet:
    """Held-out cases that belong together. A file whose name ends in `.xz` is compressed."""

    holes: Path
    """JSON lines with the fields of `HeldOutHole`."""
    several: Path
    """JSON lines with the fields of `SeveralHoles`."""
    files: Path
    """Where the cases come from, and what surrounds them: JSON lines with `package`, `path` and `text`; compressed."""
    quiet: tuple[Path, ...]
    """Cursors at which nothing should be shown (see `read_quiet`)."""


FRESH = Path("eval/fresh")
SETS = {
    "classic": HeldOutSet(
        Path("eval/holes.jsonl"), Path("eval/several_holes.jsonl"), Path("eval/files.jsonl.xz"), (QUIET_FILE,)
    ),
    "fresh": HeldOutSet(
        FRESH / "holes.jsonl.xz",
        FRESH / "several_holes.jsonl.xz",
        FRESH / "files.jsonl.xz",
        (QUIET_FILE, FRESH / "quiet.md"),
    ),
}
CLASSIC = "classic"
HOLES_FILE = SETS[CLASSIC].holes
SEVERAL_FILE = SETS[CLASSIC].several
FILES = SETS[CLASSIC].files

COMMITTED_KINDS = ("line", "rest_of_line", "expression", "statement", "block", "span", "empty")
SHOWN_KINDS = ("line", "rest_of_line", "expression", "mid_token")
"""Where an editor should show something, for its user is writing just this."""
ONE_LINE_KINDS = frozenset({*SHOWN_KINDS, "empty", "several", "repair"})
"""What the server asks to be filled with one line; statements and blocks are filled by code actions."""

MID_TOKEN_COUNT = REPAIR_COUNT = 100
NOISE_LEVEL = 0.5
"""Share of a corrupted text that is drawn again."""
_CORRUPTED = 0.25
"""Share of the words of a line that are replaced by others."""
_NEARBY_CHARS = 400
_SEED = 0

_WORD = re.compile(r"\w+|[^\w\s]")
_NAME = re.compile(r"[^\W\d]\w{3,}")


@dataclass(frozen=True, slots=True)
class HeldOutHole:
    """One hole of a package that training never saw."""

    id: int
    kind: str
    package: str
    licence: str
    path: str
    sha256: str
    """Of the whole file."""
    prefix: str
    middle: str
    suffix: str
    language: str = "python"


@dataclass(frozen=True, slots=True)
class SeveralHoles:
    """A piece of a file of a package that training never saw, with several one-line holes in it:
    `prefix middles[0] between[0] middles[1] ... suffix`."""

    id: int
    package: str
    licence: str
    path: str
    sha256: str
    """Of the whole file."""
    prefix: str
    middles: list[str]
    between: list[str]
    suffix: str


@dataclass(frozen=True, slots=True)
class Case:
    """A text with holes in it: `prefix HOLE between[0] HOLE ... suffix`."""

    id: str
    kind: str
    prefix: str
    suffix: str
    middles: tuple[str, ...] | None = None
    """What was in the holes, where that is known."""
    between: tuple[str, ...] = ()
    start: tuple[str, ...] | None = None
    """The present texts of the holes, to be repaired."""
    task: Task | None = None
    """What judges a fill by tests."""
    language: str = "python"
    one_line: bool | None = False
    """A fill ends with its line; None if only its text can tell."""
    max_tokens: int = 160
    """Most tokens of a fill of several lines; no committed hole has as many."""
    is_whole: bool = False
    """The text is a whole file, so that every name in it is defined in it."""
    path: str = ""
    """The held-out file that it was cut from."""
    files: Path = FILES
    """What holds that file."""

    @property
    def holes(self) -> int:
        """How many."""
        return len(self.between) + 1

    def filled(self, texts: Sequence[str]) -> str:
        """The text with these fills in its holes."""
        between = (*self.between, self.suffix)
        return self.prefix + "".join(text + after for text, after in zip(texts, between, strict=True))


def read_holes(path: Path = HOLES_FILE) -> list[HeldOutHole]:
    """The committed holes."""
    return [HeldOutHole(**fields) for fields in json_lines(path)]


def read_several(path: Path = SEVERAL_FILE) -> list[SeveralHoles]:
    """The committed cases with several holes."""
    return [SeveralHoles(**fields) for fields in json_lines(path)]


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines; a name that ends in `.xz` is compressed."""
    with (lzma.open if path.suffix == ".xz" else open)(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def read_set(held_out: HeldOutSet) -> list[Case]:
    """Every case of a set that is cut from a file: its holes, cursors inside names, several holes, and repairs.

    Raises:
        OSError: a file cannot be read.
    """
    holes = read_holes(held_out.holes)
    cases = [
        *map(case_of, holes),
        *mid_token_cases(holes),
        *map(case_of_several, read_several(held_out.several)),
        *repair_cases(holes),
    ]
    return [replace(case, files=held_out.files) for case in cases]


def case_of(hole: HeldOutHole) -> Case:
    """A committed hole as a case. Holes of other languages than Python are kinds of their own: `line.rust`."""
    return Case(
        f"hole/{hole.id}",
        hole.kind if hole.language == "python" else f"{hole.kind}.{hole.language}",
        hole.prefix,
        hole.suffix,
        (hole.middle,),
        language=hole.language,
        one_line=hole.kind in ONE_LINE_KINDS,
        path=hole.path,
    )


def case_of_several(holes: SeveralHoles) -> Case:
    """A committed case with several holes."""
    return Case(
        f"several/{holes.id}",
        "several",
        holes.prefix,
        holes.suffix,
        tuple(holes.middles),
        tuple(holes.between),
        one_line=True,
        path=holes.path,
    )


def case_of_task(task: Task) -> Case:
    """A task of the committed programs as a case."""
    return replace(_case_of_task(task), kind=f"tests_{task.kind}", one_line=task.kind == "line", is_whole=True)


def case_of_outside_task(task: Task, *, one_line: bool | None, max_tokens: int) -> Case:
    """A task of anybody's as a case; of its file, it may be just a piece."""
    return replace(_case_of_task(task), one_line=one_line, max_tokens=max_tokens)


def _case_of_task(task: Task) -> Case:
    return Case(
        task.id,
        task.kind or "task",
        task.prefix,
        task.suffix,
        (task.middle,) if task.middle else None,
        task=task if task.test else None,
        language=task.language,
    )


def case_of_quiet(quiet: QuietCase) -> Case:
    """A cursor at which nothing should be shown."""
    return Case(quiet.id, "quiet", quiet.prefix, quiet.suffix, language=quiet.language, is_whole=True)


def mid_token_cases(holes: Sequence[HeldOutHole], count: int = MID_TOKEN_COUNT) -> list[Case]:
    """Lines with the cursor inside a name that is being written: the rest of the line is missing, the name's end
    included. The same for the same holes."""
    rng = random.Random(_SEED)
    cases: list[Case] = []
    lines = _python_lines(holes)
    for hole in rng.sample(lines, len(lines)):
        names = list(_NAME.finditer(hole.middle))
        if names and len(cases) < count:
            name = rng.choice(names)
            at = rng.randrange(name.start() + 1, name.end())
            written, missing = hole.middle[:at], hole.middle[at:]
            cases.append(
                Case(
                    f"mid_token/{hole.id}",
                    "mid_token",
                    hole.prefix + written,
                    hole.suffix,
                    (missing,),
                    one_line=True,
                    path=hole.path,
                )
            )
    return cases


def repair_cases(holes: Sequence[HeldOutHole], count: int = REPAIR_COUNT) -> list[Case]:
    """Lines some of whose words are replaced by others from the text before them. The same for the same holes."""
    rng = random.Random(_SEED)
    cases: list[Case] = []
    lines = [hole for hole in _python_lines(holes) if len(_WORD.findall(hole.middle)) >= 4]
    for hole in rng.sample(lines, len(lines)):
        start = corrupted(hole.middle, hole.prefix[-_NEARBY_CHARS:], rng)
        if start != hole.middle and len(cases) < count:
            cases.append(
                Case(
                    f"repair/{hole.id}",
                    "repair",
                    hole.prefix,
                    hole.suffix,
                    (hole.middle,),
                    start=(start,),
                    one_line=True,
                    path=hole.path,
                )
            )
    return cases


def _python_lines(holes: Sequence[HeldOutHole]) -> list[HeldOutHole]:
    return [hole for hole in holes if hole.kind == "line" and hole.language == "python"]


def corrupted(text: str, nearby: str, rng: random.Random) -> str:
    """`text` with a quarter of its words, at least one, replaced by other words of the same sort from `nearby`."""
    words = list(_WORD.finditer(text))
    chosen = rng.sample(words, max(1, round(_CORRUPTED * len(words)))) if words else []
    for word in sorted(chosen, key=lambda word: -word.start()):
        is_name = word[0].isidentifier()
        others = [o for o in _WORD.findall(nearby) if o != word[0] and o.isidentifier() == is_name]
        if others:
            text = text[: word.start()] + rng.choice(others) + text[word.end() :]
    return text
