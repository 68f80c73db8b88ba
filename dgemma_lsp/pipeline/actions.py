"""Code actions: what can be done at a place, found without the model, and how it is computed when it is chosen."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import islice
from operator import lt
from urllib.parse import urlsplit

from dgemma_lsp.documents.documents import ParsedSnapshot, is_too_complex, parsed_whole
from dgemma_lsp.documents.edits import (
    NO_SURROUNDINGS,
    Edit,
    NoSuggestion,
    Rewrite,
    Snapshot,
    Surroundings,
    apply_all,
)
from dgemma_lsp.documents.text import Text
from dgemma_lsp.pipeline import cleanup, insertion, proofreading
from dgemma_lsp.pipeline.infiller import InfillerLike
from dgemma_lsp.pipeline.request_for import request_for
from dgemma_lsp.pipeline.scaffold import groups, scaffold, shift_of
from dgemma_model.request import InfillError
from dgemma_model.source import fill_sites, placeholders, syntax, templates
from dgemma_model.source.fill_sites import HoleContent, Site
from dgemma_model.source.python_parser import finds_fault
from dgemma_model.source.syntax import SyntaxTree

VARIANTS = 3
"""How often the model is asked before an action gives up: as its checkpoint would have it, then by other seeds."""

REPAIR_NOISE = (0.1, 0.3, None)
"""Share of a span that a repair draws again, try by try; None writes all of it anew. Figures: log/archive.md."""
_MAX_REVISED_CHARS = 120
"""A longer span is written anew: it would not fit into a canvas."""

_STUBS = (".pyi", ".d.ts", ".d.mts", ".d.cts")
_MAX_TITLE_CHARS = 72
_MOST_BLANKS = 600
"""After the end of what is repaired."""


class ActionKind(Enum):
    """What can be asked for; the values travel through clients, and are the commands' names."""

    FILL = "fillHole"
    FILL_ALL = "fillAllHoles"
    REWRITE = "rewriteSelection"
    REPAIR = "repair"
    DOCSTRING = "addDocstring"
    ANNOTATE = "addTypeAnnotations"
    ARGUMENTS = "addMissingArguments"
    TRY = "wrapInTryExcept"
    PROOFREAD = "proofread"


@dataclass(frozen=True, slots=True)
class Problem:
    """A diagnostic of another server."""

    start: int
    end: int
    message: str


@dataclass(frozen=True, slots=True)
class Action:
    """Something that can be done to `text[start:end]` of a document."""

    kind: ActionKind
    title: str
    start: int
    end: int
    problem: int | None = None
    """Which of the given problems it repairs."""


def offered(
    parsed: ParsedSnapshot, end: int, problems: Sequence[Problem] = (), *, proofreads: bool = False
) -> list[Action]:
    """What can be done to a document between its cursor and `end`. Asks no model. `proofreads` tells whether there is
    one that finds wrong words."""
    snapshot, tree = parsed
    start = snapshot.offset
    if tree is None:
        return []
    actions = [
        Action(ActionKind.REPAIR, _shortened(f"Repair: {problem.message}"), problem.start, problem.end, number)
        for number, problem in enumerate(problems)
        if lt(*fill_sites.unit_around(tree, problem.start, problem.end))
    ]
    placeholder = _placeholder_at(snapshot, tree, start, end)
    if placeholder is not None:
        actions.append(Action(ActionKind.FILL, f"Fill this hole ({placeholder[0]})", start, end))
    if len(list(islice(_unfinished(snapshot, tree), 2))) == 2:
        actions.append(Action(ActionKind.FILL_ALL, "Fill all holes in this file", start, end))
    if start < end and fill_sites.selected_unit(tree, start, end) is not None:
        actions.append(Action(ActionKind.REWRITE, "Rewrite selection", start, end))
    if snapshot.language != "python":
        return actions
    if proofreads and start == end and proofreading.function_at(tree, start) is not None:
        actions.append(Action(ActionKind.PROOFREAD, "Look for a wrong word in this function", start, end))
    if start < end and templates.try_except(tree, start, end) is not None:
        actions.append(Action(ActionKind.TRY, "Wrap in try/except", start, end))
    if templates.missing_docstring(tree, start) is not None:
        actions.append(Action(ActionKind.DOCSTRING, "Add docstring", start, end))
    if templates.missing_annotations(tree, start):
        actions.append(Action(ActionKind.ANNOTATE, "Add type annotations", start, end))
    if (site := templates.missing_arguments(tree, start)) is not None:
        names = ", ".join(piece.strip(" ,=") for piece in site.pieces[:-1])
        actions.append(Action(ActionKind.ARGUMENTS, _shortened(f"Add missing arguments ({names})"), start, end))
    return actions


