"""Which text a line gets: every candidate is read by the causal head in one pass, and the judge chooses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from dgemma_model.decoding import beams
from dgemma_model.decoding.causal import LikelyTexts
from dgemma_model.decoding.plan import FillPlan
from dgemma_model.decoding.prompt_cache import OpenPrompt
from dgemma_model.decoding.verified import TextsBeside
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

RIGHT_TOKEN, RIGHT_SHARE = -0.2, 0.5
"""What the model usually says of the right text: the log-probability of a token, and the text's share."""

LEAST_ODDS = -2.0
"""Log-odds that a text of the project is right if the model finds it so, below which it is not read: one in eight."""


Surroundings = tuple[str, str, Sequence[IndexedText]]
"""The text before the hole, the text after it, and the project text."""


@dataclass(frozen=True, slots=True)
class LineCandidates:
    """Texts that may fill a line."""

    written: Sequence[str] = ()
    """Written by the model."""
    similar: Sequence[SimilarLine] = ()
    """The most similar first."""
    between: Sequence[TextBetween] = ()
    """The closest first."""
    beams: Sequence[str] = ()
    """What the head alone would write, the likeliest first."""
    left_out: frozenset[str] = frozenset()
    """Texts of the project that are not considered; the ranks of others stay as they are."""

    def texts(self) -> list[str]:
        """All of them, what is written first; none comes twice, and none of the others is very long."""
        others = (*(line.text for line in self.similar), *(each.text for each in self.between), *self.beams)
        short = (text for text in others if len(text) <= _LONGEST and text not in self.left_out)
        return list(dict.fromkeys([*self.written, *short]))

    def scored(self, around: Surroundings, likely: LikelyTexts) -> list[ScoredText]:
        """What is known of each of `texts` for a line, in their order. One pass reads those that `likely` does not
        know."""
        every = self.texts()
        likely.read(every)
        read = [likely.known[text] for text in every]
        likelihoods = torch.stack([said.sum() for said in read])
        return self._scored(around, [*map(len, read)], likelihoods.tolist(), likelihoods.softmax(0).tolist())

    def unread(self, around: Surroundings, likely: LikelyTexts) -> list[ScoredText]:
        """The same as the model would probably say of texts that are right, none of which it has read."""
        rows = [likely.row(text) for text in self.texts()]
        tokens = [len(row) - likely.forced(row) + 1 for row in rows]
        return self._scored(around, tokens, [count * RIGHT_TOKEN for count in tokens], [RIGHT_SHARE] * len(rows))

    def _scored(
        self, around: Surroundings, tokens: Sequence[int], likelihoods: Sequence[float], shares: Sequence[float]
    ) -> list[ScoredText]:
        places = {line.text: (place, line.likeness) for place, line in enumerate(self.similar)}
        ranks = {each.text: (place, each.closeness) for place, each in enumerate(self.between)}
        alone = {text: place for place, text in enumerate(self.beams)}
        found, every = [], self.texts()
        for number, standing in enumerate(occurrences(every, *around)):
            text = every[number]
            place, likeness = places.get(text, (None, 0.0))
            rank, closeness = ranks.get(text, (None, 0.0))
            found.append(
                ScoredText(
                    text=text,
                    log_probability=likelihoods[number],
                    tokens=tokens[number],
                    is_written=text in self.written,
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


class LineChoice:
    """Chooses among what was written in a line, what the causal head alone would write, and lines of the project."""

    def __init__(
        self,
        opened: OpenPrompt,
        plan: FillPlan,
        excerpt: Excerpt,
        project: Sequence[IndexedText],
        *,
        project_chars: int,
        write_alone: Callable[[], Iterator[Draft]] | None,
        judge: Judge,
    ) -> None:
        """`project_chars` counts the code points of all project text that was given. `write_alone` is a fill by the
        causal head alone, without copies; None where what is written is just that."""
        self._opened, self._plan, self._excerpt = opened, plan, excerpt
        self._around: Surroundings = (excerpt.prefix, excerpt.suffix, project)
        self._write_alone, self._judge = write_alone, judge
        self._likely = LikelyTexts(opened, one_line=True)
        self._knows_project = is_line_begun(excerpt) or project_chars >= LITTLE_ELSEWHERE
        """Whether there is enough project text for the judge to choose."""

    def beside(self) -> TextsBeside | None:
        """What the first pass of the fill reads, too: texts of the project that may be right. None where copies change
        what is written."""
        if self._write_alone is not None:
            return None
        return TextsBeside(self._likely, self._of_project.texts(), are_drafts=self._plan.drafting != "none")

    def drafts(self, draft: Draft, others: Sequence[str]) -> Iterator[Draft]:
        """Yield a draft after each further pass; the last one is the choice among `draft`, `others` and what is found.
        The prompt is cached all but perhaps its last token."""
        alone, step = list[str](), draft.step
        for passes, texts in self._alone():
            alone, draft = texts, replace(draft, step=step + passes, check=Check())
            yield draft
        options = self._options([draft.text, *others], alone)
        yield judged(draft, options, self._judge, self._plan, knows_project=self._knows_project)

    def considered(self, draft: Draft) -> list[ScoredText]:
        """What is known of every text among which `drafts` would choose."""
        alone = list[str]()
        for _, texts in self._alone():
            alone = texts
        return self._options([draft.text], alone)

    def _alone(self) -> Iterator[tuple[int, list[str]]]:
        """What the causal head alone would write, and after how many passes that is known."""
        if self._write_alone is None:
            return
        if is_line_begun(self._excerpt):
            yield from enumerate(beams.search(self._opened), start=1)
        else:
            self._opened.rewind_before_last()
            for draft in self._write_alone():
                yield draft.step, [draft.text]

    def _options(self, written: Sequence[str], alone: Sequence[str]) -> list[ScoredText]:
        """What is known of every text that may be the line."""
        return replace(self._of_project, written=written, beams=alone).scored(self._around, self._likely)

    @cached_property
    def _of_project(self) -> LineCandidates:
        """Texts of the project. Where each must be read beside what is written, they are those that may be right."""
        if self._write_alone is None and not self._knows_project:
            return LineCandidates()
        similar = similar_lines(*self._around, SIMILAR_LINES)
        between = texts_between(*self._around, TEXTS_BETWEEN)
        found = LineCandidates(similar=similar, between=between)
        if self._write_alone is not None:
            return found
        unread = found.unread(self._around, self._likely)
        return replace(
            found, left_out=frozenset(each.text for each in unread if self._judge.log_odds(each) < LEAST_ODDS)
        )
