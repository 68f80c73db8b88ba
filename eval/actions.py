"""Code actions with the embedded checkpoint on 50 prepared Python files: half with a hole, half with a syntax error.

    python eval/actions.py

The files are modules of `rich`, which the checkpoint was not trained on, prepared the same way every time. For each
it is asked whether the action is offered at the right place, whether an edit comes of it, and whether it is right:
the code that was there. The last line is one JSON document; the exit code is 1 where an edit does not apply, does not
parse, or changes nothing.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dgemma_lsp.documents.documents import parsed
from dgemma_lsp.documents.edits import Rewrite, Snapshot
from dgemma_lsp.documents.text import Text
from dgemma_lsp.pipeline.actions import ActionKind, Problem, offered, rewrite
from dgemma_model.infill import Infiller
from dgemma_model.source.fill_sites import does_nothing

PLACEHOLDERS = ("pass", "...", "raise NotImplementedError", "")
MAX_BODY_LINES = 6


class Prepared(NamedTuple):
    """A file with something to be done at `cursor`, and what it was before."""

    name: str
    text: str
    cursor: int
    kind: ActionKind
    before: str
    message: str = ""


def sources() -> Iterator[tuple[str, str]]:
    """The modules of `rich`, by name, as they are installed."""
    found = importlib.util.find_spec("rich")
    assert found is not None and found.origin is not None
    for path in sorted(Path(found.origin).parent.glob("*.py")):
        text = path.read_text("utf-8")
        if 40 < text.count("\n") < 600:
            yield path.name, text


def with_hole(name: str, text: str, chance: random.Random) -> Prepared | None:
    """The file with one function's body replaced by a placeholder, or by nothing."""
    lines = text.splitlines(keepends=True)
    bodies = [
        (body[0], body[-1])
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef)
        for body in [node.body[1:] if ast.get_docstring(node) else node.body]
        if body and (body[-1].end_lineno or 0) - body[0].lineno < MAX_BODY_LINES and body[0].lineno > node.lineno
        if not does_nothing("python", ast.unparse(body[0]))
    ]
    if not bodies:
        return None
    first, last = chance.choice(bodies)
    placeholder = chance.choice(PLACEHOLDERS)
    above, below = "".join(lines[: first.lineno - 1]), "".join(lines[last.end_lineno :])
    line = " " * first.col_offset + placeholder
    return Prepared(name, f"{above}{line}\n{below}", len(above) + len(line), ActionKind.FILL, text)


def with_error(name: str, text: str, chance: random.Random) -> Prepared | None:
    """The file without one of its lines' closing bracket or colon, and with the diagnostic that Python gives."""
    lines = text.splitlines(keepends=True)
    candidates = [number for number, line in enumerate(lines) if line.rstrip().endswith((":", ")", "]"))]
    chance.shuffle(candidates)
    for number in candidates:
        line = lines[number].rstrip()
        broken = "".join([*lines[:number], line[:-1] + "\n", *lines[number + 1 :]])
        try:
            ast.parse(broken)
        except SyntaxError as error:
            at = sum(map(len, lines[:number])) + len(line) - 1
            return Prepared(name, broken, at, ActionKind.REPAIR, text, error.msg)
    return None


def prepared(count: int, seed: int) -> list[Prepared]:
    """`count` files, half of each sort."""
    chance = random.Random(seed)
    files = list(sources())
    found: list[Prepared] = []
    for make in (with_hole, with_error):
        sort: list[Prepared] = []
        while len(sort) < count // 2:
            made = make(*chance.choice(files), chance)
            if made is not None and made not in sort:
                sort.append(made)
        found += sort
    return found


def outcome(case: Prepared, infiller: Infiller) -> str:
    """What becomes of the action in one file, in a word."""
    at = parsed(Snapshot(f"file:///{case.name}", 1, "python", Text(case.text), case.cursor))
    problems = [Problem(case.cursor, case.cursor, case.message)] if case.kind is ActionKind.REPAIR else []
    action = next((found for found in offered(at, case.cursor, problems) if found.kind is case.kind), None)
    if action is None:
        return "not offered"
    *_, answer = rewrite(case.kind, at.snapshot.at(action.start), action.end, infiller)
    if not isinstance(answer, Rewrite):
        return f"refused: {answer.name}"
    after = answer.apply()
    if after == case.text:
        return "BAD: changes nothing"
    if case.kind is ActionKind.FILL and all(does_nothing("python", edit.new_text) for edit in answer.edits):
        return "BAD: holds a placeholder"
    try:
        tree = ast.parse(after)
    except SyntaxError:
        return "BAD: does not parse"
    return "right" if ast.dump(tree) == ast.dump(ast.parse(case.before)) else "edited"


def main() -> int:
    """Run with the arguments of the command line; 0 where every edit was sound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", help="a checkpoint's directory; by default the embedded one")
    arguments = parser.parse_args()
    infiller = Infiller.load(arguments.checkpoint)
    outcomes: dict[str, Counter[str]] = {}
    started = time.perf_counter()
    for case in prepared(arguments.files, arguments.seed):
        said = outcome(case, infiller)
        outcomes.setdefault(case.kind.value, Counter())[said] += 1
        print(f"{case.kind.value:10} {case.name:24} {said}", flush=True)
    print(json.dumps({"outcomes": outcomes, "seconds": round(time.perf_counter() - started, 1)}))
    return int(any(said.startswith("BAD") for counts in outcomes.values() for said in counts))


if __name__ == "__main__":
    sys.exit(main())
