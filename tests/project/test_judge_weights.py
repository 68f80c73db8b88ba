"""The judge's weights belong to the embedded checkpoint: on held-out holes they do what they are for."""

from __future__ import annotations

import random

from model_fixtures import EMBEDDED_JUDGE

from dgemma_lsp.command.eval_fill import parsed_of
from dgemma_lsp.documents.edits import Surroundings
from dgemma_lsp.pipeline import context
from dgemma_model.evaluation.held_out import case_of, read_holes
from dgemma_model.evaluation.surroundings import in_its_file, nearby_of
from dgemma_model.infill import Infiller
from dgemma_model.request import FillRequest
from dgemma_model.source.excerpt import ExcerptBudget

COUNT = 160


def test_what_is_judged_likely_right_is_right_and_more_often_than_what_was_written() -> None:
    infiller = Infiller.load(None, "cpu", cache_bytes=0)
    judge = EMBEDDED_JUDGE
    holes = [hole for hole in read_holes() if hole.kind in ("line", "rest_of_line", "expression")]
    taken, written = list[tuple[float, bool]](), 0
    for hole in random.Random(3).sample(holes, COUNT):
        case = in_its_file(case_of(hole))
        parsed, at = parsed_of(case)
        around = Surroundings(nearby=nearby_of(case))
        seen = context.view(parsed, at, ExcerptBudget.within(infiller.prompt_tokens), around)
        infiller.index_ahead(seen.project_text)
        options = infiller.considered(FillRequest(seen.excerpt, seen.project_text, one_line=True))
        right = hole.middle.rstrip()
        best = max(options, key=lambda reading: judge.log_odds(reading))
        taken.append((judge.log_odds(best), best.text.rstrip() == right))
        written += options[0].text.rstrip() == right
    good, bad = ([odds for odds, is_right in taken if is_right is wanted] for wanted in (True, False))
    assert len(good) >= written > COUNT // 20
    ordered = sum(a > b for a in good for b in bad) / (len(good) * len(bad))
    assert ordered > 0.75, f"a right text is judged likelier than a wrong one in {ordered:.0%} of pairs"
