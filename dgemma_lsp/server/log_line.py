"""The log line of a request: its outcome and times, without text."""

from __future__ import annotations

import time

from dgemma_lsp.documents.edits import NoSuggestion, Rewrite, Snapshot, Suggestion

Fields = dict[str, object]


def of_answer(answer: Suggestion | NoSuggestion) -> Fields:
    """The fields of a request for a suggestion."""
    if isinstance(answer, NoSuggestion):
        return {"outcome": answer.name.lower()}
    fields: Fields = {"outcome": "shown" if answer.steps else "typed_through", "version": answer.snapshot.version}
    fields |= {"chars": len(answer.edit.new_text), "steps": answer.steps}
    return fields | {stage: f"{ms:.1f}" for stage, ms in answer.trace.items()}


def of_watch(answer: Suggestion | NoSuggestion) -> Fields:
    """The fields of a watched fill."""
    fields: Fields = {"watch": answer.name.lower() if isinstance(answer, NoSuggestion) else "filled"}
    return fields | {"steps": answer.steps if isinstance(answer, Suggestion) else 0}


def of_rewrite(what: str, snapshot: Snapshot, answer: Rewrite | NoSuggestion) -> Fields:
    """The fields of a code action or a command."""
    return {
        "action": what,
        "outcome": "edited" if isinstance(answer, Rewrite) else answer.name.lower(),
        "version": snapshot.version,
        "edits": len(answer.edits) if isinstance(answer, Rewrite) else 0,
        "steps": answer.steps if isinstance(answer, Rewrite) else 0,
    }


def line(request: object, uri: str, fields: Fields, started: float) -> str:
    """The whole line. `started` is when the request began, by `time.perf_counter`."""
    named = {"request": request, "file": ascii(uri.rpartition("/")[2][:80])} | fields
    named["total_ms"] = f"{1000 * (time.perf_counter() - started):.1f}"
    return " ".join(f"{name}={value}" for name, value in named.items())
