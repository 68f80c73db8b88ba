"""Whether the form in which a writer is served costs quality: its greedy lines beside those of the same weights in
float32.

    python eval/shipped_form.py run MODEL.gguf ROWS.jsonl --holes 1500
    python eval/shipped_form.py table ROWS.jsonl

Holes are lines and rests of lines of `eval/fresh`, in all its languages, with the prompts that the server would send.
Both networks write greedily, without drafts and without a judge, up to the first line break. The served network writes
first. One pass of the exact network over that text tells whether it says the same; only where it does not, it goes on
writing by itself. That pass is in bfloat16 at first, which is faster. It counts where each token leads by more than ten
times the error of bfloat16 (log/products.md); float32 is asked about the others. `run` goes on where it stopped.
Intervals are of 95 %: Wilson's, and bootstrapped for the difference. Results are in log/products.md.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import torch
from drafts import CPU, request_of
from product_forms import Form, Formed, bfloat16, float32
from rich.console import Console
from rich.table import Table
from torch import Tensor

from dgemma_lsp.command.eval_run import read_cases
from dgemma_model.checkpoint import load
from dgemma_model.checkpoint.gguf.file import GgufFile
from dgemma_model.decoding.constraint import Constraint, remaining_forced
from dgemma_model.evaluation.held_out import Case
from dgemma_model.evaluation.report import paired_difference, wilson
from dgemma_model.infill import Infiller
from dgemma_model.network.cache import Cache
from dgemma_model.network.contract import CodeNetwork
from dgemma_model.network.kernels import fastest_products
from dgemma_model.network.qwen2 import Qwen2Network
from dgemma_model.prompt.format import EncodedPrompt, FillVocabulary

KINDS = ("line", "rest_of_line")
MOST_TOKENS = 48
"""Of a line; both texts are cut there."""
CLEAR = 0.1
"""Of the spread of a token's scores."""


@dataclass(frozen=True, slots=True)
class Greedy:
    """Writes the likeliest tokens that the constraint allows, up to the first line break."""

    network: CodeNetwork
    vocabulary: FillVocabulary

    def line(self, prompt: EncodedPrompt) -> list[int]:
        """The ids of a line after a prompt, the one that ends it included."""
        cache = Cache()
        return self._written(prompt, cache, self.network.encode(torch.tensor([prompt.ids]), cache), [])

    def line_like(self, prompt: EncodedPrompt, ids: list[int]) -> list[int]:
        """The same; `ids` is what it may be, and is read in one pass."""
        cache = Cache()
        hidden = self.network.encode(torch.tensor([[*prompt.ids, *ids[:-1]]]), cache)
        said = self.allowed(self.network.logits(hidden[:, len(prompt.ids) - 1 :]), prompt, []).argmax(-1)[0].tolist()
        same = next((at for at, (own, other) in enumerate(zip(said, ids, strict=True)) if own != other), len(ids))
        if same == len(ids):
            return ids
        cache.crop(len(prompt.ids) + same)
        return self._written(prompt, cache, hidden[:, : len(prompt.ids) + same], ids[:same])

    def leads(self, prompt: EncodedPrompt, ids: list[int]) -> bool:
        """Whether each of `ids` is the likeliest token after those before it, and leads by `CLEAR`."""
        hidden = self.network.encode(torch.tensor([[*prompt.ids, *ids[:-1]]]), Cache())[:, len(prompt.ids) - 1 :]
        scores = self.network.logits(hidden)[0]
        spread = scores.std(-1)
        best = self.allowed(scores[None], prompt, [])[0].topk(2)
        leads = best.values[:, 0] - best.values[:, 1] > CLEAR * spread
        return bool(leads.all()) and best.indices[:, 0].tolist() == ids

    def _written(self, prompt: EncodedPrompt, cache: Cache, hidden: Tensor, ids: list[int]) -> list[int]:
        while len(ids) < MOST_TOKENS:
            logits = self.allowed(self.network.logits(hidden[:, -1:]), prompt, ids)
            ids = [*ids, int(logits.argmax())]
            text, has_ended = self.vocabulary.read(ids, prompt.forced)
            if has_ended or "\n" in text:
                break
            hidden = self.network.encode(torch.tensor([ids[-1:]]), cache)
        return ids

    def allowed(self, logits: Tensor, prompt: EncodedPrompt, ids: list[int]) -> Tensor:
        """Logits [1, L, V] after `ids`, without tokens that may not be written there."""
        forced = remaining_forced(prompt.forced, ids, self.vocabulary.tokenizer)
        constraint = Constraint(self.vocabulary, forced, is_indent_settled=prompt.is_indent_settled)
        return constraint.apply(logits.clone())

    def text(self, prompt: EncodedPrompt, ids: list[int]) -> str:
        """The line that ids spell."""
        return self.vocabulary.read(ids, prompt.forced)[0].partition("\n")[0].rstrip()


