"""What only a denoiser can do, against the plain writer: several holes in one canvas, repair by noising again, a whole
draft at any deadline.

    python eval/denoiser.py run rows.jsonl [--tables several,repair,deadline] [--sample 100]
    python eval/denoiser.py table rows.jsonl

The writer is the default checkpoint as it is served. The denoisers are the embedded checkpoint, and the default one
read in two directions, for which it was not trained; that is slow, so it fills a part of the cases. One thread. Times
are processor time, so that other work on the machine counts little. Rows that are in the file already are not computed
again. Intervals are of 95 %.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

from rich.console import Console
from rich.table import Table

from dgemma_lsp.command.eval_fill import parsed_of
from dgemma_lsp.command.eval_run import read_cases
from dgemma_lsp.documents.edits import Surroundings
from dgemma_lsp.pipeline.request_for import request_for
from dgemma_model.checkpoint import catalogue
from dgemma_model.decoding.time_budget import within_budget
from dgemma_model.evaluation.held_out import NOISE_LEVEL, Case
from dgemma_model.evaluation.judging import similarity, stripped
from dgemma_model.evaluation.report import paired_difference, wilson
from dgemma_model.evaluation.surroundings import in_its_file, nearby_of
from dgemma_model.infill import Infiller
from dgemma_model.request import Draft, FillRequest

WRITER, EMBEDDED = catalogue.DEFAULT, catalogue.EMBEDDED
STEPS = 8
"""Denoising steps of a canvas."""
REPAIRS = 4
"""Repairs by different noise, among which the writer chooses."""
SLOW = 10
"""One in so many cases is also filled by the default checkpoint's canvas."""
BUDGETS_MS = (10, 25, 50, 100, 200, 500)
DEADLINE_KINDS = ("line", "rest_of_line", "expression", "statement", "block")
Infillers = dict[str, Infiller]
Ways = dict[str, dict[str, Any]]
Asked = dict[str, tuple[str, dict[str, Any]]]
"""Ways to fill: which checkpoint, and what changes of the request."""


def request_of(case: Case, infiller: Infiller, **knobs: Any) -> FillRequest:
    """What the server would ask, changed by `knobs`."""
    case = in_its_file(case)
    parsed, holes = parsed_of(case)
    limit = None if case.one_line else case.max_tokens
    around = Surroundings(nearby=nearby_of(case))
    request = request_for(parsed, infiller, holes, surroundings=around, one_line=case.one_line, max_tokens=limit)
    infiller.index_ahead(request.project_text)
    return replace(request, **knobs)


def filled(case: Case, infiller: Infiller, **knobs: Any) -> Draft:
    """The last draft of a fill."""
    *_, draft = infiller.fill(request_of(case, infiller, **knobs))
    return draft


def right(case: Case, texts: Sequence[str]) -> list[bool]:
    """Which holes have the text that was there."""
    return [stripped(text) == stripped(there) for text, there in zip(texts, case.middles or (), strict=True)]


# ------------------------------------------------------------------ the tables


def several(case: Case, infillers: Infillers, *, slow: bool) -> Ways:
    """Several holes in one canvas, or one after the other; and how much of a canvas the writer would write."""
    canvas: dict[str, Any] = {"denoise": True, "together": True, "max_denoising_steps": STEPS}
    canvases: Asked = {"embedded, one canvas": (EMBEDDED, canvas)}
    canvases |= {"default, one canvas": (WRITER, canvas)} if slow else {}
    asked: Asked = {
        "writer, one after the other": (WRITER, {}),
        "embedded, one after the other": (EMBEDDED, {}),
        **canvases,
    }
    found, texts = Ways(), dict[str, Sequence[str]]()
    for way, (name, knobs) in asked.items():
        began = process_time()
        draft = filled(case, infillers[name], **knobs)
        texts[way] = draft.texts
        ms = 1000 * (process_time() - began)
        found[way] = {"right": right(case, draft.texts), "passes": draft.step, "ms": ms}
    tokens = [infillers[WRITER].count_tokens(text) + 1 for text in texts["writer, one after the other"]]
    for way in canvases:
        pairs = zip(texts["writer, one after the other"], texts[way], strict=True)
        agreed = [agreement(infillers[WRITER], written, drafted) for written, drafted in pairs]
        found[way] |= {"accepted": sum(agreed), "tokens": sum(tokens)}
    return found