def rewrite(
    kind: ActionKind,
    snapshot: Snapshot,
    end: int,
    infiller: InfillerLike,
    surroundings: Surroundings = NO_SURROUNDINGS,
) -> Generator[Rewrite | NoSuggestion, None, None]:
    """Do `kind` to a document between its cursor and `end`; the last value is the result.

    A result parses no worse than the document does, changes it, and holds no mere placeholder. Runs on the model's
    thread, which may stop reading between two denoising steps. Raises what `infiller` raises.
    """
    parsed = parsed_whole(snapshot)
    tree = parsed.tree
    if kind is ActionKind.PROOFREAD and tree is not None:
        yield from proofreading.proofread(snapshot, tree, infiller)
        return
    candidates = list(_candidates(kind, snapshot, tree, end)) if tree is not None else []
    if tree is None or not candidates:
        yield NoSuggestion.TOO_COMPLEX if is_too_complex(parsed) else NoSuggestion.NOTHING_HERE
        return
    errors = syntax.error_count(tree)
    wanted = errors - 1 if kind is ActionKind.REPAIR and _is_broken(tree, candidates) else errors
    reason, steps = NoSuggestion.NOTHING_BETTER, 0
    for variant in range(VARIANTS):
        noise = REPAIR_NOISE[variant] if kind is ActionKind.REPAIR else None
        for sites in candidates:
            edits, taken = yield from _filled(sites, snapshot, surroundings, infiller, variant, noise)
            steps += taken
            after = apply_all(snapshot.text, edits)
            if after == snapshot.text:
                continue
            if not _parses(snapshot.language, after, wanted) or _is_refused(snapshot, after, edits):
                reason = NoSuggestion.UNPARSEABLE
                continue
            yield Rewrite(snapshot, edits, steps)
            return
    yield reason


def _candidates(kind: ActionKind, snapshot: Snapshot, tree: SyntaxTree, end: int) -> Iterator[Sequence[Site]]:
    """The ways to do something, each a number of sites that are changed together; the best first."""
    start = snapshot.offset
    match kind:
        case ActionKind.FILL:
            if (placeholder := _placeholder_at(snapshot, tree, start, end)) is not None:
                yield [placeholder[1]]
        case ActionKind.FILL_ALL:
            if sites := [found.site for found in _unfinished(snapshot, tree)]:
                yield sites
        case ActionKind.REWRITE:
            if (unit := fill_sites.selected_unit(tree, start, end)) is not None:
                yield [_in_place_of(snapshot.text, *unit)]
        case ActionKind.REPAIR:
            first, last = fill_sites.unit_around(tree, start, end)
            in_comment = syntax.kind_at(tree, last) is syntax.CursorKind.COMMENT
            if first < last and not in_comment and fill_sites.errors_within(tree, first, last):
                yield [
                    Site(last, last, ("", ""), (HoleContent.LINE,))
                ]  # what is missing is most often missing at the end
            if first < last:
                yield [_in_place_of(snapshot.text, first, _before_line_break(snapshot.text, last))]
        case ActionKind.ANNOTATE:
            if annotations := templates.missing_annotations(tree, start):
                yield annotations
        case ActionKind.TRY:
            if (site := templates.try_except(tree, start, end)) is not None:
                yield [site]
        case ActionKind.DOCSTRING:
            if (site := templates.missing_docstring(tree, start)) is not None:
                yield [site]
        case ActionKind.ARGUMENTS:
            if (site := templates.missing_arguments(tree, start)) is not None:
                yield [site]