def run(model: Path, output: Path, cases: Sequence[Case]) -> None:
    """Write the lines of the cases that `output` does not have yet, and append a row for each."""
    done = {json.loads(line)["id"] for line in output.read_text("utf-8").splitlines()} if output.exists() else set()
    checkpoint = load.load(model, CPU, torch.float32)
    infiller = Infiller(checkpoint, CPU, fastest_products(CPU))
    vocabulary = checkpoint.format.vocabulary
    served = Greedy(infiller._checkpoint.network, vocabulary)
    exact, quick = Greedy(network_of(model, float32), vocabulary), Greedy(network_of(model, bfloat16), vocabulary)
    for case in cases:
        if case.id in done or case.middles is None:
            continue
        prompt = checkpoint.format.encode(request_of(case, infiller).excerpt, infiller.prompt_tokens)
        ids = served.line(prompt)
        own = ids if quick.leads(prompt, ids) else exact.line_like(prompt, ids)
        texts = {"served": served.text(prompt, ids), "float32": exact.text(prompt, own)}
        row = {"id": case.id, "kind": kind_of(case), "language": case.language, "truth": case.middles[0]} | texts
        with output.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def drawn(count: int) -> list[Case]:
    """So many lines and rests of lines, the same ones every time."""
    cases = [case for case in read_cases(None, "fresh") if kind_of(case) in KINDS]
    return random.Random(0).sample(cases, count)


def kind_of(case: Case) -> str:
    """Without the language, which is part of the names of kinds other than Python's."""
    return case.kind.partition(".")[0]


def network_of(model: Path, form: Form) -> Qwen2Network:
    """The plain network over the file's weights, with that form of product."""
    opened = GgufFile(model)
    network = Qwen2Network(opened.config).requires_grad_(False).eval()
    network.load_state_dict({name: opened.weight(name) for name in network.state_dict()}, assign=True)
    for layer in network.decoder_layers():
        for block in (layer.self_attn, layer.mlp):
            for name, linear in list(block.named_children()):
                setattr(block, name, Formed(form, linear))
    return network


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """By kind and language: lines of both that are the author's, their difference, and lines that are the same."""
    found = Table("holes", "of", "served, % exact", "float32, % exact", "difference, points", "same text, %")
    groups = {kind: [row for row in rows if row["kind"] == kind] for kind in KINDS}
    groups |= {name: [row for row in rows if row["language"] == name] for name in sorted({r["language"] for r in rows})}
    for name, some in (groups | {"all": list(rows)}).items():
        ours, theirs = ([is_exact(row, which) for row in some] for which in ("served", "float32"))
        ahead = "{:+.1f} ({:+.1f} to {:+.1f})".format(*paired_difference(ours, theirs))
        same = [row["served"] == row["float32"] for row in some]
        found.add_row(name, str(len(some)), shown(ours), shown(theirs), ahead, shown(same))
    return found


def is_exact(row: dict[str, Any], which: str) -> bool:
    """Whether a line is the author's, but for blanks around it."""
    return bool(row[which].strip() == row["truth"].strip())


def shown(flags: Sequence[bool]) -> str:
    """How many are true, in per cent, with an interval."""
    low, high = wilson(flags)
    return f"{100 * sum(flags) / len(flags):.1f} ({low:.1f} to {high:.1f})"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    runs, tables = commands.add_parser("run"), commands.add_parser("table")
    runs.add_argument("model", type=Path)
    for command in (runs, tables):
        command.add_argument("rows", type=Path)
    runs.add_argument("--holes", type=int, default=1500, help="drawn from both kinds and all languages")
    asked = parser.parse_args()
    if asked.command == "run":
        with torch.inference_mode():
            run(asked.model, asked.rows, drawn(asked.holes))
        return
    Console(width=150).print(table([json.loads(line) for line in asked.rows.read_text("utf-8").splitlines()]))


if __name__ == "__main__":
    main()
