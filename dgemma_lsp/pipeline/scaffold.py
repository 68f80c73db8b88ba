"""Sites that are filled together, and the text in which their holes are filled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from dgemma_lsp.documents.edits import Edit, apply_all
from dgemma_model.source.fill_sites import Site

GROUP_CHARS = 600
"""Holes that are further apart than this are not filled in one canvas: all between them would be in it."""
GROUP_HOLES = 6


def groups(sites: Sequence[Site]) -> Iterator[list[Site]]:
    """Neighbours that are filled in one canvas."""
    group: list[Site] = []
    for site in sites:
        near = not group or site.start - group[0].end <= GROUP_CHARS
        if group and (not near or sum(len(member.holes) for member in group) >= GROUP_HOLES):
            yield group
            group = []
        group.append(site)
    if group:
        yield group


def shift_of(done: Sequence[Edit]) -> int:
    """How much longer the text has become before what comes next."""
    return sum(len(edit.new_text) - (edit.end - edit.start) for edit in done)


def scaffold(text: str, sites: Sequence[Site], shift: int) -> tuple[str, list[int]]:
    """The text with every site's pieces in place and nothing in its holes, and where the holes are."""
    holes: list[int] = []
    edits: list[Edit] = []
    for site in sites:
        at = site.start + shift + shift_of(edits)
        edits.append(Edit(site.start + shift, site.end + shift, "".join(site.pieces)))
        for piece in site.pieces[:-1]:
            at += len(piece)
            holes.append(at)
    return apply_all(text, edits), holes