def agreement(writer: Infiller, written: str, drafted: str) -> int:
    """How many tokens of `written`, its end included, a check of `drafted` would accept."""
    theirs, ours = (writer._tokenizer.encode(text) for text in (written, drafted))
    same = next((at for at, pair in enumerate(zip(theirs, ours, strict=False)) if pair[0] != pair[1]), None)
    if same is not None:
        return same
    return min(len(theirs), len(ours)) + (len(theirs) == len(ours))


def repair(case: Case, infillers: Infillers, *, slow: bool) -> Ways:
    """A damaged span: noised again, or written anew."""
    start = case.start or ("",)
    noised: dict[str, Any] = {"start": start, "noise_level": NOISE_LEVEL, "denoise": True, "max_denoising_steps": STEPS}
    writer = infillers[WRITER]
    written = filled(case, writer).text
    repairs = [filled(case, infillers[EMBEDDED], seed=seed, **noised).text for seed in range(REPAIRS)]
    excerpt = request_of(case, writer).excerpt

    def best(texts: Sequence[str]) -> str:
        different = list(dict.fromkeys(texts))
        scores = writer.score(excerpt, different)
        return different[scores.index(max(scores))]

    texts = {
        "left as it is": start[0],
        "writer, written anew": written,
        "embedded, noised again": repairs[0],
        f"embedded, {REPAIRS} repairs, the writer chooses": best(repairs),
        "those and the writer's own, the writer chooses": best([written, *repairs]),
    }
    if slow:
        texts["default, noised again"] = filled(case, writer, **noised).text
    return {way: {"right": right(case, [text])} for way, text in texts.items()}


def deadline(case: Case, infillers: Infillers, *, slow: bool) -> Ways:
    """What is there after so many milliseconds from the first pass after the prompt, which is cached, cut where it
    parses."""
    asked: Asked = {
        "writer": (WRITER, {}),
        "embedded, as it is served": (EMBEDDED, {}),
        "embedded, denoising": (EMBEDDED, {"denoise": True}),
    }
    if slow:
        asked["default, denoising"] = (WRITER, {"denoise": True, "max_denoising_steps": STEPS})
    found = Ways()
    for way, (name, knobs) in asked.items():
        request = request_of(case, infillers[name], **knobs)
        list(infillers[name].fill(replace(request, denoise=False, max_tokens=1)))
        drafts = list(timed(infillers[name].fill(request), BUDGETS_MS[-1]))
        for budget in BUDGETS_MS:
            there = at_deadline(drafts, budget, request).text
            said = {"right": right(case, [there]), "similarity": similarity(there, (case.middles or ("",))[0])}
            found[f"{budget} ms, {way}"] = said
    return {way: found[way] for way in sorted(found, key=lambda way: int(way.partition(" ")[0]))}


def timed(drafts: Iterator[Draft], longest_ms: float) -> Iterator[tuple[Draft, float]]:
    """Drafts with the processor's seconds at which each was there, until one is later than `longest_ms`."""
    started = process_time()
    for draft in drafts:
        yield draft, process_time()
        if not draft.step:
            started = process_time()
        elif 1000 * (process_time() - started) > longest_ms:
            return


def at_deadline(drafts: Sequence[tuple[Draft, float]], budget_ms: float, request: FillRequest) -> Draft:
    """What a fill with this budget would have answered."""
    now = drafts[0][1]

    def replayed() -> Iterator[Draft]:
        nonlocal now
        for draft, now in drafts:  # noqa: B007 (the clock reads it)
            yield draft

    *_, draft = within_budget(replayed(), budget_ms, request.excerpt, lambda: now)
    return draft


