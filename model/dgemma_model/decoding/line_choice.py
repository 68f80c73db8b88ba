"""Chooses the text of a line: the causal head reads all candidates in one pass, and the judge takes the best."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from dgemma_model.decoding import beams
from dgemma_model.decoding.causal import TextLikelihoods
from dgemma_model.decoding.plan import FillPlan
from dgemma_model.decoding.prompt_cache import OpenPrompt
from dgemma_model.decoding.verified import BranchTexts
from dgemma_model.project.judge import Judge, ScoredText
from dgemma_model.project.similar_lines import SimilarLine, similar_lines
from dgemma_model.project.text_index import IndexedText
from dgemma_model.project.texts_between import TextBetween, occurrences, texts_between
from dgemma_model.request import Candidate, Check, Draft, DraftToken, Excerpt

SIMILAR_LINES, TEXTS_BETWEEN = 4, 2
"""Most similar lines, and most texts between the same words, that are candidates."""

ENOUGH_PROJECT_CHARS = 4_000
"""Code points of project text from which on the judge, and not the causal head, chooses a whole line."""

_LONGEST = 300
"""A text from the project that is longer, in code points, is no candidate."""

RIGHT_TOKEN, RIGHT_SHARE = -0.2, 0.5
"""Usual figures of the right text: the log-probability of a token in nats, and the text's share of all likelihood."""

LEAST_ODDS = -2.0
"""A text of the project is not read if its log-odds are lower even with the usual figures of a right text: one in
eight."""

HoleContext = tuple[str, str, Sequence[IndexedText]]
"""The text before the hole, the text after it, and the project text."""


@dataclass(frozen=True, slots=True)
class LineCandidates:
    """Texts that may fill a line."""

    written: Sequence[str] = ()
    """Texts that the model wrote."""
    similar: Sequence[SimilarLine] = ()
    """Lines of the project in similar surroundings, the most similar first."""
    between: Sequence[TextBetween] = ()
    """Texts of the project between the same words, the closest first."""
    beams: Sequence[str] = ()
    """Texts that the causal head alone finds likeliest, the likeliest first."""
    left_out: frozenset[str] = frozenset()
    """Texts of the project that are no candidates after all. They still count in the ranks of the others."""

    def texts(self) -> list[str]:
        """All candidates without repetitions, those that the model wrote first. Long texts of others are left out."""
        others = (*(line.text for line in self.similar), *(each.text for each in self.between), *self.beams)
        short = (text for text in others if len(text) <= _LONGEST and text not in self.left_out)
        return list(dict.fromkeys([*self.written, *short]))

    def scored(self, around: HoleContext, likelihoods: TextLikelihoods) -> list[ScoredText]:
        """The figures of each of `texts`, in their order. One pass reads those that `likelihoods` does not know yet."""
        every = self.texts()
        likelihoods.read(every)
        each = [likelihoods.known[text] for text in every]
        totals = torch.stack([log_probabilities.sum() for log_probabilities in each])
        return self._scored(around, [*map(len, each)], totals.tolist(), totals.softmax(0).tolist())

    def scored_as_right(self, around: HoleContext, likelihoods: TextLikelihoods) -> list[ScoredText]:
        """The same without reading any: each gets the usual likelihood and share of a right text."""
        rows = [likelihoods.row(text) for text in self.texts()]
        tokens = [len(row) - likelihoods.forced_count(row) + 1 for row in rows]
        return self._scored(around, tokens, [count * RIGHT_TOKEN for count in tokens], [RIGHT_SHARE] * len(rows))

    def _scored(
        self, around: HoleContext, tokens: Sequence[int], log_probabilities: Sequence[float], shares: Sequence[float]
    ) -> list[ScoredText]:
        places = {line.text: (place, line.likeness) for place, line in enumerate(self.similar)}
        ranks = {each.text: (place, each.closeness) for place, each in enumerate(self.between)}
        alone = {text: place for place, text in enumerate(self.beams)}
        found, every = [], self.texts()
        for number, counts in enumerate(occurrences(every, *around)):
            text = every[number]
            place, likeness = places.get(text, (None, 0.0))
            rank, closeness = ranks.get(text, (None, 0.0))
            found.append(
                ScoredText(
                    text=text,
                    log_probability=log_probabilities[number],
                    tokens=tokens[number],
                    is_written=text in self.written,
                    similar=place,
                    likeness=likeness,
                    between=rank,
                    closeness=closeness,
                    beam=alone.get(text),
                    occurrences=counts,
                    share=shares[number],
                )
            )
        return found


