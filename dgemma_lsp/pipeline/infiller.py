"""The contract of a model in the pipeline: `Infiller` in this process, `EngineInfiller` over HTTP, or a test's fake."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Protocol

from dgemma_model.request import Doubt, Draft, Excerpt, FillRequest, Places


class Reviewer(Protocol):
    """What proofreading needs of `dgemma_model.infill.Infiller`."""

    def review(
        self, excerpt: Excerpt, span: str, words: Places, others: Collection[str], min_nats: float
    ) -> Iterator[list[Doubt]]:
        """What it would replace in `span`, the text in the hole of `excerpt`; see `Infiller.review`.

        Raises:
            InfillError: it cannot be done.
        """


class InfillerLike(Protocol):
    """What the pipeline needs of `dgemma_model.infill.Infiller`."""

    @property
    def name(self) -> str:
        """The name of the checkpoint or model, for people."""

    @property
    def device(self) -> str:
        """Where it runs, as torch writes it; or the address of an engine."""

    @property
    def languages(self) -> frozenset[str] | None:
        """Language identifiers that the checkpoint was trained on; None for all."""

    @property
    def threshold(self) -> float:
        """The `Draft.score`, in nats, below which nothing is shown unasked at the usual eagerness. It may change with a
        fill: an engine tells only then whether it has scores."""

    @property
    def prompt_tokens(self) -> int:
        """Most tokens of a prompt."""

    @property
    def uses_project_text(self) -> bool:
        """Whether it uses `FillRequest.project_text`."""

    @property
    def sends_text(self) -> bool:
        """Whether requests leave this process. Then text that looks like a secret is hidden in the edited document,
        too."""

    @property
    def reviewer(self) -> Reviewer | None:
        """What tells wrong words of a text; None where it would be wrong too often."""

    def fill(self, request: FillRequest) -> Iterator[Draft]:
        """Yield a draft after each pass; the last one is `done`. Stop reading to stop the fill.

        Raises:
            InfillError: it cannot be done.
        """
