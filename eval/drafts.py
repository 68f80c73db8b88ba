"""What drafts save: passes and time of the same fills with different drafts, on held-out holes.

    python eval/drafts.py run drafts.jsonl [--drafter FILE] [--sample 60] [--kinds line,block,tests_line]
    python eval/drafts.py run drafts.jsonl --own-layers RUN
    python eval/drafts.py table drafts.jsonl
    python eval/drafts.py retold drafts.jsonl
    python eval/drafts.py same drafts.jsonl

Each hole is filled as the server fills it, with its prompt cached, on one thread, in all ways in turn. Texts must be
the same in all of them. Times are processor time, so that other work on the machine counts little. `writing` is all
that comes before the choice among texts, which drafts leave as it is. Intervals are of 95 %, bootstrapped over holes.
`--own-layers` drafts with what `train.drafter.own_layers` trained, by torch's operations: its time tells little.
`retold` reckons what the embedded model would save as the drafter: its first denoised draft, in the writer's tokens.
`same` counts fills whose text another way changed, and those of them that are near-ties: where the texts part, the
scores of the two tokens are closer than what int8 rounds away.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

import torch
import torch.nn.functional as F  # noqa: N812 (the field's usual name)
from rich.console import Console
from rich.table import Table

from dgemma_lsp.command.eval_run import read_cases
from dgemma_lsp.command.opened import opened
from dgemma_lsp.documents.edits import Surroundings
from dgemma_lsp.pipeline.request_for import request_for
from dgemma_model.checkpoint import load, selection
from dgemma_model.checkpoint.config import read_json
from dgemma_model.checkpoint.contract import Checkpoint
from dgemma_model.checkpoint.converted import ORIGIN
from dgemma_model.checkpoint.drafters.stored import read_drafter
from dgemma_model.decoding.causal import next_token_logits
from dgemma_model.evaluation.held_out import Case
from dgemma_model.evaluation.surroundings import in_its_file, nearby_of
from dgemma_model.infill import Infiller
from dgemma_model.network.cache import Cache
from dgemma_model.network.contract import Proposal
from dgemma_model.network.kernels import fastest_products
from dgemma_model.network.qwen2_served import ServedQwen2
from dgemma_model.network.state_drafter_served import DRAFTED
from dgemma_model.request import FillRequest
from dgemma_model.train.drafter import own_layers
from dgemma_model.train.drafter.fit import ReadTexts

CPU = torch.device("cpu")
WAYS = ("none", "copied", "denoised", "both")
KINDS = ("line", "rest_of_line", "expression", "statement", "block", "tests_line", "tests_block")
RETOLD = 7
"""Tokens of a draft of the embedded model that a pass checks."""
RESAMPLED = 2000
ROUNDED = 0.081
"""The error of int8 scores, by the spread of the scores (log/products.md)."""


def writer(drafter: Path | None = None, run: Path | None = None) -> Checkpoint:
    """The default checkpoint, with the drafter in that file, or the one that `own_layers` trained in that folder."""
    found = load.load(selection.find("qwen2.5-coder-0.5b", "cpu"), CPU, torch.float32, lambda share: None)
    if drafter is not None:
        assert isinstance(found.network, ServedQwen2)
        network = read_drafter(drafter, found.network, read_json(found.directory / ORIGIN)["sha256"])
        found = replace(found, network=network.writer, drafter=network)
    return found if run is None else replace(found, drafter=OwnLayersDrafter(run, found))


class OwnLayersDrafter:
    """The layers of the writer with trained terms, as a `DrafterNetwork`."""

    def __init__(self, run: Path, checkpoint: Checkpoint) -> None:
        """`run` is the folder of their training."""
        assert isinstance(checkpoint.network, ServedQwen2)
        network = own_layers.plain(checkpoint.network, torch.bfloat16)
        trainer = own_layers.Trainer(run, network, ReadTexts(run, network.config.head_dim))
        trainer.layers.load_state_dict(trainer.average, strict=False)
        self._layers, self._head, self._texts = trainer.layers, trainer.head, trainer.texts

    @torch.inference_mode()
    def draft(self, cache: Cache, token: int) -> Proposal:
        """See `DrafterNetwork`; as many tokens as a drafter that is served drafts."""
        hidden = self._layers(cache, torch.tensor([cache.length - 1]), DRAFTED)[0]
        before, ids, likely = int(self._texts.index[token]), list[int](), list[float]()
        for scores in F.linear(hidden, self._head).float():
            told = scores + self._layers.after @ self._layers.before[before]
            chance, best = told.softmax(-1).max(-1)
            before = int(best)
            ids.append(int(self._texts.ids[before]))
            likely.append(float(chance))
        return Proposal(ids, likely)


def chosen(held_out: str, kinds: Sequence[str], sample: int) -> list[Case]:
    """So many cases of each kind, the same ones every time, the kinds in turn."""
    rng, cases = random.Random(0), read_cases(None, held_out)
    of_kinds = [[case for case in cases if case.kind == kind and case.holes == 1] for kind in kinds]
    drawn = [rng.sample(some, min(sample, len(some))) for some in of_kinds]
    return [some[at] for at in range(sample) for some in drawn if at < len(some)]


def request_of(case: Case, infiller: Infiller) -> FillRequest:
    """What the server would ask."""
    case = in_its_file(case)
    parsed, holes = opened((case.prefix, case.suffix), case.language)
    limit = None if case.one_line else case.max_tokens
    request = request_for(
        parsed,
        infiller,
        holes,
        surroundings=Surroundings(nearby=nearby_of(case)),
        one_line=case.one_line,
        max_tokens=limit,
    )
    infiller.index_ahead(request.project_text)
    return request


def measured(infiller: Infiller, request: FillRequest) -> dict[str, Any]:
    """One fill: its text, passes and milliseconds."""
    began = process_time()
    passes, writing, text, tokens = 0, 0.0, "", 0
    for draft in infiller.fill(request):
        if draft.step > passes:
            passes, writing, text = draft.step, process_time() - began, draft.text
            tokens = len(draft.tokens[0])
    whole = process_time() - began
    return {"passes": passes, "tokens": tokens, "text": text, "writing": 1000 * writing, "whole": 1000 * whole}


def run(output: Path, cases: Sequence[Case], infiller: Infiller, ways: Sequence[str]) -> None:
    """Fill the cases that `output` does not have yet, and append a line for each."""
    done = {json.loads(line)["id"] for line in output.read_text("utf-8").splitlines()} if output.exists() else set()
    for number, case in enumerate(cases):
        if case.id in done:
            continue
        request = request_of(case, infiller)
        measured(infiller, replace(request, drafting="none", max_tokens=1))
        turned = [*ways[number % len(ways) :], *ways[: number % len(ways)]]
        found = {way: measured(infiller, replace(request, drafting=way)) for way in turned}
        with output.open("a") as file:
            file.write(json.dumps({"id": case.id, "kind": case.kind, "ways": found}) + "\n")


def retold(rows: Sequence[dict[str, Any]], cases: Sequence[Case], checkpoint: Checkpoint) -> Table:
    """Tokens a pass if the embedded model drafts before each pass but the first, and the milliseconds of a draft."""
    embedded, tokenizer = Infiller.load("embedded", "cpu"), checkpoint.tokenizer
    pairs, spent, drafts = list[tuple[float, float]](), 0.0, 0
    of_ids = {case.id: case for case in cases}
    for row in rows:
        request = request_of(of_ids[row["id"]], embedded)
        ids = tokenizer.encode(row["ways"]["none"]["text"])
        written, passes = 1, 1
        while written < len(ids):
            so_far = tokenizer.decode(ids[:written])
            excerpt = replace(request.excerpt, prefix=request.excerpt.prefix + so_far)
            asked = FillRequest(excerpt, one_line=request.one_line, verify=False, max_denoising_steps=1)
            began = process_time()
            *_, draft = embedded.fill(asked)
            spent, drafts = spent + process_time() - began, drafts + 1
            proposed = tokenizer.encode(so_far + draft.text)[written : written + RETOLD]
            agreed = 0
            while ids[written + agreed : written + agreed + 1] == proposed[agreed : agreed + 1] != []:
                agreed += 1
            written, passes = written + agreed + 1, passes + 1
        pairs.append((max(len(ids), 1), passes))
    table = Table("tokens a pass", "ms a draft", title=f"the embedded model's first draft, {len(rows)} holes")
    table.add_row("{:.2f} ({:.2f} to {:.2f})".format(*ratio(pairs)), f"{1000 * spent / max(1, drafts):.1f}")
    return table


def same(rows: Sequence[dict[str, Any]], cases: Sequence[Case], infiller: Infiller) -> Iterator[str]:
    """Of each way with drafts: fills, those with another text than token by token, and how many of these are
    near-ties; and each of these texts."""
    of_ids = {case.id: case for case in cases}
    for way in (way for way in rows[0]["ways"] if way != "none"):
        others = [row for row in rows if row["ways"][way]["text"] != row["ways"]["none"]["text"]]
        gaps = [
            gap(of_ids[row["id"]], row["ways"]["none"]["text"], row["ways"][way]["text"], infiller) for row in others
        ]
        near = sum(found < ROUNDED for found in gaps)
        yield f"{way}: {len(rows)} fills, {len(others)} with another text, {near} of them near-ties"
        for row, found in zip(others, gaps, strict=True):
            yield f"{row['id']}: {row['ways']['none']['text']!r} {row['ways'][way]['text']!r} {found:.3f} of the spread"


def gap(case: Case, first: str, second: str, infiller: Infiller) -> float:
    """How far apart the scores of the two tokens are at which two fills part, by the spread of all scores there."""
    tokenizer = infiller._tokenizer
    with infiller._prompted(request_of(case, infiller).excerpt) as opened, torch.inference_mode():
        healed = opened.prompt.forced.decode("utf-8", "replace")
        ids = [[*tokenizer.encode(healed + text), tokenizer.end_id] for text in (first, second)]
        common = next(at for at, (a, b) in enumerate(zip(*ids, strict=False)) if a != b)
        logits, paths = next_token_logits(opened.cached, opened.prompt.ids, [ids[0][:common]])
        scores = logits[paths[0][-1]]
        return float((scores[ids[0][common]] - scores[ids[1][common]]).abs() / scores.std())


def ratio(pairs: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """The sum of the first numbers by that of the second ones, and its interval."""
    rng = random.Random(0)

    def of(some: Sequence[tuple[float, float]]) -> float:
        return sum(a for a, _ in some) / max(1e-9, sum(b for _, b in some))

    drawn = sorted(of(rng.choices(pairs, k=len(pairs))) for _ in range(RESAMPLED))
    return of(pairs), drawn[RESAMPLED // 40], drawn[-RESAMPLED // 40]


def tables(rows: Sequence[dict[str, Any]]) -> Iterator[Table]:
    """By kind: tokens a pass, time of writing and of whole fills compared with token by token, milliseconds a token,
    and fills with another text."""
    ways = list(rows[0]["ways"])
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    for kind in (*kinds, "all"):
        some = [row["ways"] for row in rows if kind in (row["kind"], "all")]
        table = Table(
            "drafts", "tokens a pass", "writing, of token by token", "whole fill, of token by token", "ms a token",
            "other texts", title=f"{kind}: {len(some)}",
        )  # fmt: skip
        for way in sorted(ways, key=WAYS.index):
            cells = [
                ratio([(row["none"]["passes"], row[way]["passes"]) for row in some]),
                ratio([(row[way]["writing"], row["none"]["writing"]) for row in some]),
                ratio([(row[way]["whole"], row["none"]["whole"]) for row in some]),
                ratio([(row[way]["writing"], row["none"]["passes"]) for row in some]),
            ]
            other = sum(row[way]["text"] != row["none"]["text"] for row in some)
            formats = (".2f", ".2f", ".2f", ".1f")
            shown = (f"{a:{f}} ({b:{f}} to {c:{f}})" for (a, b, c), f in zip(cells, formats, strict=True))
            table.add_row(way, *shown, str(other))
        yield table


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "table", "retold", "same"))
    parser.add_argument("rows", type=Path)
    parser.add_argument("--drafter", type=Path)
    parser.add_argument("--own-layers", type=Path)
    parser.add_argument("--set", default="fresh")
    parser.add_argument("--sample", type=int, default=60)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--ways", default=",".join(WAYS))
    arguments = parser.parse_args()
    if arguments.command == "run":
        infiller = Infiller(writer(arguments.drafter, arguments.own_layers), CPU, fastest_products(CPU))
        cases = chosen(arguments.set, arguments.kinds.split(","), arguments.sample)
        run(arguments.rows, cases, infiller, arguments.ways.split(","))
    rows = [json.loads(line) for line in arguments.rows.read_text("utf-8").splitlines()]
    if arguments.command == "retold":
        cases = read_cases(None, arguments.set)
        Console().print(retold(rows, cases, writer()))
        return
    if arguments.command == "same":
        for line in same(rows, read_cases(None, arguments.set), Infiller(writer(), CPU, fastest_products(CPU))):
            print(line)
        return
    for table in tables(rows):
        Console(width=150).print(table)


if __name__ == "__main__":
    main()