def is_line_begun(excerpt: Excerpt) -> bool:
    """Whether the line of the (single) hole has text before or after the hole."""
    return bool((excerpt.prefix.rpartition("\n")[2] + excerpt.suffix.partition("\n")[0]).strip())


def judged(draft: Draft, options: Sequence[ScoredText], judge: Judge, plan: FillPlan, *, knows_project: bool) -> Draft:
    """The draft with the best text of `options`, which include its own. It has `candidates` if the plan wants several.

    The best is the one that the judge finds most likely right. The judge was fitted on holes with project text; without
    `knows_project` the likeliest text by the causal head is taken instead.
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
    """Chooses the text of one line among the written one, texts of the project, and the causal head's own."""

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
        """`project_chars` is the length of all project text of the request, in code points.

        `write_alone` fills by the causal head alone. It is None if the written text is that already, because no copies
        are mixed into its probabilities.
        """
        self._opened, self._plan, self._excerpt = opened, plan, excerpt
        self._around: HoleContext = (excerpt.prefix, excerpt.suffix, project)
        self._write_alone, self._judge = write_alone, judge
        self._likelihoods = TextLikelihoods(opened, one_line=True)
        self._knows_project = is_line_begun(excerpt) or project_chars >= ENOUGH_PROJECT_CHARS
        """Whether there is enough project text for the judge to choose."""

    def branch_texts(self) -> BranchTexts | None:
        """Texts of the project that may be right, for the first pass of the fill to read as well. None if copies are
        mixed in: then the fill's own passes do not tell what the causal head alone finds likely."""
        if self._write_alone is not None:
            return None
        return BranchTexts(self._likelihoods, self._of_project.texts(), are_drafts=self._plan.drafting != "none")

    def drafts(self, draft: Draft, others: Sequence[str]) -> Iterator[Draft]:
        """Yield a draft after each further pass; the last one has the text that was chosen.

        `draft` is the written fill, `others` are further texts. All of the prompt but perhaps its last token is cached.
        """
        alone, step = list[str](), draft.step
        for passes, texts in self._alone():
            alone, draft = texts, replace(draft, step=step + passes, check=Check())
            yield draft
        options = self._options([draft.text, *others], alone)
        yield judged(draft, options, self._judge, self._plan, knows_project=self._knows_project)

    def considered(self, draft: Draft) -> list[ScoredText]:
        """The figures of every text among which `drafts` would choose, for fitting the judge."""
        alone = list[str]()
        for _, texts in self._alone():
            alone = texts
        return self._options([draft.text], alone)

    def _alone(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the number of passes and the causal head's own texts so far, after each pass."""
        if self._write_alone is None:
            return
        if is_line_begun(self._excerpt):
            yield from enumerate(beams.search(self._opened), start=1)
        else:
            self._opened.rewind_before_last()
            for draft in self._write_alone():
                yield draft.step, [draft.text]

    def _options(self, written: Sequence[str], alone: Sequence[str]) -> list[ScoredText]:
        """The figures of all candidates."""
        return replace(self._of_project, written=written, beams=alone).scored(self._around, self._likelihoods)

    @cached_property
    def _of_project(self) -> LineCandidates:
        """Candidates from the project. If they are read as branches of the fill, only those that may be right."""
        if self._write_alone is None and not self._knows_project:
            return LineCandidates()
        similar = similar_lines(*self._around, SIMILAR_LINES)
        between = texts_between(*self._around, TEXTS_BETWEEN)
        found = LineCandidates(similar=similar, between=between)
        if self._write_alone is not None:
            return found
        unread = found.scored_as_right(self._around, self._likelihoods)
        return replace(
            found, left_out=frozenset(each.text for each in unread if self._judge.log_odds(each) < LEAST_ODDS)
        )
