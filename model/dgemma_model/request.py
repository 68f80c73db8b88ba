"""What is asked of the model and what it answers: plain data, no torch.

`Infiller` (infill.py) takes these and gives these, so that everything above it can be tested, and could one
day live in another process, without a tensor in sight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol


class Readable(Protocol):
    """A text that can be read in parts; `str` is one."""

    def __len__(self) -> int:
        """Code points."""

    def __getitem__(self, part: slice, /) -> str:
        """A part of it."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """What the model will see of a file, in text: `prefix HOLE between[0] HOLE between[1] ... HOLE suffix`.

    One hole, the usual case, has no `between`. Cut by `excerpt.cut`, in serving and training alike.
    """

    prefix: str
    suffix: str
    between: tuple[str, ...] = ()
    language: str = "python"
    file_name: str = ""
    """Shown to checkpoints that are asked in words."""

    @property
    def hole_count(self) -> int:
        """Number of holes, at least one."""
        return len(self.between) + 1


class InfillError(Exception):
    """A fill that cannot be done, or that the device failed at; the message is for users. The next one may well
    succeed."""


Drafting = Literal["none", "copied", "denoised", "both"]
"""Where the drafts of a verified fill come from: nowhere (token by token), from the prompt, from denoising, or both."""


@dataclass(frozen=True, slots=True)
class FillRequest:
    """Fill the holes of `excerpt`.

    The settings below `budget_ms` override the checkpoint's own where given. The same `seed` gives the same drafts.
    """

    excerpt: Excerpt
    project_text: tuple[str, ...] = ()
    """The rest of the file and of the project, as far as it may say how this file goes on; the nearest last, and
    never what stood in the holes. Only checkpoints that copy (`Policy.copy_weight`) make use of it."""
    one_line: bool = False
    """Every hole ends at its first newline."""
    max_tokens: int = 96
    """Most tokens of each hole."""
    candidates: int = 1
    """How many different texts are wanted for the (single) hole; `Draft.candidates` has them, best first."""
    start: tuple[str, ...] | None = None
    """What stands in the holes now, to be repaired rather than written anew."""
    noise_level: float = 1.0
    """Share of `start` that is drawn again, 0 to 1; what holds up among the rest stays."""
    budget_ms: float | None = None
    """Time from the first pass behind the prompt; when it is over, the draft at hand is the last one."""
    max_denoising_steps: int | None = None
    """A verified fill with none at all is read token by token."""
    entropy_bound: float | None = None
    verify: bool | None = None
    drafting: Drafting | None = None
    renoise: bool | None = None
    copy_weight: float | None = None
    together: bool | None = None
    """Several holes in one canvas; otherwise one after the other, from left to right."""
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Candidate:
    """One text for a hole."""

    text: str
    log_likelihood: float
    """Of the text and its end under the causal head, in nats."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """A token of a reviewed text with which the model strongly disagrees."""

    start: int
    end: int
    """Where it stands in the text, in code points."""
    nats: float
    """How much more likely the model finds what it would put."""
    instead: str
    """What it would put."""


@dataclass(frozen=True, slots=True)
class DraftToken:
    """One canvas position of a hole, for watching a fill take shape."""

    text: str
    confidence: float
    """Probability of the shown token, 0 to 1."""
    settled: bool
    """Accepted by the sampler or verified; otherwise it is noise that will be drawn again."""


@dataclass(frozen=True, slots=True)
class Draft:
    """The state of a fill after one step; the last one that `Infiller.fill` yields has `done` set.

    `texts` holds one string per hole: exactly what would be inserted there, token healing already undone.
    """

    texts: tuple[str, ...]
    step: int
    """Passes of the network so far (decoder steps plus causal passes); 0 while the prompt is being read."""
    done: bool = False
    complete: bool = False
    """The model ended every hole itself; False means the text was cut by a limit or by stopping early."""
    score: float = float("-inf")
    """Mean log-probability per token of the holes' text, in nats; of a line that was judged, the log-probability that
    it is right, shared out among as many tokens as a line usually has (`judge`). Higher is more certain."""
    tokens: tuple[tuple[DraftToken, ...], ...] = ()
    revised: int = 0
    """How often a token that had been placed was replaced by another."""
    candidates: tuple[Candidate, ...] = ()
    """Of the last draft, where the request asked for several: different texts, likeliest first."""

    @property
    def text(self) -> str:
        """The first hole's text."""
        return self.texts[0]


def check(request: FillRequest) -> None:
    """Refuse what makes no sense, before anything is done.

    Raises:
        InfillError: it says what and why.
    """
    holes = request.excerpt.hole_count
    steps, start = request.max_denoising_steps, request.start
    complaints = {
        f"max_tokens is {request.max_tokens}: a hole needs room for one token": request.max_tokens < 1,
        f"candidates is {request.candidates}, not 1 or more": request.candidates < 1,
        f"{request.candidates} candidates are wanted for {holes} holes: only one hole can have several": (
            request.candidates > 1 and holes > 1
        ),
        f"max_denoising_steps is {steps}, not 0 or more": steps is not None and steps < 0,
        f"noise_level is {request.noise_level}, not 0 to 1": not 0.0 <= request.noise_level <= 1.0,
        f"budget_ms is {request.budget_ms}, not 0 or more": not (request.budget_ms is None or request.budget_ms >= 0.0),
        f"{len(start or ())} starting texts for {holes} holes": start is not None and len(start) != holes,
        "two holes touch: with no text between them they are one hole": "" in request.excerpt.between,
    }
    for complaint, is_so in complaints.items():
        if is_so:
            raise InfillError(complaint)
