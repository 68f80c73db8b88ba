"""The one place where a `FillRequest` is put together: for suggestions, actions, evaluation and the command line.

How a fill is done (verified or denoised, with which drafts, in how many steps) is the checkpoint's policy, so it is not
set here. `WatchedInfiller` and the ways of `eval` override it for users who name another way.

A request has no time budget here, either. In an editor the worker has the deadline: it stops reading drafts and takes
the latest answer, which `suggest` has made insertable. `FillRequest.budget_ms` is for the command line, where nobody
stops reading: there the model cuts the last draft itself (`decoding.time_budget`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dgemma_lsp.documents.documents import ParsedSnapshot
from dgemma_lsp.documents.edits import NO_SURROUNDINGS, Surroundings
from dgemma_lsp.documents.masking import with_secrets_hidden
from dgemma_lsp.pipeline.context import Span, view
from dgemma_lsp.pipeline.fill_kind import ends_with_line
from dgemma_lsp.pipeline.infiller import InfillerLike
from dgemma_model.request import FillRequest
from dgemma_model.source.excerpt import ExcerptBudget
from dgemma_model.source.fill_sites import HoleContent

CURSOR_TOKENS = 96
"""Most tokens of what is written at a cursor."""
_TOKENS = {
    HoleContent.BLOCK: 96,
    HoleContent.LINE: 32,
    HoleContent.EXPRESSION: 16,
    HoleContent.TYPE: 12,
    HoleContent.PROSE: 24,
}
"""Most tokens of a hole of an action, by what it takes."""


def request_for(
    parsed: ParsedSnapshot,
    infiller: InfillerLike,
    holes: Sequence[Span] | None = None,
    *,
    surroundings: Surroundings = NO_SURROUNDINGS,
    contents: Sequence[HoleContent] = (),
    one_line: bool | None = None,
    max_tokens: int | None = None,
    start: tuple[str, ...] | None = None,
    noise_level: float = 1.0,
    variant: int = 0,
) -> FillRequest:
    """The request to fill `holes` of a document, by default one at its cursor.

    `contents` says what each hole takes, where that is known. Then it decides whether the fill ends with its line, and
    how long it may be. Otherwise the syntax at the cursor decides the first, unless `one_line` does, and `max_tokens`
    the second. `start` and `noise_level` are those of `FillRequest`.

    Candidates are asked for one by one: a `variant` other than 0 is another seed. Checkpoints that denoise then
    denoise, because a verified fill is the same for every seed. Others begin with another token
    (`FillPlan.alternative`).
    """
    if one_line is None:
        if contents:
            one_line = len(contents) == 1 and contents[0] is not HoleContent.BLOCK
        else:
            one_line = ends_with_line(parsed.tree, parsed.snapshot.source, parsed.snapshot.offset)
    if max_tokens is None:
        max_tokens = max((_TOKENS[content] for content in contents), default=CURSOR_TOKENS)
    if infiller.sends_text:
        snapshot = parsed.snapshot
        places = holes or [(snapshot.offset, snapshot.offset)]
        parsed = parsed._replace(snapshot=replace(snapshot, source=with_secrets_hidden(snapshot.source, places)))
    seen = view(parsed, holes, ExcerptBudget.within(infiller.prompt_tokens), surroundings)
    return FillRequest(
        seen.excerpt,
        seen.project_text if infiller.uses_project_text else (),
        one_line=one_line,
        max_tokens=max_tokens,
        start=start,
        noise_level=noise_level,
        verify=False if variant else None,
        seed=variant,
    )