TABLES: dict[str, tuple[Callable[..., Ways], Sequence[str]]] = {
    "several": (several, ("several",)),
    "repair": (repair, ("repair",)),
    "deadline": (deadline, DEADLINE_KINDS),
}


def run(output: Path, tables: Sequence[str], sample: int) -> None:
    """Fill, and append a row for each case that `output` does not have yet."""
    done = {(row["table"], row["id"]) for row in read(output)} if output.exists() else set()
    infillers = {name: Infiller.load(name, "cpu") for name in (WRITER, EMBEDDED)}
    cases = read_cases(None, "fresh")
    drawn = {table: draw(cases, TABLES[table][1], sample) for table in tables}
    for number in range(sample):
        for table, some in drawn.items():
            for case in some[number : number + 1]:
                if (table, case.id) not in done:
                    ways = TABLES[table][0](case, infillers, slow=number % SLOW == 0)
                    with output.open("a") as file:
                        file.write(json.dumps({"table": table, "id": case.id, "kind": case.kind, "ways": ways}) + "\n")


def draw(cases: Sequence[Case], kinds: Sequence[str], count: int) -> list[Case]:
    """So many cases, the kinds in turn, the same ones every time."""
    rng, each = random.Random(0), -(-count // len(kinds))
    of_kinds = [[case for case in cases if case.kind == kind] for kind in kinds]
    drawn = [rng.sample(some, min(each, len(some))) for some in of_kinds]
    return [some[at] for at in range(each) for some in drawn if at < len(some)][:count]


def read(rows: Path) -> list[dict[str, Any]]:
    """The rows of a file."""
    return [json.loads(line) for line in rows.read_text("utf-8").splitlines()]


def shown(table: str, rows: Sequence[Ways]) -> Table:
    """Shares of holes that are right, and how far each way is ahead of the writer, in pairs."""
    ways = list(dict.fromkeys(way for row in rows for way in row))
    more = {"several": ["passes", "ms", "tokens that the writer accepts"], "deadline": ["similarity, %"]}.get(table, [])
    drawn = Table("", "holes", "right, %", "ahead of the writer, points", *more, title=f"{table}: {len(rows)} cases")
    for way in ways:
        plain = next(name for name in ways if name.startswith(way.rpartition("ms, ")[0]) and "writer" in name)
        known = [row for row in rows if way in row]
        flags, theirs = ([flag for row in known for flag in row[name]["right"]] for name in (way, plain))
        low, high = wilson(flags)
        ahead = "" if way == plain else "{:+.1f} ({:+.1f} to {:+.1f})".format(*paired_difference(flags, theirs))
        cells = [str(len(flags)), f"{100 * sum(flags) / len(flags):.1f} ({low:.1f} to {high:.1f})", ahead]
        if table == "several":
            cells += [f"{mean(known, way, figure):.1f}" for figure in ("passes", "ms")]
            accepts = "accepted" in known[0][way]
            share = mean(known, way, "accepted") / mean(known, way, "tokens") if accepts else 0.0
            cells.append(f"{100 * share:.1f} %" if accepts else "")
        elif table == "deadline":
            cells.append(f"{100 * mean(known, way, 'similarity'):.1f}")
        drawn.add_row(way, *cells)
    return drawn


def mean(rows: Sequence[Ways], way: str, figure: str) -> float:
    """The mean of a figure of a way."""
    return float(sum(row[way][figure] for row in rows)) / len(rows)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "table"))
    parser.add_argument("rows", type=Path)
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--sample", type=int, default=100)
    arguments = parser.parse_args()
    if arguments.command == "run":
        run(arguments.rows, arguments.tables.split(","), arguments.sample)
    rows = read(arguments.rows)
    for table in TABLES:
        some = [row["ways"] for row in rows if row["table"] == table]
        if some:
            Console(width=150).print(shown(table, some))


if __name__ == "__main__":
    main()
