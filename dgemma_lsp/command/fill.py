"""What the command `fill` does: the server's own pipeline, shown in a terminal."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.color import Color
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import Progress
from rich.style import Style
from rich.text import Text

from dgemma_lsp.command.loading import ModelOptions, UserError
from dgemma_lsp.command.opened import TASK_TOKENS, fill_task, opened, task_ends_with_line
from dgemma_lsp.documents import disk
from dgemma_lsp.documents.documents import ParsedSnapshot
from dgemma_lsp.documents.edits import NoSuggestion, Snapshot, Suggestion
from dgemma_lsp.documents.exclusions import Exclusions, size_rule
from dgemma_lsp.documents.text import Text as SourceText
from dgemma_lsp.pipeline.request_for import request_for
from dgemma_lsp.pipeline.suggest import suggest
from dgemma_lsp.pipeline.watched import Frame, Frames, TokenState, WatchedInfiller, before_cursor
from dgemma_lsp.settings import Settings
from dgemma_model.checkpoint.selection import default_checkpoint
from dgemma_model.request import Check, FillRequest, InfillError
from dgemma_model.source import languages, syntax

if TYPE_CHECKING:
    from dgemma_lsp.engine.infiller import EngineInfiller
    from dgemma_model.infill import Infiller

    AnyInfiller = Infiller | EngineInfiller

CONTEXT_LINES = 4

_MOST_BYTES = 32_000_000
"""Most bytes of a file that is filled."""
_MOST_BATCH_BYTES = 1 << 30
"""Most bytes of a file of tasks."""


def fill_once(
    place: str,
    wanted: ModelOptions,
    *,
    watch: bool,
    as_json: bool,
    denoise: bool,
    steps: int | None,
    budget_ms: float | None,
) -> None:
    """Fill at FILE:LINE:COLUMN and print the result in place, or as one JSON document.

    Raises:
        UserError: no such file or position, neither checkpoint nor engine can be used, or the model failed.
    """
    parsed = parsed_at(place)
    snapshot = parsed.snapshot
    infiller = wanted.load()
    console = Console(stderr=as_json, highlight=False)
    started = time.perf_counter()
    try:
        watched = WatchedInfiller(infiller, lambda draft: None, steps, budget_ms, denoise)
        if watch:
            answer = _shown(parsed, watched, console)
        else:
            *_, answer = suggest(parsed, watched, Settings(), invoked=True)
    except InfillError as error:
        raise UserError(str(error)) from error
    elapsed_ms = 1000 * (time.perf_counter() - started)
    if as_json:
        print(json.dumps(_as_json(answer, snapshot, infiller, elapsed_ms)))
    elif isinstance(answer, Suggestion):
        console.print(in_place(snapshot.text, answer), soft_wrap=True)
        timing = f"{answer.steps} passes, {elapsed_ms:.0f} ms, {infiller.name} on {infiller.device}"
        score = f", score {answer.score:.2f}" if math.isfinite(answer.score) else ""
        console.print(f"[dim]{timing}{score}[/dim]")
    else:
        console.print(f"nothing to suggest: {answer.value}")
    is_default = wanted.checkpoint is None and wanted.chosen_engine() is None
    if is_default and not as_json and (advice := default_checkpoint(wanted.device).advice):
        console.print(f"[dim]{escape(advice)}[/dim]")


def _shown(parsed: ParsedSnapshot, watched: WatchedInfiller, console: Console) -> Suggestion | NoSuggestion:
    """Fill at the cursor, and show each pass; the last view stays on the screen. Returns the answer."""
    # A pass takes milliseconds, too fast to watch. With a time budget there is no pause, since pauses would use it up.
    pause_s = _PACE_S if console.is_terminal and watched.budget_ms is None else 0.0
    before = before_cursor(parsed.snapshot)
    shown: list[Frame] = []
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:

        def show(frame: Frame) -> None:
            shown.append(frame)
            live.update(view_of(shown, before), refresh=True)
            time.sleep(pause_s)

        frames = Frames(show, before)
        *_, answer = suggest(parsed, replace(watched, show=frames.see), Settings(), invoked=True)
    console.print("[dim]above: how it came about · below: what is suggested[/dim]\n")
    return answer


_PACE_S = 0.22


def parsed_at(place: str) -> ParsedSnapshot:
    """The parsed file of FILE:LINE:COLUMN with the cursor there; both count from 1, columns in characters.

    Raises:
        UserError: not of that form, no such file, one that is never read, not text, or a position outside of it.
    """
    form = re.fullmatch(r"(.+):([0-9]{1,30}):([0-9]{1,30})", place)
    if form is None:
        raise UserError(f"{place!r} is not FILE:LINE:COLUMN, for example src/app.py:12:5")
    name, line, column = form[1], int(form[2]), int(form[3])
    path = Path(name)
    if (rule := Exclusions([Path.cwd().as_uri()]).rule(path.absolute().as_uri())) is not None:
        raise UserError(f"{name} is never read: {rule}")
    try:
        text = _content(path, _MOST_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text") from error
    lines = text.replace("\r\n", "\n\0").replace("\r", "\n").replace("\n\0", "\r\n").split("\n")
    if not 1 <= line <= len(lines):
        raise UserError(f"{name} has {len(lines)} lines, there is no line {line}")
    length = len(lines[line - 1].rstrip("\r"))
    if not 1 <= column <= length + 1:
        raise UserError(f"line {line} of {name} has columns 1 to {length + 1}, there is no column {column}")
    offset = sum(len(text) + 1 for text in lines[: line - 1]) + column - 1
    if (rule := size_rule(text, offset)) is not None:
        raise UserError(f"{name} is not filled: {rule}")
    language = languages.language_of(path)
    snapshot = Snapshot(disk.real(path).as_uri(), None, language, SourceText(text), offset)
    return ParsedSnapshot(snapshot, syntax.parse(language, text))


def _content(path: Path, most_bytes: int) -> bytes:
    content = disk.read(path, most_bytes)
    if isinstance(content, disk.Fault):
        raise UserError(f"{path}: {content.value}")
    return content


def in_place(text: str, suggestion: Suggestion) -> Text:
    """The lines around a suggestion, with what it inserts set off."""
    edit = suggestion.edit
    before, after = text[: edit.start], text[edit.end :]
    shown = Text("\n".join(before.split("\n")[-CONTEXT_LINES - 1 :]))
    shown.append(edit.new_text, style="bold black on green")
    shown.append("\n".join(after.split("\n")[: CONTEXT_LINES + 1]))
    return shown


def view_of(frames: Sequence[Frame], before: str) -> Text:
    """The latest frame of a fill after the line `before` it, with a key to the colours.

    Of a fill that is written, there is also a line for each pass. Of one that is denoised, only the latest step is
    shown.
    """
    latest = frames[-1]
    passes = [frame for frame in frames if frame.check is not None]
    shown = Text()
    for frame in passes:
        shown.append_text(pass_line(frame))
    headline = summary(frames) if passes else f"step {latest.step} · {latest.ms:.1f} ms"
    shown.append(f"{headline}\n", style="bold")
    shown.append(before.rpartition("\n")[2], style="dim")
    shown.append_text(_coloured(latest, 0, "⏎\n")).append("\n")
    for state in _WRITERS if passes else _CANVASES:
        shown.append(_LEGEND[state], style=_token_style(state, 1.0))
        shown.append("  ")
    return shown.append(f"\nthe greyer, the less certain; {END_SIGN} is the end of the text\n", style="dim")


def pass_line(frame: Frame) -> Text:
    """A line about one pass: how many tokens were drafted and accepted, and the tokens that it wrote or refused."""
    check = frame.check or Check()
    drafts = (
        f"{check.drafted_by} drafted {len(check.drafted)}, {check.accepted} accepted" if check.drafted else "no draft"
    )
    shown = Text(f"pass {frame.step} · {frame.ms:.1f} ms · {drafts}: ", style="dim")
    return shown.append_text(_coloured(frame, frame.pass_start, "⏎")).append("\n")


def _coloured(frame: Frame, start: int, line_break: str) -> Text:
    """The tokens of a frame from `start` on."""
    shown = Text()
    for token, state in list(zip(frame.tokens, frame.states, strict=True))[start:]:
        text = token.text.replace("\n", line_break) or END_SIGN
        shown.append(text, style=_token_style(state, token.confidence))
    return shown


def summary(frames: Sequence[Frame]) -> str:
    """Passes, tokens and time so far of a fill that is written."""
    tokens = sum(frame.check.written for frame in frames if frame.check is not None)
    passes, ms = frames[-1].step, sum(frame.ms for frame in frames)
    counted = f"{passes} {'pass' if passes == 1 else 'passes'}"
    return f"{tokens} tokens in {counted}, {tokens / max(1, passes):.1f} a pass, {ms:.0f} ms"


END_SIGN = "▪"
_LEGEND = {
    TokenState.DRAFTED: "drafted and accepted",
    TokenState.REFUSED: "drafted and refused",
    TokenState.WRITTEN: "the writer's own",
    TokenState.CHOSEN: "chosen instead",
    TokenState.ACCEPTED: "accepted",
    TokenState.REVISED: "accepted, then revised",
    TokenState.RENOISED: "accepted, then noise again",
    TokenState.NOISE: "noise",
}
_WRITERS = (TokenState.DRAFTED, TokenState.REFUSED, TokenState.WRITTEN, TokenState.CHOSEN)
_CANVASES = (TokenState.ACCEPTED, TokenState.REVISED, TokenState.RENOISED, TokenState.NOISE)
_COLOURS = {
    TokenState.DRAFTED: ((0, 190, 80), Style(bold=True)),
    TokenState.REFUSED: ((220, 150, 0), Style(strike=True)),
    TokenState.WRITTEN: ((40, 140, 255), Style(bold=True)),
    TokenState.CHOSEN: ((200, 100, 200), Style(underline=True)),
    TokenState.ACCEPTED: ((0, 190, 80), Style(bold=True)),
    TokenState.REVISED: ((40, 140, 255), Style(bold=True, underline=True)),
    TokenState.RENOISED: ((220, 150, 0), Style(strike=True)),
    TokenState.NOISE: ((200, 100, 200), Style(italic=True)),
}
_GREY = 110
"""Of a token that is not certain at all; seen on dark and on light grounds."""


def _token_style(state: TokenState, confidence: float) -> Style:
    colour, style = _COLOURS[state]
    shade = (round(_GREY + confidence * (part - _GREY)) for part in colour)
    return style + Style(color=Color.from_rgb(*shade))


def _as_json(
    answer: Suggestion | NoSuggestion, snapshot: Snapshot, infiller: AnyInfiller, elapsed_ms: float
) -> dict[str, object]:
    document: dict[str, object] = {
        "checkpoint": infiller.name,
        "device": infiller.device,
        "ms": round(elapsed_ms, 1),
    }
    if isinstance(answer, NoSuggestion):
        return document | {"text": None, "reason": answer.name.lower(), "message": answer.value}
    edit = answer.edit
    return document | {
        "text": edit.new_text,
        "start": edit.start,
        "end": edit.end,
        "score": round(answer.score, 4) if math.isfinite(answer.score) else None,
        "steps": answer.steps,
        "result": edit.apply(snapshot.text),
    }


def fill_batch(
    tasks: Path,
    wanted: ModelOptions,
    *,
    one_line: bool | None,
    denoise: bool,
    steps: int | None,
    budget_ms: float | None,
) -> None:
    """Fill every task of a JSON-lines file: `id`, `prefix`, `suffix`, optional `language`. One JSON line each, in
    order.

    Each is filled as the server would fill at a cursor between prefix and suffix, whatever the score. It ends with its
    line, or where the engine finds the end, as `task_ends_with_line` says, or as `one_line` says of all tasks. A bad
    line gets an object with `error`.

    Raises:
        UserError: the file cannot be read, or neither checkpoint nor engine can be used.
    """
    lines = _content(tasks, _MOST_BATCH_BYTES).splitlines()
    infiller = wanted.load()
    with Progress(console=Console(stderr=True)) as progress:
        for number, line in enumerate(progress.track(lines, description="filling"), start=1):
            if line.strip():
                answer = _fill_task(line, number, infiller, one_line, denoise, steps, budget_ms)
                print(json.dumps(answer), flush=True)


def _json(line: bytes) -> object:
    """What a line says; ValueError where it is no JSON, as NaN is none, which Python would read and write."""
    found: object = json.loads(line)
    json.dumps(found, allow_nan=False)
    return found


def _fill_task(
    line: bytes,
    number: int,
    infiller: AnyInfiller,
    one_line: bool | None,
    denoise: bool,
    steps: int | None,
    budget_ms: float | None,
) -> dict[str, object]:
    task: object = None
    try:
        task = _json(line)
        if not isinstance(task, dict):
            raise ValueError("not a JSON object")
        for key in ("prefix", "suffix"):
            if not isinstance(task.get(key), str):
                raise ValueError(f"{key!r} must be a string")
        started = time.perf_counter()
        around, language = (task["prefix"], task["suffix"]), str(task.get("language") or "python")
        parsed, _ = opened(around, language)

        def ask(ends_with_line: bool) -> FillRequest:
            tokens = None if ends_with_line else TASK_TOKENS
            request = request_for(parsed, infiller, one_line=ends_with_line, max_tokens=tokens)
            return replace(request, denoise=denoise, max_denoising_steps=steps, budget_ms=budget_ms)

        told = task_ends_with_line(*around, language) if one_line is None else one_line
        draft = fill_task(infiller, ask, told)
    except (ValueError, RecursionError, InfillError) as error:
        known_id = task.get("id") if isinstance(task, dict) else None
        return {"id": known_id, "line": number, "error": str(error)}
    return {
        "id": task.get("id"),
        "text": draft.text,
        "steps": draft.step,
        "ms": round(1000 * (time.perf_counter() - started), 1),
        "score": round(draft.score, 4) if math.isfinite(draft.score) else None,
    }
