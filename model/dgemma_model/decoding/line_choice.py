"""Which text a line gets: every candidate is read by the causal head in one pass, and the judge chooses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from dgemma_model.decoding import beams
from dgemma_model.decoding.causal import fill_log_probabilities
from dgemma_model.decoding.plan import FillPlan
from dgemma_model.decoding.prompt_cache import OpenPrompt
from dgemma_model.project.judge import Judge, ScoredText
from dgemma_model.project.similar_lines import SimilarLine, similar_lines
from dgemma_model.project.text_index import IndexedText
from dgemma_model.project.texts_between import TextBetween, occurrences, texts_between
from dgemma_model.request import Candidate, Check, Draft, DraftToken, Excerpt

SIMILAR_LINES, TEXTS_BETWEEN = 4, 2
"""How many similar lines, and how many texts between the same words, are considered."""


LITTLE_ELSEWHERE = 4_000
"""Code points of project text, at least, for the judge to choose a whole line."""


_LONGEST = 300
"""Most code points of a text from the project."""


Surroundings = tuple[str, str, Sequence[IndexedText]]
"""The text before the hole, the text after it, and the project text."""


@dataclass(frozen=True, slots=True)
class LineCandidates:
    """Texts that may fill a line."""

    written: Sequence[str]
    """Written by the model."""
    similar: Sequence[SimilarLine] = ()
    """The most similar first."""
    between: Sequence[TextBetween] = ()
    """The closest first."""
    beams: Sequence[str] = ()
    """What the head alone would write, the likeliest first."""


def readings(opened: OpenPrompt, texts: LineCandidates, around: Surroundings) -> list[ScoredText]:
    """What is known of each of `texts` for a line; none comes twice. One pass reads all of them."""
    places = {line.text: (place, line.likeness) for place, line in enumerate(texts.similar)}
    ranks = {each.text: (place, each.closeness) for place, each in enumerate(texts.between)}
    alone = {text: place for place, text in enumerate(texts.beams)}
    short = [text for text in (*places, *ranks, *alone) if len(text) <= _LONGEST]
    every = list(dict.fromkeys([*texts.written, *short]))
    read = fill_log_probabilities(opened, every, one_line=True)
    likelihoods = torch.stack([said.sum() for said in read])
    shares = likelihoods.softmax(0).tolist()
    found = []
    for number, standing in enumerate(occurrences(every, *around)):
        text = every[number]
        place, likeness = places.get(text, (None, 0.0))
        rank, closeness = ranks.get(text, (None, 0.0))
        found.append(
            ScoredText(
                text=text,
                log_probability=float(likelihoods[number]),
                tokens=len(read[number]),
                is_written=text in texts.written,
                similar=place,
                likeness=likeness,
                between=rank,
                closeness=closeness,
                beam=alone.get(text),
                occurrences=standing,
                share=shares[number],
            )
        )
    return found


def is_line_begun(excerpt: Excerpt) -> bool:
    """Whether the line of the (single) hole has other text."""
    return bool((excerpt.prefix.rpartition("\n")[2] + excerpt.suffix.partition("\n")[0]).strip())


def judged(draft: Draft, options: Sequence[ScoredText], judge: Judge, plan: FillPlan, *, knows_project: bool) -> Draft:
    """The draft with the text that is most likely right among `options`, which include its own; with the best ones as
    `candidates` if the plan wants several.

    The judge was fitted to projects. Without `knows_project` there is hardly any project text, and the causal head
    chooses instead.
    """
    best, *_ = ordered = sorted(
        options, key=lambda each: -(judge.log_odds(each) if knows_project else each.log_probability)
    )
    if plan.candidates > 1:
        found = tuple(Candidate(each.text, each.log_probability) for each in ordered[: plan.candidates])
        draft = replace(draft, candidates=found)
    if best.text != draft.text:
        confidence = math.exp(best.log_probability / best.tokens)
        shown = (DraftToken(best.text, confidence, settled=True, drafted_by="judge"),)
        draft = replace(draft, texts=(best.text,), complete=True, tokens=(shown,), check=Check())
    return replace(draft, score=judge.score(best))


@dataclass(frozen=True, slots=True)
class LineChoice:
    """Chooses among what was written in a line, what the causal head alone would write, and lines of the project."""

    opened: OpenPrompt
    plan: FillPlan
    excerpt: Excerpt
    project: Sequence[IndexedText]
    project_chars: int
    """Code points of all project text that was given."""
    write_alone: Callable[[], Iterator[Draft]] | None
    """A fill by the causal head alone, without copies; None where what is written is just that."""
    judge: Judge

    def drafts(self, draft: Draft, others: Sequence[str]) -> Iterator[Draft]:
        """Yield a draft after each further pass; the last one is the choice among `draft`, `others` and what is found.
        The prompt is cached all but perhaps its last token."""
        alone, step = list[str](), draft.step
        for passes, texts in self._alone():
            alone, draft = texts, replace(draft, step=step + passes, check=Check())
            yield draft
        if self.write_alone is None and not self.knows_project:
            options = self._options([draft.text], (), with_project=False)
        else:
            options = self._options([draft.text, *others], alone)
        yield judged(draft, options, self.judge, self.plan, knows_project=self.knows_project)

    def considered(self, draft: Draft) -> list[ScoredText]:
        """What is known of every text among which `drafts` would choose."""
        alone = list[str]()
        for _, texts in self._alone():
            alone = texts
        return self._options([draft.text], alone)

    def _alone(self) -> Iterator[tuple[int, list[str]]]:
        """What the causal head alone would write, and after how many passes that is known."""
        if self.write_alone is None:
            return
        if is_line_begun(self.excerpt):
            yield from enumerate(beams.search(self.opened), start=1)
        else:
            self.opened.rewind_before_last()
            for draft in self.write_alone():
                yield draft.step, [draft.text]

    @property
    def knows_project(self) -> bool:
        """Whether there is enough project text for the judge to choose."""
        return is_line_begun(self.excerpt) or self.project_chars >= LITTLE_ELSEWHERE

    def _options(self, written: Sequence[str], alone: Sequence[str], *, with_project: bool = True) -> list[ScoredText]:
        """What is known of every text that may be the line; without the project, of what was written only."""
        around = self.excerpt.prefix, self.excerpt.suffix, self.project
        if not with_project:
            return readings(self.opened, LineCandidates(written), around)
        similar, between = similar_lines(*around, SIMILAR_LINES), texts_between(*around, TEXTS_BETWEEN)
        return readings(self.opened, LineCandidates(written, similar, between, alone), around)
