"""What the server remembers of a client: open documents, settings, the worker, and each document's last outcome."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any

from cattrs import Converter
from lsprotocol import types
from pygls.protocol import default_converter

from dgemma_lsp import settings
from dgemma_lsp.documents.disk import DiskThreads
from dgemma_lsp.documents.documents import Documents, TextChange, Trees, parsed
from dgemma_lsp.documents.edits import Edit, NoSuggestion, Rewrite, Snapshot, Suggestion, Surroundings, after, rebase
from dgemma_lsp.documents.exclusions import size_rule
from dgemma_lsp.documents.masking import adds_secret, without_secrets
from dgemma_lsp.documents.notebooks import Notebooks
from dgemma_lsp.documents.verdicts import Verdicts
from dgemma_lsp.documents.workspace import Workspace
from dgemma_lsp.engine.choice import kept_to_user
from dgemma_lsp.engine.errors import EngineError
from dgemma_lsp.engine.health import Health
from dgemma_lsp.pipeline.cleanup import is_undoing
from dgemma_lsp.pipeline.infiller import InfillerLike
from dgemma_lsp.pipeline.next_edit import Renames
from dgemma_lsp.pipeline.suggest import candidates, suggest, why_disabled
from dgemma_lsp.pipeline.watched import Frame, Frames, WatchedInfiller, before_cursor
from dgemma_lsp.server import from_client, log_line, to_client, transport
from dgemma_lsp.server.loading import ChosenModel, LoadInfiller
from dgemma_lsp.server.memory import Memory, Rhythm, Silences, Statistics
from dgemma_lsp.server.worker import Answer, Lane, Steps, Worker
from dgemma_lsp.settings import Settings

logger = logging.getLogger(__name__)

CANDIDATES = 3
"""How many suggestions a user who asks may choose from."""

_LOOK_AHEAD_S = 0.15
"""How long a suggestion is shown before the next one is thought of."""

_WATCH_S = 10.0
"""Most seconds of a watched fill."""

_INVOKED, _WATCHED = "invoked", "watched"
"""Of these questions about a document only the newest is wanted."""

STOP_S = 1.0
"""How long the end of the process may wait for a denoising step."""


class DgemmaServer(transport.StrictServer):
    """What the server remembers: open documents, settings, the worker, and each document's last outcome."""

    def __init__(self, load_infiller: LoadInfiller, defaults: Settings) -> None:
        super().__init__("dgemma-lsp", version("dgemma-lsp"), _converter, from_client.NOTEBOOKS)
        self.load_infiller = load_infiller
        self.loading = False
        self.state: dict[str, object] = {"state": "starting", "message": "the model is not loaded yet"}
        self.choice: ChosenModel | None = None
        self.engine_health: Health | None = None  # of an engine, once it has been asked
        self.settings = self.configured = defaults
        self.languages: frozenset[str] | None = None
        """What the checkpoint knows, once it is loaded."""
        self.proofreads = False
        """Whether it finds wrong words; not before it is loaded."""
        self.shows_others = False
        """Whether the model makes use of other documents, too."""
        self.complaints: list[str] = []
        self.client = from_client.Client()
        self.documents = Documents()
        self.trees = Trees()
        self.renames = Renames()
        self.worker: Worker[InfillerLike] = Worker()
        self.notebooks = Notebooks()
        self.disk = DiskThreads()
        self.exclusions = Verdicts(self.disk)
        self.files = Workspace(self.disk)
        self.memory = Memory()
        self.rhythm = Rhythm()
        self.statistics = Statistics()
        self.silences = Silences()
        self.rules: dict[str, str] = {}
        """For each document that is excluded, the rule that says so."""
        self.look_ahead_s: float | None = _LOOK_AHEAD_S
        self._background: set[asyncio.Task[None]] = set()
        self.protocol.on_undecodable = self._forget_what_is_uncertain

    def stop(self) -> bool:
        """End the worker; False where its thread does not end in time."""
        return self.worker.stop(STOP_S)

    def configure(self, options: object, defaults: Settings, *, from_user: bool = False) -> None:
        """Use what the client sent; what cannot be used is kept as a complaint. Unless it is `from_user`, it may be a
        workspace's, and names no engine on another machine, nor the file of its token."""
        self.settings, self.complaints = settings.parse(options, defaults)
        if not from_user:
            self.settings, refused = kept_to_user(self.settings, defaults)
            self.complaints += refused
        level = self.settings.log_level.upper()
        logging.getLogger("dgemma_lsp").setLevel(level)
        # pygls logs whole messages, and with them source text, at any level.
        logging.getLogger("pygls").setLevel(level if level == "DEBUG" else logging.CRITICAL + 1)

    def show_complaints(self) -> None:
        """Tell the user about settings that could not be used; once each."""
        for complaint in self.complaints:
            self.show(types.MessageType.Warning, f"settings: {complaint}")
        self.complaints = []

    def become(self, state: str, message: str, percentage: int | None = None) -> None:
        """Go into another state, or further in the same, and tell clients that show it."""
        how_far: dict[str, object] = {} if percentage is None else {"percentage": percentage}
        chosen = {} if self.choice is None else asdict(self.choice)
        known = {name: value for name, value in chosen.items() if value is not None}
        self.state = {"state": state, "message": message} | how_far | known
        if self.client.shows_status:
            self.protocol.notify(from_client.STATUS, self.state)

    def engine_is(self, health: Health) -> None:
        """Take how the engine is, and tell clients that show it."""
        self.engine_health = health
        logger.log(logging.INFO if health.well else logging.WARNING, "engine: %s", health.message)
        if self.state["state"] in ("ready", "failed"):
            self.become("ready" if health.well else "failed", health.message)

    def show(self, kind: types.MessageType, message: str) -> None:
        """Show a message in the editor, and log it."""
        logger.warning("%s", message)
        self.window_show_message(types.ShowMessageParams(type=kind, message=f"dgemma: {message}"))

    def refusal(self, snapshot: Snapshot) -> NoSuggestion | None:
        """Why nothing is done in a document, whatever the model knows; None if something may be done."""
        self.rules.pop(snapshot.uri, None)
        if (rule := self._rule(snapshot)) is not None:
            if self.documents.get(snapshot.uri) is not None:  # it may have been closed meanwhile
                self.rules[snapshot.uri] = rule
            return NoSuggestion.EXCLUDED
        return why_disabled(snapshot, self.languages, self.settings)

    async def judged(self, snapshot: Snapshot) -> Surroundings:
        """What is known around a snapshot of this moment, once the exclusion rules of all these documents are known, or
        the disk has had its time."""
        around = self.documents.surroundings(snapshot)
        beside = (other.uri for other in around.others) if self.shows_others else ()
        await self._judged([name for uri in (snapshot.uri, *beside) for name in self._names(uri)])
        return around

    def allowed(self, snapshot: Snapshot, around: Surroundings) -> Surroundings:
        """Of what is known around a snapshot, and of the files nearby, what the user allows and the checkpoint uses."""
        if not self.shows_others:
            return replace(around, others=())
        others = tuple(other for other in around.others if self._may_be_shown(other))
        opened = self.exclusions.paths(self.documents.uris)
        nearby = self.files.near(snapshot.uri, opened) if self.settings.nearby_files else ()
        return replace(around, others=others, nearby=nearby)

    async def _judged(self, uris: Sequence[str]) -> None:
        """The same for documents by their names. Where the workspace's folders change meanwhile, other rules count."""
        asked = None
        while asked is not self.exclusions:
            asked = self.exclusions
            await asked.judged(uris)

    def _names(self, uri: str) -> tuple[str, ...]:
        """The document's own name, and its notebook's."""
        notebook = self.notebooks.notebook_of(uri)
        return (uri,) if notebook is None else (notebook, uri)

    async def rule_about(self, uri: str) -> str | None:
        """The rule that excludes a document by its name, whether it is open or not."""
        await self._judged(self._names(uri))
        return self._rule_by_name(uri)

    def _rule_by_name(self, uri: str) -> str | None:
        return next(filter(None, map(self.exclusions.rule, self._names(uri))), None)

    def _rule(self, snapshot: Snapshot) -> str | None:
        """The rule that excludes a document."""
        return self._rule_by_name(snapshot.uri) or size_rule(snapshot.source, snapshot.offset)

    def _may_be_shown(self, other: Snapshot) -> bool:
        """Whether a document may be shown beside another one."""
        private = (self.exclusions.known(name).own for name in self._names(other.uri))
        return self._rule(other) is None and not any(private)

    async def answer(
        self, snapshot: Snapshot, *, invoked: bool, typed: bool = True, selected: Edit | None = None
    ) -> Answer:
        """What to show at the snapshot's cursor; raises what the pipeline raises.

        `invoked` says that the user asked, and `typed` that the request came from typing. `selected` is the edit that
        the completion menu would make; the suggestion then continues it.
        """
        around = await self.judged(snapshot)
        using, uri = self.settings, snapshot.uri
        reason = self.refusal(snapshot)
        known = self.memory.find(snapshot) if reason is None and selected is None and not invoked else None
        if isinstance(known, Suggestion) and is_undoing(known.edit.new_text, around.deleted):
            known = NoSuggestion.UNDOES
        if reason is None and known is None and typed and not invoked and using.trigger == "manual":
            broken = self.worker.without_model or (self.engine_health and self.engine_health.reason)
            reason = broken or NoSuggestion.MANUAL
        if reason is not None or known is not None:
            self.worker.supersede(uri)
            return reason or known or NoSuggestion.EMPTY
        delay_s = 0.0 if invoked else self.rhythm.delay_s(using.debounce_ms / 1000)
        answer = await self.worker.run(
            self._steps(snapshot, around, using, invoked=invoked, selected=selected),
            lane=Lane.COMMAND if invoked else Lane.KEYSTROKE,
            document=uri,
            place=_INVOKED if invoked else None,
            delay_s=delay_s,
            budget_s=using.time_budget_ms / 1000 * (CANDIDATES if invoked else 1),
        )
        if selected is None:
            self.memory.remember(snapshot, answer, invoked=invoked)
        answer = self._brought_up_to_date(answer) if isinstance(answer, Suggestion) else answer
        if isinstance(answer, Suggestion) and using.trigger == "automatic":
            self._look_ahead(answer, using)
        return answer

    def _steps(
        self, snapshot: Snapshot, around: Surroundings, using: Settings, *, invoked: bool, selected: Edit | None = None
    ) -> Callable[[InfillerLike], Steps[Suggestion]]:
        """The work for one answer: the model sees the whole notebook, and what the menu would insert. What is
        suggested is judged in its cell, which runs alone."""
        chosen, allowed = snapshot, self.allowed(snapshot, around)
        if selected is not None:
            chosen, allowed = after(snapshot, selected), replace(allowed, deleted="")
        notebook = self.notebooks.around(chosen, allowed, self.documents)
        last_tree = self.documents.last_tree(snapshot.uri)

        def placed(edit: Edit) -> Edit:
            if selected is None:
                return edit
            end = selected.end + edit.end - chosen.offset
            return Edit(selected.start, end, selected.new_text + edit.new_text)

        def steps(infiller: InfillerLike) -> Steps[Suggestion]:
            at_cursor = parsed(chosen, last_tree)
            whole = notebook and parsed(notebook.snapshot, notebook.last_tree)
            shown = without_secrets(notebook.surroundings if notebook else allowed)
            if invoked:
                answers = candidates(at_cursor, infiller, using, CANDIDATES, surroundings=shown, notebook=whole)
            else:
                answers = suggest(at_cursor, infiller, using, invoked=False, surroundings=shown, notebook=whole)
            for answer in answers:
                if isinstance(answer, NoSuggestion):
                    yield answer
                elif adds_secret(answer.edit.new_text, snapshot.source):
                    yield NoSuggestion.SECRET
                else:
                    further = (other for other in answer.others if not adds_secret(other.new_text, snapshot.source))
                    yield replace(
                        answer, snapshot=snapshot, edit=placed(answer.edit), others=tuple(map(placed, further))
                    )

        return steps

    async def watch(self, snapshot: Snapshot, show: Callable[[Frame], None]) -> Answer:
        """Fill at the snapshot's cursor as for a suggestion, and call `show` on the event loop after each pass.

        The answer is not offered as a suggestion. Any other request is run first, and ends this one. Raises what the
        pipeline raises.
        """
        around = await self.judged(snapshot)
        using, loop = self.settings, asyncio.get_running_loop()
        if (reason := self.refusal(snapshot)) is not None:
            return reason
        allowed, last_tree = self.allowed(snapshot, around), self.documents.last_tree(snapshot.uri)

        def send(frame: Frame) -> None:
            loop.call_soon_threadsafe(show, frame)

        def steps(infiller: InfillerLike) -> Steps[Suggestion]:
            frames = Frames(send, before_cursor(snapshot))
            watched = WatchedInfiller(infiller, frames.see)
            at_cursor, shown = parsed(snapshot, last_tree), without_secrets(allowed)
            yield from suggest(at_cursor, watched, using, invoked=True, surroundings=shown)

        return await self.worker.run(
            steps, lane=Lane.BACKGROUND, document=snapshot.uri, place=_WATCHED, budget_s=_WATCH_S
        )

    def _look_ahead(self, suggestion: Suggestion, using: Settings) -> None:
        """While the user looks at a suggestion, work out what could follow once it is accepted."""
        if self.look_ahead_s is None:
            return
        asked = suggestion.snapshot
        accepted = replace(after(asked, suggestion.edit), version=None)

        async def work(delay_s: float) -> None:
            started, budget_s = time.perf_counter(), using.time_budget_ms / 1000
            steps = self._steps(accepted, self.documents.surroundings(accepted), using, invoked=False)
            try:
                answer = await self.worker.run(
                    steps, lane=Lane.BACKGROUND, document=asked.uri, delay_s=delay_s, budget_s=budget_s
                )
            except EngineError:
                pass  # its health has been told
            except Exception:
                logger.exception("looking ahead failed")
            else:
                self.memory.remember(accepted, answer)
                found = answer.name.lower() if isinstance(answer, NoSuggestion) else "suggestion"
                self._log(asked.uri, {"outcome": "ahead", "found": found}, started)

        self.in_background(work(self.look_ahead_s))

    def conclude(self, uri: str, answer: Answer, started: float) -> None:
        """Remember a request's outcome and write its line to the log."""
        if isinstance(answer, Suggestion):
            self.silences.forget(uri)
        elif answer is not NoSuggestion.SUPERSEDED:  # the last request is another, and may be answered already
            self.silences.note(uri, answer, self.documents.uris)
        self._log(uri, log_line.of_answer(answer), started)
        if self.client.shows_status and answer not in (NoSuggestion.SUPERSEDED, NoSuggestion.CANCELLED):
            self.protocol.notify(from_client.OUTCOME, to_client.outcome(uri, answer))

    def conclude_watch(self, uri: str, answer: Answer, started: float) -> None:
        """Write the log line of a watched fill. Its outcome does not replace that of the latest suggestion."""
        self._log(uri, log_line.of_watch(answer), started)

    def conclude_rewrite(self, what: str, snapshot: Snapshot, answer: Rewrite | NoSuggestion, started: float) -> None:
        """The same for an action or a command."""
        if isinstance(answer, Rewrite):
            self.silences.forget(snapshot.uri)
        else:
            self.silences.note(snapshot.uri, answer, self.documents.uris)
        self._log(snapshot.uri, log_line.of_rewrite(what, snapshot, answer), started)

    def _log(self, uri: str, fields: log_line.Fields, started: float) -> None:
        logger.info("%s", log_line.line(self.protocol.msg_id, uri, fields, started))

    def in_background(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` that no request waits for."""
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)  # the loop itself would not keep it
        task.add_done_callback(self._background.discard)

    def open(self, uri: str, language: str, version: int | None, text: str) -> None:
        """Take a document in, in place of one with the same uri."""
        self.forget(uri)
        self.documents.open(uri, language, version, text)
        self.exclusions.opened(uri)

    def change(self, uri: str, version: int | None, changes: Sequence[TextChange]) -> None:
        """Apply changes to a document."""
        self.rhythm.note(time.monotonic())
        document = self.documents.get(uri)
        if not self.settings.next_edit or document is None:
            self.documents.change(uri, version, changes)
            return
        before = document.source
        self.documents.change(uri, version, changes)
        self.renames.note(uri, before, document.source)

    def forget(self, uri: str) -> None:
        """Forget a document and settle what it waits for."""
        self.documents.close(uri)
        self.exclusions.closed(uri)
        self.trees.forget(uri)
        self.renames.forget(uri)
        self.worker.forget(uri)
        self.memory.forget(uri)
        self.silences.forget(uri)
        self.rules.pop(uri, None)

    def _brought_up_to_date(self, suggestion: Suggestion) -> Answer:
        """The suggestion in terms of the text as it is now, or STALE."""
        asked = suggestion.snapshot
        document = self.documents.get(asked.uri)
        if document is None:
            return NoSuggestion.STALE
        if document.source == asked.source:
            return suggestion
        cursor = asked.offset + len(document.source) - len(asked.source)
        return rebase(suggestion, document.snapshot(cursor)) or NoSuggestion.STALE

    def _forget_what_is_uncertain(self, method: str, params: object) -> None:
        """Forget a document after a change that could not be read, because its content is not known then."""
        if method in (types.TEXT_DOCUMENT_DID_CHANGE, types.TEXT_DOCUMENT_DID_OPEN):
            uri = from_client.changed_uri(params)
            if uri is not None:
                self.forget(uri)
        elif method in (types.NOTEBOOK_DOCUMENT_DID_CHANGE, types.NOTEBOOK_DOCUMENT_DID_OPEN):
            notebook = from_client.changed_uri(params)
            for cell in self.notebooks.close(notebook) if notebook is not None else []:
                self.forget(cell)


def _converter() -> Converter:
    return from_client.make_lenient(default_converter())  # type: ignore[no-untyped-call]
