"""What the server remembers of a client: open documents, settings, the worker, and each document's last outcome."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version

from cattrs import Converter
from lsprotocol import types
from pygls.protocol import default_converter

from dgemma_lsp import protocol, settings, transport
from dgemma_lsp.documents import Documents, parsed
from dgemma_lsp.edits import NoSuggestion, Rewrite, Snapshot, Suggestion, rebase
from dgemma_lsp.settings import Settings
from dgemma_lsp.suggest import InfillerLike, suggest
from dgemma_lsp.trees import Trees
from dgemma_lsp.worker import Answer, Lane, Steps, Worker

logger = logging.getLogger(__name__)

LoadInfiller = Callable[[Settings], InfillerLike]
"""Loads the model. Runs on the model's thread, so that this is where torch may be imported."""

_STOP_S = 2.0
"""How long the end of the process may wait for a denoising step."""


class DgemmaServer(transport.StrictServer):
    """What the server remembers: open documents, settings, the worker, and each document's last outcome."""

    def __init__(self, load_infiller: LoadInfiller, defaults: Settings) -> None:
        super().__init__("dgemma-lsp", version("dgemma-lsp"), _converter)
        self.load_infiller = load_infiller
        self.settings = self.configured = defaults
        self.languages: frozenset[str] | None = None
        """What the checkpoint knows, once it is loaded."""
        self.complaints: list[str] = []
        self.client = protocol.Client()
        self.documents = Documents()
        self.trees = Trees()
        self.worker: Worker[InfillerLike] = Worker()
        self.offered: dict[str, Suggestion] = {}
        self.silences: dict[str, NoSuggestion] = {}
        self.protocol.on_undecodable = self._forget_what_is_uncertain

    def stop(self) -> bool:
        """End the worker; False where its thread does not end in time."""
        return self.worker.stop(_STOP_S)

    def configure(self, options: object, defaults: Settings) -> None:
        """Use what the client sent; what cannot be used is kept as a complaint."""
        self.settings, self.complaints = settings.parse(options, defaults)
        level = self.settings.log_level.upper()
        logging.getLogger("dgemma_lsp").setLevel(level)
        # pygls logs whole messages, and with them source text, at any level.
        logging.getLogger("pygls").setLevel(level if level == "DEBUG" else logging.CRITICAL + 1)

    def show_complaints(self) -> None:
        """Tell the user about settings that could not be used; once each."""
        for complaint in self.complaints:
            self.show(types.MessageType.Warning, f"settings: {complaint}")
        self.complaints = []

    def show(self, kind: types.MessageType, message: str) -> None:
        """Show a message in the editor, and log it."""
        logger.warning("%s", message)
        self.window_show_message(types.ShowMessageParams(type=kind, message=f"dgemma: {message}"))

    async def answer(self, snapshot: Snapshot, *, invoked: bool) -> Answer:
        """What to show at the snapshot's cursor; raises what the pipeline raises."""
        using = self.settings
        if not invoked and (rest := self._typed_through(snapshot)) is not None:
            self.worker.supersede(snapshot.uri)
            return rest

        def steps(infiller: InfillerLike) -> Steps[Suggestion]:
            yield from suggest(parsed(snapshot), infiller, using, invoked=invoked)

        answer = await self.worker.run(
            steps,
            lane=Lane.COMMAND if invoked else Lane.KEYSTROKE,
            document=snapshot.uri,
            delay_s=0.0 if invoked else using.debounce_ms / 1000,
            budget_s=using.time_budget_ms / 1000,
        )
        return self._brought_up_to_date(answer) if isinstance(answer, Suggestion) else answer

    def conclude(self, uri: str, answer: Answer, started: float) -> None:
        """Remember a request's outcome and write its line to the log."""
        fields: dict[str, object] = {}
        if isinstance(answer, Suggestion):
            self.offered[uri] = answer
            self.silences.pop(uri, None)
            fields |= {
                "outcome": "shown" if answer.steps else "typed_through",
                "version": answer.snapshot.version,
            }
            fields |= {"chars": len(answer.edit.new_text), "steps": answer.steps}
            fields |= {stage: f"{ms:.1f}" for stage, ms in answer.trace.items()}
        else:
            if answer is not NoSuggestion.SUPERSEDED:  # the last request is another, and may be answered already
                self.silences[uri] = answer
            fields["outcome"] = answer.name.lower()
        self._log(uri, fields, started)

    def conclude_rewrite(self, what: str, snapshot: Snapshot, answer: Rewrite | NoSuggestion, started: float) -> None:
        """The same for an action or a command."""
        if isinstance(answer, Rewrite):
            self.silences.pop(snapshot.uri, None)
        else:
            self.silences[snapshot.uri] = answer
        self._log(
            snapshot.uri,
            {
                "action": what,
                "outcome": "edited" if isinstance(answer, Rewrite) else answer.name.lower(),
                "version": snapshot.version,
                "edits": len(answer.edits) if isinstance(answer, Rewrite) else 0,
                "steps": answer.steps if isinstance(answer, Rewrite) else 0,
            },
            started,
        )

    def _log(self, uri: str, fields: dict[str, object], started: float) -> None:
        request = {"request": self.protocol.msg_id, "file": ascii(uri.rpartition("/")[2][:80])}
        duration = {"total_ms": f"{1000 * (time.perf_counter() - started):.1f}"}
        logger.info(" ".join(f"{name}={value}" for name, value in (request | fields | duration).items()))

    def forget(self, uri: str) -> None:
        """Forget a document and settle what it waits for."""
        self.documents.close(uri)
        self.trees.forget(uri)
        self.worker.supersede(uri)
        self.offered.pop(uri, None)
        self.silences.pop(uri, None)

    def _typed_through(self, snapshot: Snapshot) -> Suggestion | None:
        """The rest of the last suggestion, if the user has done nothing since but type its beginning."""
        offered = self.offered.get(snapshot.uri)
        rest = offered and rebase(offered, snapshot)
        return replace(rest, steps=0, trace={}) if rest else None

    def _brought_up_to_date(self, suggestion: Suggestion) -> Answer:
        """The suggestion in terms of the text as it is now, or STALE."""
        asked = suggestion.snapshot
        document = self.documents.get(asked.uri)
        if document is None:
            return NoSuggestion.STALE
        if document.text == asked.text:
            return suggestion
        cursor = asked.offset + len(document.text) - len(asked.text)
        newer = Snapshot(asked.uri, document.version, document.language, document.text, cursor)
        return rebase(suggestion, newer) or NoSuggestion.STALE

    def _forget_what_is_uncertain(self, method: str, params: object) -> None:
        """After a text that could not be read, a document's content is not known: better silent than wrong."""
        changes_text = method in (types.TEXT_DOCUMENT_DID_CHANGE, types.TEXT_DOCUMENT_DID_OPEN)
        uri = protocol.changed_uri(params) if changes_text else None
        if uri is not None:
            self.forget(uri)


def _converter() -> Converter:
    return protocol.make_lenient(default_converter())  # type: ignore[no-untyped-call]