def _placeholder_at(snapshot: Snapshot, tree: SyntaxTree, start: int, end: int) -> tuple[str, Site] | None:
    """The label and site of the first placeholder on the lines between two offsets: `...`, a TODO, an empty body."""
    if _is_stub(snapshot):
        return None
    if start == end and (site := templates.empty_arguments(tree, start)) is not None:
        return "arguments", site
    first, last = snapshot.source.line_at(start), snapshot.source.line_at(end)
    found = next(placeholders.placeholders(tree, first, last), None)
    if found is not None:
        return found.label, found.site
    due = templates.due_block(tree, start) if start == end and snapshot.language == "python" else None
    return ("empty body", due) if due is not None else None


def _unfinished(snapshot: Snapshot, tree: SyntaxTree) -> Iterator[placeholders.Placeholder]:
    """The placeholders that nobody leaves like that."""
    return iter(()) if _is_stub(snapshot) else (found for found in placeholders.placeholders(tree) if found.unfinished)


def _is_stub(snapshot: Snapshot) -> bool:
    """Whether the document only declares code of other files, as stubs do: no code belongs into it."""
    return urlsplit(snapshot.uri).path.lower().endswith(_STUBS)


def _in_place_of(text: str, start: int, end: int) -> Site:
    several = "\n" in text[start:end] or "\r" in text[start:end]
    return Site(start, end, ("", ""), (HoleContent.BLOCK if several else HoleContent.LINE,))


def _before_line_break(text: str, offset: int) -> int:
    """The end of the line where nothing visible comes before it; otherwise `offset`."""
    rest = text[offset : offset + _MOST_BLANKS]
    blanks = len(rest) - len(rest.lstrip(" \t"))
    return offset + blanks if rest[blanks : blanks + 1] in ("", "\n", "\r") else offset


def _is_broken(tree: SyntaxTree, candidates: Sequence[Sequence[Site]]) -> bool:
    site = candidates[-1][0]
    return fill_sites.errors_within(tree, site.start, site.end)


def _filled(
    sites: Sequence[Site],
    snapshot: Snapshot,
    surroundings: Surroundings,
    infiller: InfillerLike,
    variant: int,
    noise: float | None,
) -> Generator[NoSuggestion, None, tuple[tuple[Edit, ...], int]]:
    """The edits that fill the sites, and the steps they took; a site whose holes get nothing is left as it is.

    With `noise`, that much of a short site's text is drawn again, and the rest may stay. Yields after each denoising
    step, when there is nothing to show yet.
    """
    done: list[Edit] = []
    steps = 0
    for group in groups(sites):
        text, holes = scaffold(apply_all(snapshot.text, done), group, shift_of(done))
        at_holes = ParsedSnapshot(
            replace(snapshot, source=Text(text), offset=holes[0]), syntax.parse(snapshot.language, text)
        )
        kinds = [hole for site in group for hole in site.holes]
        start = None if noise is None else _to_revise(group, snapshot.text)
        request = request_for(
            at_holes,
            infiller,
            [(hole, hole) for hole in holes],
            surroundings=surroundings,
            contents=kinds,
            start=start,
            noise_level=1.0 if noise is None or start is None else noise,
            variant=variant,
        )
        texts: tuple[str, ...] = ("",) * len(kinds)
        complete, taken = False, 0
        try:
            for draft in infiller.fill(request):
                yield NoSuggestion.OUT_OF_TIME
                texts, complete, taken = draft.texts, draft.complete, draft.step
        except InfillError:
            if start is None:
                raise
            texts = ("",) * len(kinds)  # too long to be revised after all: another try writes it anew
        steps += taken
        fitted: list[str | None] = [
            _fitted(text, kind, at_holes, hole, complete=complete)
            for text, kind, hole in zip(texts, kinds, holes, strict=False)
        ]
        fills = iter(fitted)
        for site in group:
            edit = _edit(site, list(islice(fills, len(site.holes))), snapshot.text)
            if edit is not None:
                done.append(edit)
    return tuple(done), steps


