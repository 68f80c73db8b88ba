"""One case of an evaluation: filled as the server would fill it, and what the server would offer there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

from dgemma_lsp.command.opened import fill_task, opened
from dgemma_lsp.documents.documents import ParsedSnapshot
from dgemma_lsp.documents.edits import NO_SURROUNDINGS, NoSuggestion, Suggestion, Surroundings
from dgemma_lsp.pipeline.request_for import request_for
from dgemma_lsp.pipeline.suggest import suggest
from dgemma_lsp.settings import Settings
from dgemma_model.evaluation import execution
from dgemma_model.evaluation.baselines import baseline_texts
from dgemma_model.evaluation.held_out import (
    NOISE_LEVEL,
    Case,
)
from dgemma_model.evaluation.judging import Fill
from dgemma_model.evaluation.report import QUIET
from dgemma_model.evaluation.surroundings import in_its_file, nearby_of, project_text_of
from dgemma_model.request import Draft, FillRequest, InfillError

if TYPE_CHECKING:
    from dgemma_model.infill import Infiller


Overrides = Mapping[str, Any]
"""The fields of a `FillRequest` by which a way to fill overrides the checkpoint's policy."""


ALONE = ("alone",)
"""Ways that know nothing of the rest of the file, nor of other files."""


class OneWayInfiller:
    """An infiller that is always asked in one way. It keeps its last answer, because the pipeline asks the same
    again."""

    def __init__(self, infiller: Infiller, overrides: Overrides) -> None:
        self.name, self.device, self.languages = infiller.name, infiller.device, infiller.languages
        self.threshold, self.prompt_tokens, self.uses_project_text = (
            infiller.threshold,
            infiller.prompt_tokens,
            infiller.uses_project_text,
        )
        self.sends_text, self.reviewer = infiller.sends_text, infiller.reviewer
        self._infiller, self._overrides = infiller, overrides
        self._answered: tuple[FillRequest, Draft] | None = None

    def fill(self, request: FillRequest) -> Iterator[Draft]:
        """See `InfillerLike`; of an answer that is known, the end."""
        request = replace(request, **self._overrides)
        if self._answered is not None and self._answered[0] == request:
            yield self._answered[1]
            return
        for draft in self._infiller.fill(request):
            self._answered = (request, draft)
            yield draft


def fill_case(
    case: Case, way: str, overrides: Overrides | None, infiller: Infiller, *, unconfined: bool = False
) -> Fill:
    """Fill one case, whose prompt is not cached, run its tests, and see what the server would offer.

    `unconfined` says that tests may run where nothing confines them; see `execution.run`.
    """
    if overrides is None:
        texts = baseline_texts(case, way, project_text_of(case))
        return Fill(case, texts, passed=_passed(case, texts, unconfined=unconfined))
    asked = OneWayInfiller(infiller, overrides)
    if way not in ALONE:
        case = in_its_file(case)
    parsed, holes = parsed_of(case)
    surroundings = NO_SURROUNDINGS
    if way not in ALONE:
        surroundings = Surroundings(nearby=nearby_of(case))
        infiller.index_ahead(request_for(parsed, infiller, holes, surroundings=surroundings).project_text)
    fill = Fill(case, ("",) * case.holes)
    try:
        if case.kind != QUIET:
            fill = _filled(fill, asked, parsed, surroundings, holes, starts=overrides.get("verify") is not True)
        if case.holes == 1 and case.start is None:
            proposed, is_offered = _proposed(asked, parsed, surroundings, names=case.is_whole)
            fill = replace(fill, proposed=proposed, is_offered=is_offered)
    except InfillError as error:
        return replace(fill, failure=str(error))
    return replace(fill, passed=_passed(case, fill.texts, unconfined=unconfined))


def parsed_of(case: Case) -> tuple[ParsedSnapshot, list[tuple[int, int]]]:
    """The case as an open document with the cursor in its first hole, and where all its holes are."""
    return opened((case.prefix, *case.between, case.suffix), case.language)


def _filled(
    fill: Fill,
    asked: OneWayInfiller,
    parsed: ParsedSnapshot,
    surroundings: Surroundings,
    holes: list[tuple[int, int]],
    *,
    starts: bool,
) -> Fill:
    """Fill the case. With `starts`, a text to be repaired is denoised from its present form, not written anew."""
    case = fill.case
    start = case.start if starts else None

    def ask(ends_with_line: bool) -> FillRequest:
        return request_for(
            parsed,
            asked,
            holes,
            surroundings=surroundings,
            one_line=ends_with_line,
            max_tokens=None if ends_with_line else case.max_tokens,
            start=start,
            noise_level=1.0 if start is None else NOISE_LEVEL,
        )

    started = perf_counter()
    draft = fill_task(asked, ask, case.one_line)
    return replace(
        fill,
        texts=draft.texts,
        ms=1000 * (perf_counter() - started),
        passes=draft.step,
        revised=draft.revised,
        score=draft.score,
    )


def _proposed(
    asked: OneWayInfiller, parsed: ParsedSnapshot, surroundings: Surroundings, *, names: bool
) -> tuple[str | None, bool]:
    """The document with what the server's pipeline would insert, and whether it shows that unasked."""

    def answer() -> Suggestion | NoSuggestion:
        *_, last = suggest(parsed, asked, Settings(), invoked=False, names=names, surroundings=surroundings)
        return last

    offered = said = answer()
    if said is NoSuggestion.LOW_CONFIDENCE:
        asked.threshold = float("-inf")
        said = answer()
    proposed = said.edit.apply(parsed.snapshot.text) if isinstance(said, Suggestion) else None
    return proposed, isinstance(offered, Suggestion)


def _passed(case: Case, texts: Sequence[str], *, unconfined: bool) -> bool | None:
    return execution.run(case.task, texts[0], unconfined=unconfined).passed if case.task is not None else None
