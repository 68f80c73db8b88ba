"""The pipeline on one page: parsed snapshot -> gate -> excerpt -> drafts -> cleanup -> syntax check -> suggestion.

It runs on the model's thread. That thread may stop reading between two passes and take the latest answer, so every
answer can be inserted as it is.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import replace
from functools import lru_cache
from itertools import islice

from dgemma_lsp import eagerness
from dgemma_lsp.documents.documents import ParsedSnapshot, is_too_complex
from dgemma_lsp.documents.edits import NO_SURROUNDINGS, Edit, NoSuggestion, Snapshot, Suggestion, Surroundings
from dgemma_lsp.pipeline import cleanup, insertion
from dgemma_lsp.pipeline.checks import _objections, mends_nothing
from dgemma_lsp.pipeline.fill_kind import fill_kind
from dgemma_lsp.pipeline.infiller import InfillerLike
from dgemma_lsp.pipeline.request_for import request_for
from dgemma_lsp.settings import Settings
from dgemma_model.request import Draft

_SHORTER = 2
"""How many shorter beginnings of an unfinished draft are tried if it does not parse."""


def suggest(
    parsed: ParsedSnapshot,
    infiller: InfillerLike,
    settings: Settings,
    *,
    invoked: bool,
    variant: int = 0,
    names: bool = True,
    surroundings: Surroundings = NO_SURROUNDINGS,
    notebook: ParsedSnapshot | None = None,
) -> Generator[Suggestion | NoSuggestion, None, None]:
    """Yield the best answer so far after each pass; the last one is the answer.

    With `invoked` the user asked: comments, strings and low scores are then no obstacle. A `variant` other than 0 asks
    the model for another candidate. Without `names`, a suggestion may use names that the document does not define. The
    same holds for a cell of a `notebook`, which is the whole notebook as the model sees it; the `surroundings` are then
    the notebook's. Raises what `infiller` raises.
    """
    snapshot, tree = parsed
    if (reason := why_disabled(snapshot, infiller.languages, settings)) is not None:
        yield reason
        return
    if not invoked and is_too_complex(parsed):
        yield NoSuggestion.TOO_COMPLEX
        return
    watch = _Stopwatch()
    kind = fill_kind(
        tree,
        snapshot.source,
        snapshot.offset,
        comments=invoked or settings.in_comments,
        strings=invoked or settings.in_strings,
    )
    if isinstance(kind, NoSuggestion):
        yield kind
        return
    place = insertion.place_at(snapshot.source, snapshot.offset, one_line=kind.one_line, deleted=surroundings.deleted)
    seen = parsed if notebook is None else notebook
    request = request_for(seen, infiller, surroundings=surroundings, one_line=place.one_line, variant=variant)
    objection = _objections(parsed, names=names, invoked=invoked, in_notebook=notebook is not None)
    watch.lap("context_ms")

    @lru_cache(maxsize=1)  # a step may well change nothing
    def insertable(text: str, complete: bool) -> Edit | NoSuggestion:
        edit = cleanup.clean(text, place, complete=complete, automatic=not invoked)
        if isinstance(edit, NoSuggestion) or (reason := objection(edit)) is None:
            return edit
        for part in () if complete else islice(cleanup.shorter(cleanup.drop_ragged_end(text)), _SHORTER):
            edit = cleanup.clean(part, place, complete=True, automatic=not invoked)
            if isinstance(edit, Edit) and objection(edit) is None:
                return edit
        return reason

    usual, strict = (eagerness.threshold(infiller.threshold, name) for name in (settings.eagerness, "low"))

    @lru_cache(maxsize=2)
    def is_unsure(score: float, edit: Edit) -> bool:
        return score < usual or (score < strict and mends_nothing(parsed, edit))

    best: Suggestion | NoSuggestion = NoSuggestion.EMPTY
    for draft in infiller.fill(request):
        watch.lap("model_ms")
        answer: Suggestion | NoSuggestion
        is_over = not kind.one_line and _is_settled(draft) and cleanup.is_past_block(draft.text, place)
        edit = insertable(draft.text, draft.complete or is_over)
        watch.lap("check_ms")
        if isinstance(edit, NoSuggestion):
            answer = edit
        elif not invoked and is_unsure(draft.score, edit):
            answer = NoSuggestion.LOW_CONFIDENCE
        else:
            answer = Suggestion(snapshot, edit, draft.score, draft.step, trace=dict(watch.ms))
        if draft.done or is_over or isinstance(answer, Suggestion) or isinstance(best, NoSuggestion):
            best = answer
        yield best
        if is_over:
            return


def _is_settled(draft: Draft) -> bool:
    """Whether later drafts only add to its text."""
    return bool(draft.tokens) and all(token.settled for token in draft.tokens[0])


def candidates(
    parsed: ParsedSnapshot,
    infiller: InfillerLike,
    settings: Settings,
    count: int,
    *,
    surroundings: Surroundings = NO_SURROUNDINGS,
    notebook: ParsedSnapshot | None = None,
) -> Generator[Suggestion | NoSuggestion, None, None]:
    """Up to `count` suggestions that differ, for a user who asked: the best one, with the others in it.
    `surroundings` and `notebook` as in `suggest`."""
    found: list[Suggestion] = []
    answer: Suggestion | NoSuggestion = NoSuggestion.EMPTY
    for variant in range(count):
        latest: Suggestion | NoSuggestion = NoSuggestion.EMPTY
        for latest in suggest(
            parsed, infiller, settings, invoked=True, variant=variant, surroundings=surroundings, notebook=notebook
        ):
            yield answer if found else latest
        if isinstance(latest, Suggestion) and latest.edit not in [other.edit for other in found]:
            found.append(latest)
        elif not found:
            answer = latest
        if found:
            answer = replace(found[0], others=tuple(other.edit for other in found[1:]))
        elif latest in _HOPELESS:
            break
        yield answer


_HOPELESS = (NoSuggestion.DISABLED, NoSuggestion.LANGUAGE, NoSuggestion.IN_WORD)


def why_disabled(snapshot: Snapshot, languages: frozenset[str] | None, settings: Settings) -> NoSuggestion | None:
    """Why nothing is done in this document, or None. `languages` are those that the checkpoint knows, None for all."""
    if not settings.enabled or snapshot.language in settings.disabled_languages:
        return NoSuggestion.DISABLED
    known = languages if settings.languages is None else settings.languages
    if known is not None and snapshot.language not in known:
        return NoSuggestion.LANGUAGE
    return None


class _Stopwatch:
    """Milliseconds per stage, summed over the steps."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Add the time since the last lap to `stage`."""
        now = time.perf_counter()
        self.ms[stage] = self.ms.get(stage, 0.0) + 1000 * (now - self._last)
        self._last = now