def _to_revise(group: Sequence[Site], text: str) -> tuple[str, ...] | None:
    """The sites' present text, if all of it is to be replaced and it is short; otherwise None."""
    start = tuple(text[site.start : site.end] for site in group)
    replaced = all(site.pieces == ("", "") and site.start < site.end for site in group)
    return start if replaced and sum(map(len, start)) <= _MAX_REVISED_CHARS else None


def _fitted(text: str, kind: HoleContent, at_holes: ParsedSnapshot, hole: int, *, complete: bool) -> str | None:
    """What a hole is filled with, or None where the model's text is no such thing."""
    snapshot, tree = at_holes
    place = insertion.place_at(snapshot.text, hole, one_line=kind is not HoleContent.BLOCK)
    cleaned = cleanup.clean(text, place, complete=complete or place.one_line, automatic=False)
    if isinstance(cleaned, NoSuggestion):
        return None
    fill = _line_feeds(cleaned.new_text)
    covered = snapshot.text[cleaned.start : cleaned.end]
    if covered:
        if not fill.endswith(covered):
            return None
        fill = fill[: -len(covered)]
    match kind:
        case HoleContent.BLOCK:
            fill = _parseable(fill, tree, hole)
            return None if fill_sites.does_nothing(snapshot.language, fill) else fill
        case HoleContent.EXPRESSION:
            return fill if fill_sites.is_expression(fill) and fill.strip() not in ("...", "") else None
        case HoleContent.TYPE:
            return fill.strip() if fill_sites.is_type(fill) else None
        case HoleContent.PROSE:
            prose = fill.strip().strip("\"'").strip()
            return prose if len(prose) > 2 and '"""' not in prose and "\\" not in prose else None
        case HoleContent.LINE:
            whole_line = not place.before.strip() and not place.after.strip()
            idle = whole_line and fill_sites.does_nothing(snapshot.language, fill)
            return fill if fill.strip() and not idle else None


def _parseable(fill: str, tree: SyntaxTree | None, hole: int) -> str:
    """As many of a block's first lines as parse in their place."""
    if tree is None:
        return fill
    tolerated = syntax.error_count_after(tree, hole, hole, tree.row.stand_in)
    lines = fill.split("\n")
    while lines and syntax.error_count_after(tree, hole, hole, "\n".join(lines)) > tolerated:
        lines.pop()
    return "\n".join(lines).rstrip()


def _edit(site: Site, fills: Sequence[str | None], text: str) -> Edit | None:
    """What a site becomes; None where a hole of it got nothing, or nothing changes."""
    if any(fill is None for fill in fills):
        return None
    parts = [site.pieces[0]]
    for fill, piece in zip(fills, site.pieces[1:], strict=True):
        parts += [fill or "", piece]
    new_text = "".join(parts)
    if new_text == _line_feeds(text[site.start : site.end]):
        return None
    newline = insertion.place_at(text, site.start, one_line=False).newline
    return Edit(site.start, site.end, new_text.replace("\n", newline))


def _parses(language: str, text: str, tolerated: int) -> bool:
    tree = syntax.parse(language, text)
    return tree is None or syntax.error_count(tree) <= tolerated


def _is_refused(snapshot: Snapshot, after: str, edits: Sequence[Edit]) -> bool:
    """Whether Python itself refuses what was edited; tree-sitter forgives a good deal.

    Faults that were there before or lie outside the edit are ignored. So are texts that this Python is too old or too
    small for.
    """
    if snapshot.language != "python":
        return False
    first, changed = snapshot.source.line_at(edits[0].start), Text(after)
    last = changed.line_at(len(after) - (len(snapshot.source) - edits[-1].end))
    return finds_fault(_line_feeds(after), first + 1, last + 1, _line_feeds(snapshot.text))


def _shortened(title: str) -> str:
    title = " ".join(title.split())
    return title if len(title) <= _MAX_TITLE_CHARS else title[: _MAX_TITLE_CHARS - 1] + "…"


def _line_feeds(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")
