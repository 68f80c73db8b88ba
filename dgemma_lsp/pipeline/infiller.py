"""What the pipeline needs of a model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from dgemma_model.request import Draft, FillRequest


class InfillerLike(Protocol):
    """What the pipeline needs of `dgemma_model.infill.Infiller`: a model on some device."""

    @property
    def name(self) -> str:
        """The checkpoint, for people."""

    @property
    def device(self) -> str:
        """Where it runs, as torch writes it, or the address of the engine that is asked."""

    @property
    def languages(self) -> frozenset[str] | None:
        """Language identifiers that the checkpoint was trained on; None for all."""

    @property
    def threshold(self) -> float:
        """The `Draft.score`, in nats, under which nothing is shown unasked with the usual eagerness. A fill may be what
        shows whether there are scores at all."""

    @property
    def prompt_tokens(self) -> int:
        """How many tokens of context it reads."""

    @property
    def uses_project_text(self) -> bool:
        """Whether it makes use of `FillRequest.project_text`."""

    @property
    def sends_text(self) -> bool:
        """Whether what it is asked leaves this process: then values that look secret are hidden in the edited document,
        too."""

    def fill(self, request: FillRequest) -> Iterator[Draft]:
        """A draft after each denoising step; the last one is `done`."""
